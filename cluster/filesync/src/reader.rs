//! Reading a file: from this node's chunks, or from a peer's while they are on their way.

use std::sync::Arc;

use bytes::Bytes;
use conclave_catalog::files::{ContentHash, FileEntry, Layout, Modified};
use futures::{Stream, StreamExt, stream};

use crate::FileSyncError;
use crate::chunk::{Index, Listed, read_index, read_list};
use crate::error::blocking;
use crate::store::{ChunkStore, Lease};
use crate::transfer::Peers;

/// Chunks that are read ahead of whoever takes them.
const READ_AHEAD: usize = 2;

/// What is read of a peer is kept while so much of the disk is free: the last of it is for what the tree has to show.
const KEPT_WITHIN_BYTES: u64 = 64 << 20;

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
    store: ChunkStore,
    peers: Peers,
    _lease: Lease,
}

async fn load(store: &ChunkStore, peers: &Peers, hash: ContentHash) -> Result<Option<Bytes>, FileSyncError> {
    let own = store.clone();
    if let Some(bytes) = blocking(move || Ok(own.get(hash))).await? {
        return Ok(Some(bytes));
    }
    let Some(chunk) = peers.fetch_one(hash).await else {
        return Ok(None);
    };
    let (own, bytes) = (store.clone(), chunk.bytes.clone());
    let keep = move || own.check_room(KEPT_WITHIN_BYTES).and_then(|()| own.put(&[chunk]));
    let kept = blocking(keep).await;
    if let Err(error) = kept {
        // It can be read all the same.
        tracing::debug!(%error, "a chunk that was read from a peer is not kept");
    }
    Ok(Some(bytes))
}

impl FileReader {
    pub(crate) async fn open(
        name: String,
        entry: FileEntry,
        version: u64,
        store: &ChunkStore,
        peers: &Peers,
    ) -> Result<Self, FileSyncError> {
        let missing = || FileSyncError::ContentMissing(name.clone());
        let mut lease = store.lease();
        lease.add([entry.content]);
        let chunks = match entry.layout {
            Layout::Whole => vec![Listed {
                hash: entry.content,
                bytes: u32::try_from(entry.size).unwrap_or(u32::MAX),
            }],
            Layout::Listed => {
                let list = load(store, peers, entry.content).await?.ok_or_else(missing)?;
                match read_index(&list).ok_or_else(missing)? {
                    Index::Chunks(chunks) => chunks,
                    Index::Lists(lists) => {
                        lease.add(lists.iter().map(|list| list.hash));
                        let mut chunks = Vec::new();
                        for list in lists {
                            let list = load(store, peers, list.hash).await?.ok_or_else(missing)?;
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
                store: store.clone(),
                peers: peers.clone(),
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
        for (number, chunk) in self.inner.chunks.iter().enumerate() {
            let (start, next) = (at, at + u64::from(chunk.bytes));
            at = next;
            if next > offset && start < end {
                let inside = |place: u64| usize::try_from(place.clamp(start, next) - start).unwrap_or_default();
                parts.push((number, inside(offset)..inside(end)));
            }
        }
        let reader = self.clone();
        stream::iter(parts)
            .map(move |(number, range)| {
                let inner = Arc::clone(&reader.inner);
                async move {
                    let chunk = inner.chunks.get(number).ok_or(FileSyncError::CutOff)?;
                    let bytes = load(&inner.store, &inner.peers, chunk.hash).await?;
                    let bytes = bytes.filter(|bytes| bytes.len() >= range.end);
                    let bytes = bytes.ok_or_else(|| FileSyncError::ContentMissing(inner.name.clone()))?;
                    Ok(bytes.slice(range))
                }
            })
            .buffered(READ_AHEAD)
    }
}
