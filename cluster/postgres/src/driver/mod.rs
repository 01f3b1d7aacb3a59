//! Brings this node's PostgreSQL to what the rule and the pledge ask for.
//!
//! One task owns the data directory. It compares what is with what is to be, takes one step, and looks again; any step
//! may fail or be interrupted, and the next look goes on from what it finds. Orders are written to disk by
//! [`Driver::order`] and only then seen by the task.

mod layout;
mod pledge;
mod programs;
mod session;
mod settings;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::database::{ChangeKind, DatabaseState, Lineage, Lsn};
use conclave_catalog::{ClusterState, NodeId};
use conclave_runtime::account::Account;
use conclave_runtime::{Shutdown, Tasks};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::DatabaseError;
use crate::coordinator::{Observation, Order, Role};
pub(crate) use layout::Layout;
use pledge::{Goal, Pledge, PledgeFile};
use programs::{Programs, Stop};
use session::{Facts, Session};
use settings::Acknowledgers;

const TICK: Duration = Duration::from_millis(100);
/// While a failover waits for this node's position to settle, or for its promotion.
const FAST_TICK: Duration = Duration::from_millis(15);
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// A standby whose upstream is there and that does not stream for this long needs more than patience.
const HEAL_AFTER: Duration = Duration::from_secs(6);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long clients may finish what they are at before a planned change cuts them off.
const DRAIN_GRACE: Duration = Duration::from_millis(250);
const MARKER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the driver needs.
pub(crate) struct DriverOptions {
    pub(crate) me: NodeId,
    pub(crate) node_name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) bin_dir: Option<PathBuf>,
    pub(crate) account: Account,
    pub(crate) password: String,
    pub(crate) replication_password: String,
}

/// Which node feeds this one, and whether its own server may be reached: what the network layer carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Gates {
    /// Where the upstream socket leads.
    pub(crate) upstream: Option<NodeId>,
    /// Whether standbys may receive from this node's server.
    pub(crate) replication: bool,
    /// The epoch in which clients may use this node's server.
    pub(crate) serving: Option<u64>,
}

/// How a data directory that does not stream is brought back, from the cheapest means to the surest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    Start,
    Rewind,
    Clone,
}

/// Handle on the driver of this node.
#[derive(Clone)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
}

struct Shared {
    me: NodeId,
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
        let file = PledgeFile(layout.pledge_file());
        let pledge = file.read()?;
        let shared = Arc::new(Shared {
            me: options.me,
            file,
            wake: Notify::new(),
            observation: watch::channel(nothing(pledge.epoch)).0,
            gates: watch::channel(Gates::default()).0,
            trouble: watch::channel(None).0,
            confirmed: watch::channel(false).0,
            asked: watch::channel(0).0,
            held: watch::channel(0).0,
            quiet: watch::channel(false).0,
            state,
            pledge: Mutex::new(pledge),
        });
        let programs = Programs {
            layout: layout.clone(),
            account: options.account,
            password: options.password,
            replication_password: options.replication_password,
        };
        programs.write_passfile()?;
        let task = Task {
            shared: Arc::clone(&shared),
            programs,
            node_name: options.node_name,
            session: None,
            serving: None,
            in_force: Acknowledgers::default(),
            draining: None,
            drained: None,
            switch_lsn: None,
            cure: Cure::Start,
            trouble_since: None,
            last: None,
            initialized: false,
            asked_before: 0,
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
            match goal {
                Goal::Standby { upstream, .. } => {
                    *gates = Gates {
                        upstream: *upstream,
                        replication: false,
                        serving: None,
                    };
                }
                Goal::Promote { epoch, .. } => {
                    gates.upstream = None;
                    gates.serving = gates.serving.filter(|serving| serving == epoch);
                }
                // Clients are cut by the task, once they have finished or had time to.
                Goal::Primary { .. } | Goal::Drain { .. } => gates.upstream = None,
                Goal::Wait | Goal::Initialize => *gates = Gates::default(),
            }
            *gates != before
        });
    }
}

struct Task {
    shared: Arc<Shared>,
    programs: Programs,
    node_name: String,
    session: Option<Session>,
    serving: Option<u64>,
    /// The quorum that was proven last.
    in_force: Acknowledgers,
    /// The epoch in which clients are let finish, and since when.
    draining: Option<(u64, Instant)>,
    drained: Option<(u64, Lsn)>,
    switch_lsn: Option<Lsn>,
    cure: Cure,
    trouble_since: Option<Instant>,
    last: Option<Facts>,
    initialized: bool,
    /// How often the server had asked for log when it was started. A server that was found running has asked long ago, or asks
    /// again soon.
    asked_before: u64,
}

impl Task {
    async fn run(mut self, shutdown: Shutdown) {
        let mut state = self.shared.state.clone();
        while !shutdown.is_requested() {
            let (goal, pledged) = self.shared.goal();
            self.shared.close_gates(&goal);
            let facts = self.look().await;
            let before = std::mem::replace(&mut self.last, facts.clone());
            self.publish(&goal, pledged, facts.as_ref(), before.as_ref());
            let outcome = shutdown.run_until(self.converge(&goal, facts.as_ref())).await;
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

    fn publish(&mut self, goal: &Goal, pledged: u64, facts: Option<&Facts>, before: Option<&Facts>) {
        let role = match facts {
            Some(facts) if facts.in_recovery => Role::Standby,
            Some(_) => Role::Primary,
            None if self.programs.layout.has_data() => Role::Down,
            None => Role::Empty,
        };
        if role != Role::Primary {
            self.serving = None;
        }
        if !matches!(goal, Goal::Drain { .. }) {
            (self.draining, self.drained) = (None, None);
        }
        let isolated = matches!(goal, Goal::Standby { upstream: None, .. });
        let still = facts.is_some() && facts.map(|facts| facts.lsn) == before.map(|facts| facts.lsn);
        let observation = Observation {
            role,
            pledge: pledged,
            settled: isolated && still && facts.is_some_and(|facts| !facts.receiver && self.has_read_all(facts)),
            timeline: facts.map_or(0, |facts| facts.timeline),
            lsn: facts.map_or(Lsn(0), |facts| facts.lsn),
            streaming: facts.is_some_and(|facts| facts.receiving),
            serving: self.serving,
            drained: self.drained,
            quiet: None,
            switch_lsn: self.switch_lsn,
            system_id: facts
                .filter(|_| self.initialized || role != Role::Primary || self.shared.facts().rule.is_some())
                .map(|facts| facts.system_id.clone()),
        };
        self.shared.observation.send_if_modified(|old| {
            let changed = *old != observation;
            *old = observation;
            changed
        });
    }

    /// Whether the position that a standby shows is the end of all that it holds. After a start it replays what lies there, and
    /// asks for more only when that is done: its question is the sign.
    fn has_read_all(&self, facts: &Facts) -> bool {
        facts.has_received || *self.shared.asked.borrow() > self.asked_before
    }

    async fn converge(&mut self, goal: &Goal, facts: Option<&Facts>) -> Result<(), DatabaseError> {
        match goal {
            Goal::Wait => Ok(()),
            Goal::Initialize => self.initialize(facts).await,
            Goal::Drain { epoch } => self.drain(*epoch).await,
            Goal::Standby { upstream, .. } => self.be_standby(*upstream, facts).await,
            Goal::Promote {
                epoch,
                timeline,
                cohort,
            } => {
                let names = self.acknowledgers(cohort, None);
                self.promote(*epoch, *timeline, &names, facts).await
            }
            Goal::Primary { epoch, cohort, leaving } => {
                let names = self.acknowledgers(cohort, leaving.as_ref());
                self.be_primary(*epoch, &names, facts).await
            }
        }
    }

    fn acknowledgers(&self, cohort: &BTreeSet<NodeId>, leaving: Option<&BTreeSet<NodeId>>) -> Acknowledgers {
        let state = self.shared.state.borrow();
        let name = |id: NodeId| state.nodes().get(&id).map(|node| node.name.clone());
        Acknowledgers::of(self.shared.me, cohort, leaving, name)
    }

    async fn initialize(&mut self, facts: Option<&Facts>) -> Result<(), DatabaseError> {
        if !self.programs.layout.has_data() {
            tracing::info!("making a new database cluster");
            self.programs.initdb().await?;
        }
        if facts.is_none() {
            return self.start(&Acknowledgers::default()).await;
        }
        if !self.initialized {
            let session = self
                .session
                .as_ref()
                .ok_or(DatabaseError::Timeout("connecting to the new server"))?;
            session.create_roles(&self.programs.replication_password).await?;
            self.initialized = true;
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
        settings::write(&self.programs, &self.node_name, acknowledgers)?;
        self.asked_before = *self.shared.asked.borrow();
        self.programs.start().await?;
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

    async fn be_primary(
        &mut self,
        epoch: u64,
        acknowledgers: &Acknowledgers,
        facts: Option<&Facts>,
    ) -> Result<(), DatabaseError> {
        let Some(facts) = facts else {
            if !self.programs.layout.has_data() {
                return Err(DatabaseError::Unexpected(
                    "the rule names this node primary, and its data directory is gone: another node must take over"
                        .into(),
                ));
            }
            return self.start(acknowledgers).await;
        };
        if facts.in_recovery {
            return Err(DatabaseError::Unexpected(
                "the rule names this node primary, and its server is in recovery: another node must take over".into(),
            ));
        }
        self.serve(epoch, acknowledgers).await
    }

    /// Puts the quorum in force, proves it with a marker, and opens the gates.
    async fn serve(&mut self, epoch: u64, acknowledgers: &Acknowledgers) -> Result<(), DatabaseError> {
        self.shared
            .gates
            .send_if_modified(|gates| !std::mem::replace(&mut gates.replication, true));
        if self.serving == Some(epoch) && self.in_force == *acknowledgers {
            self.open(epoch);
            return Ok(());
        }
        let session = self
            .session
            .as_ref()
            .ok_or(DatabaseError::Timeout("connecting to the primary"))?;
        settings::write(&self.programs, &self.node_name, acknowledgers)?;
        session.reload().await?;
        let end = Instant::now() + MARKER_TIMEOUT;
        // The reload reaches backends one by one; the marker must be written under the new quorum.
        while session.synchronous_standby_names().await? != acknowledgers.setting() {
            if Instant::now() >= end {
                return Err(DatabaseError::Timeout("putting the quorum in force"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::timeout(MARKER_TIMEOUT, session.write_marker(epoch))
            .await
            .map_err(|_| DatabaseError::Timeout("the quorum's acknowledgement of the new primary"))??;
        tracing::info!(epoch, "this node is primary and its quorum acknowledges");
        self.serving = Some(epoch);
        self.in_force = acknowledgers.clone();
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
        let (connected, busy) = session.clients().await?;
        if busy > 0 && since.elapsed() < DRAIN_GRACE {
            return Ok(());
        }
        self.serving = None;
        self.shared
            .gates
            .send_if_modified(|gates| gates.serving.take().is_some());
        if connected > 0 {
            return session.end_clients().await;
        }
        if self.drained.is_none() {
            self.drained = Some((epoch, session.flushed().await?));
            tracing::info!(epoch, "clients have finished; the successor may take over");
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Lets clients in, unless a newer epoch has been pledged meanwhile.
    fn open(&self, epoch: u64) {
        let pledge = self.shared.pledge.lock().unwrap_or_else(PoisonError::into_inner);
        if pledge.epoch <= epoch {
            self.shared
                .gates
                .send_if_modified(|gates| gates.serving.replace(epoch) != Some(epoch));
        }
    }

    async fn promote(
        &mut self,
        epoch: u64,
        timeline: u32,
        acknowledgers: &Acknowledgers,
        facts: Option<&Facts>,
    ) -> Result<(), DatabaseError> {
        let Some(facts) = facts else {
            return self.start(acknowledgers).await;
        };
        if !facts.in_recovery {
            if facts.timeline != timeline {
                return Err(DatabaseError::Unexpected(format!(
                    "promoted to timeline {} where {timeline} was allocated; it does not serve",
                    facts.timeline
                )));
            }
            return self.serve(epoch, acknowledgers).await;
        }
        settings::write(&self.programs, &self.node_name, acknowledgers)?;
        self.reserve_timelines(facts.timeline, timeline)?;
        let session = self
            .session
            .as_ref()
            .ok_or(DatabaseError::Timeout("connecting to the candidate"))?;
        session.reload().await?;
        if !session.promote().await? {
            return Err(DatabaseError::Timeout("the promotion"));
        }
        self.switch_lsn = self.switch_point(timeline);
        tracing::info!(epoch, timeline, "promoted");
        // Rewinding from this node needs a checkpoint on the new timeline; nothing waits for it.
        let (layout, password) = (self.programs.layout.clone(), self.programs.password.clone());
        Tasks::new("database driver").spawn("checkpoint after promotion", async move {
            if let Ok((session, ended)) = Session::connect(&layout, &password, "postgres").await {
                let checkpoint = session.checkpoint();
                tokio::select! { _ = checkpoint => {}, () = ended => {} }
            }
        });
        self.look().await;
        self.serve(epoch, acknowledgers).await
    }

    /// PostgreSQL takes the number after the highest timeline whose history it finds. The allocated number is higher when
    /// an earlier promotion was abandoned: its place is taken by a history that leads nowhere.
    fn reserve_timelines(&self, current: u32, wanted: u32) -> Result<(), DatabaseError> {
        let wal = self.programs.layout.data.join("pg_wal");
        let history = |timeline: u32| wal.join(format!("{timeline:08X}.history"));
        let parent = std::fs::read_to_string(history(current)).unwrap_or_default();
        for timeline in current + 1..wanted {
            let path = history(timeline);
            if path.exists() {
                continue;
            }
            let text = format!("{parent}{current}\t0/1\tclaimed by an abandoned promotion\n");
            std::fs::write(&path, text).map_err(DatabaseError::file("write", &path))?;
            self.programs.account.own(&path)?;
        }
        Ok(())
    }

    /// Where the timeline left its parent, from its history file: the last line that has three fields.
    fn switch_point(&self, timeline: u32) -> Option<Lsn> {
        let path = self.programs.layout.data.join(format!("pg_wal/{timeline:08X}.history"));
        let text = std::fs::read_to_string(path).ok()?;
        text.lines()
            .rev()
            .find_map(|line| line.split('\t').nth(1)?.parse().ok())
    }

    async fn be_standby(&mut self, upstream: Option<NodeId>, facts: Option<&Facts>) -> Result<(), DatabaseError> {
        match facts {
            Some(facts) if !facts.in_recovery => self.demote().await,
            Some(facts) if upstream.is_some() && self.has_diverged(facts) => self.undo().await,
            Some(facts) if facts.receiving || upstream.is_none() => {
                self.cure = Cure::Start;
                self.trouble_since = None;
                Ok(())
            }
            Some(_) => self.heal().await,
            None if !self.programs.layout.has_data() => match upstream {
                Some(_) => self.clone_primary().await,
                None => Ok(()),
            },
            None => self.start_standby(upstream.is_some()).await,
        }
    }

    fn has_diverged(&self, facts: &Facts) -> bool {
        self.shared.facts().lineage(facts.timeline, facts.lsn) == Lineage::Diverged
    }

    /// Its log holds what the primary's does not: what a deposed primary wrote and nobody acknowledged. The server itself only
    /// finds that it cannot follow.
    async fn undo(&mut self) -> Result<(), DatabaseError> {
        tracing::info!("the log has diverged from the primary's; what it holds beyond is undone");
        self.cure = Cure::Rewind;
        self.trouble_since = None;
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
        self.serving = None;
        self.programs.stop(Stop::Immediate, Duration::from_secs(2)).await?;
        self.shared.wake.notify_one();
        Ok(())
    }

    async fn start_standby(&mut self, has_upstream: bool) -> Result<(), DatabaseError> {
        if self.programs.postmaster().is_some() {
            return self.heal().await;
        }
        let signal = self.programs.layout.standby_signal();
        if !signal.exists() {
            std::fs::write(&signal, "").map_err(DatabaseError::file("write", &signal))?;
            self.programs.account.own(&signal)?;
        }
        if self.programs.layout.rewind_mark().exists() {
            self.cure = Cure::Clone;
            if !has_upstream {
                return Ok(());
            }
        } else if has_upstream && self.cure == Cure::Start && self.was_primary().await? {
            self.cure = Cure::Rewind;
        }
        match self.cure {
            Cure::Start => {}
            Cure::Rewind if has_upstream => {
                // The recovery that pg_rewind runs first refuses a standby.
                std::fs::remove_file(&signal).map_err(DatabaseError::file("remove", &signal))?;
                tracing::info!("comparing with the primary's history and undoing what it does not hold");
                if let Err(error) = self.programs.rewind().await {
                    tracing::warn!(%error, "rewinding failed; the data directory is cloned anew");
                    self.cure = Cure::Clone;
                    return self.clone_primary().await;
                }
                self.cure = Cure::Start;
                self.trouble_since = None;
            }
            Cure::Clone if has_upstream => return self.clone_primary().await,
            Cure::Rewind | Cure::Clone => {}
        }
        self.start(&Acknowledgers::default()).await
    }

    /// Whether the server ended as a primary on a timeline that has been left since: then its log may hold what nobody
    /// else has.
    async fn was_primary(&self) -> Result<bool, DatabaseError> {
        let state = self
            .programs
            .control_data("Database cluster state")
            .await?
            .unwrap_or_default();
        let timeline = self.programs.control_data("Latest checkpoint's TimeLineID").await?;
        let own: u32 = timeline.and_then(|text| text.parse().ok()).unwrap_or(0);
        let ruled = self.shared.facts().rule.map_or(0, |rule| rule.timeline);
        Ok(matches!(state.as_str(), "in production" | "shut down" | "shutting down") && own < ruled)
    }

    /// A standby that could stream and does not, for long: the next stronger cure.
    async fn heal(&mut self) -> Result<(), DatabaseError> {
        let since = *self.trouble_since.get_or_insert_with(Instant::now);
        if since.elapsed() < HEAL_AFTER {
            return Ok(());
        }
        self.cure = match self.cure {
            Cure::Start => Cure::Rewind,
            Cure::Rewind | Cure::Clone => Cure::Clone,
        };
        tracing::warn!(cure = ?self.cure, "the standby does not receive; it is stopped to be brought back");
        self.trouble_since = None;
        self.session = None;
        self.programs.stop(Stop::Immediate, Duration::from_secs(5)).await
    }

    async fn clone_primary(&mut self) -> Result<(), DatabaseError> {
        tracing::info!("cloning the primary");
        self.session = None;
        self.programs.stop(Stop::Immediate, Duration::from_secs(5)).await?;
        self.programs.base_backup().await?;
        self.cure = Cure::Start;
        self.trouble_since = None;
        self.start(&Acknowledgers::default()).await
    }
}
