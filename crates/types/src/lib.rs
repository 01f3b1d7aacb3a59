//! The manager's words: ids, states and records that several crates speak of.
//!
//! Parsed at the edge, so that no text of unknown meaning travels inside. Knows nothing but serde.

mod event;
mod execution;
mod ids;
mod operation;

pub use event::{EventKind, EventOrigin, EventRecord};
pub use execution::{ExecutionStatus, UnknownExecutionStatus};
pub use ids::{ExecutionId, GraphId, OperationId};
pub use operation::{OperationState, UnknownOperationState};
