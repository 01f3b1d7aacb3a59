//! Removing what is needed no longer.

use serde::Serialize;

use crate::wal::Segment;
use crate::{BackupError, Depot};

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The backups.
    pub backups: Vec<String>,
    /// Backups that were begun before the newest whole one and never completed.
    pub incomplete: Vec<String>,
    /// How many segments of the log.
    pub segments: usize,
}

/// Keeps the newest `keep` backups with the log from the oldest of them on, and removes the rest. Backups that were begun later than
/// the newest whole one stay: they may be on their way.
///
/// # Errors
/// When nothing would be kept, or the place refuses. What has been removed by then is whole: a backup goes before its log.
pub async fn prune(depot: &Depot, system_id: &str, keep: usize) -> Result<Pruned, BackupError> {
    if keep == 0 {
        return Err(BackupError::Nothing("at least one backup has to be kept".into()));
    }
    let contents = depot.contents(system_id).await?;
    let newest = contents.inventory.backups.keys().next_back();
    let given_up = |id: &&String| newest.is_some_and(|newest| *id < newest);
    let incomplete: Vec<String> = contents.incomplete.iter().filter(given_up).cloned().collect();
    let (backups, segments) = contents.inventory.surplus(keep);
    for id in backups.iter().chain(&incomplete) {
        depot.remove_backup(system_id, id).await?;
    }
    // The oldest first: what is left is one run at any time.
    let mut ordered: Vec<Segment> = segments;
    ordered.sort_unstable();
    for segment in &ordered {
        depot.remove_segment(system_id, *segment).await?;
    }
    Ok(Pruned {
        backups,
        incomplete,
        segments: ordered.len(),
    })
}
