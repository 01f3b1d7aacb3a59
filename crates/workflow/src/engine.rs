//! Advances a graph (spec/workflows.md, section 3).
//!
//! A cycle: [`Engine::step`] says what is to be recorded; the caller records it in one transaction and calls
//! [`Engine::committed`], which answers the operations that may run now; their ends come back through
//! [`Engine::succeeded`] and [`Engine::failed`].

use std::collections::{BTreeSet, HashMap, VecDeque};

use conclave_types::{OperationId, OperationState};
use serde_json::Value;

use crate::graph::{Graph, IdSource, OperationTask, Task, TaskKind};

/// Defaults for operations that say nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Attempts after the first; -1 is without end.
    pub max_retries: i64,
    /// Seconds between attempts.
    pub retry_interval: f64,
    /// Seconds that independent tasks go on after the first failure.
    pub wait_after_fail: f64,
}

/// Whether a failed operation may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// While attempts are left.
    Recoverable,
    /// Never.
    NonRecoverable,
    /// The operation asks for another attempt.
    Retry,
}

/// How an operation failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Whether another attempt makes sense.
    pub kind: FailureKind,
    /// Seconds until the next attempt, if the operation says so.
    pub retry_after: Option<f64>,
    /// `<Type>: <message>`.
    pub text: String,
    /// As recorded.
    pub error: Value,
    /// For the event.
    pub causes: Value,
}

/// An event to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// Such as `task_started` or `workflow_node_event`.
    pub event_type: &'static str,
    /// The text.
    pub message: String,
    /// `interface.operation`, for tasks.
    pub operation: Option<String>,
    /// The node instance, with its node.
    pub instance: Option<(String, String)>,
    /// Source and target, for operations of relationships.
    pub ends: Option<(String, String)>,
    /// For failures.
    pub causes: Option<Value>,
}

/// A node instance's new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceState {
    /// Which instance.
    pub instance: String,
    /// Its new state.
    pub state: String,
}

/// What is to be recorded as one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// Tasks and their new states, with what they gave or what went wrong.
    pub transitions: Vec<(OperationId, OperationState, Option<Value>, Option<Value>)>,
    /// New attempts.
    pub retries: Vec<Task>,
    /// New states of instances.
    pub instances: Vec<InstanceState>,
    /// Events, in order.
    pub notes: Vec<Note>,
}

impl Step {
    /// Whether there is nothing to record.
    pub fn is_empty(&self) -> bool {
        self.transitions.is_empty() && self.retries.is_empty() && self.notes.is_empty()
    }
}

/// How a workflow ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was done.
    Succeeded,
    /// Something failed; the text names it.
    Failed(String),
}

/// What became of an operation, until it is recorded.
enum Ended {
    Succeeded(Value),
    Failed(Failure),
}

/// The state of a workflow's run.
pub struct Engine {
    settings: Settings,
    tasks: HashMap<OperationId, Task>,
    /// How many dependencies of a task are not gone yet.
    missing: HashMap<OperationId, usize>,
    dependents: HashMap<OperationId, Vec<OperationId>>,
    ready: VecDeque<OperationId>,
    /// Attempts that wait for their time.
    delayed: BTreeSet<(i64, OperationId)>,
    running: BTreeSet<OperationId>,
    ended: Vec<(OperationId, Ended)>,
    errors: Vec<String>,
    first_failure_ms: Option<i64>,
}

impl Engine {
    /// An engine for a graph, new or loaded. What succeeded is not done again. An operation that was under way is handed out
    /// once more: whoever ran it is gone, and its claim with it.
    pub fn new(graph: Graph, settings: Settings) -> Self {
        let mut superseded: HashMap<OperationId, OperationId> = HashMap::new();
        for task in &graph.tasks {
            if let TaskKind::Operation(call) = &task.kind
                && let Some(old) = call.retried_task
            {
                superseded.insert(old, task.id);
            }
        }
        let latest = |id: OperationId| {
            let mut current = id;
            while let Some(next) = superseded.get(&current) {
                current = *next;
            }
            current
        };
        let mut engine = Self {
            settings,
            tasks: HashMap::new(),
            missing: HashMap::new(),
            dependents: HashMap::new(),
            ready: VecDeque::new(),
            delayed: BTreeSet::new(),
            running: BTreeSet::new(),
            ended: Vec::new(),
            errors: Vec::new(),
            first_failure_ms: None,
        };
        let gone: BTreeSet<OperationId> = graph
            .tasks
            .iter()
            .filter(|task| is_gone(task))
            .map(|task| task.id)
            .collect();
        for mut task in graph.tasks {
            if gone.contains(&task.id) || superseded.contains_key(&task.id) {
                continue;
            }
            let open: BTreeSet<OperationId> = task
                .dependencies
                .iter()
                .map(|id| latest(*id))
                .filter(|id| !gone.contains(id))
                .collect();
            if task.state == OperationState::Failed {
                engine.errors.push(format!("{} failed earlier", task.kind.name()));
            }
            if !task.state.is_end() {
                task.state = OperationState::Pending;
            }
            for dependency in &open {
                engine.dependents.entry(*dependency).or_default().push(task.id);
            }
            if open.is_empty() && task.state == OperationState::Pending {
                engine.make_ready(&task);
            }
            engine.missing.insert(task.id, open.len());
            engine.tasks.insert(task.id, task);
        }
        engine
    }

    fn make_ready(&mut self, task: &Task) {
        match &task.kind {
            TaskKind::Operation(call) if call.execute_after_ms > 0 => {
                self.delayed.insert((call.execute_after_ms, task.id));
            }
            _ => self.ready.push_back(task.id),
        }
    }

    /// The operation of a task that was handed out.
    pub fn operation(&self, id: OperationId) -> Option<&OperationTask> {
        match &self.tasks.get(&id)?.kind {
            TaskKind::Operation(call) => Some(call),
            _ => None,
        }
    }

    /// When there is something to do by itself, in milliseconds since the epoch.
    pub fn next_wake_ms(&self) -> Option<i64> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// An operation has succeeded. Ends of operations that are not under way are ignored.
    pub fn succeeded(&mut self, id: OperationId, result: Value) {
        if self.running.remove(&id) {
            self.ended.push((id, Ended::Succeeded(result)));
        }
    }

    /// An operation has failed.
    pub fn failed(&mut self, id: OperationId, failure: Failure) {
        if self.running.remove(&id) {
            self.ended.push((id, Ended::Failed(failure)));
        }
    }

    /// All that can be recorded now. Nothing of it has happened before [`Self::committed`] is called with it.
    pub fn step(&self, now_ms: i64, ids: &mut dyn IdSource) -> Step {
        let mut step = Step::default();
        for (id, ended) in &self.ended {
            if let Some(call) = self.operation(*id) {
                self.record_end(*id, call, ended, now_ms, ids, &mut step);
            }
        }
        let due = self
            .delayed
            .iter()
            .take_while(|(at, _)| *at <= now_ms)
            .map(|(_, id)| id);
        let stopped = self.is_stopped(now_ms);
        for id in self.ready.iter().chain(due).filter(|_| !stopped) {
            if let Some(task) = self.tasks.get(id) {
                record_start(task, &self.settings, &mut step);
            }
        }
        step
    }

    /// After a failure independent tasks are started for a while yet, then no more.
    fn is_stopped(&self, now_ms: i64) -> bool {
        self.first_failure_ms
            .is_some_and(|at| (now_ms - at) as f64 / 1000.0 >= self.settings.wait_after_fail)
    }

    fn record_end(
        &self,
        id: OperationId,
        call: &OperationTask,
        ended: &Ended,
        now_ms: i64,
        ids: &mut dyn IdSource,
        step: &mut Step,
    ) {
        let suffix = retry_suffix(call, &self.settings);
        match ended {
            Ended::Succeeded(result) => {
                let shown = if result.is_null() {
                    String::new()
                } else {
                    format!(" - {}", plain(result))
                };
                let text = format!("Task succeeded '{}'{shown}{suffix}", call.function);
                step.transitions
                    .push((id, OperationState::Succeeded, Some(result.clone()), None));
                step.notes.push(task_note("task_succeeded", text, call, None));
            }
            Ended::Failed(failure) => {
                let again = self.next_attempt(id, call, failure, now_ms, ids);
                let (state, event, word) = match again {
                    Some(_) if failure.kind == FailureKind::Retry => {
                        (OperationState::Rescheduled, "task_rescheduled", "rescheduled")
                    }
                    Some(_) => (OperationState::Rescheduled, "task_failed", "failed"),
                    None => (OperationState::Failed, "task_failed", "failed"),
                };
                let text = format!("Task {word} '{}' -> {}{suffix}", call.function, failure.text);
                step.transitions.push((id, state, None, Some(failure.error.clone())));
                step.notes
                    .push(task_note(event, text, call, Some(failure.causes.clone())));
                if again.is_none() && call.ignore_failure {
                    let text = format!("Ignoring task {} failure", call.function);
                    step.notes.push(task_note("workflow_node_event", text, call, None));
                }
                step.retries.extend(again);
            }
        }
    }

    /// The next attempt, if there is one: a task with an id of its own.
    fn next_attempt(
        &self,
        id: OperationId,
        call: &OperationTask,
        failure: &Failure,
        now_ms: i64,
        ids: &mut dyn IdSource,
    ) -> Option<Task> {
        let limit = call.max_retries.unwrap_or(self.settings.max_retries);
        let left = limit < 0 || call.retry_number < limit;
        if failure.kind == FailureKind::NonRecoverable || !left {
            return None;
        }
        let interval = call.retry_interval.unwrap_or(self.settings.retry_interval);
        let seconds = failure.retry_after.unwrap_or(interval).max(0.0);
        let next = OperationTask {
            retry_number: call.retry_number + 1,
            retried_task: Some(id),
            execute_after_ms: now_ms + (seconds * 1000.0) as i64,
            ..call.clone()
        };
        let kind = TaskKind::Operation(Box::new(next));
        Some(Task {
            id: ids.next(),
            kind,
            dependencies: Vec::new(),
            state: OperationState::Pending,
        })
    }

    /// The step has been recorded. Answers the operations that are to be run now.
    pub fn committed(&mut self, step: Step, now_ms: i64) -> Vec<OperationId> {
        let mut started = Vec::new();
        let replaced: HashMap<OperationId, Task> = step
            .retries
            .into_iter()
            .filter_map(|task| match &task.kind {
                TaskKind::Operation(call) => call.retried_task.map(|old| (old, task.clone())),
                _ => None,
            })
            .collect();
        let failures: HashMap<OperationId, String> = std::mem::take(&mut self.ended)
            .into_iter()
            .filter_map(|(id, ended)| match ended {
                Ended::Failed(failure) => Some((id, failure.text)),
                Ended::Succeeded(_) => None,
            })
            .collect();
        for (id, state, _, _) in step.transitions {
            match state {
                OperationState::Started => {
                    self.ready.retain(|ready| *ready != id);
                    self.delayed.retain(|(_, delayed)| *delayed != id);
                    self.running.insert(id);
                    started.push(id);
                }
                OperationState::Rescheduled => {
                    if let Some(next) = replaced.get(&id) {
                        self.replace(id, next.clone());
                    }
                }
                OperationState::Failed => self.fail(id, failures.get(&id), now_ms),
                _ => {
                    self.ready.retain(|ready| *ready != id);
                    self.remove(id);
                }
            }
        }
        started
    }

    fn replace(&mut self, old: OperationId, next: Task) {
        self.tasks.remove(&old);
        let dependents = self.dependents.remove(&old).unwrap_or_default();
        self.dependents.insert(next.id, dependents);
        self.missing.insert(next.id, 0);
        self.make_ready(&next);
        self.tasks.insert(next.id, next);
    }

    fn fail(&mut self, id: OperationId, text: Option<&String>, now_ms: i64) {
        let Some(call) = self.operation(id).cloned() else {
            return;
        };
        if call.ignore_failure {
            self.remove(id);
            return;
        }
        let why = text.map_or_else(|| "unknown".to_owned(), Clone::clone);
        self.errors.push(format!(
            "Task failed: {} ({}:{}): {why}",
            call.function, call.instance, call.operation
        ));
        self.first_failure_ms.get_or_insert(now_ms);
        if let Some(task) = self.tasks.get_mut(&id) {
            task.state = OperationState::Failed;
        }
    }

    /// A task is gone: what waited for it may be ready.
    fn remove(&mut self, id: OperationId) {
        self.tasks.remove(&id);
        for dependent in self.dependents.remove(&id).unwrap_or_default() {
            let Some(missing) = self.missing.get_mut(&dependent) else {
                continue;
            };
            *missing = missing.saturating_sub(1);
            if *missing == 0
                && let Some(task) = self.tasks.get(&dependent).cloned()
            {
                self.make_ready(&task);
            }
        }
    }

    /// The end, once nothing is under way and nothing more can be.
    pub fn verdict(&self, now_ms: i64) -> Option<Verdict> {
        if !self.running.is_empty() || !self.ended.is_empty() {
            return None;
        }
        let waiting = !self.ready.is_empty() || !self.delayed.is_empty();
        if waiting && !self.is_stopped(now_ms) {
            return None;
        }
        match self.errors.as_slice() {
            [] if self.tasks.is_empty() => Some(Verdict::Succeeded),
            [] => Some(Verdict::Failed("tasks are left that nothing leads to".into())),
            [one] => Some(Verdict::Failed(one.clone())),
            several => Some(Verdict::Failed(format!(
                "{} operation errors:\n{}",
                several.len(),
                several.join("\n")
            ))),
        }
    }
}

fn is_gone(task: &Task) -> bool {
    let ignored = matches!(&task.kind, TaskKind::Operation(call) if call.ignore_failure);
    task.state == OperationState::Succeeded || (task.state == OperationState::Failed && ignored)
}

/// Local tasks are done by being recorded; operations are claimed by it.
fn record_start(task: &Task, settings: &Settings, step: &mut Step) {
    match &task.kind {
        TaskKind::Operation(call) => {
            let suffix = retry_suffix(call, settings);
            step.transitions.push((task.id, OperationState::Started, None, None));
            let sending = format!("Sending task '{}'{suffix}", call.function);
            step.notes.push(task_note("sending_task", sending, call, None));
            step.notes.push(task_note(
                "task_started",
                format!("Task started '{}'{suffix}", call.function),
                call,
                None,
            ));
        }
        TaskKind::SetState { instance, state, .. } => {
            step.transitions.push((task.id, OperationState::Succeeded, None, None));
            step.instances.push(InstanceState {
                instance: instance.clone(),
                state: state.clone(),
            });
        }
        TaskKind::NodeEvent {
            instance,
            node,
            message,
        } => {
            step.transitions.push((task.id, OperationState::Succeeded, None, None));
            step.notes.push(Note {
                event_type: "workflow_node_event",
                message: message.clone(),
                operation: None,
                instance: Some((instance.clone(), node.clone())),
                ends: None,
                causes: None,
            });
        }
    }
}

fn task_note(event_type: &'static str, message: String, call: &OperationTask, causes: Option<Value>) -> Note {
    Note {
        event_type,
        message,
        operation: Some(call.operation.clone()),
        instance: Some((call.instance.clone(), call.node.clone())),
        ends: call
            .relationship
            .as_ref()
            .map(|ends| (ends.source.clone(), ends.target.clone())),
        causes,
    }
}

fn retry_suffix(call: &OperationTask, settings: &Settings) -> String {
    match call.max_retries.unwrap_or(settings.max_retries) {
        _ if call.retry_number == 0 => String::new(),
        limit if limit < 0 => format!(" [retry {}]", call.retry_number),
        limit => format!(" [retry {}/{limit}]", call.retry_number),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
