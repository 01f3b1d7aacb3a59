//! Events and logs, the one record of both (spec/logs-events-metrics.md, sections 1 and 3).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ExecutionId, OperationId};

/// Event or log: what only one of them has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EventKind {
    /// `cloudify_event`.
    Event {
        /// Such as `workflow_started` or `task_succeeded`.
        event_type: String,
    },
    /// `cloudify_log`.
    Log {
        /// Name of the logger.
        logger: String,
        /// Lower case: debug, info, warning, error, critical.
        level: String,
    },
}

/// An event or a log line of an execution, on its way to the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Made by the producer (version 7): a record that arrives twice is stored once.
    pub message_id: Uuid,
    /// The execution that it belongs to.
    pub execution_id: ExecutionId,
    /// What it is.
    pub kind: EventKind,
    /// The producer's clock.
    pub reported_timestamp: jiff::Timestamp,
    /// The text.
    pub message: String,
    /// `interface.operation`, for operations.
    pub operation: Option<String>,
    /// The node's id.
    pub node_name: Option<String>,
    /// The node instance's id.
    pub node_instance_id: Option<String>,
    /// Relationship operations: source instance.
    pub source_id: Option<String>,
    /// Relationship operations: target instance.
    pub target_id: Option<String>,
    /// A list of `{message, type, traceback}`.
    pub error_causes: Option<serde_json::Value>,
    /// The manager that reported it.
    pub manager_name: Option<String>,
    /// The agent that reported it.
    pub agent_name: Option<String>,
}

impl EventRecord {
    /// A record with nothing but the required parts.
    pub fn new(message_id: Uuid, execution_id: ExecutionId, kind: EventKind, at: jiff::Timestamp) -> Self {
        Self {
            message_id,
            execution_id,
            kind,
            reported_timestamp: at,
            message: String::new(),
            operation: None,
            node_name: None,
            node_instance_id: None,
            source_id: None,
            target_id: None,
            error_causes: None,
            manager_name: None,
            agent_name: None,
        }
    }
}

/// Where an operation's records come from, for those who read them on their way and not from the record (`context` on the
/// wire). Nothing of it is stored with the record: the execution's row says it all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventOrigin {
    /// The tenant's name.
    pub tenant: String,
    /// The blueprint's id.
    pub blueprint_id: String,
    /// The deployment's id.
    pub deployment_id: String,
    /// The workflow's name.
    pub workflow_id: String,
    /// The operation's task.
    pub task_id: OperationId,
    /// The plugin's function.
    pub task_name: String,
    /// The plugin.
    pub plugin: String,
}
