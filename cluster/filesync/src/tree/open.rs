//! What a node does with its tree when it starts.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use conclave_catalog::files::{FilePath, Manifest};

use super::disk::Disk;
use super::look::{Look, look};
use super::unsynced::Unsynced;
use super::{EDITABLE, Hands, Root};
use crate::FileSyncError;
use crate::core::plan::Shown;
use crate::store::ChunkStore;

/// Where this node remembers what concerns its tree.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    /// What was found in the tree and is nobody's.
    pub(crate) quarantine: PathBuf,
    /// Which files were not synced yet.
    pub(crate) unsynced: PathBuf,
}

/// An open tree.
pub(crate) struct Opened {
    pub(crate) hands: Hands,
    pub(crate) shown: Shown,
    /// What is neither as the manifest has it nor as it ever had it.
    pub(crate) foreign: Vec<FilePath>,
}

/// Opens the tree, finds what is in it, and does away with what a failure of the machine has left half written.
pub(crate) fn open(root: &Root, beside: Beside, store: ChunkStore, wanted: &Manifest) -> Result<Opened, FileSyncError> {
    root.check()?;
    let disk = Disk::open(root.path(), beside.quarantine)?;
    make_areas(root)?;
    let (mut unsynced, left) = Unsynced::open(beside.unsynced)?;
    let mut unwritten = Vec::new();
    for path in left.here {
        if let Err(error) = disk.sync_file(&path) {
            tracing::warn!(%path, %error, "the file could not be synced; it is written again");
            unwritten.push(path);
        }
    }
    let any_doubt = !left.doubtful.is_empty();
    let doubtful: HashSet<FilePath> = left.doubtful.into_iter().collect();
    let Look {
        mut shown,
        mut stamps,
        foreign,
        spoiled,
    } = look(&disk, wanted, &doubtful)?;
    for path in unwritten {
        shown.remove(&path);
    }
    for area in EDITABLE {
        let Ok(path) = FilePath::new(area) else { continue };
        if wanted.get(&path).is_none() {
            // The node makes these; they are nobody's edit.
            shown.remove(&path);
            if let Some(stamp) = disk.stamp(&path).map_err(disk.system("look at", &path))? {
                stamps.insert(path, stamp);
            }
        }
    }
    if !any_doubt && unsynced.is_noted() {
        unsynced.forget()?;
    }
    let mut hands = Hands::new(Arc::new(disk), store, stamps, unsynced);
    if any_doubt {
        hands.expel_for_good(&spoiled)?;
    }
    Ok(Opened { hands, shown, foreign })
}

/// Makes the folders in which persons may put files.
pub(crate) fn make_areas(root: &Root) -> Result<(), FileSyncError> {
    for area in EDITABLE {
        let folder = root.path().join(std::ffi::OsStr::from_bytes(area));
        std::fs::create_dir_all(&folder).map_err(FileSyncError::system("create", &folder))?;
    }
    Ok(())
}
