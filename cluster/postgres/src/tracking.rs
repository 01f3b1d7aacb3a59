//! What the coordinator remembers of the nodes' answers while its node leads: pure, with the time given.

use std::collections::BTreeMap;
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_catalog::database::RuleChange;

use crate::coordinator::{Observation, Role, Seen};

/// Why a driver did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The connection was refused or reset: the process is gone.
    Gone,
    /// Nothing came in time.
    Unanswered,
}

/// The answers since this node leads. What was seen in an earlier time of leading proves nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tracking {
    nodes: BTreeMap<NodeId, Tracked>,
    change: Option<(RuleChange, Duration)>,
}

#[derive(Debug, Clone)]
struct Tracked {
    seen: Seen,
    silent_since: Option<Duration>,
    down_since: Option<Duration>,
}

impl Tracking {
    /// Forgets nodes that are no members any more.
    pub(crate) fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.nodes.retain(|id, _| is_member(*id));
    }

    /// Whether nothing is to be waited for from that node: it did not answer the last question.
    pub(crate) fn is_silent(&self, id: NodeId) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|tracked| tracked.silent_since.is_some())
    }

    /// Time has passed, for those who are silent as well.
    pub(crate) fn pass(&mut self, now: Duration) {
        for tracked in self.nodes.values_mut() {
            tracked.pass(now);
        }
    }

    /// A node has answered, or not, at `now`, what it was asked at `asked`. `primary` is the one of the rule in force.
    pub(crate) fn answer(
        &mut self,
        now: Duration,
        asked: Duration,
        primary: Option<NodeId>,
        id: NodeId,
        answer: Result<Observation, Silence>,
    ) {
        let tracked = self.nodes.entry(id).or_insert_with(|| Tracked {
            seen: Seen {
                last: None,
                silent_ms: 0,
                gone: false,
                down_ms: 0,
            },
            silent_since: None,
            down_since: None,
        });
        match answer {
            Ok(observation) => {
                // A primary in recovery is as little a primary as one that is down.
                let down = observation.role != Role::Primary && primary == Some(id);
                tracked.down_since = if down { tracked.down_since.or(Some(now)) } else { None };
                tracked.silent_since = None;
                tracked.seen.gone = false;
                tracked.seen.last = Some(observation);
            }
            Err(silence) => {
                // It has been silent while it was waited for.
                tracked.silent_since.get_or_insert(asked);
                tracked.seen.gone = silence == Silence::Gone;
            }
        }
        tracked.pass(now);
    }

    /// What is known of the nodes.
    pub(crate) fn seen(&self) -> BTreeMap<NodeId, Seen> {
        self.nodes.iter().map(|(id, node)| (*id, node.seen.clone())).collect()
    }

    /// For how long the change under way has been as it is.
    pub(crate) fn change_age_ms(&mut self, now: Duration, change: Option<&RuleChange>) -> u64 {
        match (change, &self.change) {
            (None, _) => self.change = None,
            (Some(current), Some((known, _))) if current == known => {}
            (Some(current), _) => self.change = Some((current.clone(), now)),
        }
        let since = self.change.as_ref().map(|(_, since)| *since);
        since.map_or(0, |since| millis(now.saturating_sub(since)))
    }
}

impl Tracked {
    fn pass(&mut self, now: Duration) {
        let since = |at: Duration| millis(now.saturating_sub(at));
        self.seen.silent_ms = self.silent_since.map_or(0, |at| since(at).max(1));
        self.seen.down_ms = self.down_since.map_or(0, since);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
