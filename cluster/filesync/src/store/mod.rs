//! The chunk store of this node: one file for each chunk, named by its hash.
//!
//! Blocking: callers are on threads of their own. A chunk is written to `incoming/` under its name, made durable there and moved to its
//! place. What a crash leaves in `incoming/` is looked at when the store is opened: whole chunks are taken over, the rest is removed.
//! So one sync makes a whole batch durable, and nothing has to be remembered about it.

mod contents;
mod disk_space;
mod sweep;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use conclave_catalog::files::ContentHash;
use tokio::time::Instant;

use crate::FileSyncError;
use crate::chunk::{Chunk, STORED_BYTES_MAX, hash_of};
pub(crate) use contents::Contents;
pub(crate) use sweep::{Kept, sweepable};

/// From so many files on, one sync of the file system is cheaper than one for each.
const SYNC_EACH_MAX: usize = 16;

/// The store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ChunkStore {
    inner: Arc<Inner>,
}

struct Inner {
    chunks: PathBuf,
    incoming: PathBuf,
    damaged: PathBuf,
    /// Bytes of the disk that stay free for Raft and the database.
    reserve: u64,
    index: Mutex<HashMap<ContentHash, Stored>>,
    next: AtomicU64,
    found_damaged: AtomicU64,
}

struct Stored {
    bytes: u32,
    /// When it was written or asked for; the start of the process for what was there before.
    touched: Instant,
    /// Uploads and readers that need it.
    leases: u32,
}

/// Chunks that are kept until this is dropped, whether a file names them or not.
pub(crate) struct Lease {
    store: ChunkStore,
    hashes: Vec<ContentHash>,
}

impl ChunkStore {
    /// Opens the store below `dir`, and repairs what a crash has left.
    pub(crate) fn open(dir: &Path, reserve: u64) -> Result<Self, FileSyncError> {
        let inner = Inner {
            chunks: dir.join("chunks"),
            incoming: dir.join("incoming"),
            damaged: dir.join("damaged"),
            reserve,
            index: Mutex::default(),
            next: AtomicU64::new(0),
            found_damaged: AtomicU64::new(0),
        };
        let store = Self { inner: Arc::new(inner) };
        store.make_folders()?;
        store.load()?;
        store.take_incoming_over()?;
        Ok(store)
    }

    fn make_folders(&self) -> Result<(), FileSyncError> {
        let shards = (0..=u8::MAX).map(|byte| self.inner.chunks.join(format!("{byte:02x}")));
        for folder in shards.chain([self.inner.incoming.clone(), self.inner.damaged.clone()]) {
            std::fs::create_dir_all(&folder).map_err(FileSyncError::system("create", &folder))?;
        }
        Ok(())
    }

    fn load(&self) -> Result<(), FileSyncError> {
        let mut index = self.lock();
        let touched = Instant::now();
        for shard in read_dir(&self.inner.chunks)? {
            for entry in read_dir(&shard)? {
                let name = entry.file_name().and_then(|name| name.to_str());
                let Some(hash) = name.and_then(ContentHash::from_text) else {
                    continue;
                };
                let Ok(metadata) = entry.metadata() else { continue };
                let stored = Stored {
                    bytes: u32::try_from(metadata.len()).unwrap_or(u32::MAX),
                    touched,
                    leases: 0,
                };
                index.insert(hash, stored);
            }
        }
        Ok(())
    }

    fn take_incoming_over(&self) -> Result<(), FileSyncError> {
        for path in read_dir(&self.inner.incoming)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let named = name.split('.').next().and_then(ContentHash::from_text);
            let whole = named.filter(|hash| std::fs::read(&path).is_ok_and(|bytes| hash_of(&bytes) == *hash));
            match whole {
                Some(hash) => {
                    let file = File::open(&path).and_then(|file| {
                        file.sync_all()?;
                        file.metadata()
                    });
                    let bytes = file.map_err(FileSyncError::system("sync", &path))?.len();
                    self.move_in(&[(path, hash, u32::try_from(bytes).unwrap_or(u32::MAX))])?;
                }
                None => std::fs::remove_file(&path).map_err(FileSyncError::system("remove", &path))?,
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContentHash, Stored>> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn path(&self, hash: ContentHash) -> PathBuf {
        let name = hash.to_string();
        self.inner.chunks.join(&name[..2]).join(name)
    }

    pub(crate) fn has(&self, hash: ContentHash) -> bool {
        self.lock().contains_key(&hash)
    }

    /// How many chunks, and how many bytes.
    pub(crate) fn totals(&self) -> (usize, u64) {
        let index = self.lock();
        (index.len(), index.values().map(|stored| u64::from(stored.bytes)).sum())
    }

    /// Chunks that were found damaged since the start.
    pub(crate) fn found_damaged(&self) -> u64 {
        self.inner.found_damaged.load(Ordering::Relaxed)
    }

    /// Which of these are not here. Those that are stay for the time of grace.
    pub(crate) fn missing(&self, hashes: impl IntoIterator<Item = ContentHash>) -> Vec<ContentHash> {
        let mut index = self.lock();
        let now = Instant::now();
        let lacks = |hash: &ContentHash| match index.get_mut(hash) {
            Some(stored) => {
                stored.touched = now;
                false
            }
            None => true,
        };
        hashes.into_iter().filter(lacks).collect()
    }

    /// A lease for chunks that will come to it.
    pub(crate) fn lease(&self) -> Lease {
        Lease {
            store: self.clone(),
            hashes: Vec::new(),
        }
    }

    /// Whether the disk of a folder takes so many bytes more.
    ///
    /// # Errors
    /// [`FileSyncError::DiskFull`] when too little of it would stay free.
    pub(crate) fn check_space(&self, folder: &Path, bytes: u64) -> Result<(), FileSyncError> {
        disk_space::check(folder, bytes, self.inner.reserve)
    }

    /// The same for chunks, in this store.
    ///
    /// # Errors
    /// [`FileSyncError::DiskFull`]
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), FileSyncError> {
        self.check_space(&self.inner.incoming, bytes)
    }

    /// Whether there is room for a file: so many bytes in the data directory, and so many in the tree at `root`.
    ///
    /// # Errors
    /// [`FileSyncError::DiskFull`]
    pub(crate) fn check_file(&self, root: &Path, stored: u64, shown: u64) -> Result<(), FileSyncError> {
        if disk_space::is_same_disk(&self.inner.incoming, root)? {
            return self.check_room(stored.saturating_add(shown));
        }
        self.check_room(stored)?;
        self.check_space(root, shown)
    }

    /// Stores chunks whose names have been verified; they are on disk for good when it returns. How many were new.
    ///
    /// # Errors
    /// [`FileSyncError::DiskFull`] before anything is written, when too little of the disk would stay free.
    pub(crate) fn put(&self, chunks: &[Chunk]) -> Result<usize, FileSyncError> {
        let wanted: std::collections::HashSet<_> = self
            .missing(chunks.iter().map(|chunk| chunk.hash))
            .into_iter()
            .collect();
        let mut new: Vec<&Chunk> = chunks.iter().filter(|chunk| wanted.contains(&chunk.hash)).collect();
        new.sort_unstable_by_key(|chunk| chunk.hash);
        new.dedup_by_key(|chunk| chunk.hash);
        if new.is_empty() {
            return Ok(0);
        }
        let bytes = new.iter().map(|chunk| chunk.bytes.len() as u64).sum();
        disk_space::check(&self.inner.incoming, bytes, self.inner.reserve)?;
        let mut written = Vec::with_capacity(new.len());
        let outcome = self.write_all(&new, &mut written);
        if let Err(error) = outcome {
            for (path, ..) in written {
                // It would be removed at the next start.
                let _gone = std::fs::remove_file(path);
            }
            return Err(error);
        }
        self.move_in(&written)?;
        Ok(written.len())
    }

    fn write_all(
        &self,
        chunks: &[&Chunk],
        written: &mut Vec<(PathBuf, ContentHash, u32)>,
    ) -> Result<(), FileSyncError> {
        let incoming = &self.inner.incoming;
        for chunk in chunks {
            let size = u32::try_from(chunk.bytes.len())
                .ok()
                .filter(|size| *size as usize <= STORED_BYTES_MAX);
            let size = size.ok_or(FileSyncError::Refused(
                chunk.hash.to_string(),
                "a chunk has 4 MiB at most",
            ))?;
            let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
            let path = incoming.join(format!("{}.{number}", chunk.hash));
            written.push((path.clone(), chunk.hash, size));
            let write = || {
                let mut file = File::create(&path)?;
                file.write_all(&chunk.bytes)?;
                if chunks.len() <= SYNC_EACH_MAX {
                    file.sync_data()?;
                }
                Ok(())
            };
            write().map_err(FileSyncError::system("write", &path))?;
        }
        let folder = File::open(incoming).map_err(FileSyncError::system("open", incoming))?;
        let synced = if chunks.len() <= SYNC_EACH_MAX {
            folder.sync_all()
        } else {
            rustix::fs::syncfs(&folder).map_err(Into::into)
        };
        synced.map_err(FileSyncError::system("sync", incoming))
    }

    /// Whoever sweeps holds the same lock: a chunk that comes back while it is swept is not lost.
    fn move_in(&self, written: &[(PathBuf, ContentHash, u32)]) -> Result<(), FileSyncError> {
        let mut index = self.lock();
        let touched = Instant::now();
        for (path, hash, bytes) in written {
            let place = self.path(*hash);
            if let Err(error) = std::fs::rename(path, &place) {
                // Its folder may have been removed by hand.
                let folder = place.parent().unwrap_or(&self.inner.chunks);
                std::fs::create_dir_all(folder)
                    .and_then(|()| std::fs::rename(path, &place))
                    .map_err(|_| error)
                    .map_err(FileSyncError::system("move", &place))?;
            }
            let stored = index.entry(*hash).or_insert(Stored {
                bytes: *bytes,
                touched,
                leases: 0,
            });
            stored.touched = touched;
        }
        Ok(())
    }

    /// A chunk, verified. One that is damaged is set aside, as if it had never been here.
    pub(crate) fn get(&self, hash: ContentHash) -> Option<Bytes> {
        let path = self.path(hash);
        let read = std::fs::read(&path);
        match read {
            Ok(bytes) if hash_of(&bytes) == hash => {
                if !self.has(hash) {
                    // Put back by hand, or written since.
                    let stored = Stored {
                        bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                        touched: Instant::now(),
                        leases: 0,
                    };
                    self.lock().entry(hash).or_insert(stored);
                }
                Some(bytes.into())
            }
            Ok(_) => {
                self.set_aside(hash, &path);
                None
            }
            Err(error) => {
                let lost = self.lock().remove(&hash).is_some();
                if lost {
                    tracing::warn!(path = %path.display(), %error, "a stored chunk cannot be read; it is fetched anew");
                    self.inner.found_damaged.fetch_add(1, Ordering::Relaxed);
                }
                None
            }
        }
    }

    fn set_aside(&self, hash: ContentHash, path: &Path) {
        let aside = self.inner.damaged.join(hash.to_string());
        tracing::warn!(
            path = %path.display(), kept = %aside.display(),
            "a stored chunk is damaged; it is set aside and fetched anew"
        );
        let mut index = self.lock();
        if let Err(error) = std::fs::rename(path, &aside) {
            tracing::warn!(path = %path.display(), %error, "the damaged chunk could not be set aside");
        }
        index.remove(&hash);
        self.inner.found_damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// Every chunk there is, in the order of names.
    pub(crate) fn all(&self) -> Vec<ContentHash> {
        let mut all: Vec<ContentHash> = self.lock().keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// Removes what no file names, nobody holds and nobody has asked for within the time of grace. How many, and how many bytes.
    pub(crate) fn sweep(&self, live: &std::collections::HashSet<ContentHash>, grace: Duration) -> (usize, u64) {
        let now = Instant::now();
        let kept = |stored: &Stored| Kept {
            idle: now.saturating_duration_since(stored.touched),
            leases: stored.leases,
        };
        let candidates = {
            let index = self.lock();
            sweepable(index.iter().map(|(hash, stored)| (*hash, kept(stored))), live, grace)
        };
        let (mut count, mut bytes) = (0, 0);
        for hash in candidates {
            // One at a time: whoever waits for the lock waits for one removal.
            let mut index = self.lock();
            let still = index.get(&hash).map(kept).filter(|kept| kept.is_idle(grace));
            if still.is_none() {
                continue;
            }
            let path = self.path(hash);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a chunk that nothing names could not be removed");
                }
                _ => {
                    count += 1;
                    bytes += index.remove(&hash).map_or(0, |stored| u64::from(stored.bytes));
                }
            }
        }
        (count, bytes)
    }
}

impl Lease {
    /// Keeps these from now on, here already or not. Those that come later are kept when they have come and are named again.
    pub(crate) fn add(&mut self, hashes: impl IntoIterator<Item = ContentHash>) {
        let mut index = self.store.lock();
        for hash in hashes {
            if let Some(stored) = index.get_mut(&hash) {
                stored.leases += 1;
                self.hashes.push(hash);
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut index = self.store.lock();
        for hash in &self.hashes {
            if let Some(stored) = index.get_mut(hash) {
                stored.leases = stored.leases.saturating_sub(1);
            }
        }
    }
}

fn read_dir(dir: &Path) -> Result<Vec<PathBuf>, FileSyncError> {
    let entries = std::fs::read_dir(dir).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()
    });
    entries.map_err(FileSyncError::system("list", dir))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn chunk(text: &str) -> Chunk {
        Chunk::new(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn chunks_come_back_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = ChunkStore::open(dir.path(), 0).unwrap();
        let hello = chunk("hello");
        assert_eq!(store.put(&[hello.clone(), hello.clone()]).unwrap(), 1);
        assert_eq!(store.put(std::slice::from_ref(&hello)).unwrap(), 0);
        assert_eq!(store.get(hello.hash), Some(hello.bytes.clone()));
        std::fs::write(store.path(hello.hash), b"jello").unwrap();
        assert_eq!(store.get(hello.hash), None);
        assert_eq!((store.has(hello.hash), store.found_damaged()), (false, 1));
        let aside = dir.path().join("damaged").join(hello.hash.to_string());
        assert_eq!(std::fs::read(aside).unwrap(), b"jello");
        store.put(std::slice::from_ref(&hello)).unwrap();
        assert_eq!(store.get(hello.hash), Some(hello.bytes));
    }

    #[test]
    fn what_a_crash_leaves_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        drop(ChunkStore::open(dir.path(), 0).unwrap());
        let (whole, torn) = (chunk("whole"), chunk("torn"));
        let incoming = dir.path().join("incoming");
        std::fs::write(incoming.join(format!("{}.7", whole.hash)), &whole.bytes).unwrap();
        std::fs::write(incoming.join(format!("{}.8", torn.hash)), b"to").unwrap();
        std::fs::write(incoming.join("what"), b"").unwrap();
        let store = ChunkStore::open(dir.path(), 0).unwrap();
        assert_eq!(store.get(whole.hash), Some(whole.bytes));
        assert!(!store.has(torn.hash));
        assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = ChunkStore::open(dir.path(), u64::MAX / 2).unwrap();
        let refused = store.put(&[chunk("x")]);
        assert!(matches!(refused, Err(FileSyncError::DiskFull { .. })), "{refused:?}");
        assert_eq!(std::fs::read_dir(dir.path().join("incoming")).unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_nobody_needs_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = ChunkStore::open(dir.path(), 0).unwrap();
        let [named, held, asked, left] = ["named", "held", "asked", "left"].map(chunk);
        store
            .put(&[named.clone(), held.clone(), asked.clone(), left.clone()])
            .unwrap();
        let mut lease = store.lease();
        lease.add([held.hash]);
        let grace = Duration::from_secs(3600);
        let live = HashSet::from([named.hash]);
        assert_eq!(store.sweep(&live, grace), (0, 0), "the time of grace is not over");
        tokio::time::advance(grace * 2).await;
        assert_eq!(store.missing([asked.hash]), []);
        assert_eq!(store.sweep(&live, grace), (1, 4));
        assert!(store.has(named.hash) && store.has(held.hash) && store.has(asked.hash) && !store.has(left.hash));
        drop(lease);
        tokio::time::advance(grace * 2).await;
        assert_eq!(store.sweep(&live, grace).0, 2);
        assert_eq!(store.all(), [named.hash]);
    }
}
