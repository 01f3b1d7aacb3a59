//! Snapshots: files that hold the state as it was at one log id.
//!
//! The folder holds one current snapshot. A new one, built here or received from the leader, is written beside it, synced, and
//! takes its place by a rename, so that there is always a whole one. Whoever sends the old one meanwhile goes on reading it:
//! its file is open.

mod format;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::ClusterState;
use conclave_wal::{Disk, DiskFile};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::packed::{pack, unpack};
use crate::types::{LogId, Snapshot, SnapshotMeta};
use format::{BlockReader, BlockWriter};

const CURRENT: &str = "snapshot";
/// Names of files that are being written. What is left of them after a crash is removed.
const UNFINISHED: &str = ".part";
/// Between two blocks a builder rests this long: building shares the processor and the disk with proposals, which wait for
/// them, while nobody waits for a snapshot.
const PAUSE: Duration = Duration::from_millis(2);

/// An open snapshot, whole or being received.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    file: Arc<dyn DiskFile>,
    bytes: u64,
    /// Where it lies while it is not the current one yet.
    part: Option<PathBuf>,
    /// What it holds, when that has been read already.
    state: Option<ClusterState>,
}

impl SnapshotFile {
    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads a piece of the file; an empty one at the end.
    pub(crate) fn piece(&self, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; bytes_max];
        let read = self.file.read_at(offset, &mut piece)?;
        piece.truncate(read);
        Ok(piece)
    }

    /// Reads and checks all of it.
    fn read(&self) -> io::Result<(SnapshotMeta, ClusterState)> {
        read(&*self.file)
    }
}

/// Reads and checks a whole file: what it says of itself, and the state.
pub(crate) fn read<D: DeserializeOwned>(file: &dyn DiskFile) -> io::Result<(D, ClusterState)> {
    let (mut reader, description) = BlockReader::open(file)?;
    let about = unpack(&description)?;
    let state = rmp_serde::from_read(&mut reader).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    reader.finish()?;
    Ok((about, state))
}

/// The folder of the snapshots. Clones are the same folder.
#[derive(Clone)]
pub(crate) struct SnapshotStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    inner: Arc<Mutex<Inner>>,
    /// Whether building rests between blocks.
    paced: bool,
}

#[derive(Default)]
struct Inner {
    current: Option<Snapshot>,
    parts: u64,
}

impl SnapshotStore {
    /// Opens the folder and reads the current snapshot. Blocks, as all of this type's methods do.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        paced: bool,
    ) -> io::Result<(Self, Option<(SnapshotMeta, ClusterState)>)> {
        disk.create_dir(dir)?;
        for name in disk.list(dir)? {
            if name.ends_with(UNFINISHED) {
                disk.remove(&dir.join(name))?;
            }
        }
        let store = Self {
            disk,
            dir: dir.to_owned(),
            inner: Arc::default(),
            paced,
        };
        let file = match store.disk.open(&dir.join(CURRENT)) {
            Ok(file) => Arc::<dyn DiskFile>::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((store, None)),
            Err(error) => return Err(error),
        };
        let snapshot = SnapshotFile {
            bytes: file.len()?,
            file,
            part: None,
            state: None,
        };
        let (meta, state) = snapshot.read()?;
        store.lock().current = Some(Snapshot {
            meta: meta.clone(),
            snapshot,
        });
        Ok((store, Some((meta, state))))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current snapshot. Does not block.
    pub(crate) fn current(&self) -> Option<Snapshot> {
        self.lock().current.clone()
    }

    fn new_part(&self) -> io::Result<(PathBuf, Arc<dyn DiskFile>)> {
        let number = {
            let mut inner = self.lock();
            inner.parts += 1;
            inner.parts
        };
        let path = self.dir.join(format!("{number}{UNFINISHED}"));
        let file = self.disk.create(&path)?;
        Ok((path, file.into()))
    }

    /// Writes a state down and makes it the current snapshot, unless a later one has become that meanwhile.
    pub(crate) fn build(&self, meta: &SnapshotMeta, state: &ClusterState) -> io::Result<Snapshot> {
        let mut part = self.write(meta, state)?;
        let snapshot = Snapshot {
            meta: meta.clone(),
            snapshot: SnapshotFile {
                file: Arc::clone(&part.file),
                bytes: part.bytes,
                part: part.path.take(),
                state: None,
            },
        };
        self.adopt(snapshot)
    }

    /// Writes a state down beside the current snapshot: for somebody else, unless it is adopted.
    pub(crate) fn write(&self, about: &impl Serialize, state: &ClusterState) -> io::Result<Receiving> {
        let mut part = self.receive()?;
        let mut pause = || {
            if self.paced {
                std::thread::sleep(PAUSE);
            }
        };
        let mut writer = BlockWriter::new(&*part.file, &pack(about)?, &mut pause)?;
        rmp_serde::encode::write_named(&mut writer, state).map_err(io::Error::other)?;
        part.bytes = writer.finish()?;
        Ok(part)
    }

    /// Makes a snapshot the current one. An older one than that is left out: its file is removed, and it stays readable.
    fn adopt(&self, mut snapshot: Snapshot) -> io::Result<Snapshot> {
        // Held over the rename: two snapshots must not overtake one another.
        let mut inner = self.lock();
        let Some(part) = snapshot.snapshot.part.take() else {
            return Ok(snapshot);
        };
        snapshot.snapshot.state = None;
        let newest: Option<LogId> = inner.current.as_ref().and_then(|current| current.meta.last_log_id);
        if newest > snapshot.meta.last_log_id {
            self.disk.remove(&part)?;
            return Ok(snapshot);
        }
        self.disk.rename(&part, &self.dir.join(CURRENT))?;
        self.disk.sync_dir(&self.dir)?;
        inner.current = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Begins to receive a snapshot.
    pub(crate) fn receive(&self) -> io::Result<Receiving> {
        let (path, file) = self.new_part()?;
        Ok(Receiving {
            store: self.clone(),
            path: Some(path),
            file,
            bytes: 0,
        })
    }

    /// Makes a received snapshot the current one and gives the state that it holds.
    pub(crate) fn install(&self, meta: &SnapshotMeta, mut snapshot: SnapshotFile) -> io::Result<ClusterState> {
        let state = match snapshot.state.take() {
            Some(state) => state,
            None => snapshot.read()?.1,
        };
        if snapshot.part.is_none() {
            // Another store's current snapshot: its name is not ours to take.
            snapshot = self.copy(&snapshot)?;
        }
        self.adopt(Snapshot {
            meta: meta.clone(),
            snapshot,
        })?;
        Ok(state)
    }

    fn copy(&self, snapshot: &SnapshotFile) -> io::Result<SnapshotFile> {
        let mut receiving = self.receive()?;
        loop {
            let piece = snapshot.piece(receiving.bytes, format::BLOCK_BYTES)?;
            if piece.is_empty() {
                return receiving.finish().map(|(_, file)| file);
            }
            receiving.write(&piece)?;
        }
    }
}

/// A snapshot that is not the current one: on its way in, or for somebody else. Dropped, it leaves nothing behind.
pub(crate) struct Receiving {
    store: SnapshotStore,
    path: Option<PathBuf>,
    file: Arc<dyn DiskFile>,
    bytes: u64,
}

impl Receiving {
    /// Takes the next bytes.
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_at(self.bytes, piece)?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    /// Reads a piece of what is there; an empty one at the end.
    pub(crate) fn piece(&self, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; bytes_max];
        let read = self.file.read_at(offset, &mut piece)?;
        piece.truncate(read);
        Ok(piece)
    }

    /// Bytes taken so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it durable, and reads and checks all of it.
    pub(crate) fn finish(mut self) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        self.file.sync()?;
        let mut snapshot = SnapshotFile {
            file: Arc::clone(&self.file),
            bytes: self.bytes,
            part: None,
            state: None,
        };
        let (meta, state) = snapshot.read()?;
        snapshot.state = Some(state);
        snapshot.part = self.path.take();
        Ok((meta, snapshot))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = self.store.disk.remove(&path)
        {
            tracing::debug!(%error, "an unfinished snapshot could not be removed; the next start does it");
        }
    }
}
