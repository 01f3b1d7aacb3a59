//! What can go wrong.

use std::path::PathBuf;

use conclave_catalog::Refusal;
use conclave_catalog::files::{FilePath, FilesRefusal, PathFault};
use conclave_consensus::ConsensusError;

/// Why files were not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum FileSyncError {
    /// There is no such file.
    #[error("file {0} was not found")]
    NotFound(String),
    /// The name, or what is there, cannot be stored.
    #[error("file {0:?} is refused: {1}")]
    Refused(String, &'static str),
    /// The path is none.
    #[error("{path:?} is no path of the resource tree: {fault}")]
    Path {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// The change does not fit what the tree holds now: somebody else was faster, or something is in its way.
    #[error("{0}")]
    Conflict(FilesRefusal),
    /// The file changed while it was read.
    #[error("{0} changes while it is read; try again when nobody writes to it")]
    Unsettled(FilePath),
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
    /// Too little of the disk would stay free.
    #[error(
        "the disk of {path} has {free} bytes free, of which {reserve} are kept for the database and Raft: free some, then it goes on by itself",
        path = path.display()
    )]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// What is free, in bytes.
        free: u64,
        /// What must stay free, in bytes.
        reserve: u64,
    },
    /// The folder of the resources is not the one that this node wrote to.
    #[error(
        "{path} is not the folder of this node's resources: is its disk mounted? If it is lost, remove {marker} and the node makes it anew",
        path = path.display(), marker = marker.display()
    )]
    ForeignRoot {
        /// The folder.
        path: PathBuf,
        /// The file that remembers it.
        marker: PathBuf,
    },
    /// The change could not be committed.
    #[error("the change of the files could not be committed: {0}")]
    Consensus(ConsensusError),
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
    /// A peer, or the node that the command line asks, refused or did not answer.
    #[error("{0}")]
    Remote(String),
    /// The node's identity cannot be used.
    #[error(transparent)]
    Net(#[from] conclave_net::NetError),
    /// The work was cut off: the node is stopping, or a thread was lost (the log says why).
    #[error("the work was cut off: the node is stopping, or its log says what happened")]
    CutOff,
}

impl FileSyncError {
    pub(crate) fn system(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::System { what, path, source }
    }
}

impl From<ConsensusError> for FileSyncError {
    fn from(error: ConsensusError) -> Self {
        match error {
            ConsensusError::Refused(Refusal::Files(refusal)) => Self::Conflict(refusal),
            other => Self::Consensus(other),
        }
    }
}

/// A path as somebody gave it.
pub(crate) fn parse(path: impl AsRef<[u8]>) -> Result<FilePath, FileSyncError> {
    let bytes = path.as_ref();
    FilePath::new(bytes).map_err(|fault| FileSyncError::Path {
        path: String::from_utf8_lossy(bytes).into_owned(),
        fault,
    })
}

/// Does what blocks on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileSyncError> + Send + 'static,
) -> Result<T, FileSyncError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(FileSyncError::CutOff))
}
