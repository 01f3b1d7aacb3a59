//! One execution, from claim to end.

use std::sync::Arc;
use std::time::Duration;

use conclave_operations::{ErrorKind, OperationError, Outcome};
use conclave_runtime::{Backoff, Shutdown, ShutdownTrigger, Tasks, clock};
use conclave_store::{ClaimedExecution, InstanceChange, Store, StoreError, StoredOperation, Transition};
use conclave_types::{EventKind, EventRecord, ExecutionId, ExecutionStatus, OperationId};
use conclave_workflow::{
    Engine, Failure, FailureKind, Graph, IdSource, Note, Settings, Step, Task, TaskKind, Topology, Verdict,
    WorkflowCall, plan,
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::data::DeploymentData;
use crate::services::{self, Services};
use crate::supervisor::Executor;

/// Catches a cancel whose announcement was lost.
const STATUS_POLL: Duration = Duration::from_secs(5);
/// Ends of operations that wait to be recorded.
const ENDS: usize = 256;

/// Operations that have ended, on their way from their tasks to the run.
type Ends = (
    mpsc::Sender<(OperationId, Outcome)>,
    mpsc::Receiver<(OperationId, Outcome)>,
);

/// Why a run stopped before its end.
enum Stop {
    /// Another manager owns the execution, or it is gone.
    Fenced,
    /// This manager stops.
    Stopping,
    /// The execution cannot be run at all.
    Impossible(String),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced(_) | StoreError::NotFound(_) => Self::Fenced,
            other => Self::Impossible(other.to_string()),
        }
    }
}

struct RandomIds;

impl IdSource for RandomIds {
    fn next(&mut self) -> OperationId {
        OperationId(Uuid::new_v4())
    }
}

pub(crate) struct Run {
    executor: Executor,
    claim: ClaimedExecution,
    changed: watch::Receiver<Option<ExecutionId>>,
    stop: Shutdown,
    /// Ends the operations of this run.
    operations: ShutdownTrigger,
    tasks: Tasks,
    ends: Ends,
}

fn now_ms() -> i64 {
    clock::now().as_millisecond()
}

impl Run {
    pub(crate) fn new(
        executor: Executor,
        claim: ClaimedExecution,
        changed: watch::Receiver<Option<ExecutionId>>,
        stop: Shutdown,
        operations: ShutdownTrigger,
    ) -> Self {
        let tasks = Tasks::new(format!("execution {}", claim.id));
        Self {
            executor,
            claim,
            changed,
            stop,
            operations,
            tasks,
            ends: mpsc::channel(ENDS),
        }
    }

    fn store(&self) -> &Store {
        self.executor.store()
    }

    pub(crate) async fn run(mut self) {
        let outcome = self.advance().await;
        self.operations.fire();
        match outcome {
            Ok(()) => {}
            Err(Stop::Fenced) => tracing::info!(execution = %self.claim.id, "execution has another owner"),
            Err(Stop::Stopping) => self.release().await,
            Err(Stop::Impossible(why)) => {
                tracing::warn!(execution = %self.claim.id, why, "execution cannot be run");
                let ended = self.finish(ExecutionStatus::Failed, Some(why)).await;
                if ended.is_err() {
                    self.release().await;
                }
            }
        }
        self.tasks.stop(Duration::from_secs(10)).await;
    }

    async fn release(&self) {
        if let Err(error) = self.store().execution_release(&self.claim).await {
            tracing::info!(execution = %self.claim.id, %error, "not released; whoever finds this manager gone takes it over");
        }
    }

    /// Repeats what the database could not answer. A lost connection while writing is an unknown outcome: the write is
    /// repeated, and every write here is such that a repetition changes nothing or is refused.
    async fn patiently<T, F, Fut>(&self, work: F) -> Result<T, Stop>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            let Some(outcome) = self.stop.run_until(work()).await else {
                return Err(Stop::Stopping);
            };
            match outcome {
                Err(StoreError::Unavailable(_) | StoreError::UnknownOutcome) => {}
                other => return other.map_err(Stop::from),
            }
            if !self.stop.sleep(backoff.next_delay()).await {
                return Err(Stop::Stopping);
            }
        }
    }

    async fn advance(&mut self) -> Result<(), Stop> {
        if self.claim.status.is_cancelling() {
            return self.finish(ExecutionStatus::Cancelled, None).await;
        }
        let graph = self.graph().await?;
        let defaults = &self.executor.inner.options.settings;
        let settings = Settings {
            wait_after_fail: f64::from(self.claim.wait_after_fail),
            ..defaults.clone()
        };
        let mut engine = Engine::new(graph, settings);
        loop {
            let step = engine.step(now_ms(), &mut RandomIds);
            if step.is_empty() {
                if let Some(verdict) = engine.verdict(now_ms()) {
                    return self.end(verdict).await;
                }
                if self.wait(&mut engine).await? {
                    return self.finish(ExecutionStatus::Cancelled, None).await;
                }
                continue;
            }
            self.record(&step).await?;
            for id in engine.committed(step, now_ms()) {
                self.dispatch(&engine, id);
            }
        }
    }

    /// The stored graph, or a new one.
    async fn graph(&self) -> Result<Graph, Stop> {
        let name = self.claim.workflow.clone();
        let stored = self.patiently(|| self.store().graph_get(self.claim.id, &name)).await?;
        if !stored.is_empty() {
            let event = self.workflow_event("workflow_started", format!("Resuming '{name}' workflow execution"));
            let events = [event];
            self.patiently(|| {
                self.store()
                    .transitions_commit(&self.claim, &name, &[], &[], &[], &events)
            })
            .await?;
            self.mark_started().await?;
            return stored
                .into_iter()
                .map(load)
                .collect::<Result<Vec<_>, _>>()
                .map(|tasks| Graph { tasks });
        }
        let rows = self
            .patiently(|| {
                self.store()
                    .deployment_rows_get(&self.claim.tenant, &self.claim.deployment)
            })
            .await?;
        let function = rows.deployment["workflows"][&name]["operation"]
            .as_str()
            .unwrap_or(&name)
            .to_owned();
        let topology = Topology::new(&rows.nodes, &rows.instances);
        let call = WorkflowCall {
            function,
            parameters: self.claim.parameters.clone(),
        };
        let graph = plan(&call, &topology, &mut RandomIds).map_err(|error| Stop::Impossible(error.to_string()))?;
        let tasks: Vec<StoredOperation> = graph.tasks.iter().map(store).collect();
        let events = [self.workflow_event("workflow_started", format!("Starting '{name}' workflow execution"))];
        let created = self
            .patiently(|| self.store().graph_create(&self.claim, &name, &tasks, &events))
            .await;
        match created {
            Ok(()) => Ok(graph),
            // A write whose answer was lost had been made: what is stored counts.
            Err(Stop::Impossible(_))
                if !self
                    .patiently(|| self.store().graph_get(self.claim.id, &name))
                    .await?
                    .is_empty() =>
            {
                Box::pin(self.graph()).await
            }
            Err(other) => Err(other),
        }
    }

    async fn mark_started(&self) -> Result<(), Stop> {
        let from = [ExecutionStatus::Pending];
        self.patiently(|| {
            self.store()
                .execution_status_change(self.claim.id, &from, ExecutionStatus::Started)
        })
        .await?;
        Ok(())
    }

    async fn record(&self, step: &Step) -> Result<(), Stop> {
        let transitions: Vec<Transition> = step
            .transitions
            .iter()
            .map(|(operation, state, result, error)| Transition {
                operation: *operation,
                state: *state,
                result: result.clone(),
                error: error.clone(),
            })
            .collect();
        let retries: Vec<StoredOperation> = step.retries.iter().map(store).collect();
        let instances: Vec<InstanceChange> = step
            .instances
            .iter()
            .map(|change| InstanceChange {
                id: change.instance.clone(),
                state: change.state.clone(),
            })
            .collect();
        let events: Vec<EventRecord> = step.notes.iter().map(|note| self.event(note)).collect();
        let name = &self.claim.workflow;
        let commit = || {
            self.store()
                .transitions_commit(&self.claim, name, &transitions, &retries, &instances, &events)
        };
        match self.patiently(commit).await {
            // Retries that an earlier try, whose answer was lost, has stored already.
            Err(Stop::Impossible(_)) if !retries.is_empty() && self.is_stored(&retries).await? => Ok(()),
            other => other,
        }
    }

    async fn is_stored(&self, retries: &[StoredOperation]) -> Result<bool, Stop> {
        let stored = self
            .patiently(|| self.store().graph_get(self.claim.id, &self.claim.workflow))
            .await?;
        Ok(retries
            .iter()
            .all(|retry| stored.iter().any(|task| task.id == retry.id)))
    }

    /// Waits for the end of an operation, the time of a delayed one, or news of the execution; `true` when it is cancelled.
    async fn wait(&mut self, engine: &mut Engine) -> Result<bool, Stop> {
        let delay = engine
            .next_wake_ms()
            .map(|at| Duration::from_millis((at - now_ms()).max(0) as u64));
        let pause = delay.unwrap_or(STATUS_POLL).min(STATUS_POLL);
        tokio::select! {
            () = self.stop.requested() => return Err(Stop::Stopping),
            Some((id, outcome)) = self.ends.1.recv() => {
                take_end(engine, id, outcome);
                // Others that have ended meanwhile are recorded together with it.
                while let Ok((id, outcome)) = self.ends.1.try_recv() {
                    take_end(engine, id, outcome);
                }
                return Ok(false);
            }
            changed = self.changed.changed() => {
                if changed.is_err() || *self.changed.borrow() != Some(self.claim.id) {
                    return Ok(false);
                }
            }
            () = tokio::time::sleep(pause) => {
                if delay.is_some_and(|delay| delay <= pause) {
                    return Ok(false);
                }
            }
        }
        let status = self
            .patiently(|| self.store().execution_status_owned(&self.claim))
            .await?;
        if status.is_end() {
            return Err(Stop::Fenced);
        }
        Ok(status.is_cancelling())
    }

    fn dispatch(&self, engine: &Engine, id: OperationId) {
        let Some(task) = engine.operation(id).cloned() else {
            return;
        };
        let (executor, claim, sender) = (self.executor.clone(), self.claim.clone(), self.ends.0.clone());
        let stop = self.operations.signal();
        self.tasks.spawn("operation", async move {
            let outcome = if claim.is_dry_run {
                Outcome::Succeeded(Value::Null)
            } else {
                // A closed semaphore would mean that the executor is gone, and with it whoever waits for the outcome.
                let permit = executor.inner.admission.acquire().await;
                let execution = claim.id;
                let outcome = run_operation(executor.clone(), claim, id, task, stop).await;
                drop(permit);
                // The event of the operation's end is recorded after its lines: whoever follows the execution page by page
                // finds none of them inserted before what he has read.
                executor.inner.options.logs.flush(execution).await;
                outcome
            };
            // The run may have ended meanwhile; then nobody records it, and the next owner runs it again.
            let _ended = sender.send((id, outcome)).await;
        });
    }

    async fn end(&self, verdict: Verdict) -> Result<(), Stop> {
        match verdict {
            Verdict::Succeeded => self.finish(ExecutionStatus::Terminated, None).await,
            Verdict::Failed(why) => self.finish(ExecutionStatus::Failed, Some(why)).await,
        }
    }

    async fn finish(&self, status: ExecutionStatus, error: Option<String>) -> Result<(), Stop> {
        let workflow = &self.claim.workflow;
        let dry = if self.claim.is_dry_run { " (dry run)" } else { "" };
        let (event, text) = match (status, &error) {
            (ExecutionStatus::Terminated, _) => (
                "workflow_succeeded",
                format!("'{workflow}' workflow execution succeeded{dry}"),
            ),
            (ExecutionStatus::Cancelled, _) => (
                "workflow_cancelled",
                format!("'{workflow}' workflow execution cancelled{dry}"),
            ),
            (_, error) => {
                let why = error.as_deref().unwrap_or("unknown");
                (
                    "workflow_failed",
                    format!("'{workflow}' workflow execution failed: {why}{dry}"),
                )
            }
        };
        // Whoever sees the end and then reads the events finds all of them.
        let flush = self.executor.inner.options.logs.flush(self.claim.id);
        if self.stop.run_until(flush).await.is_none() {
            return Err(Stop::Stopping);
        }
        let events = [self.workflow_event(event, text)];
        self.patiently(|| {
            self.store()
                .execution_finish(&self.claim, status, error.as_deref(), &events)
        })
        .await?;
        tracing::info!(execution = %self.claim.id, %status, "execution ended");
        Ok(())
    }

    fn workflow_event(&self, event_type: &str, message: String) -> EventRecord {
        let kind = EventKind::Event {
            event_type: event_type.into(),
        };
        EventRecord {
            message,
            manager_name: Some(self.executor.inner.options.me.clone()),
            ..EventRecord::new(Uuid::now_v7(), self.claim.id, kind, clock::now())
        }
    }

    fn event(&self, note: &Note) -> EventRecord {
        let (instance, node) = note.instance.clone().unzip();
        let (source, target) = note.ends.clone().unzip();
        EventRecord {
            operation: note.operation.clone(),
            node_instance_id: instance,
            node_name: node,
            source_id: source,
            target_id: target,
            error_causes: note.causes.clone(),
            ..self.workflow_event(note.event_type, note.message.clone())
        }
    }
}

fn take_end(engine: &mut Engine, id: OperationId, outcome: Outcome) {
    match outcome {
        Outcome::Succeeded(result) => engine.succeeded(id, result),
        Outcome::Failed(error) => engine.failed(id, failure(&error)),
        // Only a run that is ending cancels its operations.
        Outcome::Cancelled => {}
    }
}

fn failure(error: &OperationError) -> Failure {
    Failure {
        kind: match error.kind {
            ErrorKind::Recoverable => FailureKind::Recoverable,
            ErrorKind::NonRecoverable => FailureKind::NonRecoverable,
            ErrorKind::Retry => FailureKind::Retry,
        },
        retry_after: error.retry_after,
        text: format!("{}: {}", error.type_name, error.message),
        error: error.to_wire(),
        causes: serde_json::to_value(&error.causes).unwrap_or(Value::Null),
    }
}

/// Boxed, so that its type ends here: the compiler cannot see through the whole depth of it.
fn run_operation(
    executor: Executor,
    claim: ClaimedExecution,
    id: OperationId,
    task: conclave_workflow::OperationTask,
    stop: Shutdown,
) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let options = &executor.inner.options;
        if task.executor == "host_agent" {
            let message =
                "operations on host agents are not offered by this manager; use executor central_deployment_agent";
            return Outcome::Failed(OperationError::non_recoverable(message));
        }
        let rows = match options
            .store
            .deployment_rows_get(&claim.tenant, &claim.deployment)
            .await
        {
            Ok(rows) => rows,
            Err(error) => return Outcome::Failed(OperationError::recoverable(error.to_string())),
        };
        let call = match DeploymentData::new(rows).call(id, &task, &claim) {
            Ok(call) => call,
            Err(error) => return Outcome::Failed(OperationError::non_recoverable(error.to_string())),
        };
        let services = Arc::new(Services {
            origin: Arc::new(services::origin(&claim, id, &task)),
            store: options.store.clone(),
            logs: Arc::clone(&options.logs),
            resources: Arc::clone(&options.resources),
            claim: claim.clone(),
            id,
            task,
            manager: options.me.clone(),
        });
        options.runner.run(call, services, stop).await
    })
}

fn store(task: &Task) -> StoredOperation {
    StoredOperation {
        id: task.id,
        name: task.kind.name(),
        type_name: task.kind.type_name().to_owned(),
        state: task.state,
        dependencies: task.dependencies.clone(),
        parameters: serde_json::to_value(&task.kind).unwrap_or_else(|error| json!({"unreadable": error.to_string()})),
    }
}

fn load(stored: StoredOperation) -> Result<Task, Stop> {
    let kind: TaskKind = serde_json::from_value(stored.parameters).map_err(|error| {
        Stop::Impossible(format!(
            "task {} of the stored graph cannot be read: {error}",
            stored.id
        ))
    })?;
    Ok(Task {
        id: stored.id,
        kind,
        dependencies: stored.dependencies,
        state: stored.state,
    })
}
