//! How the process runs: who owns a task, how it is told to stop, and what time it is.
//!
//! Every task in Conclave is spawned through [`Tasks`], so that it has an owner, a name and a shutdown signal. The
//! wall clock is read in [`clock`] and nowhere else (`clippy.toml` refuses the alternatives), and nothing's correctness
//! may rest on it.
//!
//! This crate knows nothing about clusters, databases or blueprints.

pub mod account;
mod backoff;
pub mod clock;
mod shutdown;
mod tasks;

pub use backoff::Backoff;
pub use shutdown::{Shutdown, ShutdownTrigger};
pub use tasks::{StopReport, TaskFailed, TaskHandle, Tasks};
