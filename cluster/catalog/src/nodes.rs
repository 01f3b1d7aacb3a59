//! The cluster's nodes.

use serde::{Deserialize, Serialize};

/// A node's number. Allocated once and never used again: a wiped node that joins anew gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The ports of a node, all on its one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodePorts {
    /// REST over HTTPS (443 or 8443).
    pub rest: u16,
    /// REST for agents and the file server (53333).
    pub internal: u16,
    /// AMQPS (5671).
    pub broker: u16,
    /// PostgreSQL relay with mutual TLS (15432).
    pub database: u16,
    /// gRPC between nodes (8300).
    pub peer: u16,
    /// Failure detection, UDP and TCP (8301).
    pub gossip: u16,
    /// Cluster status API (8500).
    pub status: u16,
    /// File contents (22000).
    pub files: u16,
}

impl Default for NodePorts {
    fn default() -> Self {
        Self {
            rest: 443,
            internal: 53333,
            broker: 5671,
            database: 15432,
            peer: 8300,
            gossip: 8301,
            status: 8500,
            files: 22000,
        }
    }
}

/// What the cluster knows of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its number.
    pub id: NodeId,
    /// Its name: unique among the nodes that have not been removed.
    pub name: String,
    /// The IP address or host name that peers and clients reach it at.
    pub address: String,
    /// Its ports.
    pub ports: NodePorts,
    /// When it joined (proposer's clock, for people).
    pub joined_at: jiff::Timestamp,
    /// Whether the leader holds it for alive. Work of a node that is not alive is re-homed.
    pub alive: bool,
    /// Why and since when it is not alive.
    pub down_since: Option<jiff::Timestamp>,
}
