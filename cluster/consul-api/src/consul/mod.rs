//! Consul's HTTP API, as its clients use it (spec/consul-api.md).
//!
//! Every node answers every call: writes go to the leader inside, reads are confirmed by it unless the client takes stale
//! ones. Handlers hold no rule of their own: what a write does is the directory's business, here requests are read and
//! answers written.

mod access;
mod acl;
mod agent;
mod agent_checks;
mod agent_services;
mod answer;
mod call;
mod catalog;
mod dispatch;
mod duration;
mod error;
mod fields;
mod health;
mod kv;
mod operator;
mod read;
mod registration;
mod routes;
mod rows;
mod session;
mod snapshot;
mod status;
mod txn;

use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::directory::{Directory, DirectoryAnswer, DirectoryCommand};
use conclave_catalog::{ClusterState, Command, NodeId, Refusal, Response};
use conclave_consensus::{Consensus, ConsensusError};
use conclave_runtime::Shutdown;
use serde_json::Value;
use tokio::time::Instant;

pub(crate) use access::Access;
pub use access::{ACL_SETTING, token};
use call::Call;
use error::ApiError;

use crate::barrier::Barrier;
use crate::keeper::Renewing;
use crate::metrics::{Kind, Metrics};
use crate::patience::Patience;
use crate::watch::Hub;

/// The cluster is one datacenter, with Consul's own name for it.
pub(crate) const DATACENTER: &str = "dc1";
/// How long a write is tried while there is a leader. Consul's clients give up before, and their writes with them.
const WRITE_LIMIT: Duration = Duration::from_secs(7);

/// What the handlers work with.
pub(crate) struct Api {
    pub(crate) consensus: Consensus,
    pub(crate) barrier: Barrier,
    pub(crate) hub: Hub,
    pub(crate) renewing: Renewing,
    pub(crate) patience: Patience,
    pub(crate) access: Access,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) session_ttl_min: Duration,
    pub(crate) shutdown: Shutdown,
}

impl Api {
    /// This node's state, as far as it has come.
    fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.consensus.state().borrow())
    }

    /// Who leads, as far as this node is in touch with a majority: a leader that is cut off from it leads nobody.
    fn leader(&self) -> Option<NodeId> {
        let leadership = self.consensus.leadership();
        let leadership = leadership.borrow();
        leadership.leader.filter(|_| leadership.has_quorum)
    }

    /// This node's name.
    fn node_name(&self) -> String {
        let state = self.state();
        let me = self.consensus.me();
        state
            .nodes()
            .get(&me)
            .map_or_else(|| format!("node-{me}"), |node| node.name.clone())
    }

    /// The directory for questions about this node: as fresh as can be had, and answered without a leader too.
    async fn visible(&self, call: &Call) -> Directory {
        if !call.trusted {
            return Directory::default();
        }
        if self.barrier.pass().await.is_err() {
            tracing::debug!("answered from this node's own state: there is no leader");
        }
        self.state().directory().clone()
    }

    async fn propose(&self, command: DirectoryCommand) -> Result<DirectoryAnswer, ApiError> {
        match self.propose_any(Command::Directory(command)).await? {
            Response::Directory(answer) => Ok(answer),
            other => Err(ApiError::Failed(format!("unexpected answer: {other:?}"))),
        }
    }

    async fn propose_any(&self, command: Command) -> Result<Response, ApiError> {
        let begun = Instant::now();
        let limit = match self.patience.leaderless_since() {
            None => WRITE_LIMIT,
            Some(_) => self.patience.deadline().saturating_duration_since(begun),
        };
        let kind = Kind::of(&command);
        let outcome = self.consensus.propose_within(command, limit).await;
        self.metrics.proposal(kind, begun.elapsed(), outcome.is_ok());
        outcome.map_err(|error| match error {
            ConsensusError::Refused(Refusal::Directory(refusal)) => ApiError::Refused(refusal),
            ConsensusError::Refused(refusal) => ApiError::Failed(refusal.to_string()),
            ConsensusError::Unavailable(_) if self.leader().is_none() => ApiError::NoLeader,
            ConsensusError::Unavailable(why) => {
                tracing::warn!(why, "a write was not committed in time");
                ApiError::Failed("leadership lost while committing log".into())
            }
            other => ApiError::Failed(other.to_string()),
        })
    }

    fn metrics_text(&self) -> String {
        self.metrics
            .consul_text(&self.consensus, self.renewing.keeper.sessions())
    }

    fn metrics_json(&self) -> Value {
        self.metrics
            .consul_json(&self.consensus, self.renewing.keeper.sessions())
    }
}

pub(crate) use dispatch::handle;
