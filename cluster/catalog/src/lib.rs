//! The replicated state of the cluster, as a pure state machine.
//!
//! Whatever the Raft group agrees on lives in [`ClusterState`] and changes only by [`ClusterState::apply`]: the nodes,
//! the join tokens, the PostgreSQL rule, the manifest of the resource files, the cluster's settings, and what Consul's
//! clients see: keys, sessions and the service catalog. Applying the same proposals in the same order gives the same
//! state on every node.
//!
//! This crate knows no Raft, network, file, clock or randomness, and nothing of blueprints. Times inside proposals
//! are the proposer's and serve records and token expiry only; nothing orders by them.

pub mod database;
pub mod directory;
pub mod files;
mod nodes;
mod proposal;
mod state;
mod tokens;

pub use nodes::{NodeId, NodePorts, NodeRecord};
pub use proposal::{Command, Proposal, Refusal, RequestId, Response};
pub use state::{ClusterFacts, ClusterState};
pub use tokens::{JoinToken, TokenId};
