//! What can go wrong with identities and connections.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why an identity or a connection can't be had.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A file of the identity, or one that holds certificates, cannot be read or written.
    #[error("file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A certificate, key or signing request is not what it should be.
    #[error("certificate: {0}")]
    Certificate(String),
    /// TLS cannot be set up with what was given.
    #[error("TLS: {0}")]
    Tls(String),
    /// The text is no join token.
    #[error("join token: {0}; it has the form <id>.<secret>.<certificate fingerprint>")]
    JoinToken(&'static str),
    /// The key does not open what was sealed.
    #[error("the cluster key does not open this: it was sealed by another cluster, or is damaged")]
    Seal,
    /// Nobody can be reached, or the peer is not who it should be.
    #[error("{peer}: {reason}")]
    Connect {
        /// Who was called.
        peer: String,
        /// Why it failed.
        reason: String,
    },
    /// The machine of a peer is there and says that nobody listens.
    #[error("{peer}: connection refused: no process listens there")]
    Refused {
        /// Who was called.
        peer: String,
    },
    /// A port cannot be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl From<rcgen::Error> for NetError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error.to_string())
    }
}

impl From<rustls::Error> for NetError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.to_string())
    }
}
