//! Runs the coordinator on the Raft leader: collects what it looks at, carries out what it decides.
//!
//! Each node's driver has a question of the coordinator's open, which it answers when there is news. So the coordinator
//! hears of a change at once, hears nothing of a cluster at rest but a sign of life from each node every [`WAIT`], and
//! finds the end of a node's process in the end of the question.

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

/// How long a driver without news keeps a question open.
const WAIT: Duration = Duration::from_millis(250);
/// Between two questions to a node that does not answer, and between two decisions while one does not.
const TROUBLED_PERIOD: Duration = Duration::from_millis(100);
/// Between two decisions while nothing happens; answers come sooner.
const CALM_PERIOD: Duration = Duration::from_secs(1);
/// Between two decisions while a change is under way.
const FAST_PERIOD: Duration = Duration::from_millis(15);
/// An election takes no longer: how long a leader was silent before one says nothing.
const PREDECESSOR_SILENCE_MAX: Duration = Duration::from_millis(600);

/// What came of a question: who was asked, when, and the answer.
type Answer = (NodeId, Duration, Result<Observation, Silence>);
type Question = BoxFuture<'static, Answer>;

pub(crate) struct Shell {
    drivers: Drivers,
    consensus: Consensus,
    tracking: Tracking,
    /// The zero of the time that the tracking counts.
    born: Instant,
    questions: FuturesUnordered<Question>,
    asked: BTreeSet<NodeId>,
    leads: bool,
    /// The leader that this node follows.
    followed: Option<NodeId>,
    /// While this node leads: who led before it, and since when nobody has heard that one.
    predecessor: Option<(NodeId, Duration)>,
}

impl Shell {
    pub(crate) fn new(drivers: Drivers) -> Self {
        let consensus = drivers.consensus.clone();
        Self {
            drivers,
            consensus,
            tracking: Tracking::default(),
            born: Instant::now(),
            questions: FuturesUnordered::new(),
            asked: BTreeSet::new(),
            leads: false,
            followed: None,
            predecessor: None,
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let (mut leadership, mut state) = (self.consensus.leadership(), self.consensus.state());
        let mut own = self.drivers.own.observed();
        while !shutdown.is_requested() {
            let (leads, leader) = {
                let leadership = leadership.borrow_and_update();
                (leadership.is_leader, leadership.leader)
            };
            state.mark_unchanged();
            let founded = state.borrow().facts().is_some();
            self.follow(leads, leader);
            let pause = if leads && founded {
                self.ask();
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
                Some(answer) = self.questions.next() => self.take(answer),
                () = tokio::time::sleep(pause) => {}
            }
            // Whatever has come in by now is looked at together.
            while let Some(Some(answer)) = self.questions.next().now_or_never() {
                self.take(answer);
            }
        }
    }

    /// Remembers whom this node follows. A leader that is succeeded because nobody hears it any more has been silent since before
    /// its successor could ask it anything.
    fn follow(&mut self, leads: bool, leader: Option<NodeId>) {
        if leads != self.leads {
            self.leads = leads;
            let silence = self.consensus.leader_silence().unwrap_or_default();
            let since = self.born.elapsed().saturating_sub(silence.min(PREDECESSOR_SILENCE_MAX));
            self.predecessor = self.followed.take().filter(|_| leads).map(|id| (id, since));
        }
        if !leads && let Some(leader) = leader.filter(|leader| *leader != self.consensus.me()) {
            self.followed = Some(leader);
        }
    }

    /// Puts a question to each node that has none open. This node's own driver is asked whenever something is decided.
    fn ask(&mut self) {
        let state = Arc::clone(&self.consensus.state().borrow());
        self.tracking.retain(|id| state.nodes().contains_key(&id));
        let me = self.consensus.me();
        for id in state.nodes().keys().filter(|id| **id != me) {
            if self.asked.insert(*id) {
                self.questions.push(self.question(*id));
            }
        }
        let own = self.drivers.own.observation();
        self.answered(me, self.born.elapsed(), Ok(own));
    }

    fn question(&self, id: NodeId) -> Question {
        let (drivers, known) = (self.drivers.clone(), self.tracking.last_answer(id).cloned());
        // The first failure may be the end of the connection alone, and the next try says so at once.
        let pause = (self.tracking.failures(id) > 1).then_some(TROUBLED_PERIOD);
        let born = self.born;
        let wait = known.as_ref().map_or(Duration::ZERO, |_| WAIT);
        async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            let asked = born.elapsed();
            let answer = drivers.observe(id, known.as_ref(), wait).await;
            (id, asked, answer)
        }
        .boxed()
    }

    fn take(&mut self, (id, asked, answer): Answer) {
        self.asked.remove(&id);
        let asked = match self.predecessor.filter(|(predecessor, _)| *predecessor == id) {
            // From its first answer on it is like any other.
            Some(_) if answer.is_ok() => {
                self.predecessor = None;
                asked
            }
            Some((_, silent_since)) => asked.min(silent_since),
            None => asked,
        };
        self.answered(id, asked, answer);
    }

    fn answered(&mut self, id: NodeId, asked: Duration, answer: Result<Observation, Silence>) {
        let state = self.consensus.state();
        let state = state.borrow();
        if state.nodes().contains_key(&id) {
            let primary = state.database().rule.as_ref().map(|rule| rule.primary);
            self.tracking.answer(self.born.elapsed(), asked, primary, id, answer);
        }
    }

    /// Decides, once something is known of every node; how long until it may have to decide otherwise without news.
    async fn act(&mut self) -> Duration {
        let state = Arc::clone(&self.consensus.state().borrow());
        if !state.nodes().keys().all(|id| self.tracking.knows(*id)) {
            return WAIT;
        }
        let now = self.born.elapsed();
        let facts = state.database();
        let change_age_ms = self.tracking.change_age_ms(now, facts.change.as_ref());
        let seen = self.tracking.seen(now);
        let voters = self.consensus.voters();
        let view = View {
            me: self.consensus.me(),
            facts,
            voters: voters.as_ref(),
            nodes: &seen,
            change_age_ms,
        };
        let actions = decide(&view);
        let drivers = self.drivers.clone();
        join_all(actions.iter().map(|action| carry_out(&drivers, action))).await;
        let settling = facts.rule.is_none() || facts.change.is_some() || !actions.is_empty();
        match (settling, self.tracking.is_calm()) {
            (true, _) => FAST_PERIOD,
            (false, false) => TROUBLED_PERIOD,
            (false, true) => CALM_PERIOD,
        }
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
