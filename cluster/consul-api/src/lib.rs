//! The cluster status API on port 8500.
//!
//! Any node answers for the whole cluster: it asks every node for its own report ([`NodeReport`]) and combines them
//! with what the Raft group agrees on. A node that does not answer is shown as unreachable, never left out, and a node
//! that is cut off from the majority says so of itself.
//!
//! This crate knows the cluster's substrate only, nothing of blueprints, deployments or SQL. What it shows holds no
//! secrets: reading it needs no credentials, so that load balancers and dashboards can poll it.

mod collect;
mod report;
mod router;
mod status;

pub use collect::collect;
pub use report::{NodeReport, Part};
pub use router::router;
pub use status::{Cause, ClusterStatus, Health, LeaderStatus, NodeStatus};
