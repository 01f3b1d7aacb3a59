//! Finds executions to run.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use conclave_operations::{Runner, ServiceError};
use conclave_runtime::{Backoff, Shutdown, ShutdownTrigger, Tasks};
use conclave_store::{Store, StoreError};
use conclave_types::{EventOrigin, EventRecord, ExecutionId};
use conclave_workflow::Settings;
use futures::StreamExt;
use tokio::sync::{Notify, Semaphore, watch};

use crate::ring::is_mine;
use crate::run::Run;

/// Catches what a lost announcement would leave lying.
const POLL: Duration = Duration::from_secs(2);

/// A log line or plugin event of an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// What is recorded.
    pub record: EventRecord,
    /// Where it comes from; shared by the operation's lines.
    pub origin: Arc<EventOrigin>,
}

/// Takes log lines and plugin events on their way to the record.
#[async_trait::async_trait]
pub trait LogOutlet: Send + Sync {
    /// Takes one. It waits while too many are under way, and the script that writes them with it.
    async fn send(&self, line: LogLine);

    /// Waits until the lines of an execution that were sent before are recorded. It gives up after some seconds: a workflow's
    /// end must not hang on its logs. What is not recorded by then still will be.
    async fn flush(&self, execution: ExecutionId);
}

/// Reads files of the resource tree.
#[async_trait::async_trait]
pub trait Resources: Send + Sync {
    /// The content of a file.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] when there is none.
    async fn read(&self, path: &str) -> Result<Bytes, ServiceError>;
}

/// What the executor needs.
pub struct ExecutorOptions {
    /// This manager's name.
    pub me: String,
    /// Defaults of retries.
    pub settings: Settings,
    /// How many operations run at once.
    pub concurrent_operations: usize,
    /// The record.
    pub store: Store,
    /// Runs scripts.
    pub runner: Runner,
    /// Where log lines go.
    pub logs: Arc<dyn LogOutlet>,
    /// Where scripts come from.
    pub resources: Arc<dyn Resources>,
    /// Names of the managers that are alive, this one among them.
    pub live: watch::Receiver<Vec<String>>,
}

/// Runs executions. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: ExecutorOptions,
    pub(crate) admission: Semaphore,
    wake: Notify,
    running: Mutex<HashSet<ExecutionId>>,
    changed: watch::Sender<Option<ExecutionId>>,
}

impl Executor {
    /// Starts looking for work.
    pub fn start(options: ExecutorOptions, tasks: &Tasks) -> Self {
        let inner = Arc::new(Inner {
            admission: Semaphore::new(options.concurrent_operations),
            options,
            wake: Notify::new(),
            running: Mutex::default(),
            changed: watch::channel(None).0,
        });
        let executor = Self { inner };
        tasks.spawn("execution announcements", executor.clone().listen(tasks.shutdown()));
        tasks.spawn("execution supervisor", executor.clone().supervise(tasks.clone()));
        executor
    }

    /// How many executions this manager runs.
    pub fn running(&self) -> usize {
        self.lock_running().len()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.options.store
    }

    fn lock_running(&self) -> std::sync::MutexGuard<'_, HashSet<ExecutionId>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns announcements into wake-ups, on a connection of its own that is made anew when it is lost.
    async fn listen(self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        while !shutdown.is_requested() {
            if let Some(Ok(mut announced)) = shutdown.run_until(self.store().executions_listen()).await {
                backoff.reset();
                // Whatever was announced while nobody listened is looked for.
                self.inner.wake.notify_one();
                while let Some(Some(id)) = shutdown.run_until(announced.next()).await {
                    self.inner.changed.send_replace(Some(id));
                    self.inner.wake.notify_one();
                }
            }
            if !shutdown.sleep(backoff.next_delay()).await {
                return;
            }
        }
    }

    async fn supervise(self, tasks: Tasks) {
        let shutdown = tasks.shutdown();
        let mut live = self.inner.options.live.clone();
        while !shutdown.is_requested() {
            let names = live.borrow_and_update().clone();
            match shutdown.run_until(self.take_work(&names, &tasks)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "no look for executions"),
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.inner.wake.notified() => {}
                changed = live.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    async fn take_work(&self, live: &[String], tasks: &Tasks) -> Result<(), StoreError> {
        let me = &self.inner.options.me;
        for (id, epoch) in self.store().executions_ownerless(live).await? {
            if self.lock_running().contains(&id) || !is_mine(id, me, live) {
                continue;
            }
            let Some(claim) = self.store().execution_claim(id, epoch, me).await? else {
                continue;
            };
            tracing::info!(execution = %id, workflow = claim.workflow, epoch = claim.owner_epoch, "execution claimed");
            self.lock_running().insert(id);
            let executor = self.clone();
            let (changed, stop) = (self.inner.changed.subscribe(), tasks.shutdown());
            tasks.spawn("execution", async move {
                Run::new(executor.clone(), claim, changed, stop, ShutdownTrigger::new())
                    .run()
                    .await;
                executor.lock_running().remove(&id);
                // It may have been resumed while it ended.
                executor.inner.wake.notify_one();
            });
        }
        Ok(())
    }
}
