//! What a person has changed on disk becomes a change for all nodes.

use std::sync::Arc;

use conclave_catalog::files::{Entry, Expected, FilePath, FilesRefusal, LinkTarget, Step};
use conclave_consensus::Consensus;
use conclave_runtime::Tasks;

use crate::FileSyncError;
use crate::ingest::{commit, file_entry, ingest, put, too_large};
use crate::store::ChunkStore;
use crate::transfer::{Peers, Spread};
use crate::tree::{Disk, Kind, SYNC_EACH_MAX, Stamp};

/// One thing that is different on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Something is there, new or changed.
    Put(FilePath, Stamp),
    /// What was shown in this version is gone; a folder without a version.
    Gone(FilePath, Option<u64>),
}

impl Edit {
    pub(crate) fn path(&self) -> &FilePath {
        match self {
            Self::Put(path, _) | Self::Gone(path, _) => path,
        }
    }
}

/// What became of one edit.
pub(crate) enum Published {
    /// It is what the cluster has now.
    Put(FilePath, Stamp, Entry, u64),
    /// The cluster has removed it, too; or it has something newer, which comes back.
    Gone(FilePath),
    /// It changed while it was read, or the change could not be committed now.
    Later(FilePath, Option<String>),
    /// It cannot be taken up.
    Refused(FilePath, String),
}

impl Published {
    pub(crate) fn path(&self) -> &FilePath {
        match self {
            Self::Put(path, ..) | Self::Gone(path) | Self::Later(path, _) | Self::Refused(path, _) => path,
        }
    }
}

/// What is needed to publish.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) consensus: Consensus,
    pub(crate) store: ChunkStore,
    pub(crate) peers: Peers,
    pub(crate) tasks: Tasks,
}

enum Taken {
    Entry(FilePath, Stamp, Entry),
    Moving(FilePath),
    Refused(FilePath, String),
}

impl Publisher {
    /// Takes edits up: all of them in one change.
    pub(crate) async fn publish(&self, disk: Arc<Disk>, edits: Vec<Edit>) -> Vec<Published> {
        let all: Vec<FilePath> = edits.iter().map(|edit| edit.path().clone()).collect();
        match self.try_publish(disk, edits).await {
            Ok(published) => published,
            Err(error) => {
                let why = error.to_string();
                tracing::warn!(%error, count = all.len(), "changes on disk could not be taken up; they are tried again");
                all.into_iter()
                    .map(|path| Published::Later(path, Some(why.clone())))
                    .collect()
            }
        }
    }

    async fn try_publish(&self, disk: Arc<Disk>, edits: Vec<Edit>) -> Result<Vec<Published>, FileSyncError> {
        let (mut puts, mut gone) = (Vec::new(), Vec::new());
        for edit in edits {
            match edit {
                Edit::Put(path, stamp) => puts.push((path, stamp)),
                Edit::Gone(path, version) => gone.push((path, version)),
            }
        }
        puts.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Children go before the folders that they are in.
        gone.sort_by(|(a, _), (b, _)| b.cmp(a));
        let spread = Spread::begin(&self.store, &self.peers, &self.tasks);
        let (taken, _leases) = ingest(spread, move |feeder| {
            let take = |(path, stamp)| take(&disk, feeder, path, stamp);
            let taken = puts.into_iter().map(take).collect::<Result<Vec<_>, _>>()?;
            sync(&disk, &taken)?;
            Ok(taken)
        })
        .await?;
        let (mut published, mut entries) = (Vec::new(), Vec::new());
        for taken in taken {
            match taken {
                Taken::Entry(path, stamp, entry) => entries.push((path, stamp, entry)),
                Taken::Moving(path) => published.push(Published::Later(path, None)),
                Taken::Refused(path, why) => published.push(Published::Refused(path, why)),
            }
        }
        let version = loop {
            if entries.is_empty() && gone.is_empty() {
                return Ok(published);
            }
            let removals = gone.iter().map(|(path, version)| Step::Remove {
                root: path.clone(),
                expected: version.map_or(Expected::Childless, Expected::Version),
            });
            let puts = entries
                .iter()
                .map(|(path, _, entry)| put(path.clone(), entry.clone(), Expected::Anything));
            match commit(&self.consensus, removals.chain(puts).collect()).await {
                Ok(version) => break version,
                // One that does not fit is left out; the others are taken all the same.
                Err(FileSyncError::Conflict(refusal)) => {
                    let Some(path) = offender(&refusal) else {
                        return Err(FileSyncError::Conflict(refusal));
                    };
                    let before = entries.len() + gone.len();
                    gone.retain(|(at, _)| at != path);
                    entries.retain(|(at, ..)| at != path);
                    if entries.len() + gone.len() == before {
                        return Err(FileSyncError::Conflict(refusal));
                    }
                    published.push(match refusal {
                        FilesRefusal::Unexpected { ref path, .. } => Published::Gone(path.clone()),
                        ref other => Published::Refused(path.clone(), other.to_string()),
                    });
                }
                Err(other) => return Err(other),
            }
        };
        self.hear_of(version).await?;
        published.extend(gone.into_iter().map(|(path, _)| Published::Gone(path)));
        let puts = entries.into_iter();
        published.extend(puts.map(|(path, stamp, entry)| Published::Put(path, stamp, entry, version)));
        Ok(published)
    }

    /// Waits until this node knows of its own change. One that does not lead hears of it after it was committed; until then, the tree
    /// would be made as it was before. However long that takes: the paths are left alone meanwhile.
    async fn hear_of(&self, version: u64) -> Result<(), FileSyncError> {
        let mut state = self.consensus.state();
        let heard = state.wait_for(|state| state.files().version() >= version);
        match self.tasks.shutdown().run_until(heard).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(FileSyncError::CutOff),
        }
    }
}

fn offender(refusal: &FilesRefusal) -> Option<&FilePath> {
    match refusal {
        FilesRefusal::Unexpected { path, .. }
        | FilesRefusal::NoDirectory { path, .. }
        | FilesRefusal::LinkEscapes(path)
        | FilesRefusal::Mode(path)
        | FilesRefusal::Missing(path) => Some(path),
        _ => None,
    }
}

/// Makes durable what was taken: whoever wrote it may not have. Should the machine fail, its first part alone would look like an edit
/// when it starts, and be taken up by all. Blocking.
fn sync(disk: &Disk, taken: &[Taken]) -> Result<(), FileSyncError> {
    let is_file = |taken: &&Taken| matches!(taken, Taken::Entry(_, _, Entry::File(_)));
    if taken.iter().filter(is_file).count() > SYNC_EACH_MAX {
        return disk.sync_all();
    }
    for taken in taken.iter().filter(is_file) {
        let Taken::Entry(path, ..) = taken else { continue };
        disk.sync_file(path).map_err(disk.system("sync", path))?;
    }
    Ok(())
}

/// Reads one thing; whatever is written to it meanwhile is noticed. Blocking.
fn take(disk: &Disk, feeder: &mut crate::ingest::Feeder, path: FilePath, stamp: Stamp) -> Result<Taken, FileSyncError> {
    let entry = match stamp.kind {
        Kind::Directory => Entry::Directory { mode: stamp.mode },
        Kind::Symlink => match disk.read_link(&path) {
            Ok(target) => {
                let target = LinkTarget::new(target);
                if !target.stays_inside(&path) {
                    let why = FilesRefusal::LinkEscapes(path.clone()).to_string();
                    return Ok(Taken::Refused(path, why));
                }
                Entry::Symlink { target }
            }
            Err(_) => return Ok(Taken::Moving(path)),
        },
        Kind::File => {
            let Ok(file) = disk.read(&path) else {
                return Ok(Taken::Moving(path));
            };
            let found = feeder.cut(file).map_err(|error| too_large(&path, error))?;
            Entry::File(file_entry(found, stamp.mode, stamp.modified))
        }
        Kind::Other => {
            return Ok(Taken::Refused(path, "it is a pipe, a socket or a device".into()));
        }
    };
    // The same before and after, or nothing of it counts.
    match disk.stamp(&path) {
        Ok(Some(after)) if after == stamp || stamp.kind == Kind::Directory => Ok(Taken::Entry(path, stamp, entry)),
        _ => Ok(Taken::Moving(path)),
    }
}
