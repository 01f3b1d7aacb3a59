//! Runs the coordinator on the Raft leader: collects what it looks at, carries out what it decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::{Command, NodeId};
use conclave_consensus::{Consensus, ConsensusError};
use conclave_runtime::Shutdown;
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use crate::coordinator::{Action, Observation, View, decide};
use crate::service::Drivers;
use crate::tracking::{Silence, Tracking};

const PERIOD: Duration = Duration::from_millis(100);
/// While a change is under way.
const FAST_PERIOD: Duration = Duration::from_millis(15);

/// A question that is under way: who was asked, when, and what came.
type Question = BoxFuture<'static, (NodeId, Duration, Result<Observation, Silence>)>;

pub(crate) struct Shell {
    drivers: Drivers,
    consensus: Consensus,
    tracking: Tracking,
    /// Questions without an answer yet, one for each node at most.
    questions: FuturesUnordered<Question>,
    asked: BTreeSet<NodeId>,
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
            questions: FuturesUnordered::new(),
            asked: BTreeSet::new(),
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
                self.questions.clear();
                self.asked.clear();
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

    /// Asks every node, and waits for those that answered last time. A node that is silent is asked as well, and nobody waits
    /// for it: each step of a change would take as long as its silence is waited for.
    async fn observe(&mut self) {
        let state = Arc::clone(&self.consensus.state().borrow());
        self.tracking.retain(|id| state.nodes().contains_key(&id));
        for id in state.nodes().keys().copied() {
            if self.asked.insert(id) {
                let (drivers, at) = (self.drivers.clone(), self.born.elapsed());
                self.questions
                    .push(Box::pin(async move { (id, at, drivers.observe(id).await) }));
            }
        }
        let primary = state.database().rule.as_ref().map(|rule| rule.primary);
        while let Some((id, at, answer)) = self.next_answer().await {
            self.asked.remove(&id);
            if state.nodes().contains_key(&id) {
                self.tracking.answer(self.born.elapsed(), at, primary, id, answer);
            }
        }
        self.tracking.pass(self.born.elapsed());
    }

    /// The next answer; `None` when those that are missing are not waited for.
    async fn next_answer(&mut self) -> Option<(NodeId, Duration, Result<Observation, Silence>)> {
        if self.asked.iter().any(|id| !self.tracking.is_silent(*id)) {
            return self.questions.next().await;
        }
        self.questions.next().now_or_never().flatten()
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
        let drivers = &self.drivers;
        join_all(actions.iter().map(|action| carry_out(drivers, action))).await;
        let settling = facts.rule.is_none() || facts.change.is_some() || !actions.is_empty();
        if settling { FAST_PERIOD } else { PERIOD }
    }
}

async fn carry_out(drivers: &Drivers, action: &Action) {
    match action {
        Action::Propose(command) => {
            tracing::info!(?command, "database rule step");
            match drivers.consensus.propose(Command::Database(command.clone())).await {
                Ok(_) => {}
                // Somebody else took the step, or another one, first: the next look shows it.
                Err(ConsensusError::Refused(refusal)) => tracing::info!(%refusal, "rule step was too late"),
                Err(error) => tracing::warn!(%error, "rule step failed; it is tried again"),
            }
        }
        Action::Order(node, order) => {
            if let Err(error) = drivers.order(*node, order).await {
                tracing::debug!(%node, ?order, error, "order not taken; it is repeated");
            }
        }
    }
}
