//! Reading a file: from this node's chunks, or from a peer's while they are on their way.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use conclave_catalog::files::{ContentHash, FileEntry, Layout, Modified};
use futures::{Stream, StreamExt, TryStreamExt, stream};

use crate::FileSyncError;
use crate::chunk::{CHUNK_BYTES_MAX, Index, Listed, read_index, read_list};
use crate::error::blocking;
use crate::recent::RecentChunks;
use crate::store::{ChunkStore, Lease};
use crate::transfer::Peers;

/// Chunks that are ready, or asked of a peer, ahead of whoever takes them.
const READ_AHEAD: usize = 2;

/// What is read of a peer is kept while so much of the disk is free: the last of it is for what the tree has to show.
const KEPT_WITHIN_BYTES: u64 = 64 << 20;

/// Where chunks come from. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) store: ChunkStore,
    pub(crate) recent: RecentChunks,
    pub(crate) peers: Peers,
}

/// A version of a file, held open: it reads the same however the file changes meanwhile. Cheap to clone.
#[derive(Clone)]
pub struct FileReader {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    entry: FileEntry,
    version: u64,
    chunks: Vec<Listed>,
    sources: Sources,
    _lease: Lease,
}

/// A chunk of which something is wanted.
struct Part {
    hash: ContentHash,
    bytes: usize,
    wanted: Range<usize>,
}

impl Sources {
    /// Those of these chunks that are on this node. All are read at once: a thread that may block costs as much as a small chunk.
    async fn own(&self, hashes: Vec<ContentHash>) -> Result<Vec<Option<Bytes>>, FileSyncError> {
        let mut found: Vec<_> = hashes.iter().map(|hash| self.recent.get(*hash)).collect();
        if found.iter().all(Option::is_some) {
            return Ok(found);
        }
        let (store, recent) = (self.store.clone(), self.recent.clone());
        let read = move || {
            for (hash, found) in hashes.into_iter().zip(&mut found) {
                if found.is_none()
                    && let Some(bytes) = store.get(hash)
                {
                    recent.keep(hash, bytes.clone());
                    *found = Some(bytes);
                }
            }
            Ok(found)
        };
        blocking(read).await
    }

    /// A chunk that this node lacks. It has it then.
    async fn ask_peers(&self, hash: ContentHash) -> Option<Bytes> {
        let chunk = self.peers.fetch_one(hash).await?;
        let (store, bytes) = (self.store.clone(), chunk.bytes.clone());
        let keep = move || store.check_room(KEPT_WITHIN_BYTES).and_then(|()| store.put(&[chunk]));
        let kept = blocking(keep).await;
        if let Err(error) = kept {
            // It can be read all the same.
            tracing::debug!(%error, "a chunk that was read from a peer is not kept");
        }
        Some(bytes)
    }

    async fn load(&self, hash: ContentHash) -> Result<Option<Bytes>, FileSyncError> {
        match self.own(vec![hash]).await?.pop().flatten() {
            Some(bytes) => Ok(Some(bytes)),
            None => Ok(self.ask_peers(hash).await),
        }
    }
}

/// What is read at once: no more than one chunk may have.
fn in_groups(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let mut groups: Vec<Vec<Part>> = Vec::new();
    let mut bytes = 0;
    for part in parts {
        bytes += part.bytes;
        match groups.last_mut() {
            Some(group) if bytes <= CHUNK_BYTES_MAX => group.push(part),
            _ => {
                bytes = part.bytes;
                groups.push(vec![part]);
            }
        }
    }
    groups
}

impl FileReader {
    pub(crate) async fn open(
        name: String,
        entry: FileEntry,
        version: u64,
        sources: &Sources,
    ) -> Result<Self, FileSyncError> {
        let missing = || FileSyncError::ContentMissing(name.clone());
        let mut lease = sources.store.lease();
        lease.add([entry.content]);
        let chunks = match entry.layout {
            Layout::Whole => vec![Listed {
                hash: entry.content,
                bytes: u32::try_from(entry.size).unwrap_or(u32::MAX),
            }],
            Layout::Listed => {
                let list = sources.load(entry.content).await?.ok_or_else(missing)?;
                match read_index(&list).ok_or_else(missing)? {
                    Index::Chunks(chunks) => chunks,
                    Index::Lists(lists) => {
                        lease.add(lists.iter().map(|list| list.hash));
                        let mut chunks = Vec::new();
                        for list in lists {
                            let list = sources.load(list.hash).await?.ok_or_else(missing)?;
                            chunks.extend(read_list(&list).ok_or_else(missing)?);
                        }
                        chunks
                    }
                }
            }
        };
        lease.add(chunks.iter().map(|chunk| chunk.hash));
        Ok(Self {
            inner: Arc::new(Inner {
                name,
                entry,
                version,
                chunks,
                sources: sources.clone(),
                _lease: lease,
            }),
        })
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.inner.entry.size
    }

    /// Permission bits.
    pub fn mode(&self) -> u32 {
        self.inner.entry.mode
    }

    /// When it was last modified.
    pub fn modified(&self) -> Modified {
        self.inner.entry.modified
    }

    /// Names the content: the same for the same bytes, on every node.
    pub fn content(&self) -> ContentHash {
        self.inner.entry.content
    }

    /// The version of the manifest that put it there.
    pub fn version(&self) -> u64 {
        self.inner.version
    }

    /// All of it, in pieces.
    pub fn read_all(&self) -> impl Stream<Item = Result<Bytes, FileSyncError>> + Send + use<> {
        self.read_range(0, self.size())
    }

    /// `length` bytes from `offset` on, or as many as there are, in pieces of at most a megabyte. Every piece is verified; the stream ends with
    /// an error when a piece can be had from no node.
    pub fn read_range(
        &self,
        offset: u64,
        length: u64,
    ) -> impl Stream<Item = Result<Bytes, FileSyncError>> + Send + use<> {
        let end = offset.saturating_add(length).min(self.size());
        let mut at = 0;
        let mut parts = Vec::new();
        for chunk in &self.inner.chunks {
            let (start, next) = (at, at + u64::from(chunk.bytes));
            at = next;
            if next > offset && start < end {
                let inside = |place: u64| usize::try_from(place.clamp(start, next) - start).unwrap_or_default();
                parts.push(Part {
                    hash: chunk.hash,
                    bytes: inside(next),
                    wanted: inside(offset)..inside(end),
                });
            }
        }
        let (reader, lacking) = (Arc::clone(&self.inner), Arc::clone(&self.inner));
        stream::iter(in_groups(parts))
            .then(move |group| {
                let inner = Arc::clone(&reader);
                async move {
                    let own = inner.sources.own(group.iter().map(|part| part.hash).collect()).await?;
                    Ok::<_, FileSyncError>(stream::iter(group.into_iter().zip(own).map(Ok::<_, FileSyncError>)))
                }
            })
            .try_flatten()
            .map(move |found| {
                let inner = Arc::clone(&lacking);
                async move {
                    let (Part { hash, wanted, .. }, own) = found?;
                    let bytes = match own {
                        Some(bytes) => Some(bytes),
                        None => inner.sources.ask_peers(hash).await,
                    };
                    let bytes = bytes.filter(|bytes| bytes.len() >= wanted.end);
                    let bytes = bytes.ok_or_else(|| FileSyncError::ContentMissing(inner.name.clone()))?;
                    Ok(bytes.slice(wanted))
                }
            })
            .buffered(READ_AHEAD)
    }
}
