//! What can go wrong.

use std::net::SocketAddr;

/// Why gossip cannot start, or a message cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The UDP port cannot be bound.
    #[error("listen on {address} (UDP): {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The key or the certificates cannot be used.
    #[error(transparent)]
    Net(#[from] conclave_net::NetError),
    /// The text is no beat.
    #[error("a beat cannot be read: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A connection of a peer broke.
    #[error("exchange of beats over TCP: {0}")]
    Exchange(#[from] std::io::Error),
    /// A peer says that it is about to send more than a beat can be.
    #[error("a beat of {0} bytes is announced, at most {1} are taken")]
    TooLong(usize, usize),
}
