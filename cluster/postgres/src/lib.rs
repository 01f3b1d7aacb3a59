//! One PostgreSQL per node, driven by consensus.
//!
//! The rule in force (who is primary, in which epoch, on which timeline, who acknowledges) lives in Raft
//! ([`conclave_catalog::database`]). The [`coordinator`] on the Raft leader changes it; the driver on each node brings the
//! local server to what it says; the network layer in this process is the only way in and out of the server.
//!
//! This crate knows nothing of what the databases hold, and of Raft only that commands are committed and states applied.
//! Sources: `spec/postgres-ha.md`; the design, section 5.

pub mod coordinator;
mod driver;
mod error;
mod external;
mod local;
mod network;
mod offline;
pub mod parameters;
mod service;
mod shell;
#[cfg(test)]
mod simulation;
mod tracking;

use std::path::PathBuf;
use std::time::Duration;

use conclave_consensus::Consensus;
use conclave_net::{NodeIdentity, PeerConnector, ServerTls};
use conclave_runtime::account::Account;
use conclave_runtime::{Shutdown, Tasks};
use coordinator::{Observation, Role};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use driver::{Driver, DriverOptions};
use network::{Clients, Network};
use service::Drivers;
use shell::Shell;

pub use driver::programs_dir;
pub use error::DatabaseError;
pub use external::{ExternalDatabase, ExternalOptions, ExternalStatus};
pub use local::LocalServer;
pub use offline::StoppedDatabase;

const CONFIRM_RETRY: Duration = Duration::from_millis(20);
/// How long clients may finish their transactions when the manager stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// The superuser that owns the manager's database.
pub const USER: &str = "conclave";
/// The manager's database.
pub const DATABASE: &str = "conclave";

/// Who may replicate: standbys, and base backups.
pub const REPLICATION_USER: &str = "conclave_replication";

/// The password of [`REPLICATION_USER`].
pub fn replication_password(identity: &NodeIdentity) -> String {
    identity.cluster_key.derive("postgres/conclave_replication")
}

/// The password of [`USER`], the same on every node and stored on none.
pub fn password(identity: &NodeIdentity) -> String {
    identity.cluster_key.derive("postgres/conclave")
}

/// What this node's database needs.
pub struct DatabaseOptions {
    /// The node's data directory; PostgreSQL's is `postgres/data` in it.
    pub data_dir: PathBuf,
    /// PostgreSQL's programs; the newest installed version when absent.
    pub bin_dir: Option<PathBuf>,
    /// Who the server runs as.
    pub account: Account,
    /// Who the node is.
    pub identity: NodeIdentity,
    /// After this long with something in it a segment of the log is ended, so that it can be archived.
    pub segment_age: Option<Duration>,
    /// Bound to the node's address: clients of this machine come here.
    pub proxy: TcpListener,
    /// Bound to the node's address: peers come here.
    pub relay: TcpListener,
    /// How long a new client of the proxy waits for a primary before it is told that there is none.
    pub client_wait: Duration,
}

/// Waits until this node has seen all that was committed before its start.
async fn confirm_rule(consensus: Consensus, driver: Driver, shutdown: Shutdown) {
    while consensus.linearizable().await.is_err() {
        if !shutdown.sleep(CONFIRM_RETRY).await {
            return;
        }
    }
    driver.confirm();
}

/// This node's part of the database. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    driver: Driver,
    consensus: Consensus,
    local: LocalServer,
    clients: Clients,
}

/// What the status API shows.
#[derive(Debug, Clone, Serialize)]
pub struct DatabaseStatus {
    /// Whether it does what the rule in force asks of this node.
    pub healthy: bool,
    /// Why not.
    pub cause: Option<String>,
    /// What the rule in force asks of this node: `primary` or `standby`.
    pub wanted: Option<&'static str>,
    /// The process of the server.
    pub process: Option<i32>,
    /// The operator's parameters, and what of them the server runs with.
    pub parameters: serde_json::Value,
    /// What the driver sees.
    #[serde(flatten)]
    pub observation: Observation,
}

impl Database {
    /// Starts driver, network and coordinator. The second value is to be served on port 8300.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or the folders cannot be prepared.
    pub fn start(
        options: DatabaseOptions,
        consensus: &Consensus,
        tasks: &Tasks,
    ) -> Result<(Self, axum::Router), DatabaseError> {
        let driver_options = DriverOptions {
            me: consensus.me(),
            node_name: options.identity.name.clone(),
            data_dir: options.data_dir,
            bin_dir: options.bin_dir,
            account: options.account,
            segment_age: options.segment_age,
            password: password(&options.identity),
            replication_password: replication_password(&options.identity),
        };
        let (driver, layout) = Driver::start(driver_options, consensus.state(), tasks)?;
        let local = LocalServer {
            socket_dir: layout.socket_dir.clone(),
            port: driver::LOCAL_PORT,
            password: password(&options.identity),
            data: layout.data.clone(),
        };
        let clients = Clients::new();
        let network = Network {
            consensus: consensus.clone(),
            driver: driver.clone(),
            layout,
            connector: PeerConnector::new(&options.identity)?,
            tls: ServerTls::for_peers(&options.identity)?,
            client_wait: options.client_wait,
            clients: clients.clone(),
        };
        network.start(options.proxy, options.relay, tasks)?;
        let drivers = Drivers {
            consensus: consensus.clone(),
            own: driver.clone(),
        };
        tasks.spawn("database coordinator", Shell::new(drivers).run(tasks.shutdown()));
        tasks.spawn(
            "database rule check",
            confirm_rule(consensus.clone(), driver.clone(), tasks.shutdown()),
        );
        let router = service::router(driver.clone());
        Ok((
            Self {
                driver,
                consensus: consensus.clone(),
                local,
                clients,
            },
            router,
        ))
    }

    /// Has this node's server restarted, as soon as no change of the rule is under way. A primary is restarted where it is; its
    /// clients see a pause.
    pub fn restart(&self) {
        self.driver.restart();
    }

    /// Lets nobody in through this node any more, and everybody finish the transaction that he is in.
    pub async fn drain(&self) {
        self.clients.drain(DRAIN_LIMIT).await;
    }

    /// This node's own server.
    pub fn local(&self) -> &LocalServer {
        &self.local
    }

    /// The epoch in which this node's server is the primary and open, if it is.
    pub fn serves(&self) -> Option<u64> {
        self.driver.gates().borrow().serving
    }

    /// Whether the primary is about to be another, as planned: what writes has to wait until it is over, and to say by
    /// [`Self::quiet`] when what it had begun has ended.
    pub fn holds(&self, tasks: &Tasks) -> watch::Receiver<bool> {
        let (publish, holds) = watch::channel(false);
        let (driver, shutdown) = (self.driver.clone(), tasks.shutdown());
        let (mut state, mut held) = (self.consensus.state(), self.driver.held());
        tasks.spawn("planned change of the primary", async move {
            loop {
                state.mark_unchanged();
                held.mark_unchanged();
                let hold = driver.holds().is_some();
                publish.send_if_modified(|old| std::mem::replace(old, hold) != hold);
                tokio::select! {
                    () = shutdown.requested() => return,
                    changed = state.changed() => if changed.is_err() { return },
                    changed = held.changed() => if changed.is_err() { return },
                }
            }
        });
        holds
    }

    /// Takes whether all that this process had begun with the database has ended, while [`Self::holds`] is true.
    pub fn quiet(&self) -> watch::Sender<bool> {
        self.driver.quiet()
    }

    /// How this node's database is doing.
    pub fn status(&self) -> DatabaseStatus {
        let observation = self.driver.observation();
        let state = self.consensus.state().borrow().clone();
        let rule = state.database().rule.as_ref();
        let trouble = self.driver.trouble().borrow().clone();
        let is_primary = rule.map(|rule| rule.primary == self.consensus.me());
        let wanted = is_primary.map(|primary| if primary { "primary" } else { "standby" });
        let wrong = match (rule, is_primary) {
            (None, _) => Some("the cluster has no database yet".to_owned()),
            (Some(rule), Some(true)) if observation.serving < Some(rule.epoch) => {
                Some("it is to be primary and does not serve yet".to_owned())
            }
            (Some(_), Some(true)) => None,
            _ if observation.role != Role::Standby => {
                Some(format!("it is to be a standby and is {:?}", observation.role))
            }
            _ if !observation.streaming => Some("it does not receive from the primary".to_owned()),
            (Some(rule), _) if observation.timeline < rule.timeline => Some(format!(
                "it is on timeline {} and the primary on {}",
                observation.timeline, rule.timeline
            )),
            _ => None,
        };
        let outside = rule.is_some_and(|rule| !rule.cohort.contains(&self.consensus.me()));
        let grouping = state
            .database()
            .change
            .is_some()
            .then(|| "a change of the rule is under way".to_owned());
        let waiting = outside.then(|| "it is not in the cohort that acknowledges commits yet".to_owned());
        let cause = wrong.map(|wrong| trouble.map_or(wrong.clone(), |trouble| format!("{wrong}: {trouble}")));
        let cause = cause.or(grouping).or(waiting).or_else(|| self.driver.concern());
        DatabaseStatus {
            healthy: cause.is_none(),
            cause,
            wanted,
            process: self.driver.process(),
            parameters: serde_json::to_value(self.driver.parameters()).unwrap_or_default(),
            observation,
        }
    }
}
