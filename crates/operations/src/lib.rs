//! Runs operations: scripts as real processes, with the `ctx` command at their service.
//!
//! An operation is one step of a workflow on a node instance or on a relationship (spec/plugins-and-agents.md). This crate
//! takes an [`OperationCall`], runs it, and says how it went ([`Outcome`]). Whatever lies outside of the process — log lines,
//! files of the blueprint, the stored runtime properties — is asked of [`OperationServices`], so that the same runner
//! serves the management worker and a host agent.
//!
//! Must not know: the store, the network between nodes, message brokers, workflows. It never retries by itself: that is
//! the workflow's decision.
//!
//! Invariants:
//! * No process outlives its operation's cancel or timeout, nor this process (see [`Runner`]).
//! * What a script did to runtime properties is written back once, when the script ended by itself, well or badly.
//! * What `ctx` means is decided in [`ctx::CtxModel`], which does no I/O.
//!
//! Scripts with the ending `.py` are run by their own `#!` line or else by `python3`, as processes. The Python module
//! `cloudify`, which the original offers to such scripts by running them in its own interpreter, is not there: they talk
//! to the manager through the `ctx` command like any other script.

mod call;
pub mod ctx;
pub mod ctx_command;
mod outcome;
mod output;
mod process;
mod proxy;
mod python_text;
mod runner;
mod script;
mod services;

pub use call::{
    ContextError, End, EndOfRelationship, InstanceView, NodeView, OperationCall, OperationContext, Subject,
};
pub use outcome::{ErrorCause, ErrorKind, OperationError, Outcome};
pub use runner::{Runner, RunnerError, RunnerOptions, SCRIPT_TASK};
pub use services::{OperationServices, ServiceError};
