//! How long Raft's steps take, as counts and sums: what rates and means are made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often something was done, and how long that took in all. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Spent(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Spent {
    /// It was done once more, and took so long.
    pub fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// How long in all.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed))
    }
}

/// This node's steps since its start.
#[derive(Debug, Clone, Default)]
pub struct Timings {
    /// As leader: from the arrival of entries at the log until they are on disk.
    pub dispatch: Spent,
    /// Applying a group of committed entries to the state.
    pub apply: Spent,
    /// As leader: from sending entries to a member until it has acknowledged them.
    pub append: Spent,
    /// As leader: from sending a heartbeat to a member until it has answered.
    pub heartbeat: Spent,
}
