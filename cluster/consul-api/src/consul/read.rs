//! Reads: how fresh they are, and how long they wait for a change (spec/consul-api.md, sections 1 and 2).

use std::time::Duration;

use conclave_catalog::directory::Directory;
use tokio::time::Instant;

use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use super::{Api, duration};
use crate::watch::Topic;

const WAIT_DEFAULT: Duration = Duration::from_secs(300);
const WAIT_MAX: Duration = Duration::from_secs(600);
/// A wait is lengthened by up to this part of it, so that many waiters do not come back at once.
const JITTER_PART: u32 = 16;

/// How fresh an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consistency {
    /// By default: as `consistent` here. A leader's lease would rest on clocks.
    Default,
    /// It sees every write acknowledged before it.
    Consistent,
    /// It is what this node has, also without a leader.
    Stale,
}

impl Consistency {
    fn as_str(self) -> &'static str {
        match self {
            Self::Default => "leader",
            Self::Consistent => "consistent",
            Self::Stale => "stale",
        }
    }
}

/// What a blocking query waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait {
    /// An index above this.
    index: u64,
    /// No longer than this.
    limit: Duration,
}

impl Wait {
    fn of(call: &Call) -> Result<Option<Self>, ApiError> {
        let limit = match call.value("wait") {
            None | Some("") => WAIT_DEFAULT,
            Some(text) => duration::parse(text).ok_or_else(|| ApiError::BadRequest("Invalid wait time".into()))?,
        };
        let index = match call.value("index") {
            None | Some("") => 0,
            Some(text) => text.parse().map_err(|_| ApiError::BadRequest("Invalid index".into()))?,
        };
        let limit = if limit.is_zero() {
            WAIT_DEFAULT
        } else {
            limit.min(WAIT_MAX)
        };
        let limit = limit + rand::random_range(Duration::ZERO..=limit / JITTER_PART);
        Ok((index > 0).then_some(Self { index, limit }))
    }
}

pub(super) fn consistency(call: &Call) -> Result<Consistency, ApiError> {
    match (call.has("stale"), call.has("consistent")) {
        (true, true) => Err(ApiError::BadRequest(
            "Cannot specify ?stale with ?consistent, conflicting semantics.".into(),
        )),
        (true, false) => Ok(Consistency::Stale),
        (false, true) => Ok(Consistency::Consistent),
        (false, false) => Ok(Consistency::Default),
    }
}

impl Api {
    /// Answers a query of the directory: `index` is the index of what it looks at, `show` makes the answer.
    ///
    /// A query that waits is confirmed once, at its start. When it is woken, this node's own state holds the change, and
    /// whatever that state is by then was the newest at some moment after the query began.
    pub(super) async fn read(
        &self,
        call: &Call,
        topic: Topic,
        index: impl Fn(&Directory) -> u64,
        show: impl FnOnce(&Directory) -> Result<Answer, ApiError>,
    ) -> Result<Answer, ApiError> {
        let consistency = consistency(call)?;
        let wait = Wait::of(call)?;
        self.metrics.query();
        if consistency != Consistency::Stale {
            self.barrier.pass().await?;
        }
        let nothing = Directory::default();
        // Without a token lists are empty, not refused.
        let visible = |state: &conclave_catalog::ClusterState| -> Directory {
            if call.trusted {
                state.directory().clone()
            } else {
                nothing.clone()
            }
        };
        // No index is 0: to a client that would mean "do not wait".
        let index = |state: &Directory| index(state).max(1);
        let mut waiter = wait.map(|_| self.hub.wait_for(topic));
        let state = self.consensus.state();
        let mut seen = visible(&state.borrow());
        if let (Some(wait), Some(waiter)) = (wait, waiter.as_mut()) {
            let end = Instant::now() + wait.limit;
            while index(&seen) <= wait.index {
                tokio::select! {
                    () = waiter.woken() => {}
                    () = tokio::time::sleep_until(end) => break,
                    () = self.shutdown.requested() => break,
                }
                seen = visible(&state.borrow());
            }
        }
        let answer = show(&seen)?.with_header("x-consul-index", &index(&seen).to_string());
        Ok(self.with_freshness(answer, consistency))
    }

    pub(super) fn with_freshness(&self, answer: Answer, consistency: Consistency) -> Answer {
        let contact = match consistency {
            Consistency::Stale => self.consensus.facts().last_contact.unwrap_or_default(),
            Consistency::Default | Consistency::Consistent => Duration::ZERO,
        };
        let known = self.leader().is_some();
        answer
            .with_header("x-consul-knownleader", if known { "true" } else { "false" })
            .with_header("x-consul-lastcontact", &contact.as_millis().to_string())
            .with_header("x-consul-effective-consistency", consistency.as_str())
    }
}
