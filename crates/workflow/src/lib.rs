//! Workflows as task graphs: planned, and advanced step by step.
//!
//! Pure: [`plan`] makes a [`Graph`] of a deployment's nodes and instances, [`Engine`] says what to do next and is told what
//! came of it. Time is given in milliseconds, ids come from a source, nothing is stored or run in here. The rules are those
//! of `spec/workflows.md`.
//!
//! Invariants: a task is handed out after everything that it depends on has succeeded or was ignored; an operation is
//! handed out at most once per attempt; what is committed is all that a resumed engine needs.

mod builtin;
mod engine;
mod graph;
mod lifecycle;
mod topology;

pub use builtin::{PlanError, WorkflowCall, plan};
pub use engine::{Engine, Failure, FailureKind, InstanceState, Note, Settings, Step, Verdict};
pub use graph::{Graph, IdSource, OperationTask, RelationshipSide, Task, TaskKind};
pub use topology::Topology;
