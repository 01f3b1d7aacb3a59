//! Whether the disk takes more.

use std::path::Path;

use crate::FileSyncError;

/// Refuses what would leave less than `reserve` bytes of the disk to the others: Raft and the database stop when it is full.
pub(crate) fn check(folder: &Path, bytes: u64, reserve: u64) -> Result<(), FileSyncError> {
    let disk = rustix::fs::statvfs(folder).map_err(|error| FileSyncError::system("look at", folder)(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < bytes.saturating_add(reserve) {
        return Err(FileSyncError::DiskFull {
            path: folder.to_owned(),
            free,
            reserve,
        });
    }
    Ok(())
}
