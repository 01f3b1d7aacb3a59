//! What handlers are given.

use std::sync::Arc;

use conclave_auth::Authenticator;
use conclave_executor::Executor;
use conclave_filesync::FileSync;
use conclave_store::Store;
use serde_json::Value;

/// A manager node as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Whether it does all its work; else the reasons why not.
    pub failures: Vec<String>,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it is held for alive and answers.
    pub online: bool,
    /// How its parts are.
    pub checks: NodeChecks,
}

/// The parts of a node as 4.x tells them apart. A node that does not answer passes none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeChecks {
    /// Its part of the Raft group.
    pub raft: bool,
    /// Its PostgreSQL.
    pub database: bool,
    /// Everything else on it.
    pub services: bool,
    /// Whether the leader hears it.
    pub heartbeat: bool,
}

/// Something that happened in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Names it; whoever shows it gets what came after.
    pub cursor: String,
    /// When, in microseconds of Unix time.
    pub at: i64,
    /// What, in a sentence.
    pub text: String,
}

/// What a new node needs to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// A one-time token.
    pub token: String,
    /// Where to show it: `host:port`.
    pub peer: String,
}

/// Why the cluster was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// No such node.
    #[error("{0}")]
    UnknownNode(String),
    /// The cluster may not be changed so.
    #[error("{0}")]
    Refused(String),
    /// Nobody could be asked, or it was not done in time.
    #[error("{0}")]
    Unavailable(String),
}

/// A broker as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerView {
    /// Its node's name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
}

/// What the API needs to know of the cluster.
#[async_trait::async_trait]
pub trait ClusterView: Send + Sync {
    /// All nodes, with what is wrong with them.
    async fn nodes(&self) -> Vec<NodeView>;
    /// All brokers.
    fn brokers(&self) -> Vec<BrokerView>;
    /// The cluster's CA certificate, PEM.
    fn ca_certificate(&self) -> String;
    /// Whether this node leads.
    fn is_leader(&self) -> bool;
    /// Where the leader's Raft listens, if one is known: `host:port`.
    fn leader_address(&self) -> Option<String>;
    /// What has happened after the line of this cursor, or all that is remembered.
    fn log(&self, since: Option<&str>) -> Vec<LogLine>;
    /// Makes a node the active one: leader, and primary of the database.
    async fn make_active(&self, name: &str) -> Result<(), ClusterError>;
    /// Takes a node out of the cluster.
    async fn remove(&self, name: &str) -> Result<(), ClusterError>;
    /// Lets one node join.
    async fn invite(&self) -> Result<Invitation, ClusterError>;
}

/// The state of the API on this node. Cheap to clone.
#[derive(Clone)]
pub struct RestState {
    /// The record.
    pub store: Store,
    /// Who is who.
    pub authenticator: Authenticator,
    /// Runs executions.
    pub executor: Executor,
    /// Resource files.
    pub files: FileSync,
    /// The cluster.
    pub cluster: Arc<dyn ClusterView>,
    /// Where uploads are unpacked before they are stored.
    pub work_dir: std::path::PathBuf,
    /// Whether `GET /status` is 400 on all nodes but the leader (the 4.x contract).
    pub active_only: bool,
}

/// An object of the API.
pub(crate) type Object = Value;
