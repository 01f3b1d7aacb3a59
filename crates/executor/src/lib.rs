//! Runs executions: claims them, drives the pure engine, records every step, runs operations.
//!
//! Which manager runs an execution is the hash ring's choice over the live managers; the claim in the record, with its
//! epoch, makes it exclusive. A manager that dies leaves its executions to the others, which go on from the record. A manager
//! that only seemed dead finds its writes refused and stops.
//!
//! It knows nothing of HTTP, Raft or file replication: live managers, files and logs come through what [`Executor::start`] is
//! given.

mod create;
mod data;
mod ring;
mod run;
mod services;
mod supervisor;

pub use create::{NewRequest, StartError};
pub use data::DeploymentData;
pub use supervisor::{Executor, ExecutorOptions, LogLine, LogOutlet, Resources};
