//! What the driver does beside the rule: it keeps the settings up to date, and restarts the server when it is told to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::decide::Look;
use super::pledge::Goal;
use super::programs::Stop;
use super::settings::{self, Acknowledgers};
use super::task::{STOP_LIMIT, Task};
use crate::DatabaseError;
use crate::parameters::{Parameters, Pending, Place, bound_names, read_control};

/// How often the server is asked what it runs with.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// How long clients may finish what they are at before a restart in place cuts them off. New ones wait at the proxies for longer.
const RESTART_GRACE: Duration = Duration::from_secs(5);
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// What is set for the whole cluster, and what of it this node's server runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ParameterStatus {
    /// What is set.
    pub(crate) wanted: Parameters,
    /// What the server was started with, of those that bind standbys.
    pub(crate) running: BTreeMap<String, u64>,
    /// Those of them that are not as wanted.
    pub(crate) pending: Vec<Pending>,
    /// Others that wait for a restart.
    pub(crate) pending_restart: Vec<String>,
}

/// What the driver remembers for its upkeep.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// What is in the settings file: the parameters as they were agreed on, and what came of them.
    parameters: Option<Parameters>,
    effective: BTreeMap<String, String>,
    /// Who acknowledges, by the settings file.
    acknowledgers: Option<Acknowledgers>,
    /// The restarts that were ordered and done.
    restarted: u64,
    looked: Option<Instant>,
}

impl Task {
    fn place(&self) -> Place {
        let (goal, _) = self.shared.goal();
        match goal {
            Goal::Standby { .. } | Goal::Drain { .. } | Goal::Wait => Place::Standby,
            _ if self.shared.state.borrow().nodes().len() <= 1 => Place::Alone,
            Goal::Initialize | Goal::Primary { .. } => Place::Primary,
            // It is started in recovery.
            Goal::Promote { .. } => Place::Standby,
        }
    }

    /// Writes the settings for a server that is about to start.
    pub(super) async fn write_settings_to_start(&mut self, acknowledgers: &Acknowledgers) -> Result<(), DatabaseError> {
        let control = if self.programs.layout.has_data() {
            read_control(&self.programs.control_text().await?)
        } else {
            BTreeMap::new()
        };
        let parameters = Parameters::of(&self.shared.state.borrow());
        self.upkeep.effective = parameters.effective(self.place(), &control);
        self.upkeep.parameters = Some(parameters);
        self.write_settings(acknowledgers)
    }

    /// Writes the settings for a server that runs.
    pub(super) fn write_settings(&mut self, acknowledgers: &Acknowledgers) -> Result<(), DatabaseError> {
        self.upkeep.acknowledgers = Some(acknowledgers.clone());
        settings::write(&self.programs, &self.node_name, acknowledgers, &self.upkeep.effective)
    }

    /// Looks after the settings and after orders to restart. `true` when the server was stopped or restarted: the caller looks
    /// again.
    pub(super) async fn keep_up(&mut self, look: &Look<'_>) -> Result<bool, DatabaseError> {
        let Some(facts) = look.server else {
            return Ok(false);
        };
        let parameters = Parameters::of(&self.shared.state.borrow());
        if self.upkeep.parameters.as_ref() != Some(&parameters)
            && let Some(acknowledgers) = self.upkeep.acknowledgers.clone()
        {
            self.write_settings_to_start(&acknowledgers).await?;
            if let Some(session) = &self.session {
                session.reload().await?;
            }
            self.upkeep.looked = None;
        }
        let paused = self.look_at_parameters(&parameters, facts.in_recovery).await?;
        let ordered = *self.shared.restarts.borrow();
        let is_ordered = ordered > self.upkeep.restarted;
        if !is_ordered && !paused {
            return Ok(false);
        }
        match look.goal {
            Goal::Standby { upstream: Some(_), .. } if facts.in_recovery => {
                tracing::info!(ordered = is_ordered, paused, "restarting the standby");
                self.upkeep.restarted = ordered;
                self.upkeep.looked = None;
                self.session = None;
                self.programs.stop(Stop::Fast, STOP_LIMIT).await?;
                self.shared.wake.notify_one();
                Ok(true)
            }
            Goal::Primary { epoch, cohort, leaving } if is_ordered && self.memory.serving == Some(*epoch) => {
                let acknowledgers = self.acknowledgers(look, cohort, leaving.as_ref());
                self.upkeep.restarted = ordered;
                // What it runs with is another thing from then on.
                self.upkeep.looked = None;
                self.restart_primary(*epoch, &acknowledgers).await?;
                Ok(true)
            }
            // In the middle of a change: when it is over.
            _ => Ok(false),
        }
    }

    /// Asks the server what it runs with. `true` when it is a standby that has stopped to apply the log, because its primary was
    /// started with more than it has.
    async fn look_at_parameters(&mut self, wanted: &Parameters, in_recovery: bool) -> Result<bool, DatabaseError> {
        let is_new = self.upkeep.looked.is_none();
        if self.upkeep.looked.is_some_and(|looked| looked.elapsed() < LOOK_PERIOD) {
            return Ok(false);
        }
        let Some(session) = &self.session else {
            return Ok(false);
        };
        self.upkeep.looked = Some(Instant::now());
        self.look_ahead(in_recovery).await?;
        let (running, pending_restart, paused) = session.parameters(&bound_names(), in_recovery).await?;
        let status = ParameterStatus {
            wanted: wanted.clone(),
            pending: wanted.pending(&running),
            running,
            pending_restart,
        };
        self.shared.parameters.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
        // A pause that is seen at the first look may be of the server's start.
        Ok(paused && !is_new)
    }

    /// Restarts the primary where it is. Its clients finish first, or are cut off after a grace; new ones wait at the proxies. The
    /// coordinator is told nothing meanwhile: it would have another node take over. Should the server not come back, the next look
    /// tells it.
    async fn restart_primary(&mut self, epoch: u64, acknowledgers: &Acknowledgers) -> Result<(), DatabaseError> {
        tracing::info!("restarting the primary in place");
        let session = self
            .session
            .as_ref()
            .ok_or(DatabaseError::Timeout("connecting to the primary"))?;
        // What it writes now it need not write while clients wait.
        session.checkpoint().await?;
        // Opened again by the look that comes after this.
        self.shared.admission.set_closing(true);
        let since = Instant::now();
        loop {
            let (_, busy) = session.clients().await?;
            if (busy == 0 && self.shared.admission.admitted() == 0) || since.elapsed() >= RESTART_GRACE {
                break;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        self.shared
            .gates
            .send_if_modified(|gates| gates.serving.take().is_some());
        self.memory.closed();
        self.session = None;
        self.programs.stop(Stop::Fast, STOP_LIMIT).await?;
        self.start(acknowledgers).await?;
        if self.session.is_none() {
            // It does not answer yet. The next look goes on.
            return Ok(());
        }
        self.prove(epoch, acknowledgers).await
    }
}
