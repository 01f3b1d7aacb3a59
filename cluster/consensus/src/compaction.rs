//! When a snapshot is written and how much log is kept behind it.
//!
//! A snapshot costs as much as the state is large, so it is due when the log has grown by as much: then the work per entry is
//! bounded, and so are memory (the log is kept in it), disk and the time that a restart takes to replay.

use std::time::Duration;

use conclave_runtime::Shutdown;
use openraft::async_runtime::WatchReceiver;

use crate::log_store::{LogSize, LogStore};
use crate::snapshot::SnapshotStore;
use crate::types::Raft;

const PERIOD: Duration = Duration::from_millis(500);
/// Kept behind a snapshot, so that a member that was away for a moment needs no snapshot.
pub(crate) const KEPT_ENTRIES: u64 = 10_000;

/// The limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// Entries kept behind a snapshot.
    pub(crate) kept_entries: u64,
    /// Their bytes.
    pub(crate) kept_bytes: u64,
    /// The log grows at least by this between snapshots, however small the state.
    pub(crate) growth_bytes_min: u64,
    /// And at most by this, however large.
    pub(crate) growth_bytes_max: u64,
    /// Small entries cost more than their bytes when they are replayed.
    pub(crate) growth_entries: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            kept_entries: KEPT_ENTRIES,
            kept_bytes: 4 << 20,
            growth_bytes_min: 8 << 20,
            growth_bytes_max: 64 << 20,
            growth_entries: 100_000,
        }
    }
}

impl Policy {
    /// Whether it is time for a snapshot.
    fn is_due(&self, log: LogSize, snapshot_bytes: u64) -> bool {
        let growth = snapshot_bytes.clamp(self.growth_bytes_min, self.growth_bytes_max);
        log.bytes > self.kept_bytes + growth || log.entries > self.kept_entries + self.growth_entries
    }
}

/// Runs until the end is asked for.
pub(crate) async fn run(policy: Policy, raft: Raft, log: LogStore, snapshots: SnapshotStore, shutdown: Shutdown) {
    while shutdown.sleep(PERIOD).await {
        if let Err(error) = step(policy, &raft, &log, &snapshots).await {
            tracing::warn!(error, "the raft log could not be compacted");
        }
    }
}

async fn step(policy: Policy, raft: &Raft, log: &LogStore, snapshots: &SnapshotStore) -> Result<(), String> {
    log.note_committed().await.map_err(|error| error.to_string())?;
    let snapshot_bytes = snapshots.current().map_or(0, |snapshot| snapshot.snapshot.bytes());
    if !policy.is_due(log.size(), snapshot_bytes) {
        return Ok(());
    }
    let (snapshot, applied, purged) = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.snapshot, metrics.last_applied, metrics.purged)
    };
    // First what an earlier snapshot allows: with it the log may be short enough.
    let point = log
        .purge_point(policy.kept_entries, policy.kept_bytes)
        .min(snapshot.map(|snapshot| snapshot.index));
    if let Some(point) = point
        && purged.is_none_or(|purged| purged.index < point)
    {
        let purging = raft.trigger().purge_log(point).await;
        return purging.map_err(|error| error.to_string());
    }
    if applied <= snapshot {
        return Ok(());
    }
    raft.trigger().snapshot().await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: u64, mib: u64) -> LogSize {
        LogSize {
            entries,
            bytes: mib << 20,
        }
    }

    #[test]
    fn a_small_state_is_written_after_some_growth_and_a_large_one_after_as_much_as_it_is() {
        let policy = Policy::default();
        assert!(!policy.is_due(log(20_000, 11), 0));
        assert!(policy.is_due(log(20_000, 13), 0));
        assert!(policy.is_due(log(110_001, 1), 0));
        assert!(!policy.is_due(log(20_000, 40), 40 << 20));
        assert!(policy.is_due(log(20_000, 45), 40 << 20));
        assert!(policy.is_due(log(20_000, 69), 4 << 30));
    }
}
