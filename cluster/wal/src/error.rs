//! What can go wrong.

use std::io;
use std::path::PathBuf;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk said no.
    #[error("{path}: {what} failed")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The disk's word.
        #[source]
        source: io::Error,
    },
    /// Something that was durable is not there any more as it was written. The node must not go on with what is left.
    #[error("{path} is damaged at byte {offset}: {reason}")]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found.
        reason: String,
    },
    /// An earlier write or sync failed; what is on disk since then is unknown.
    #[error("the log refuses writes since an earlier one failed")]
    Poisoned,
    /// The payload is larger than a frame may be.
    #[error("a frame of {0} bytes is too large")]
    TooLarge(usize),
    /// The visitor of the recovered frames gave up.
    #[error("a recovered frame could not be used")]
    Rejected(#[source] io::Error),
}

impl WalError {
    pub(crate) fn io(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

impl From<WalError> for io::Error {
    fn from(error: WalError) -> Self {
        let kind = match &error {
            WalError::Io { source, .. } | WalError::Rejected(source) => source.kind(),
            WalError::Corrupt { .. } => io::ErrorKind::InvalidData,
            WalError::Poisoned => io::ErrorKind::Other,
            WalError::TooLarge(_) => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}
