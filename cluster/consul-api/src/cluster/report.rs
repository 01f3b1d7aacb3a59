//! What a node says of itself.

use std::collections::BTreeMap;

use conclave_catalog::NodeId;
use serde::{Deserialize, Serialize};

/// One node's own view of its parts, served to its peers over port 8300.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Whose report it is.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Version of the manager.
    pub version: String,
    /// Process id of the manager.
    pub pid: u32,
    /// When the manager started: another time means that it has restarted.
    #[serde(default)]
    pub started_at: Option<jiff::Timestamp>,
    /// The node's wall clock when it answered: shows clock skew to operators.
    pub clock: jiff::Timestamp,
    /// Whether it takes requests that write.
    pub ready: bool,
    /// Its parts by name: `raft`, `postgres`, `files`, `broker`, `store`, `executor`.
    pub parts: BTreeMap<String, Part>,
}

/// One part of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Whether it does its work.
    pub healthy: bool,
    /// Why not, and what is being done about it.
    pub cause: Option<String>,
    /// Since when it has been as it is.
    pub since: jiff::Timestamp,
    /// Facts that depend on the part: role, timeline, lag, backlog.
    pub details: serde_json::Value,
}
