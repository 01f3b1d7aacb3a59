//! The manager's record in PostgreSQL. The only crate that writes SQL.
//!
//! One file a resource; functions are named object first, verb last (`execution_get`). Connections go to the node's own
//! proxy, which leads to whichever node is primary: during a failover they wait and come back. What a client reads as JSON
//! is built by one view a resource ([`Resource`]).
//!
//! A lost connection during a commit is an *unknown outcome* ([`StoreError::UnknownOutcome`]) and never taken for a
//! success or a failure. It knows nothing of HTTP, workflows or Raft.

mod blueprints;
mod deployments;
mod error;
mod events;
mod executions;
mod journal;
mod list;
mod node_instances;
mod pool;
mod users;

pub use blueprints::NewBlueprint;
pub use deployments::{NewDeployment, NewInstance, NewNode};
pub use error::StoreError;
pub use executions::{ExecutionRow, NewExecution};
pub use journal::{ClaimedExecution, DeploymentRows, InstanceChange, StoredOperation, Transition};
pub use list::{ListQuery, Page, Resource, TenantScope};
pub use node_instances::InstancePatch;
pub use pool::{Store, StoreOptions};
pub use users::{NewToken, TokenRow, UserRow};
