//! Brings this node's PostgreSQL to what the rule and the pledge ask for.
//!
//! One task owns the data directory. It compares what is with what is to be, takes one step, and looks again; any step
//! may fail or be interrupted, and the next look goes on from what it finds. Orders are written to disk by
//! [`Driver::order`] and only then seen by the task.

mod admission;
pub(crate) mod decide;
mod layout;
mod outlook;
pub(crate) mod pledge;
mod programs;
pub(crate) mod session;
pub(crate) mod settings;
mod task;
mod timelines;
mod upkeep;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::database::{ChangeKind, DatabaseState, Lsn};
use conclave_catalog::{ClusterState, NodeId};
use conclave_runtime::Tasks;
use conclave_runtime::account::Account;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::DatabaseError;
use crate::coordinator::{Observation, Order, Role};
use admission::Admission;
pub(crate) use admission::Admitted;
pub(crate) use decide::Gates;
use decide::Memory;
pub use layout::programs_dir;
pub(crate) use layout::{LOCAL_PORT, Layout};
use pledge::{Goal, Pledge, PledgeFile};
pub(crate) use programs::Programs;
use task::Task;
pub(crate) use upkeep::ParameterStatus;
use upkeep::Upkeep;

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
    /// What will go wrong if it goes on like this, for the status.
    concern: watch::Sender<Option<String>>,
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
            concern: watch::channel(None).0,
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

    /// Whether the server is about to be closed to clients.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.shared.admission.closing()
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

    /// The same, once it is other than `known`, or `limit` has passed.
    pub(crate) async fn observation_after(&self, known: &Observation, limit: Duration) -> Observation {
        let (mut observed, mut held) = (self.observed(), self.held());
        let (mut quiet, mut state) = (self.shared.quiet.subscribe(), self.shared.state.clone());
        let other = async {
            loop {
                observed.mark_unchanged();
                held.mark_unchanged();
                quiet.mark_unchanged();
                state.mark_unchanged();
                let now = self.observation();
                if now != *known {
                    return now;
                }
                // A closed channel is the end of this node: nothing will change any more.
                let changed = tokio::select! {
                    changed = observed.changed() => changed,
                    changed = held.changed() => changed,
                    changed = quiet.changed() => changed,
                    changed = state.changed() => changed,
                };
                if changed.is_err() {
                    return self.observation();
                }
            }
        };
        let waited = tokio::time::timeout(limit, other).await;
        waited.unwrap_or_else(|_| self.observation())
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

    pub(crate) fn concern(&self) -> Option<String> {
        self.shared.concern.borrow().clone()
    }

    pub(crate) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.shared.trouble.subscribe()
    }
}

/// Whether the primary is being changed as planned.
pub(crate) fn is_planned(database: &DatabaseState) -> bool {
    let change = database.change.as_ref();
    change.is_some_and(|change| matches!(change.kind, ChangeKind::Switchover(_)))
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
