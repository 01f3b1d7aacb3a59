//! Tasks and what they depend on.

use conclave_types::{OperationId, OperationState};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Gives ids.
pub trait IdSource {
    /// A new one.
    fn next(&mut self) -> OperationId;
}

/// Which end of a relationship an operation runs for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationshipSide {
    /// Source instance.
    pub source: String,
    /// Target instance.
    pub target: String,
    /// Whether it is the target's operation.
    pub is_target: bool,
}

/// A call of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationTask {
    /// `interface.operation`.
    pub operation: String,
    /// The node instance that it runs for.
    pub instance: String,
    /// Its node.
    pub node: String,
    /// Set for operations of relationships.
    pub relationship: Option<RelationshipSide>,
    /// The plugin.
    pub plugin: String,
    /// The plugin's function, such as `script_runner.tasks.run`.
    pub function: String,
    /// `central_deployment_agent`, `host_agent` or `auto`.
    pub executor: String,
    /// As stored; may hold functions.
    pub inputs: Value,
    /// Whether the inputs hold functions.
    pub has_functions: bool,
    /// Attempts after the first; none is the manager's default, -1 is without end.
    pub max_retries: Option<i64>,
    /// Seconds between attempts; none is the manager's default.
    pub retry_interval: Option<f64>,
    /// Seconds that an attempt may take.
    pub timeout: Option<f64>,
    /// Whether an attempt that took too long may be repeated.
    pub timeout_recoverable: bool,
    /// Whether a failure is passed over.
    pub ignore_failure: bool,
    /// Which attempt this is, from 0.
    pub retry_number: i64,
    /// The attempt before this one.
    pub retried_task: Option<OperationId>,
    /// Not before this time, in milliseconds since the epoch.
    pub execute_after_ms: i64,
}

/// What a task does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task")]
pub enum TaskKind {
    /// Runs an operation.
    Operation(Box<OperationTask>),
    /// Sets the state of a node instance.
    SetState {
        /// Which instance.
        instance: String,
        /// Its node.
        node: String,
        /// Its new state.
        state: String,
    },
    /// Reports an event of a node instance.
    NodeEvent {
        /// Which instance.
        instance: String,
        /// Its node.
        node: String,
        /// The text.
        message: String,
    },
}

impl TaskKind {
    /// The original's name for this kind, as stored and shown.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Operation(_) => "RemoteWorkflowTask",
            Self::SetState { .. } => "SetNodeInstanceStateTask",
            Self::NodeEvent { .. } => "SendNodeEventTask",
        }
    }

    /// What people see of it.
    pub fn name(&self) -> String {
        match self {
            Self::Operation(call) => call.function.clone(),
            Self::SetState { state, .. } => format!("set state {state}"),
            Self::NodeEvent { message, .. } => message.clone(),
        }
    }
}

/// One task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub kind: TaskKind,
    /// What must have succeeded, or been ignored, before.
    pub dependencies: Vec<OperationId>,
    /// How far it is.
    pub state: OperationState,
}

/// The tasks of a workflow, in an order in which a task comes after what it depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    /// The tasks.
    pub tasks: Vec<Task>,
}

/// Puts tasks one after another: each element depends on all of the element before.
pub(crate) struct Sequence<'g> {
    graph: &'g mut Graph,
    ids: &'g mut dyn IdSource,
    last: Vec<OperationId>,
    first: Option<Vec<OperationId>>,
}

impl<'g> Sequence<'g> {
    /// A sequence whose first element depends on `after`.
    pub(crate) fn new(graph: &'g mut Graph, ids: &'g mut dyn IdSource, after: Vec<OperationId>) -> Self {
        Self {
            graph,
            ids,
            last: after,
            first: None,
        }
    }

    /// Adds an element of tasks that run side by side; an empty one changes nothing.
    pub(crate) fn add(&mut self, kinds: Vec<TaskKind>) {
        if kinds.is_empty() {
            return;
        }
        let before = self.last.clone();
        let mut element = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let id = self.ids.next();
            element.push(id);
            self.graph.tasks.push(Task {
                id,
                kind,
                dependencies: before.clone(),
                state: OperationState::Pending,
            });
        }
        self.first.get_or_insert_with(|| element.clone());
        self.last = element;
    }

    /// The tasks that whatever follows the sequence depends on.
    pub(crate) fn end(self) -> Vec<OperationId> {
        self.last
    }
}
