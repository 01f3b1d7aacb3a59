//! Task ownership: a component holds a [`Tasks`], spawns through it, and stops it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio_util::task::TaskTracker;

use crate::{Shutdown, ShutdownTrigger};

/// A set of tasks with one owner and one shutdown signal.
#[derive(Debug, Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    owner: String,
    tracker: TaskTracker,
    trigger: ShutdownTrigger,
    running: Mutex<Vec<(u64, &'static str)>>,
    next: std::sync::atomic::AtomicU64,
}

/// A running task. Dropping the handle leaves the task running under its owner.
#[derive(Debug)]
pub struct TaskHandle<T> {
    handle: tokio::task::JoinHandle<Option<T>>,
}

/// The task ended without a result: it panicked (logged with its name) or was aborted.
#[derive(Debug, thiserror::Error)]
#[error("a task ended without a result: it panicked or was aborted; the log names it")]
pub struct TaskFailed;

/// What [`Tasks::stop`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReport {
    /// Every task ended in time.
    Clean,
    /// These were still running at the deadline and have been left behind.
    StillRunning(Vec<&'static str>),
}

impl Tasks {
    /// An empty set with a shutdown signal of its own. `owner` appears in logs.
    pub fn new(owner: impl Into<String>) -> Self {
        Self::with_trigger(owner.into(), ShutdownTrigger::new())
    }

    /// A set that is told to end when this one is, and can be stopped alone.
    pub fn child(&self, owner: impl Into<String>) -> Self {
        Self::with_trigger(owner.into(), self.shutdown().child())
    }

    fn with_trigger(owner: String, trigger: ShutdownTrigger) -> Self {
        let inner = Inner {
            owner,
            tracker: TaskTracker::new(),
            trigger,
            running: Mutex::default(),
            next: std::sync::atomic::AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The signal that tasks of this set listen to.
    pub fn shutdown(&self) -> Shutdown {
        self.inner.trigger.signal()
    }

    /// Spawns `work` under `name`. A panic is logged and ends that task alone.
    pub fn spawn<T, F>(&self, name: &'static str, work: F) -> TaskHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let id = inner.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        inner.lock_running().push((id, name));
        let entry = RunningEntry { inner, id };
        let handle = self.inner.tracker.spawn(async move {
            let outcome = std::panic::AssertUnwindSafe(work).catch_unwind().await;
            let owner = entry.inner.owner.clone();
            drop(entry);
            match outcome {
                Ok(output) => Some(output),
                Err(_) => {
                    tracing::error!(task = name, owner, "task panicked; this is a defect");
                    None
                }
            }
        });
        TaskHandle { handle }
    }

    /// Asks the tasks to end and does not wait for it.
    pub fn request_stop(&self) {
        self.inner.trigger.fire();
    }

    /// Asks the tasks to end and waits for them until `deadline` has passed.
    pub async fn stop(&self, deadline: Duration) -> StopReport {
        self.inner.trigger.fire();
        self.inner.tracker.close();
        if tokio::time::timeout(deadline, self.inner.tracker.wait()).await.is_ok() {
            return StopReport::Clean;
        }
        let left: Vec<_> = self.inner.lock_running().iter().map(|(_, name)| *name).collect();
        tracing::warn!(
            owner = self.inner.owner,
            ?left,
            "tasks still run after the stop deadline"
        );
        StopReport::StillRunning(left)
    }
}

impl Inner {
    fn lock_running(&self) -> std::sync::MutexGuard<'_, Vec<(u64, &'static str)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the task from the list also when its future is dropped.
struct RunningEntry {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for RunningEntry {
    fn drop(&mut self) {
        self.inner.lock_running().retain(|(id, _)| *id != self.id);
    }
}

impl<T> TaskHandle<T> {
    /// Waits for the task.
    ///
    /// # Errors
    /// [`TaskFailed`] when it panicked or was aborted.
    pub async fn join(self) -> Result<T, TaskFailed> {
        self.handle.await.ok().flatten().ok_or(TaskFailed)
    }

    /// Ends the task at its next await point.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_waits_for_tasks_that_listen() {
        let tasks = Tasks::new("test");
        let shutdown = tasks.shutdown();
        let handle = tasks.spawn("listener", async move {
            shutdown.requested().await;
            7
        });
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, StopReport::Clean);
        assert_eq!(handle.join().await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn stop_names_tasks_that_do_not_end() {
        let tasks = Tasks::new("test");
        tasks.spawn("deaf", std::future::pending::<()>());
        assert_eq!(
            tasks.stop(Duration::from_secs(1)).await,
            StopReport::StillRunning(vec!["deaf"])
        );
    }

    #[tokio::test]
    async fn a_panic_ends_one_task_only() {
        let tasks = Tasks::new("test");
        let failing = tasks.spawn("failing", async { panic!("expected by the test") });
        let fine = tasks.spawn("fine", async { 1 });
        assert!(failing.join().await.is_err());
        assert_eq!(fine.join().await.unwrap(), 1);
        assert_eq!(tasks.stop(Duration::from_secs(1)).await, StopReport::Clean);
    }

    #[tokio::test]
    async fn a_child_stops_with_its_parent() {
        let parent = Tasks::new("parent");
        let child = parent.child("child");
        let shutdown = child.shutdown();
        parent.stop(Duration::from_secs(1)).await;
        assert!(shutdown.is_requested());
    }
}
