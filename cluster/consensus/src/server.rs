//! What other nodes may ask of this one, on port 8300.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::IntoResponse;
use conclave_catalog::{ClusterState, Command, NodeId, NodePorts, Proposal, Response, TokenId};
use conclave_net::{JoinSecret, NodeIdentity, PeerIdentity, sha256_hex};
use conclave_proto::consensus::membership_server::{Membership, MembershipServer};
use conclave_proto::consensus::raft_server::{Raft as RaftService, RaftServer};
use conclave_proto::consensus::{Frame, JoinRequest, JoinResponse, ReadIndexRequest, ReadIndexResponse, ReportRequest};
use conclave_proto::operator::operator_server::OperatorServer;
use openraft::ReadPolicy;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tonic::{Request as Rpc, Response as Answer, Status, Streaming};

use crate::certificates::open_authority;
use crate::group::{LastHeard, ReportSource};
use crate::network::MESSAGE_BYTES_MAX;
use crate::operator::OperatorService;
use crate::types::{Raft, SnapshotData, SnapshotMeta, Vote, decode, encode};
use crate::{Consensus, ConsensusError};

/// The one path that is open to a peer without a certificate.
const JOIN_PATH: &str = "/conclave.consensus.v1.Membership/Join";
/// Largest state that a node accepts as a snapshot.
const SNAPSHOT_BYTES_MAX: usize = 4 << 30;

/// A command on its way to the leader.
#[derive(Serialize, Deserialize)]
pub(crate) struct Forward {
    pub(crate) proposal: Proposal,
    /// Whether the receiver may forward it once more, or must be the leader itself.
    pub(crate) to_leader_only: bool,
}

/// The leader's answer to a forwarded command.
#[derive(Serialize, Deserialize)]
pub(crate) enum Forwarded {
    Applied(Response),
    NotLeader,
    Failed(String),
}

pub(crate) struct Service {
    pub(crate) raft: Raft,
    pub(crate) consensus: Consensus,
    pub(crate) identity: NodeIdentity,
    pub(crate) heard: LastHeard,
    pub(crate) report: ReportSource,
}

/// The services as a router that the manager serves on port 8300, together with the services of other crates.
pub(crate) fn router(service: Service) -> axum::Router {
    let operator = OperatorServer::new(OperatorService {
        consensus: service.consensus.clone(),
    });
    let service = Arc::new(service);
    let raft = RaftServer::from_arc(Arc::clone(&service))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let membership = MembershipServer::from_arc(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
    tonic::service::Routes::new(raft)
        .add_service(membership)
        .add_service(operator)
        .into_axum_router()
}

/// Refuses every request but a join from a peer that is not a present member of this cluster. A removed node is refused
/// from the moment that its removal is applied.
#[derive(Clone)]
pub(crate) struct MembersOnly {
    pub(crate) cluster_id: String,
    pub(crate) state: watch::Receiver<Arc<ClusterState>>,
}

pub(crate) async fn members_only(
    State(rule): State<MembersOnly>,
    request: Request,
    next: Next,
) -> axum::response::Response {
    if request.uri().path() == JOIN_PATH {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<PeerIdentity>();
    match rule.judge(peer) {
        Ok(()) => next.run(request).await,
        Err(reason) => {
            tracing::warn!(?peer, path = request.uri().path(), reason, "peer request refused");
            Status::permission_denied(reason)
                .into_http::<axum::body::Body>()
                .into_response()
        }
    }
}

impl MembersOnly {
    fn judge(&self, peer: Option<&PeerIdentity>) -> Result<(), &'static str> {
        let peer = peer.ok_or("no certificate was shown")?;
        if peer.cluster_id != self.cluster_id {
            return Err("the certificate belongs to another cluster");
        }
        // A node that has just joined has not heard of all members yet; its cluster's CA vouches for the caller.
        if self.state.borrow().has_left(NodeId(peer.node_id)) {
            return Err("the node is not, or no longer, a member of this cluster");
        }
        Ok(())
    }
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn frame<T: Serialize>(value: &T) -> Result<Answer<Frame>, Status> {
    Ok(Answer::new(Frame {
        body: encode(value).map_err(internal)?.into(),
    }))
}

#[tonic::async_trait]
impl RaftService for Service {
    async fn append(&self, request: Rpc<Frame>) -> Result<Answer<Frame>, Status> {
        let body = decode(&request.into_inner().body).map_err(internal)?;
        let answer = self.raft.append_entries(body).await.map_err(internal)?;
        if answer.is_success() {
            self.heard.now();
        }
        frame(&answer)
    }

    async fn vote(&self, request: Rpc<Frame>) -> Result<Answer<Frame>, Status> {
        let body = decode(&request.into_inner().body).map_err(internal)?;
        frame(&self.raft.vote(body).await.map_err(internal)?)
    }

    async fn pre_vote(&self, request: Rpc<Frame>) -> Result<Answer<Frame>, Status> {
        let body = decode(&request.into_inner().body).map_err(internal)?;
        frame(&self.raft.pre_vote(body).await.map_err(internal)?)
    }

    async fn transfer_leader(&self, request: Rpc<Frame>) -> Result<Answer<Frame>, Status> {
        let body = decode(&request.into_inner().body).map_err(internal)?;
        frame(&self.raft.handle_transfer_leader(body).await.map_err(internal)?)
    }

    async fn install_snapshot(&self, request: Rpc<Streaming<Frame>>) -> Result<Answer<Frame>, Status> {
        let mut frames = request.into_inner();
        let head = frames
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
        let (vote, meta): (Vote, SnapshotMeta) = decode(&head.body).map_err(internal)?;
        let mut snapshot = SnapshotData::new();
        while let Some(piece) = frames.message().await? {
            if snapshot.len() + piece.body.len() > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted(
                    "the snapshot is larger than this node accepts",
                ));
            }
            snapshot.extend_from_slice(&piece.body);
        }
        let snapshot = crate::types::Snapshot { meta, snapshot };
        frame(
            &self
                .raft
                .install_full_snapshot(vote, snapshot)
                .await
                .map_err(internal)?,
        )
    }
}

#[tonic::async_trait]
impl Membership for Service {
    async fn join(&self, request: Rpc<JoinRequest>) -> Result<Answer<JoinResponse>, Status> {
        let request = request.into_inner();
        let name = request.node_name.clone();
        match self.admit(request).await {
            Ok(answer) => {
                tracing::info!(node = answer.node_id, name, "node admitted");
                Ok(Answer::new(answer))
            }
            Err(status) => {
                tracing::warn!(name, reason = status.message(), "join refused");
                Err(status)
            }
        }
    }

    async fn propose(&self, request: Rpc<Frame>) -> Result<Answer<Frame>, Status> {
        let forward: Forward = decode(&request.into_inner().body).map_err(internal)?;
        let answer = if forward.to_leader_only {
            self.consensus.propose_here(forward.proposal).await
        } else {
            match self.consensus.propose_request(forward.proposal).await {
                Ok(response) => Forwarded::Applied(response),
                Err(ConsensusError::Refused(refusal)) => Forwarded::Applied(Response::Refused(refusal)),
                Err(error) => Forwarded::Failed(error.to_string()),
            }
        };
        frame(&answer)
    }

    async fn read_index(&self, _: Rpc<ReadIndexRequest>) -> Result<Answer<ReadIndexResponse>, Status> {
        let linearizer = self
            .raft
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Answer::new(ReadIndexResponse {
            index: linearizer.read_log_id().index(),
        }))
    }

    async fn report(&self, _: Rpc<ReportRequest>) -> Result<Answer<Frame>, Status> {
        frame(&(self.report)())
    }
}

impl Service {
    /// Checks the token, gives the node its number and signs its certificate. On a follower the command is forwarded, and
    /// the certificate is signed here all the same: every member can open the CA's key.
    async fn admit(&self, request: JoinRequest) -> Result<JoinResponse, Status> {
        let token = JoinSecret::parse(&request.token).map_err(|error| Status::unauthenticated(error.to_string()))?;
        let ports: NodePorts =
            serde_json::from_slice(&request.ports).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let command = Command::RegisterNode {
            token: TokenId(token.id.clone()),
            secret_hash: sha256_hex(token.secret.as_bytes()),
            node_name: request.node_name.clone(),
            address: request.address.clone(),
            ports,
        };
        let node_id = match self.consensus.propose(command).await {
            Ok(Response::Registered(id)) => id.0,
            Ok(other) => return Err(internal(format!("unexpected answer: {other:?}"))),
            Err(ConsensusError::Refused(refusal)) => return Err(Status::unauthenticated(refusal.to_string())),
            Err(error) => return Err(Status::unavailable(error.to_string())),
        };
        let state = self
            .consensus
            .linearizable()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let facts = state
            .facts()
            .ok_or_else(|| internal("the cluster has not been founded"))?;
        let authority = open_authority(&self.identity, &state).map_err(internal)?;
        let certificate = authority
            .sign(
                &request.csr,
                &facts.cluster_id,
                node_id,
                &request.node_name,
                &request.address,
            )
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(JoinResponse {
            node_id,
            cluster_id: facts.cluster_id.clone(),
            certificate_pem: certificate,
            ca_certificate_pem: facts.ca_certificate.clone(),
            cluster_key: self.identity.cluster_key.as_bytes().to_vec().into(),
        })
    }
}

/// How long a peer may take over a call that is answered from memory.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_millis(1500);
