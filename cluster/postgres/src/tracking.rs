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
    /// Questions without an answer since the last one with.
    failures: u32,
    down_since: Option<Duration>,
}

impl Tracking {
    /// Whether the node has answered, or failed to, since this node leads.
    pub(crate) fn knows(&self, id: NodeId) -> bool {
        self.nodes.contains_key(&id)
    }

    /// Whether nothing is to be waited for from that node: it did not answer the last question.
    #[cfg(test)]
    pub(crate) fn is_silent(&self, id: NodeId) -> bool {
        self.failures(id) > 0
    }

    /// What the node said last, unless it has stopped answering.
    pub(crate) fn last_answer(&self, id: NodeId) -> Option<&Observation> {
        let node = self.nodes.get(&id).filter(|node| node.silent_since.is_none())?;
        node.seen.last.as_ref()
    }

    /// Questions in a row that the node has not answered.
    pub(crate) fn failures(&self, id: NodeId) -> u32 {
        self.nodes.get(&id).map_or(0, |node| node.failures)
    }

    /// Whether every node answers, and the primary is one.
    pub(crate) fn is_calm(&self) -> bool {
        let calm = |node: &Tracked| node.silent_since.is_none() && node.down_since.is_none();
        self.nodes.values().all(calm)
    }

    /// Forgets nodes that are no members any more.
    pub(crate) fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.nodes.retain(|id, _| is_member(*id));
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
            failures: 0,
            down_since: None,
        });
        match answer {
            Ok(observation) => {
                // A primary in recovery is as little a primary as one that is down.
                let down = observation.role != Role::Primary && primary == Some(id);
                tracked.down_since = if down { tracked.down_since.or(Some(now)) } else { None };
                tracked.silent_since = None;
                tracked.failures = 0;
                tracked.seen.gone = false;
                tracked.seen.last = Some(observation);
            }
            Err(silence) => {
                // It has been silent while it was waited for.
                tracked.silent_since.get_or_insert(asked);
                tracked.failures = tracked.failures.saturating_add(1);
                tracked.seen.gone = silence == Silence::Gone;
            }
        }
    }

    /// What is known of the nodes at `now`.
    pub(crate) fn seen(&self, now: Duration) -> BTreeMap<NodeId, Seen> {
        let since = |at: Duration| millis(now.saturating_sub(at));
        let seen = |node: &Tracked| Seen {
            silent_ms: node.silent_since.map_or(0, |at| since(at).max(1)),
            down_ms: node.down_since.map_or(0, since),
            ..node.seen.clone()
        };
        self.nodes.iter().map(|(id, node)| (*id, seen(node))).collect()
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
