//! A file system in memory that can lose what was not synced, for tests and simulation.
//!
//! [`MemoryDisk::crash`] models a power cut on a disk with sectors of 512 bytes: each sector written since the file's last
//! sync is there or is not, independently; a length not synced is somewhere between the old and the new; names made, changed
//! or removed since the folder's last sync are kept up to some point in their order. Everything random comes from the caller.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A file system in memory. Clones are the same file system.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Inner>>,
}

type Node = Arc<Mutex<Content>>;

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Changes of names since the last sync, oldest first.
    pending: Vec<NameChange>,
    /// Grows at a crash: files opened before it are dead.
    incarnation: u64,
    syncs: u64,
    fail_writes: bool,
}

#[derive(Debug, Clone)]
enum NameChange {
    Put(PathBuf, Node),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: std::collections::BTreeSet<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, change.clone());
        self.pending.push(change);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: NameChange) {
    match change {
        NameChange::Put(path, node) => {
            names.insert(path, node);
        }
        NameChange::Remove(path) => {
            names.remove(&path);
        }
    }
}

impl MemoryDisk {
    /// Cuts the power. `random` gives a number below its argument; `true` for `lose_all` loses all that was not synced.
    pub fn crash(&self, lose_all: bool, random: &mut dyn FnMut(u64) -> u64) {
        let mut inner = lock(&self.inner);
        inner.incarnation += 1;
        let kept = if lose_all {
            0
        } else {
            random(inner.pending.len() as u64 + 1)
        };
        let pending = std::mem::take(&mut inner.pending);
        let mut names = std::mem::take(&mut inner.durable);
        for change in pending.into_iter().take(usize::try_from(kept).unwrap_or(usize::MAX)) {
            apply(&mut names, change);
        }
        for node in names.values() {
            lock(node).crash(lose_all, random);
        }
        inner.durable.clone_from(&names);
        inner.names = names;
        inner.fail_writes = false;
    }

    /// Ends the process and not the machine: what the kernel was given is kept, open files are dead.
    pub fn end_process(&self) {
        lock(&self.inner).incarnation += 1;
    }

    /// From now on writes and syncs fail, until the next crash.
    pub fn fail_writes(&self) {
        lock(&self.inner).fail_writes = true;
    }

    /// How many syncs of files there were.
    pub fn syncs(&self) -> u64 {
        lock(&self.inner).syncs
    }

    /// A file's content, and its replacement: for tests that damage it.
    pub fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let inner = lock(&self.inner);
        if let Some(node) = inner.names.get(path) {
            let mut content = lock(node);
            change(&mut content.bytes);
            content.durable = content.bytes.clone();
            content.dirty.clear();
        }
    }

    fn file(&self, inner: &Inner, node: Node) -> Box<dyn DiskFile> {
        Box::new(MemoryFile {
            disk: self.clone(),
            node,
            incarnation: inner.incarnation,
        })
    }
}

impl Content {
    fn sync(&mut self) {
        let Self { bytes, durable, dirty } = self;
        durable.resize(bytes.len(), 0);
        for sector in std::mem::take(dirty) {
            let start = (sector * SECTOR).min(bytes.len());
            let end = (start + SECTOR).min(bytes.len());
            durable[start..end].copy_from_slice(&bytes[start..end]);
        }
    }

    fn crash(&mut self, lose_all: bool, random: &mut dyn FnMut(u64) -> u64) {
        let (old, new) = (self.durable.len(), self.bytes.len());
        let length = if lose_all || old == new {
            old
        } else {
            let between = random(old.abs_diff(new) as u64 + 1);
            old.min(new) + usize::try_from(between).unwrap_or(0)
        };
        let mut after = std::mem::take(&mut self.durable);
        after.resize(length, 0);
        for sector in std::mem::take(&mut self.dirty) {
            if lose_all || random(2) == 0 {
                continue;
            }
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(length).min(self.bytes.len());
            if start < end {
                after[start..end].copy_from_slice(&self.bytes[start..end]);
            }
        }
        self.bytes.clone_from(&after);
        self.durable = after;
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = lock(&self.inner);
        Ok(inner
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = lock(&self.inner);
        let node = Node::default();
        inner.change(NameChange::Put(path.to_owned(), Arc::clone(&node)));
        Ok(self.file(&inner, node))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inner = lock(&self.inner);
        let node = inner.names.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(&inner, node))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        let node = inner.names.get(from).cloned().ok_or(io::ErrorKind::NotFound)?;
        // A journalling file system makes both halves durable together; the order alone matters here.
        inner.change(NameChange::Put(to.to_owned(), node));
        inner.change(NameChange::Remove(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        if !inner.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.pending.clear();
        inner.durable = inner.names.clone();
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    node: Node,
    incarnation: u64,
}

impl MemoryFile {
    fn writable(&self) -> io::Result<()> {
        let inner = lock(&self.disk.inner);
        if inner.incarnation != self.incarnation {
            return Err(io::Error::other("the machine that had the file open is gone"));
        }
        if inner.fail_writes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.node).bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = lock(&self.node);
        let start = usize::try_from(offset)
            .map_err(io::Error::other)?
            .min(content.bytes.len());
        let end = (start + buffer.len()).min(content.bytes.len());
        buffer[..end - start].copy_from_slice(&content.bytes[start..end]);
        Ok(end - start)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        let mut content = lock(&self.node);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        if content.bytes.len() < end {
            content.bytes.resize(end, 0);
        }
        content.bytes[start..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            content.dirty.extend(start / SECTOR..=(end - 1) / SECTOR);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?;
        let mut content = lock(&self.node);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        content.bytes.resize(len, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.writable()?;
        lock(&self.disk.inner).syncs += 1;
        lock(&self.node).sync();
        Ok(())
    }
}
