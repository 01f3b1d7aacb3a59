//! What can go wrong.

use std::path::PathBuf;

/// Why files were not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum FileSyncError {
    /// There is no such file.
    #[error("file {0} was not found")]
    NotFound(String),
    /// The name cannot be stored.
    #[error("file name {0:?} is refused: {1}")]
    Refused(String, &'static str),
    /// Too few nodes could take the contents.
    #[error("the contents could be stored on {stored} of {wanted} nodes only: {last}; nothing was changed, try again")]
    TooFewCopies {
        /// How many took them.
        stored: usize,
        /// How many are a majority.
        wanted: usize,
        /// The last refusal.
        last: String,
    },
    /// The change could not be committed.
    #[error("the change of the files could not be committed: {0}")]
    Consensus(#[from] conclave_consensus::ConsensusError),
    /// The content is known and no node that can be reached has it.
    #[error("the content of {0} is on no node that can be reached")]
    ContentMissing(String),
    /// The system refused.
    #[error("{what} {path}: {source}", path = path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The node's identity cannot be used.
    #[error(transparent)]
    Net(#[from] conclave_net::NetError),
}

impl FileSyncError {
    pub(crate) fn system(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::System { what, path, source }
    }
}
