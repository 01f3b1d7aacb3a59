//! Whether the disk takes more.

use std::path::Path;

use rustix::io::Errno;

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

/// Whether two folders share a disk. One that is not there yet will be on the other's.
pub(crate) fn is_same_disk(one: &Path, other: &Path) -> Result<bool, FileSyncError> {
    let disk = |folder: &Path| match rustix::fs::stat(folder) {
        Ok(stat) => Ok(Some(stat.st_dev)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(FileSyncError::system("look at", folder)(error.into())),
    };
    let (one, other) = (disk(one)?, disk(other)?);
    Ok(one.is_none() || other.is_none() || one == other)
}
