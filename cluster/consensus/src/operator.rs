//! What an operator's command line asks of a running node.

use std::collections::BTreeMap;
use std::time::Duration;

use conclave_catalog::database::DatabaseState;
use conclave_catalog::{ClusterState, NodeId, NodeRecord};
use conclave_proto::operator::operator_client::OperatorClient;
use conclave_proto::operator::operator_server::Operator;
use conclave_proto::operator::{
    BackupRequest, InspectReply, InspectRequest, TransferLeadershipReply, TransferLeadershipRequest,
};
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};

use crate::backup::{BackupSource, BackupStream};
use crate::{AdminClient, Consensus, ConsensusError};

/// Longer than an election.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What the cluster agrees on, as far as an operator may see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// The Raft term.
    pub term: u64,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Who votes; absent while that changes.
    pub voters: Option<Vec<NodeId>>,
    /// The nodes, by id.
    pub nodes: Vec<NodeRecord>,
    /// The join tokens that have not been used, with the time at which they expire.
    pub tokens: BTreeMap<String, jiff::Timestamp>,
    /// The PostgreSQL rule, the change under way, and the history.
    pub database: DatabaseState,
    /// How often new certificates were ordered.
    pub certificate_generation: u64,
}

impl Inspection {
    fn of(consensus: &Consensus, state: &ClusterState) -> Self {
        let leadership = consensus.leadership().borrow().clone();
        Self {
            cluster_id: state.facts().map(|facts| facts.cluster_id.clone()).unwrap_or_default(),
            term: leadership.term,
            leader: leadership.leader,
            voters: consensus.voters().map(|voters| voters.into_iter().collect()),
            nodes: state.nodes().values().cloned().collect(),
            tokens: state
                .tokens()
                .values()
                .map(|token| (token.id.0.clone(), token.expires_at))
                .collect(),
            database: state.database().clone(),
            certificate_generation: state.certificate_generation(),
        }
    }

    /// The node of this name.
    ///
    /// # Errors
    /// [`ConsensusError::Setup`], which lists the names that there are.
    pub fn node(&self, name: &str) -> Result<&NodeRecord, ConsensusError> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            ConsensusError::Setup(format!("no node is named {name:?}; there are {}", names.join(", ")))
        })
    }
}

pub(crate) struct OperatorService {
    pub(crate) consensus: Consensus,
    pub(crate) backups: BackupSource,
}

fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Operator for OperatorService {
    type BackupStream = BackupStream;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<BackupStream>, Status> {
        let state = self.consensus.linearizable().await.map_err(unavailable)?;
        let facts = self.consensus.facts();
        let part = self.backups.write(state, facts.term, facts.applied).await;
        Ok(Response::new(
            part.map_err(|error| Status::internal(error.to_string()))?,
        ))
    }

    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        let state = self.consensus.linearizable().await.map_err(unavailable)?;
        let inspection = Inspection::of(&self.consensus, &state);
        let json = serde_json::to_vec(&inspection).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(InspectReply { json: json.into() }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipReply>, Status> {
        let node = NodeId(request.into_inner().node);
        let leadership = self.consensus.leadership().borrow().clone();
        let leader = leadership.leader.ok_or_else(|| unavailable("no leader is known"))?;
        if leader == node {
            return Ok(Response::new(TransferLeadershipReply {}));
        }
        if !self.consensus.voters().is_some_and(|voters| voters.contains(&node)) {
            return Err(Status::failed_precondition(format!("node {node} does not vote")));
        }
        if leader == self.consensus.me() {
            self.consensus.transfer_leader(node).await.map_err(unavailable)?;
            return Ok(Response::new(TransferLeadershipReply {}));
        }
        let channel = self.consensus.channel(leader).map_err(unavailable)?;
        let forwarded = TransferLeadershipRequest { node: node.0 };
        tokio::time::timeout(
            CALL_TIMEOUT,
            OperatorClient::new(channel).transfer_leadership(forwarded),
        )
        .await
        .map_err(|_| unavailable("the leader does not answer"))?
    }
}

impl AdminClient {
    async fn call<T, F>(&self, call: F) -> Result<T, ConsensusError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let answer = tokio::time::timeout(CALL_TIMEOUT, call)
            .await
            .map_err(|_| ConsensusError::Unavailable(format!("no answer within {} s", CALL_TIMEOUT.as_secs())))?;
        answer
            .map(Response::into_inner)
            .map_err(|status| ConsensusError::Unavailable(status.message().to_owned()))
    }

    /// What the cluster agrees on now.
    ///
    /// # Errors
    /// [`ConsensusError::Unavailable`] when the node does not run, or is cut off from the majority.
    pub async fn inspect(&self) -> Result<Inspection, ConsensusError> {
        let mut client = OperatorClient::new(self.channel.clone());
        let reply = self.call(client.inspect(InspectRequest {})).await?;
        serde_json::from_slice(&reply.json)
            .map_err(|error| ConsensusError::Setup(format!("unreadable answer: {error}")))
    }

    /// Hands the leadership of the Raft group to a node. When it returns, the order has been given, not yet carried out.
    ///
    /// # Errors
    /// [`ConsensusError::Unavailable`] when there is no leader, or the node does not vote.
    pub async fn transfer_leadership(&self, node: NodeId) -> Result<(), ConsensusError> {
        let mut client = OperatorClient::new(self.channel.clone());
        let request = TransferLeadershipRequest { node: node.0 };
        self.call(client.transfer_leadership(request)).await.map(drop)
    }
}
