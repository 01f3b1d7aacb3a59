//! A whole cluster on one machine: several manager nodes, each on its own loopback address with the same ports.
//!
//! `deploy/up` and `deploy/down` are thin wrappers around its program; the cluster tests and the benchmarks start,
//! kill and restart nodes through it. Everything goes through the real `conclave` program and its public interfaces:
//! this crate knows no internals of the manager.
//!
//! All state lies below one folder, so that wiping it leaves nothing behind. Processes are identified by process id
//! *and* start time: a number that the system has given to somebody else is never signalled.

mod cluster;
mod demo;
mod layout;
mod ports;
mod process;
mod rest;

pub use cluster::{Admin, LocalCluster, NodeFacts, Progress, Spec, UpError};
pub use demo::{Demo, run_demo};
pub use layout::{FIRST_ADDRESS, Layout, NodeLayout, default_dir};
pub use ports::{PortHolder, holder_of};
pub use process::{Signal, TrackedProcess};
pub use rest::{RestClient, RestError};
