//! The leader's care for the group: who is a member, who votes, who is alive.
//!
//! A reconciler: it takes no input but what it finds, does one step at a time, and may be interrupted anywhere. What it
//! decides is decided by [`plan`], which is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conclave_catalog::{Command, NodeId};
use conclave_runtime::Shutdown;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::{BasicNode, ChangeMembers};
use tokio::time::Instant;

use crate::Consensus;
use crate::handle::PROPOSE_DEADLINE;
use crate::types::Raft;

/// Without an acknowledgement for this long a node is declared dead.
const DEAD_AFTER: Duration = Duration::from_millis(700);
/// A learner this close to the end of the log may vote.
const CAUGHT_UP_ENTRIES: u64 = 100;
/// A removed node is fed the log for this long, so that it learns of its removal and stops.
const FAREWELL: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(100);
/// At least so long between two looks.
const REST: Duration = Duration::from_millis(10);
/// Steps that need the majority are given up after this, and tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Reconciler {
    raft: Raft,
    consensus: Consensus,
    leading_since: Option<Instant>,
    /// Since when members are known not to belong to the cluster any more.
    leaving: BTreeMap<u64, Instant>,
}

/// What the leader sees.
#[derive(Debug, Default, Clone)]
struct Observed {
    /// Nodes that belong to the cluster.
    present: BTreeSet<u64>,
    /// Raft's members that vote.
    voters: BTreeSet<u64>,
    /// Raft's members that do not vote.
    learners: BTreeSet<u64>,
    /// A change of voters has begun and not ended: it may have been interrupted between its two steps.
    joint: bool,
    /// Members whose log is close to the leader's, and that answer.
    caught_up: BTreeSet<u64>,
    /// Nodes that the leader has declared dead.
    dead: BTreeSet<u64>,
    leader: u64,
    /// Removed nodes that have been members long enough to have heard of their removal.
    told: BTreeSet<u64>,
}

/// The next step towards the right membership.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    AddLearner(u64),
    SetVoters(BTreeSet<u64>),
    Forget(BTreeSet<u64>),
}

/// Present nodes become learners, learners that have caught up become voters, always so many that their number is odd;
/// nodes that are not present any more leave.
fn plan(seen: &Observed) -> Option<Step> {
    let members: BTreeSet<u64> = seen.voters.union(&seen.learners).copied().collect();
    if let Some(missing) = seen.present.difference(&members).next() {
        return Some(Step::AddLearner(*missing));
    }
    let staying: BTreeSet<u64> = seen.voters.intersection(&seen.present).copied().collect();
    let candidates = seen
        .learners
        .intersection(&seen.present)
        .filter(|id| seen.caught_up.contains(id));
    let mut wanted: Vec<u64> = staying.iter().chain(candidates).copied().collect();
    if wanted.len().is_multiple_of(2) {
        // The last to come waits as a learner; the leader never steps aside for this. Where a voter has to step aside, it is one
        // that could not vote anyway.
        let dead = |id: &u64| seen.dead.contains(id) && *id != seen.leader;
        let lame = wanted
            .iter()
            .rposition(dead)
            .filter(|_| staying.len().is_multiple_of(2));
        let extra = lame.or_else(|| wanted.iter().rposition(|id| *id != seen.leader))?;
        wanted.remove(extra);
    }
    let wanted: BTreeSet<u64> = wanted.into_iter().collect();
    if (seen.joint || wanted != seen.voters) && !wanted.is_empty() {
        return Some(Step::SetVoters(wanted));
    }
    let gone: BTreeSet<u64> = seen.learners.difference(&seen.present).copied().collect();
    let gone: BTreeSet<u64> = gone.intersection(&seen.told).copied().collect();
    (!gone.is_empty()).then_some(Step::Forget(gone))
}

impl Reconciler {
    pub(crate) fn new(raft: Raft, consensus: Consensus) -> Self {
        Self {
            raft,
            consensus,
            leading_since: None,
            leaving: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let (mut leadership, mut state) = (self.consensus.leadership(), self.consensus.state());
        while !shutdown.is_requested() {
            let leads = leadership.borrow_and_update().is_leader;
            let pause = if leads {
                self.leading_since.get_or_insert_with(Instant::now);
                self.declare().await;
                self.step().await;
                PERIOD
            } else {
                self.leading_since = None;
                // Only a leader has something to do.
                Duration::MAX
            };
            // Under load the state changes a thousand times a second.
            tokio::time::sleep(REST).await;
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                changed = leadership.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Declares nodes dead that do not acknowledge, and alive that do again.
    async fn declare(&self) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let heartbeats = metrics.heartbeat.unwrap_or_default();
        let leading = self.leading_since.map_or(Duration::ZERO, |since| since.elapsed());
        let state = self.consensus.state().borrow().clone();
        for node in state.nodes().values() {
            let silence = match heartbeats.get(&node.id.0) {
                _ if node.id == self.consensus.me() => Some(Duration::ZERO),
                Some(Some(acked)) => Some(acked.elapsed()),
                Some(None) => Some(leading),
                None => None,
            };
            // What a member did before this leader's time does not count against it.
            let Some(silence) = silence.map(|silence| silence.min(leading)) else {
                continue;
            };
            let alive = silence < DEAD_AFTER;
            let certain = !alive || heartbeats.get(&node.id.0).is_none_or(Option::is_some);
            if alive != node.alive && certain {
                tracing::info!(node = %node.id, name = node.name, alive, "node declared");
                let command = Command::DeclareNode {
                    node: NodeId(node.id.0),
                    alive,
                };
                // Silence towards a leader that has been deposed meanwhile says nothing of the node.
                let declared = self
                    .consensus
                    .propose_in_term(metrics.current_term, command, PROPOSE_DEADLINE);
                if let Err(error) = declared.await {
                    tracing::warn!(%error, "a node's life could not be declared");
                }
            }
        }
    }

    async fn step(&mut self) {
        let Some(step) = plan(&self.observe()) else { return };
        tracing::info!(?step, "membership changes");
        let outcome = tokio::time::timeout(STEP_TIMEOUT, self.carry_out(step)).await;
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "membership step failed; it is tried again"),
            Err(_) => tracing::warn!("membership step took too long; it is tried again"),
        }
    }

    fn observe(&mut self) -> Observed {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or(0);
        let replication = metrics.replication.unwrap_or_default();
        let present: BTreeSet<u64> = self.consensus.state().borrow().nodes().keys().map(|id| id.0).collect();
        let members = membership.voter_ids().chain(membership.learner_ids());
        let gone: BTreeSet<u64> = members.filter(|id| !present.contains(id)).collect();
        self.leaving.retain(|id, _| gone.contains(id));
        for id in gone {
            self.leaving.entry(id).or_insert_with(Instant::now);
        }
        let told = |(_, since): &(&u64, &Instant)| since.elapsed() >= FAREWELL;
        let near = |matched: Option<u64>| matched.is_some_and(|index| index + CAUGHT_UP_ENTRIES >= last);
        Observed {
            present,
            told: self.leaving.iter().filter(told).map(|(id, _)| *id).collect(),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            joint: membership.get_joint_config().len() > 1,
            caught_up: replication
                .into_iter()
                .filter(|(_, matched)| near(matched.as_ref().map(|log_id| log_id.index)))
                .map(|(id, _)| id)
                .collect(),
            dead: self
                .consensus
                .state()
                .borrow()
                .nodes()
                .values()
                .filter(|node| !node.alive)
                .map(|node| node.id.0)
                .collect(),
            leader: metrics.id,
        }
    }

    async fn carry_out(&self, step: Step) -> Result<(), String> {
        let changed = match step {
            Step::AddLearner(id) => {
                let state = self.consensus.state().borrow().clone();
                let node = state.nodes().get(&NodeId(id)).ok_or("it has left meanwhile")?;
                let node = BasicNode::new(format!("{}:{}", node.address, node.ports.peer));
                self.raft.add_learner(id, node, false).await
            }
            Step::SetVoters(voters) => self.raft.change_membership(voters, true).await,
            Step::Forget(gone) => {
                self.raft
                    .change_membership(ChangeMembers::RemoveNodes(gone), true)
                    .await
            }
        };
        changed.map(drop).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(present: &[u64], voters: &[u64], learners: &[u64], caught_up: &[u64]) -> Observed {
        let set = |ids: &[u64]| ids.iter().copied().collect();
        Observed {
            present: set(present),
            voters: set(voters),
            learners: set(learners),
            joint: false,
            caught_up: set(caught_up),
            dead: BTreeSet::new(),
            leader: 1,
            told: set(&[3]),
        }
    }

    fn voters(ids: &[u64]) -> Option<Step> {
        Some(Step::SetVoters(ids.iter().copied().collect()))
    }

    #[test]
    fn one_voter_becomes_three_at_once_and_never_two() {
        assert_eq!(plan(&seen(&[1, 2], &[1], &[], &[])), Some(Step::AddLearner(2)));
        assert_eq!(plan(&seen(&[1, 2], &[1], &[2], &[2])), None);
        assert_eq!(plan(&seen(&[1, 2, 3], &[1], &[2, 3], &[2])), None);
        assert_eq!(plan(&seen(&[1, 2, 3], &[1], &[2, 3], &[2, 3])), voters(&[1, 2, 3]));
    }

    #[test]
    fn a_fourth_node_waits_until_it_is_needed() {
        assert_eq!(plan(&seen(&[1, 2, 3, 4], &[1, 2, 3], &[4], &[2, 3, 4])), None);
        assert_eq!(
            plan(&seen(&[1, 2, 4], &[1, 2, 3], &[4], &[2, 3, 4])),
            voters(&[1, 2, 4])
        );
    }

    #[test]
    fn a_removed_node_leaves() {
        assert_eq!(plan(&seen(&[1, 2], &[1, 2, 3], &[], &[2, 3])), voters(&[1]));
        let step = plan(&seen(&[1, 2], &[1], &[2, 3], &[2]));
        assert_eq!(step, Some(Step::Forget(BTreeSet::from([3]))));
        let untold = Observed {
            told: BTreeSet::new(),
            ..seen(&[1, 2], &[1], &[2, 3], &[2])
        };
        assert_eq!(plan(&untold), None, "it is to hear of it first");
    }

    #[test]
    fn a_dead_voter_steps_aside_when_one_has_to() {
        let lost = |present: &[u64], learners: &[u64]| Observed {
            dead: BTreeSet::from([2]),
            ..seen(present, &[1, 2, 3, 4, 5], learners, &[3, 4])
        };
        assert_eq!(plan(&lost(&[1, 2, 3, 4], &[])), voters(&[1, 3, 4]));
        // A restart is no reason to change the voters.
        let restarting = Observed {
            dead: BTreeSet::from([2]),
            ..seen(&[1, 2, 3, 4], &[1, 2, 3], &[4], &[3, 4])
        };
        assert_eq!(plan(&restarting), None);
    }

    #[test]
    fn an_interrupted_change_is_ended() {
        let interrupted = Observed {
            joint: true,
            ..seen(&[1, 2, 3], &[1, 2, 3], &[], &[2, 3])
        };
        assert_eq!(plan(&interrupted), voters(&[1, 2, 3]));
    }

    #[test]
    fn nothing_to_do_is_nothing() {
        assert_eq!(plan(&seen(&[1, 2, 3], &[1, 2, 3], &[], &[2, 3])), None);
        assert_eq!(
            plan(&Observed {
                leader: 1,
                ..seen(&[1], &[1], &[], &[])
            }),
            None
        );
    }
}
