//! The task that owns the data directory: it compares what is with what is to be, takes one step, and looks again.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_catalog::database::DatabaseState;
use conclave_runtime::{Shutdown, Tasks};
use tokio::time::Instant;

use super::decide::{Ended, Gates, Look, Memory, Step};
use super::pledge::Goal;
use super::programs::{Programs, Stop};
use super::session::{Facts, Session};
use super::settings::Acknowledgers;
use super::timelines::Timelines;
use super::upkeep::Upkeep;
use super::{Shared, is_planned};
use crate::DatabaseError;

/// Between two looks at a server that has been brought to where it is to be. What cannot wait so long wakes the task.
const REST_TICK: Duration = Duration::from_millis(250);
/// While there is something to do.
const TICK: Duration = Duration::from_millis(100);
/// While a failover waits for this node's position to settle, or for its promotion.
const FAST_TICK: Duration = Duration::from_millis(15);
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(20);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long clients may finish what they are at before a planned change cuts them off. Each is made to leave after the transaction
/// that it is in, so that few take as long.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// A checkpoint may be part of it.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(30);
const MARKER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) programs: Programs,
    pub(super) node_name: String,
    pub(super) session: Option<Session>,
    pub(super) memory: Memory,
    /// The epoch in which clients are let finish, and since when.
    pub(super) draining: Option<(u64, Instant)>,
    pub(super) upkeep: Upkeep,
    /// The zero of the time that the memory counts.
    pub(super) born: Instant,
}

impl Task {
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let mut state = self.shared.state.clone();
        while !shutdown.is_requested() {
            let (goal, pledged) = self.shared.goal();
            self.shared.close_gates(&goal);
            self.open_upstream(&goal, pledged);
            let facts = self.look().await;
            let database = self.shared.facts();
            let look = self.see(&goal, facts.as_ref(), &database);
            self.publish(&look, pledged);
            let working = async {
                if self.keep_up(&look).await? {
                    return Ok(false);
                }
                self.converge(look).await
            };
            let rests = match shutdown.run_until(working).await {
                None => break,
                Some(Ok(rests)) => {
                    self.report(None);
                    rests
                }
                Some(Err(error)) => {
                    self.report(Some(error));
                    false
                }
            };
            // In a planned change clients wait until the successor has said that it has received everything.
            let urgent = is_planned(&database)
                || matches!(
                    goal,
                    Goal::Standby { upstream: None, .. } | Goal::Promote { .. } | Goal::Drain { .. }
                );
            let pause = match (urgent, rests) {
                (true, _) => FAST_TICK,
                (false, false) => TICK,
                (false, true) => REST_TICK,
            };
            tokio::select! {
                () = shutdown.requested() => break,
                () = self.shared.wake.notified() => {}
                changed = state.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.shared.gates.send_replace(Gates::default());
        self.session = None;
        if let Err(error) = self.programs.stop(Stop::Fast, STOP_LIMIT).await {
            tracing::warn!(%error, "postgres was not stopped cleanly");
        }
    }

    fn see<'a>(&self, goal: &'a Goal, server: Option<&'a Facts>, database: &'a DatabaseState) -> Look<'a> {
        Look {
            goal,
            server,
            running: server.is_some() || self.programs.postmaster().is_some(),
            has_data: self.programs.layout.has_data(),
            half_rewound: self.programs.layout.rewind_mark().exists(),
            ended: None,
            source: None,
            database,
            now: self.born.elapsed(),
        }
    }

    fn report(&self, error: Option<DatabaseError>) {
        let text = error.map(|error| error.to_string());
        self.shared.trouble.send_if_modified(|old| {
            let changed = *old != text;
            if changed && let Some(text) = &text {
                tracing::warn!(error = text, "database step failed; it is tried again");
            }
            *old = text;
            changed
        });
    }

    /// What the server says; `None` when it does not run or does not answer.
    async fn look(&mut self) -> Option<Facts> {
        if self.programs.postmaster().is_none() {
            self.session = None;
            return None;
        }
        if self.session.is_none() {
            let connecting = Session::connect(&self.programs.layout, &self.programs.password, "postgres");
            let (session, ended) = connecting.await.ok()?;
            let shared = Arc::clone(&self.shared);
            Tasks::new("database driver").spawn("local session", async move {
                ended.await;
                shared.wake.notify_one();
            });
            self.session = Some(session);
        }
        match self.session.as_ref()?.facts().await {
            Ok(facts) => Some(facts),
            Err(error) => {
                tracing::debug!(%error, "the local server does not answer");
                self.session = None;
                None
            }
        }
    }

    fn publish(&mut self, look: &Look<'_>, pledged: u64) {
        if !matches!(look.goal, Goal::Drain { .. }) {
            self.draining = None;
            self.shared.admission.set_closing(false);
        }
        let asked = *self.shared.asked.borrow();
        let observation = self.memory.observe(look, pledged, asked);
        self.shared.gates.send_if_modified(|gates| {
            let before = *gates;
            gates.close_unproven(&self.memory);
            *gates != before
        });
        self.shared.observation.send_if_modified(|old| {
            let changed = *old != observation;
            *old = observation;
            changed
        });
    }

    /// Takes the next step; whether there was none to take.
    async fn converge(&mut self, mut look: Look<'_>) -> Result<bool, DatabaseError> {
        if self.memory.asks_how_it_ended(&look) {
            look.ended = Some(self.how_it_ended().await?);
        }
        if self.memory.asks_for_source(&look) {
            look.source = self.prepare_source().await;
        }
        let (epoch, acknowledgers) = match look.goal {
            Goal::Promote { epoch, cohort, .. } => (*epoch, self.acknowledgers(&look, cohort, None)),
            Goal::Primary { epoch, cohort, leaving } => (*epoch, self.acknowledgers(&look, cohort, leaving.as_ref())),
            Goal::Drain { epoch } | Goal::Standby { epoch, .. } => (*epoch, Acknowledgers::default()),
            Goal::Wait | Goal::Initialize => (0, Acknowledgers::default()),
        };
        match self.memory.step(&look, &acknowledgers) {
            Step::Rest => return Ok(true),
            Step::Initialize => self.initialize(look.server).await,
            Step::Start => self.start(&acknowledgers).await,
            Step::StartStandby => self.start_standby().await,
            Step::Demote => self.demote().await,
            Step::Undo => self.undo().await,
            Step::Rewind => self.rewind().await,
            Step::Clone => self.clone_primary().await,
            Step::Promote { timeline, from } => self.promote(epoch, timeline, from, &acknowledgers).await,
            Step::Prove => self.prove(epoch, &acknowledgers).await,
            Step::Open => {
                let before = *self.shared.gates.borrow();
                self.feed(epoch);
                self.open(epoch);
                return Ok(*self.shared.gates.borrow() == before);
            }
            Step::Drain => self.drain(epoch).await,
            Step::Fail(why) => Err(DatabaseError::Unexpected(why)),
        }
        .map(|()| false)
    }

    pub(super) fn acknowledgers(
        &self,
        look: &Look<'_>,
        cohort: &BTreeSet<NodeId>,
        leaving: Option<&BTreeSet<NodeId>>,
    ) -> Acknowledgers {
        let nobody = BTreeSet::new();
        let connected = look.server.map_or(&nobody, |facts| &facts.standbys);
        let state = self.shared.state.borrow();
        let name = |id: NodeId| state.nodes().get(&id).map(|node| node.name.clone());
        Acknowledgers::of(self.shared.me, cohort, leaving, connected, name)
    }

    async fn initialize(&mut self, facts: Option<&Facts>) -> Result<(), DatabaseError> {
        if !self.programs.layout.has_data() {
            tracing::info!("making a new database cluster");
            self.programs.initdb().await?;
        }
        if facts.is_none() {
            return self.start(&Acknowledgers::default()).await;
        }
        if !self.memory.initialized {
            let session = self
                .session
                .as_ref()
                .ok_or(DatabaseError::Timeout("connecting to the new server"))?;
            session.create_roles(&self.programs.replication_password).await?;
            self.memory.initialized = true;
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Writes the settings, starts the server and waits until it answers.
    pub(super) async fn start(&mut self, acknowledgers: &Acknowledgers) -> Result<(), DatabaseError> {
        if self.programs.postmaster().is_some() {
            // It runs and does not answer yet: recovery may take its time.
            return Ok(());
        }
        self.write_settings_to_start(acknowledgers).await?;
        self.memory.asked_before = *self.shared.asked.borrow();
        self.programs.start().await?;
        self.memory.obeys(acknowledgers);
        let end = Instant::now() + READY_TIMEOUT;
        while self.look().await.is_none() {
            let (_, pledged) = self.shared.goal();
            let superseded = pledged != self.shared.observation.borrow().pledge;
            if Instant::now() >= end || superseded || self.programs.postmaster().is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Opens a gate for a primary of that epoch, unless it is to be something else meanwhile: the order that says so closes the
    /// gates after it has taken the lock that is held here.
    fn open_gate(&self, epoch: u64, open: impl FnOnce(&mut Gates)) {
        let facts = self.shared.facts();
        let pledge = self.shared.pledge.lock().unwrap_or_else(PoisonError::into_inner);
        let goal = pledge.goal(facts.rule.as_ref(), self.shared.me);
        let still = match goal {
            Goal::Primary { epoch: now, .. } | Goal::Promote { epoch: now, .. } => now == epoch,
            _ => false,
        };
        if still {
            self.shared.gates.send_if_modified(|gates| {
                let before = *gates;
                open(gates);
                *gates != before
            });
        }
    }

    /// Lets this node's server receive, unless an order says otherwise meanwhile.
    fn open_upstream(&self, goal: &Goal, pledged: u64) {
        let pledge = self.shared.pledge.lock().unwrap_or_else(PoisonError::into_inner);
        if pledge.epoch == pledged && pledge.goal(self.shared.facts().rule.as_ref(), self.shared.me) == *goal {
            self.shared.gates.send_if_modified(|gates| {
                let before = *gates;
                gates.open_upstream(goal);
                *gates != before
            });
        }
    }

    /// Lets standbys receive.
    fn feed(&self, epoch: u64) {
        self.open_gate(epoch, |gates| gates.replication = true);
    }

    /// Puts the quorum in force, proves it with a marker, and opens the gates.
    pub(super) async fn prove(&mut self, epoch: u64, acknowledgers: &Acknowledgers) -> Result<(), DatabaseError> {
        self.feed(epoch);
        let session = self
            .session
            .as_ref()
            .ok_or(DatabaseError::Timeout("connecting to the primary"))?;
        let before = session.synchronous_standby_names().await?;
        self.write_settings(acknowledgers)?;
        let session = self
            .session
            .as_ref()
            .ok_or(DatabaseError::Timeout("connecting to the primary"))?;
        session.reload().await?;
        let end = Instant::now() + MARKER_TIMEOUT;
        // The reload reaches backends one by one; the marker must be written under the new quorum.
        while session.synchronous_standby_names().await? != acknowledgers.setting() {
            if Instant::now() >= end {
                return Err(DatabaseError::Timeout("putting the quorum in force"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.memory.has_to_settle(&before, acknowledgers) {
            // Whether commits wait at all is the checkpointer's to say, which may be busy for long. It reads the settings before
            // it begins a checkpoint; the signal may have come just after that the first time.
            session.checkpoint().await?;
            session.checkpoint().await?;
            self.memory.obeys(acknowledgers);
        }
        tokio::time::timeout(MARKER_TIMEOUT, session.write_marker(epoch))
            .await
            .map_err(|_| DatabaseError::Timeout("the quorum's acknowledgement of the new primary"))??;
        tracing::info!(epoch, "this node is primary and its quorum acknowledges");
        self.memory.proven(epoch, acknowledgers);
        self.open(epoch);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Lets clients finish, closes to them, and remembers where the log ends then. Standbys are fed on.
    pub(super) async fn drain(&mut self, epoch: u64) -> Result<(), DatabaseError> {
        let session = self
            .session
            .as_ref()
            .ok_or(DatabaseError::Timeout("connecting to the primary"))?;
        let (_, since) = *self.draining.get_or_insert_with(|| (epoch, Instant::now()));
        self.shared.admission.set_closing(true);
        let (connected, busy) = session.clients().await?;
        if (busy > 0 || self.shared.admission.admitted() > 0) && since.elapsed() < DRAIN_GRACE {
            return Ok(());
        }
        self.memory.closed();
        self.shared
            .gates
            .send_if_modified(|gates| gates.serving.take().is_some());
        if connected > 0 {
            return session.end_clients().await;
        }
        if self.memory.drained.is_none() {
            self.memory.drained = Some((epoch, session.flushed().await?));
            tracing::info!(epoch, "clients have finished; the successor may take over");
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Lets clients in.
    fn open(&self, epoch: u64) {
        self.open_gate(epoch, |gates| gates.serving = Some(epoch));
    }

    async fn promote(
        &mut self,
        epoch: u64,
        timeline: u32,
        from: u32,
        acknowledgers: &Acknowledgers,
    ) -> Result<(), DatabaseError> {
        self.write_settings(acknowledgers)?;
        let timelines = self.timelines();
        timelines.reserve(from, timeline)?;
        let session = self
            .session
            .as_ref()
            .ok_or(DatabaseError::Timeout("connecting to the candidate"))?;
        session.reload().await?;
        if !session.promote().await? {
            return Err(DatabaseError::Timeout("the promotion"));
        }
        self.memory.switched = timelines.switch_point(timeline).map(|at| (timeline, at));
        tracing::info!(epoch, timeline, "promoted");
        // Rewinding from this node needs a checkpoint on the new timeline; nothing waits for it.
        let (layout, password) = (self.programs.layout.clone(), self.programs.password.clone());
        Tasks::new("database driver").spawn("checkpoint after promotion", async move {
            if let Ok((session, ended)) = Session::connect(&layout, &password, "postgres").await {
                let checkpoint = session.checkpoint();
                tokio::select! { _ = checkpoint => {}, () = ended => {} }
            }
        });
        let promoted = self.look().await;
        match promoted {
            Some(facts) if facts.timeline == timeline => self.prove(epoch, acknowledgers).await,
            // The next look tells what it is.
            _ => Ok(()),
        }
    }

    fn timelines(&self) -> Timelines<'_> {
        Timelines {
            wal: self.programs.layout.data.join("pg_wal"),
            account: &self.programs.account,
        }
    }

    /// The server itself only finds that it cannot follow.
    async fn undo(&mut self) -> Result<(), DatabaseError> {
        tracing::info!("the log has diverged from the primary's; what it holds beyond is undone");
        self.session = None;
        self.programs.stop(Stop::Fast, Duration::from_secs(5)).await?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// A primary that is none any more. The signal file comes first, so that whoever starts it, by hand too, gets a
    /// standby; then it ends at once, because a clean stop would wait for standbys that have left it.
    async fn demote(&mut self) -> Result<(), DatabaseError> {
        tracing::info!("this node is no longer primary");
        let signal = self.programs.layout.standby_signal();
        std::fs::write(&signal, "").map_err(DatabaseError::file("write", &signal))?;
        self.programs.account.own(&signal)?;
        self.session = None;
        self.memory.closed();
        self.programs.stop(Stop::Immediate, Duration::from_secs(2)).await?;
        self.shared.wake.notify_one();
        Ok(())
    }

    async fn start_standby(&mut self) -> Result<(), DatabaseError> {
        let signal = self.programs.layout.standby_signal();
        if !signal.exists() {
            std::fs::write(&signal, "").map_err(DatabaseError::file("write", &signal))?;
            self.programs.account.own(&signal)?;
        }
        self.timelines().make_startable()?;
        self.start(&Acknowledgers::nobody()).await
    }

    async fn how_it_ended(&self) -> Result<Ended, DatabaseError> {
        let state = self.programs.control_data("Database cluster state").await?;
        // A promotion and what was received leave the checkpoint behind; a recovery goes on to the higher of both.
        let mut timeline = 0;
        for key in ["Latest checkpoint's TimeLineID", "Min recovery ending loc's timeline"] {
            let text = self.programs.control_data(key).await?;
            timeline = timeline.max(text.and_then(|text| text.parse().ok()).unwrap_or(0));
        }
        Ok(Ended {
            as_primary: matches!(state.as_deref(), Some("in production" | "shut down" | "shutting down")),
            timeline,
        })
    }

    async fn rewind(&mut self) -> Result<(), DatabaseError> {
        // The recovery that pg_rewind runs first refuses a standby.
        let signal = self.programs.layout.standby_signal();
        match std::fs::remove_file(&signal) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(DatabaseError::file("remove", &signal)(error));
            }
            _ => {}
        }
        tracing::info!("comparing with the primary's history and undoing what it does not hold");
        if let Err(error) = self.programs.rewind().await {
            self.memory.not_rewound();
            return Err(error);
        }
        self.memory.cured();
        self.start_standby().await
    }

    /// The timeline of the upstream, if that is a primary to copy from. Its control file is made to know it: that is all by
    /// which pg_rewind sees whether there is anything to do.
    async fn prepare_source(&self) -> Option<u32> {
        let probe = async {
            let (source, ended) = Session::connect_upstream(&self.programs.layout, &self.programs.password).await?;
            tokio::select! {
                prepared = source.prepare_as_source() => prepared,
                () = ended => Err(DatabaseError::Timeout("asking the upstream")),
            }
        };
        match tokio::time::timeout(SOURCE_TIMEOUT, probe).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the upstream cannot be copied from now");
                None
            }
            Err(_) => None,
        }
    }

    /// What is there stays in use until the copy is complete: it may be needed before.
    async fn clone_primary(&mut self) -> Result<(), DatabaseError> {
        tracing::info!("cloning the primary");
        let copy = self.programs.base_backup().await?;
        self.session = None;
        self.programs.stop(Stop::Immediate, Duration::from_secs(5)).await?;
        self.programs.adopt(&copy)?;
        self.memory.cured();
        self.start(&Acknowledgers::nobody()).await
    }
}
