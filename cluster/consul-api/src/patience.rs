//! How long a request waits for a leader.
//!
//! An election is waited for: a client would only ask again. A node that has been without a leader for longer says so at
//! once, so that a minority never looks like a slow majority.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_consensus::Consensus;
use conclave_runtime::{Shutdown, Tasks};
use tokio::time::Instant;

/// Longer than an election, shorter than the patience of clients (Patroni gives up after 3.3 s by default).
const HOLD: Duration = Duration::from_millis(2500);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);

/// Knows since when there has been no leader. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Patience {
    leaderless_since: Arc<Mutex<Option<Instant>>>,
}

impl Patience {
    pub(crate) fn start(consensus: &Consensus, tasks: &Tasks) -> Self {
        let patience = Self::default();
        tasks.spawn(
            "leader watch",
            patience.clone().follow(consensus.clone(), tasks.shutdown()),
        );
        patience
    }

    async fn follow(self, consensus: Consensus, shutdown: Shutdown) {
        let mut leadership = consensus.leadership();
        loop {
            let led = {
                let now = leadership.borrow_and_update();
                now.leader.is_some() && now.has_quorum
            };
            {
                let mut since = self.leaderless_since.lock().unwrap_or_else(PoisonError::into_inner);
                if led {
                    *since = None;
                } else {
                    since.get_or_insert_with(Instant::now);
                }
            }
            if !matches!(shutdown.run_until(leadership.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    }

    /// Since when there has been no leader; `None` while there is one.
    pub(crate) fn leaderless_since(&self) -> Option<Instant> {
        *self.leaderless_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when a request that comes now waits for a leader.
    pub(crate) fn deadline(&self) -> Instant {
        let now = Instant::now();
        match self.leaderless_since() {
            None => now + HOLD,
            // One quick try all the same.
            Some(since) => (since + HOLD).max(now + RETRY),
        }
    }

    /// Between two tries.
    pub(crate) fn retry(&self) -> Duration {
        RETRY
    }
}
