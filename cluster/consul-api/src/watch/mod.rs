//! Waking those who wait for a change, and nobody else.
//!
//! A waiter names what it looks at ([`Topic`]). When the state has changed, the two versions are compared, at the cost of
//! what differs, and the topics of what differs are woken: a write wakes the watchers of its key and of the prefixes
//! before it, however many others there are.

mod topics;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_catalog::ClusterState;
use conclave_catalog::directory::Directory;
use conclave_runtime::Shutdown;
use tokio::sync::watch;

pub(crate) use topics::Topic;
use topics::Topics;

/// Where waiters line up. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Hub {
    topics: Arc<Mutex<Topics>>,
}

/// A place in the line. Leaving it is dropping it.
pub(crate) struct Waiter {
    hub: Hub,
    topic: Topic,
    woken: watch::Receiver<()>,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines up. Whatever changes from now on wakes the waiter; what it looks at must be looked at after this.
    pub(crate) fn wait_for(&self, topic: Topic) -> Waiter {
        let woken = self.lock().join(&topic);
        Waiter {
            hub: self.clone(),
            topic,
            woken,
        }
    }

    /// How many wait.
    pub(crate) fn waiters(&self) -> usize {
        self.lock().waiters()
    }

    /// Wakes whoever looks at what differs.
    pub(crate) fn wake(&self, old: &Directory, new: &Directory) {
        let topics = self.lock();
        if topics.waiters() > 0 {
            topics.wake(old, new);
        }
    }

    /// Follows the state until the end.
    pub(crate) async fn follow(self, mut state: watch::Receiver<Arc<ClusterState>>, shutdown: Shutdown) {
        let mut known = Arc::clone(&state.borrow_and_update());
        while let Some(Ok(())) = shutdown.run_until(state.changed()).await {
            let now = Arc::clone(&state.borrow_and_update());
            self.wake(known.directory(), now.directory());
            known = now;
        }
    }
}

impl Waiter {
    /// Resolves at the next change of what it looks at since the last call.
    pub(crate) async fn woken(&mut self) {
        if self.woken.changed().await.is_err() {
            // The line exists as long as one of its waiters does.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.hub.lock().leave(&self.topic);
    }
}
