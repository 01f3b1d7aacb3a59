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
