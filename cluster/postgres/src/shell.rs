//! Runs the coordinator on the Raft leader: collects what it looks at, carries out what it decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::database::RuleChange;
use conclave_catalog::{Command, NodeId};
use conclave_consensus::{Consensus, ConsensusError};
use conclave_runtime::Shutdown;
use futures::future::join_all;
use tokio::time::Instant;

use crate::coordinator::{Action, Role, Seen, View, decide};
use crate::service::{Drivers, Silence};

const PERIOD: Duration = Duration::from_millis(100);
/// While a change is under way.
const FAST_PERIOD: Duration = Duration::from_millis(15);

pub(crate) struct Shell {
    drivers: Drivers,
    consensus: Consensus,
    nodes: BTreeMap<NodeId, Tracked>,
    change: Option<(RuleChange, Instant)>,
}

/// A node's answers over time, since this node leads.
struct Tracked {
    seen: Seen,
    silent_since: Option<Instant>,
    down_since: Option<Instant>,
}

impl Shell {
    pub(crate) fn new(drivers: Drivers) -> Self {
        let consensus = drivers.consensus.clone();
        Self {
            drivers,
            consensus,
            nodes: BTreeMap::new(),
            change: None,
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let (mut leadership, mut state) = (self.consensus.leadership(), self.consensus.state());
        let mut own = self.drivers.own.observed();
        while !shutdown.is_requested() {
            let leads = leadership.borrow_and_update().is_leader;
            state.mark_unchanged();
            let founded = state.borrow().facts().is_some();
            let mut pause = PERIOD;
            if leads && founded {
                self.observe().await;
                pause = self.act().await;
            } else {
                // What was seen in an earlier time of leading proves nothing now.
                self.nodes.clear();
                self.change = None;
            }
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
        self.nodes.retain(|id, _| state.nodes().contains_key(id));
        let ids: Vec<NodeId> = state.nodes().keys().copied().collect();
        let answers = join_all(ids.iter().map(|id| self.drivers.observe(*id))).await;
        let primary = state.database().rule.as_ref().map(|rule| rule.primary);
        let now = Instant::now();
        for (id, answer) in ids.into_iter().zip(answers) {
            let tracked = self.nodes.entry(id).or_insert_with(Tracked::new);
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
                    tracked.silent_since.get_or_insert(now);
                    tracked.seen.gone = matches!(silence, Silence::Gone);
                }
            }
            tracked.seen.silent_ms = tracked
                .silent_since
                .map_or(0, |at| (now - at).as_millis().max(1) as u64);
            tracked.seen.down_ms = tracked.down_since.map_or(0, |at| (now - at).as_millis() as u64);
        }
    }

    async fn act(&mut self) -> Duration {
        let state = Arc::clone(&self.consensus.state().borrow());
        let facts = state.database();
        self.track_change(facts.change.as_ref());
        let seen: BTreeMap<NodeId, Seen> = self.nodes.iter().map(|(id, node)| (*id, node.seen.clone())).collect();
        let voters = self.consensus.voters();
        let view = View {
            me: self.consensus.me(),
            facts,
            voters: voters.as_ref(),
            nodes: &seen,
            change_age_ms: self
                .change
                .as_ref()
                .map_or(0, |(_, since)| since.elapsed().as_millis() as u64),
        };
        let actions = decide(&view);
        join_all(actions.iter().map(|action| self.carry_out(action))).await;
        let settling = facts.rule.is_none() || facts.change.is_some() || !actions.is_empty();
        if settling { FAST_PERIOD } else { PERIOD }
    }

    fn track_change(&mut self, change: Option<&RuleChange>) {
        match (change, &self.change) {
            (None, _) => self.change = None,
            (Some(now), Some((known, _))) if now == known => {}
            (Some(now), _) => self.change = Some((now.clone(), Instant::now())),
        }
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

impl Tracked {
    fn new() -> Self {
        let seen = Seen {
            last: None,
            silent_ms: 0,
            gone: false,
            down_ms: 0,
        };
        Self {
            seen,
            silent_since: None,
            down_since: None,
        }
    }
}
