//! Brings this node's PostgreSQL to what the rule and the pledge ask for.
//!
//! One task owns the data directory. It compares what is with what is to be, takes one step, and looks again; any step
//! may fail or be interrupted, and the next look goes on from what it finds. Orders are written to disk by
//! [`Driver::order`] and only then seen by the task.

mod admission;
pub(crate) mod decide;
mod layout;
pub(crate) mod pledge;
mod programs;
pub(crate) mod session;
pub(crate) mod settings;
mod timelines;
mod upkeep;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::database::{ChangeKind, DatabaseState, Lsn};
use conclave_catalog::{ClusterState, NodeId};
use conclave_runtime::account::Account;
use conclave_runtime::{Shutdown, Tasks};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::DatabaseError;
use crate::coordinator::{Observation, Order, Role};
use admission::Admission;
pub(crate) use admission::Admitted;
pub(crate) use decide::Gates;
use decide::{Ended, Look, Memory, Step};
pub use layout::programs_dir;
pub(crate) use layout::{LOCAL_PORT, Layout};
use pledge::{Goal, Pledge, PledgeFile};
pub(crate) use programs::Programs;
use programs::Stop;
use session::{Facts, Session};
use settings::Acknowledgers;
use timelines::Timelines;
pub(crate) use upkeep::ParameterStatus;
use upkeep::Upkeep;

const TICK: Duration = Duration::from_millis(100);
/// While a failover waits for this node's position to settle, or for its promotion.
const FAST_TICK: Duration = Duration::from_millis(15);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long clients may finish what they are at before a planned change cuts them off.
const DRAIN_GRACE: Duration = Duration::from_millis(250);
/// A checkpoint may be part of it.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(30);
const MARKER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the driver needs.
pub(crate) struct DriverOptions {
    pub(crate) me: NodeId,
    pub(crate) node_name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) bin_dir: Option<PathBuf>,
    pub(crate) account: Account,
    pub(crate) segment_age: Option<Duration>,
    pub(crate) password: String,
    pub(crate) replication_password: String,
}

/// Handle on the driver of this node.
#[derive(Clone)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
}

struct Shared {
    me: NodeId,
    data: Layout,
    pledge: Mutex<Pledge>,
    file: PledgeFile,
    wake: Notify,
    observation: watch::Sender<Observation>,
    gates: watch::Sender<Gates>,
    /// Whether the rule that this node knows has been confirmed by the group since the start. A returning node's own copy may
    /// be old: acting on it could start a deposed primary.
    confirmed: watch::Sender<bool>,
    /// What went wrong last, for the status; cleared when a step succeeds.
    trouble: watch::Sender<Option<String>>,
    /// How often the local server has asked for log at the upstream socket.
    asked: watch::Sender<u64>,
    /// The latest planned change for which this node's users were told to hold back.
    held: watch::Sender<u64>,
    /// Whether they do, and have finished.
    quiet: watch::Sender<bool>,
    /// How often a restart of the server was ordered.
    restarts: watch::Sender<u64>,
    /// What the server runs with.
    parameters: watch::Sender<ParameterStatus>,
    admission: Admission,
    state: watch::Receiver<Arc<ClusterState>>,
}

impl Driver {
    /// Starts the task.
    pub(crate) fn start(
        options: DriverOptions,
        state: watch::Receiver<Arc<ClusterState>>,
        tasks: &Tasks,
    ) -> Result<(Self, Layout), DatabaseError> {
        let layout = Layout::prepare(&options.data_dir, options.bin_dir.as_deref(), &options.account)?;
        if layout.restore_mark().exists() {
            return Err(DatabaseError::Unexpected(
                "a restore of the database was interrupted: run `conclave backup restore` again".into(),
            ));
        }
        let file = PledgeFile(layout.pledge_file());
        let pledge = file.read()?;
        let shared = Arc::new(Shared {
            me: options.me,
            data: layout.clone(),
            file,
            wake: Notify::new(),
            observation: watch::channel(nothing(pledge.epoch)).0,
            gates: watch::channel(Gates::default()).0,
            trouble: watch::channel(None).0,
            confirmed: watch::channel(false).0,
            asked: watch::channel(0).0,
            held: watch::channel(0).0,
            quiet: watch::channel(false).0,
            restarts: watch::channel(0).0,
            parameters: watch::channel(ParameterStatus::default()).0,
            admission: Admission::default(),
            state,
            pledge: Mutex::new(pledge),
        });
        let programs = Programs {
            layout: layout.clone(),
            account: options.account,
            segment_age: options.segment_age,
            password: options.password,
            replication_password: options.replication_password,
        };
        programs.write_passfile()?;
        let task = Task {
            shared: Arc::clone(&shared),
            programs,
            node_name: options.node_name,
            session: None,
            memory: Memory::default(),
            draining: None,
            upkeep: Upkeep::default(),
            born: Instant::now(),
        };
        tasks.spawn("database driver", task.run(tasks.shutdown()));
        Ok((Self { shared }, layout))
    }

    /// Takes an order. When it returns, the order is on disk and this node will never again act on an older epoch.
    pub(crate) fn order(&self, order: &Order) -> Result<(), DatabaseError> {
        if let Order::Hold { epoch } = order {
            let raise = |held: &mut u64| *epoch > std::mem::replace(held, (*held).max(*epoch));
            self.shared.held.send_if_modified(raise);
            return Ok(());
        }
        let mut pledge = self.shared.pledge.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = pledge.clone();
        if !next.accept(order) {
            return Ok(());
        }
        self.shared.file.write(&next)?;
        tracing::info!(?order, "database order taken");
        *pledge = next;
        // The gates close here and now: from this answer on, nothing of an older epoch passes.
        let goal = pledge.goal(self.shared.facts().rule.as_ref(), self.shared.me);
        drop(pledge);
        self.shared.close_gates(&goal);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// The rule that this node knows is the one in force: from now on it may be acted upon.
    pub(crate) fn confirm(&self) {
        self.shared.confirmed.send_replace(true);
        self.shared.wake.notify_one();
    }

    /// Has the server restarted, as soon as no change of the rule is under way.
    pub(crate) fn restart(&self) {
        self.shared.restarts.send_modify(|count| *count += 1);
        self.shared.wake.notify_one();
    }

    /// What is set for the whole cluster, and what the server runs with.
    pub(crate) fn parameters(&self) -> ParameterStatus {
        self.shared.parameters.borrow().clone()
    }

    /// Lets a client in, unless the server is about to be closed to clients.
    pub(crate) fn admit(&self) -> Option<Admitted> {
        self.shared.admission.admit()
    }

    /// The process id of the running server.
    pub(crate) fn process(&self) -> Option<i32> {
        self.shared.data.postmaster()
    }

    /// The local server asks for log: it has replayed all that it holds.
    pub(crate) fn asks(&self) {
        self.shared.asked.send_modify(|count| *count += 1);
        self.shared.wake.notify_one();
    }

    /// Woken when what the driver sees changes.
    pub(crate) fn observed(&self) -> watch::Receiver<Observation> {
        self.shared.observation.subscribe()
    }

    /// What this node is like now.
    pub(crate) fn observation(&self) -> Observation {
        Observation {
            quiet: self.holds().filter(|_| *self.shared.quiet.borrow()),
            ..self.shared.observation.borrow().clone()
        }
    }

    /// The epoch of the planned change for which this node's users have to hold back.
    pub(crate) fn holds(&self) -> Option<u64> {
        let facts = self.shared.facts();
        let planned = facts
            .change
            .filter(|change| matches!(change.kind, ChangeKind::Switchover(_)))
            .map_or(0, |change| change.epoch);
        let in_force = facts.rule.map_or(0, |rule| rule.epoch);
        let held = planned.max(*self.shared.held.borrow());
        (held > in_force).then_some(held)
    }

    pub(crate) fn held(&self) -> watch::Receiver<u64> {
        self.shared.held.subscribe()
    }

    pub(crate) fn quiet(&self) -> watch::Sender<bool> {
        self.shared.quiet.clone()
    }

    pub(crate) fn gates(&self) -> watch::Receiver<Gates> {
        self.shared.gates.subscribe()
    }

    pub(crate) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.shared.trouble.subscribe()
    }
}

fn nothing(pledge: u64) -> Observation {
    Observation {
        role: Role::Empty,
        pledge,
        settled: false,
        timeline: 0,
        lsn: Lsn(0),
        streaming: false,
        serving: None,
        drained: None,
        quiet: None,
        switch_lsn: None,
        system_id: None,
    }
}

impl Shared {
    fn facts(&self) -> DatabaseState {
        self.state.borrow().database().clone()
    }

    fn goal(&self) -> (Goal, u64) {
        let facts = self.facts();
        let pledge = self.pledge.lock().unwrap_or_else(PoisonError::into_inner);
        let goal = pledge.goal(facts.rule.as_ref(), self.me);
        let stale = !*self.confirmed.borrow()
            && matches!(goal, Goal::Primary { .. } | Goal::Promote { .. } | Goal::Drain { .. });
        (if stale { Goal::Wait } else { goal }, pledge.epoch)
    }

    /// Closes whatever the goal does not allow. Opening is the task's, once the server is what it should be.
    fn close_gates(&self, goal: &Goal) {
        self.gates.send_if_modified(|gates| {
            let before = *gates;
            gates.close(goal);
            *gates != before
        });
    }
}

struct Task {
    shared: Arc<Shared>,
    programs: Programs,
    node_name: String,
    session: Option<Session>,
    memory: Memory,
    /// The epoch in which clients are let finish, and since when.
    draining: Option<(u64, Instant)>,
    upkeep: Upkeep,
    /// The zero of the time that the memory counts.
    born: Instant,
}

impl Task {
    async fn run(mut self, shutdown: Shutdown) {
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
                    return Ok(());
                }
                self.converge(look).await
            };
            let outcome = shutdown.run_until(working).await;
            match outcome {
                None => break,
                Some(Ok(())) => self.report(None),
                Some(Err(error)) => self.report(Some(error)),
            }
            let urgent = matches!(
                goal,
                Goal::Standby { upstream: None, .. } | Goal::Promote { .. } | Goal::Drain { .. }
            );
            let pause = if urgent { FAST_TICK } else { TICK };
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
            source_ready: false,
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

    async fn converge(&mut self, mut look: Look<'_>) -> Result<(), DatabaseError> {
        if self.memory.asks_how_it_ended(&look) {
            look.ended = Some(self.how_it_ended().await?);
        }
        if self.memory.asks_for_source(&look) {
            look.source_ready = self.prepare_source().await;
        }
        let (epoch, acknowledgers) = match look.goal {
            Goal::Promote { epoch, cohort, .. } => (*epoch, self.acknowledgers(&look, cohort, None)),
            Goal::Primary { epoch, cohort, leaving } => (*epoch, self.acknowledgers(&look, cohort, leaving.as_ref())),
            Goal::Drain { epoch } | Goal::Standby { epoch, .. } => (*epoch, Acknowledgers::default()),
            Goal::Wait | Goal::Initialize => (0, Acknowledgers::default()),
        };
        match self.memory.step(&look, &acknowledgers) {
            Step::Rest => Ok(()),
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
                self.feed(epoch);
                self.open(epoch);
                Ok(())
            }
            Step::Drain => self.drain(epoch).await,
            Step::Fail(why) => Err(DatabaseError::Unexpected(why)),
        }
    }

    fn acknowledgers(
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
    async fn start(&mut self, acknowledgers: &Acknowledgers) -> Result<(), DatabaseError> {
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
    async fn prove(&mut self, epoch: u64, acknowledgers: &Acknowledgers) -> Result<(), DatabaseError> {
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
    async fn drain(&mut self, epoch: u64) -> Result<(), DatabaseError> {
        let session = self
            .session
            .as_ref()
            .ok_or(DatabaseError::Timeout("connecting to the primary"))?;
        let (_, since) = *self.draining.get_or_insert_with(|| (epoch, Instant::now()));
        self.shared.admission.set_closing(true);
        let (connected, busy) = session.clients().await?;
        let logging_in = self.shared.admission.admitted() > connected;
        if (busy > 0 || logging_in) && since.elapsed() < DRAIN_GRACE {
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
        let timeline = self.programs.control_data("Latest checkpoint's TimeLineID").await?;
        Ok(Ended {
            as_primary: matches!(state.as_deref(), Some("in production" | "shut down" | "shutting down")),
            timeline: timeline.and_then(|text| text.parse().ok()).unwrap_or(0),
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

    /// Whether the upstream is a primary to copy from. Its control file is made to know its timeline: that is all by which
    /// pg_rewind sees whether there is anything to do.
    async fn prepare_source(&self) -> bool {
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
                false
            }
            Err(_) => false,
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
