//! Runs the coordinator on the Raft leader: collects what it looks at, carries out what it decides.

use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::{Command, NodeId};
use conclave_consensus::{Consensus, ConsensusError};
use conclave_runtime::Shutdown;
use futures::future::join_all;
use tokio::time::Instant;

use crate::coordinator::{Action, View, decide};
use crate::service::Drivers;
use crate::tracking::Tracking;

const PERIOD: Duration = Duration::from_millis(100);
/// While a change is under way.
const FAST_PERIOD: Duration = Duration::from_millis(15);

pub(crate) struct Shell {
    drivers: Drivers,
    consensus: Consensus,
    tracking: Tracking,
    /// The zero of the time that the tracking counts.
    born: Instant,
}

impl Shell {
    pub(crate) fn new(drivers: Drivers) -> Self {
        let consensus = drivers.consensus.clone();
        Self {
            drivers,
            consensus,
            tracking: Tracking::default(),
            born: Instant::now(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let (mut leadership, mut state) = (self.consensus.leadership(), self.consensus.state());
        let mut own = self.drivers.own.observed();
        while !shutdown.is_requested() {
            let leads = leadership.borrow_and_update().is_leader;
            state.mark_unchanged();
            let founded = state.borrow().facts().is_some();
            let pause = if leads && founded {
                self.observe().await;
                self.act().await
            } else {
                // What was seen in an earlier time of leading proves nothing now.
                self.tracking = Tracking::default();
                // Only what is watched below can give it something to do.
                Duration::MAX
            };
            tokio::select! {
                () = shutdown.requested() => return,
                changed = leadership.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                changed = own.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn observe(&mut self) {
        let state = Arc::clone(&self.consensus.state().borrow());
        self.tracking.retain(|id| state.nodes().contains_key(&id));
        let ids: Vec<NodeId> = state.nodes().keys().copied().collect();
        let answers = join_all(ids.iter().map(|id| self.drivers.observe(*id))).await;
        let primary = state.database().rule.as_ref().map(|rule| rule.primary);
        let now = self.born.elapsed();
        for (id, answer) in ids.into_iter().zip(answers) {
            self.tracking.answer(now, primary, id, answer);
        }
    }

    async fn act(&mut self) -> Duration {
        let state = Arc::clone(&self.consensus.state().borrow());
        let facts = state.database();
        let change_age_ms = self.tracking.change_age_ms(self.born.elapsed(), facts.change.as_ref());
        let seen = self.tracking.seen();
        let voters = self.consensus.voters();
        let view = View {
            me: self.consensus.me(),
            facts,
            voters: voters.as_ref(),
            nodes: &seen,
            change_age_ms,
        };
        let actions = decide(&view);
        join_all(actions.iter().map(|action| self.carry_out(action))).await;
        let settling = facts.rule.is_none() || facts.change.is_some() || !actions.is_empty();
        if settling { FAST_PERIOD } else { PERIOD }
    }

    async fn carry_out(&self, action: &Action) {
        match action {
            Action::Propose(command) => {
                tracing::info!(?command, "database rule step");
                match self.consensus.propose(Command::Database(command.clone())).await {
                    Ok(_) => {}
                    // Somebody else took the step, or another one, first: the next look shows it.
                    Err(ConsensusError::Refused(refusal)) => tracing::info!(%refusal, "rule step was too late"),
                    Err(error) => tracing::warn!(%error, "rule step failed; it is tried again"),
                }
            }
            Action::Order(node, order) => {
                if let Err(error) = self.drivers.order(*node, order).await {
                    tracing::debug!(%node, ?order, error, "order not taken; it is repeated");
                }
            }
        }
    }
}
