//! Port 8500: Consul's HTTP API and the cluster's own status.
//!
//! Any node answers for the whole cluster. Consul's API ([`consul`]) is a shell around the directory in the replicated
//! state (`catalog::directory`): handlers translate, and five helpers do what takes time or waits:
//!
//! | module | what |
//! | --- | --- |
//! | [`barrier`] | reads that see every acknowledged write, many for the price of one |
//! | [`watch`] | wakes the queries that wait for what has changed, and no others |
//! | [`keeper`] | on the leader: times to live and lock-delays, by its monotonic clock |
//! | [`prober`] | carries out the HTTP and TCP checks of this node's services |
//! | [`patience`] | how long a request waits for a leader |
//!
//! The status ([`cluster`]) asks every node for its own report ([`NodeReport`]) and combines them with what the Raft group
//! agrees on. A node that does not answer is shown as unreachable, never left out, and a node that is cut off from the
//! majority says so of itself.
//!
//! This crate knows the cluster's substrate only, nothing of blueprints, deployments or SQL.

mod barrier;
mod cluster;
mod consul;
mod keeper;
mod metrics;
mod patience;
mod prober;
mod start;
mod watch;

pub use cluster::{
    Cause, ClusterEvent, ClusterStatus, Feed, Health, LeaderStatus, NodeReport, NodeStatus, Part, collect,
};
pub use consul::{ACL_SETTING, token};
pub use start::{ConsulApi, ConsulApiOptions};
