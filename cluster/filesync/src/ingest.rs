//! Bytes that come in: cut, stored, given to other nodes, and proposed.

use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use conclave_catalog::files::{Entry, Expected, FileEntry, FilePath, FilesCommand, LinkTarget, Modified, SetId, Step};
use conclave_catalog::{Command, Response};
use conclave_consensus::Consensus;
use tokio::sync::mpsc;

use crate::FileSyncError;
use crate::chunk::{Chunk, Cut, CutError, cut};
use crate::error::parse;
use crate::store::Lease;
use crate::transfer::Spread;

/// What is stored and given at once: as large as memory may be for it, as few syncs as that allows.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_CHUNKS: usize = 1000;
/// One log entry's share of a change, in bytes.
const STEP_BYTES: usize = 900 << 10;
/// What an entry takes in the log besides its path.
const ENTRY_BYTES: usize = 160;

/// Cuts files and hands the chunks on. Blocking.
pub(crate) struct Feeder {
    batches: mpsc::Sender<Vec<Chunk>>,
    batch: Vec<Chunk>,
    bytes: usize,
}

impl Feeder {
    /// Cuts what `source` gives.
    pub(crate) fn cut(&mut self, source: impl Read) -> Result<Cut, CutError> {
        cut(source, |chunk| {
            self.bytes += chunk.bytes.len();
            self.batch.push(chunk);
            self.bytes < BATCH_BYTES && self.batch.len() < BATCH_CHUNKS || self.send()
        })
    }

    fn send(&mut self) -> bool {
        self.bytes = 0;
        self.batches.blocking_send(std::mem::take(&mut self.batch)).is_ok()
    }

    fn finish(mut self) {
        if !self.batch.is_empty() {
            // Whoever would take it has given up, and says so itself.
            let _taken = self.send();
        }
    }
}

/// Runs `work`, which blocks, and spreads what it feeds until all of it is on a majority. Memory is bounded by a few batches. The chunks are
/// kept as long as the leases are.
pub(crate) async fn ingest<T: Send + 'static>(
    mut spread: Spread,
    work: impl FnOnce(&mut Feeder) -> Result<T, FileSyncError> + Send + 'static,
) -> Result<(T, Vec<Lease>), FileSyncError> {
    let (batches, mut waiting) = mpsc::channel(1);
    let working = tokio::task::spawn_blocking(move || {
        let mut feeder = Feeder {
            batches,
            batch: Vec::new(),
            bytes: 0,
        };
        let done = work(&mut feeder)?;
        feeder.finish();
        Ok(done)
    });
    let mut taken = true;
    while taken && let Some(batch) = waiting.recv().await {
        taken = spread.add(batch).await;
    }
    drop(waiting);
    let done = working.await.unwrap_or(Err(FileSyncError::CutOff));
    if !taken {
        // Why this node's disk took no more, not that the work was cut off therefore.
        return spread.finish().await.and(Err(FileSyncError::CutOff));
    }
    let done = done?;
    Ok((done, spread.finish().await?))
}

pub(crate) fn too_large(path: &FilePath, error: CutError) -> FileSyncError {
    match error {
        CutError::Read(source) => FileSyncError::system("read", path.to_string())(source),
        CutError::TooLarge => FileSyncError::Refused(path.to_string(), "it is larger than 455 GiB and cut too finely"),
        CutError::GivenUp => FileSyncError::CutOff,
    }
}

/// How many bytes the files of a folder (or a file) have.
pub(crate) fn bytes_within(outside: &Path) -> Result<u64, FileSyncError> {
    let (mut bytes, mut open) = (0u64, vec![outside.to_owned()]);
    while let Some(place) = open.pop() {
        let metadata = place
            .symlink_metadata()
            .map_err(FileSyncError::system("look at", &place))?;
        if metadata.is_dir() {
            let children = std::fs::read_dir(&place).map_err(FileSyncError::system("list", &place))?;
            for child in children {
                open.push(child.map_err(FileSyncError::system("list", &place))?.path());
            }
        } else if metadata.is_file() {
            bytes = bytes.saturating_add(metadata.len());
        }
    }
    Ok(bytes)
}

/// What a folder (or a file) outside of the tree holds, as entries at and below `root`.
pub(crate) fn collect(
    feeder: &mut Feeder,
    outside: &Path,
    root: &FilePath,
) -> Result<Vec<(FilePath, Entry)>, FileSyncError> {
    let mut entries = Vec::new();
    let mut open = vec![(outside.to_owned(), root.clone())];
    while let Some((place, path)) = open.pop() {
        let metadata = place
            .symlink_metadata()
            .map_err(FileSyncError::system("look at", &place))?;
        let mode = metadata.mode() & 0o777;
        let entry = if metadata.is_symlink() {
            let target = std::fs::read_link(&place).map_err(FileSyncError::system("read the link", &place))?;
            Entry::Symlink {
                target: LinkTarget::new(target.as_os_str().as_bytes()),
            }
        } else if metadata.is_file() {
            let file = std::fs::File::open(&place).map_err(FileSyncError::system("open", &place))?;
            let found = feeder.cut(file).map_err(|error| too_large(&path, error))?;
            let modified = Modified {
                seconds: metadata.mtime(),
                nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
            };
            Entry::File(file_entry(found, mode, modified))
        } else if metadata.is_dir() {
            let names = std::fs::read_dir(&place)
                .and_then(|entries| {
                    entries
                        .map(|entry| entry.map(|entry| entry.file_name()))
                        .collect::<std::io::Result<Vec<_>>>()
                })
                .map_err(FileSyncError::system("list", &place))?;
            for name in names {
                let child = path.join(name.as_bytes()).map_err(|fault| FileSyncError::Path {
                    path: place.join(&name).display().to_string(),
                    fault,
                })?;
                open.push((place.join(std::ffi::OsString::from_vec(name.into_vec())), child));
            }
            Entry::Directory { mode }
        } else {
            let what = "it is no file, folder or symbolic link";
            return Err(FileSyncError::Refused(path.to_string(), what));
        };
        if let Entry::Symlink { target } = &entry
            && !target.stays_inside(&path)
        {
            let what = "the symbolic link points out of the resource tree";
            return Err(FileSyncError::Refused(path.to_string(), what));
        }
        entries.push((path, entry));
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

pub(crate) fn file_entry(found: Cut, mode: u32, modified: Modified) -> FileEntry {
    FileEntry {
        content: found.content,
        layout: found.layout,
        size: found.size,
        mode,
        modified,
    }
}

/// Commits steps as one change, in as many log entries as they need. The version that they made.
pub(crate) async fn commit(consensus: &Consensus, steps: Vec<Step>) -> Result<u64, FileSyncError> {
    let mut parts = in_parts(steps);
    let last = parts.pop().unwrap_or_default();
    let mut set = None;
    for (part, steps) in (0u32..).zip(parts) {
        let set = *set.get_or_insert_with(|| SetId(uuid::Uuid::new_v4()));
        propose(consensus, FilesCommand::Stage { set, part, steps }).await?;
    }
    propose(consensus, FilesCommand::Change { set, steps: last }).await
}

async fn propose(consensus: &Consensus, command: FilesCommand) -> Result<u64, FileSyncError> {
    match consensus.propose(Command::Files(command)).await? {
        Response::FilesChanged(version) => Ok(version),
        _ => Err(FileSyncError::Remote(
            "the leader is of an older version: it answers without the manifest's version".into(),
        )),
    }
}

/// Steps in parts of a bounded size.
fn in_parts(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut add = |step: Step, size: usize| {
        if bytes + size > STEP_BYTES && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(step);
    };
    for step in steps {
        match step {
            Step::ReplaceTree {
                root,
                entries,
                expected,
            } => {
                let mut pieces = pieces(entries).into_iter();
                let (entries, size) = pieces.next().unwrap_or_default();
                let replace = Step::ReplaceTree {
                    root: root.clone(),
                    entries,
                    expected,
                };
                add(replace, size);
                for (entries, size) in pieces {
                    let root = root.clone();
                    add(Step::ExtendTree { root, entries }, size);
                }
            }
            other => {
                let size = match &other {
                    Step::Put { path, .. } => path.as_bytes().len() + ENTRY_BYTES,
                    _ => 2 * ENTRY_BYTES,
                };
                add(other, size);
            }
        }
    }
    parts.push(part);
    parts
}

type Piece = (Vec<(FilePath, Entry)>, usize);

fn pieces(entries: Vec<(FilePath, Entry)>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (path, entry) in entries {
        let size = path.as_bytes().len() + ENTRY_BYTES;
        match pieces.last_mut() {
            Some((entries, bytes)) if *bytes + size <= STEP_BYTES => {
                entries.push((path, entry));
                *bytes += size;
            }
            _ => pieces.push((vec![(path, entry)], size)),
        }
    }
    pieces
}

/// A step that puts an entry.
pub(crate) fn put(path: FilePath, entry: Entry, expected: Expected) -> Step {
    Step::Put { path, entry, expected }
}

/// A step that replaces a tree, whose root may be given as text.
pub(crate) fn replace(
    root: impl AsRef<[u8]>,
    entries: Vec<(FilePath, Entry)>,
    expected: Expected,
) -> Result<Step, FileSyncError> {
    Ok(Step::ReplaceTree {
        root: parse(root)?,
        entries,
        expected,
    })
}
