//! What can go wrong.

use conclave_catalog::{NodeId, Refusal};

/// Why the group gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsensusError {
    /// No leader was found, or none answered, within the deadline. The outcome of a proposal is unknown.
    #[error("no leader answered within the deadline: {0}")]
    Unavailable(String),
    /// The state machine refused the command; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The peer is unknown or cannot be reached.
    #[error("node {node}: {reason}")]
    Peer {
        /// Which.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// The node's own files cannot be used.
    #[error("{what}: {reason}")]
    Storage {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// A planned move did not come to its end; what moved stays where it is now.
    #[error("{0}")]
    NotMoved(String),
    /// This node cannot start or join as it is told to.
    #[error("{0}")]
    Setup(String),
}

impl ConsensusError {
    pub(crate) fn storage(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Storage {
            what,
            reason: error.to_string(),
        }
    }
}

impl From<conclave_net::NetError> for ConsensusError {
    fn from(error: conclave_net::NetError) -> Self {
        Self::Setup(error.to_string())
    }
}
