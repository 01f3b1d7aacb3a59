//! The Raft group: one state ([`conclave_catalog::ClusterState`]) on every node.
//!
//! The only crate that names openraft. It knows nothing of PostgreSQL, files or blueprints.

use std::sync::Arc;

use conclave_catalog::{ClusterState, Command, NodeId, Response};
use tokio::sync::watch;

/// A handle on this node's part of the group. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    state: watch::Receiver<Arc<ClusterState>>,
    leadership: watch::Receiver<Leadership>,
    me: NodeId,
}

/// Who leads, as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The Raft term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Whether this node leads and has applied everything that earlier leaders committed.
    pub is_leader: bool,
    /// Whether this node is in touch with a majority (as leader: acknowledged; as follower: hears a leader).
    pub has_quorum: bool,
}

/// Why the group gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsensusError {
    /// No leader was found, or none answered, within the deadline. The outcome of a proposal is unknown.
    #[error("no leader answered within the deadline: {0}")]
    Unavailable(String),
    /// The state machine refused the command; nothing was changed.
    #[error(transparent)]
    Refused(#[from] conclave_catalog::Refusal),
    /// The peer is unknown or cannot be reached.
    #[error("node {node}: {reason}")]
    Peer {
        /// Which.
        node: NodeId,
        /// Why.
        reason: String,
    },
}

impl Consensus {
    /// Commits a command, from any node: forwarded to the leader, repeated under one request id until a deadline.
    ///
    /// # Errors
    /// [`ConsensusError::Refused`] when the state machine refused; [`ConsensusError::Unavailable`] without a leader.
    pub async fn propose(&self, _command: Command) -> Result<Response, ConsensusError> {
        Err(ConsensusError::Unavailable("not running".into()))
    }

    /// The latest applied state. Woken at each change.
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    /// Who leads. Woken at each change.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The state as of now or later: a read that sees every proposal acknowledged before it.
    ///
    /// # Errors
    /// [`ConsensusError::Unavailable`] without a majority.
    pub async fn linearizable(&self) -> Result<Arc<ClusterState>, ConsensusError> {
        Err(ConsensusError::Unavailable("not running".into()))
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// A cached channel to a peer's port 8300, in mutual TLS.
    ///
    /// # Errors
    /// [`ConsensusError::Peer`] when the node is unknown.
    pub fn channel(&self, node: NodeId) -> Result<tonic::transport::Channel, ConsensusError> {
        Err(ConsensusError::Peer { node, reason: "unknown".into() })
    }
}
