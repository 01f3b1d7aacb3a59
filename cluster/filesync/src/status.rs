//! How far this node's tree is, and what is wrong with it.

use serde::{Deserialize, Serialize};

/// How far this node's tree is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesStatus {
    /// Every change up to this version of the manifest is to be seen in the tree.
    pub applied: u64,
    /// The newest version that has been looked at.
    pub seen: u64,
    /// Changes (by their versions) that wait for contents, the first of them.
    pub waiting: Vec<u64>,
    /// Files, folders and links that the tree does not show yet.
    pub missing: usize,
    /// Chunks that are being fetched, and their bytes as far as they are known.
    pub missing_chunks: usize,
    /// Their bytes.
    pub missing_bytes: u64,
    /// Changes on disk that wait to be taken up.
    pub edits: usize,
    /// Whether changes on disk are noticed at once (`events`), by looking now and then (`scan`), or not yet (empty).
    pub watching: String,
    /// Why they are only noticed by looking.
    pub watch_failure: Option<String>,
    /// So much vanished from disk at once that it was not taken for deleted.
    pub held_deletions: usize,
    /// Things found in the tree that the cluster does not know, kept outside of it since the start.
    pub quarantined: u64,
    /// Chunks and files found damaged since the start.
    pub damaged: u64,
    /// Chunks with wrong bytes that peers have sent since the start.
    pub wrong_from_peers: u64,
    /// Chunks in this node's store.
    pub chunks: usize,
    /// And their bytes.
    pub chunk_bytes: u64,
    /// Bytes of chunks that were asked of other nodes and came, since the start. What was given unasked is in the giver's `bytes_sent`.
    pub bytes_received: u64,
    /// Bytes of chunks given to other nodes unasked, since the start.
    pub bytes_sent: u64,
    /// What went wrong last, and has not been overcome.
    pub error: Option<String>,
}

/// What looking through everything found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubReport {
    /// Chunks that were read.
    pub chunks: usize,
    /// Those that were damaged or missing; they are fetched anew.
    pub damaged_chunks: usize,
    /// Files of the tree that were read.
    pub files: usize,
    /// Paths that were not as they should be; they are made anew.
    pub damaged_files: Vec<String>,
    /// Chunks that nothing named any more, and that were removed.
    pub swept_chunks: usize,
    /// Whether everything was whole again at the end; otherwise something is still to be fetched.
    pub healed: bool,
}
