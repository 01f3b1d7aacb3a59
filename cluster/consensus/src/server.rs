//! What other nodes may ask of this one, on port 8300: who may ask at all, and the membership service.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::IntoResponse;
use conclave_catalog::{ClusterState, Command, NodeId, NodePorts, Proposal, Response, TokenId};
use conclave_net::{JoinSecret, NodeIdentity, PeerIdentity, sha256_hex};
use conclave_proto::consensus::membership_server::{Membership, MembershipServer};
use conclave_proto::consensus::propose_response::Outcome;
use conclave_proto::consensus::raft_server::RaftServer;
use conclave_proto::consensus::{
    Frame, JoinRequest, JoinResponse, ProposeRequest, ProposeResponse, ReadIndexRequest, ReadIndexResponse,
    ReportRequest,
};
use conclave_proto::operator::operator_server::OperatorServer;
use conclave_runtime::Shutdown;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::ReadPolicy;
use serde::Serialize;
use tokio::sync::watch;
use tonic::{Request as Rpc, Response as Answer, Status, Streaming};

use crate::backup::BackupSource;
use crate::certificates::open_authority;
use crate::group::ReportSource;
use crate::member::Member;
use crate::network::MESSAGE_BYTES_MAX;
use crate::operator::OperatorService;
use crate::packed::{Packed, pack};
use crate::{Consensus, ConsensusError};

/// Proposals of one stream that are under way at once; further ones wait in the connection.
const PROPOSALS_IN_FLIGHT: usize = 1024;
/// The one path that is open to a peer without a certificate.
const JOIN_PATH: &str = "/conclave.consensus.v1.Membership/Join";

/// The leader's answer to a forwarded command.
pub(crate) enum Forwarded {
    Applied(Response),
    NotLeader,
    Failed(String),
}

pub(crate) struct Service {
    pub(crate) member: Member,
    pub(crate) identity: NodeIdentity,
    /// Ends the streams that have no end of their own.
    pub(crate) shutdown: Shutdown,
    pub(crate) report: ReportSource,
}

/// The services as a router that the manager serves on port 8300, together with the services of other crates.
pub(crate) fn router(service: Service) -> axum::Router {
    let operator = OperatorServer::new(OperatorService {
        consensus: service.member.consensus.clone(),
        backups: BackupSource {
            identity: service.identity.clone(),
            snapshots: service.member.snapshots.clone(),
        },
    });
    let service = Arc::new(service);
    let raft = RaftServer::from_arc(Arc::clone(&service))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let membership = MembershipServer::from_arc(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
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

pub(crate) fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

pub(crate) fn frame<T: Serialize>(value: &T) -> Result<Answer<Frame>, Status> {
    Ok(Answer::new(Frame {
        body: pack(value).map_err(internal)?.into(),
    }))
}

#[tonic::async_trait]
impl Membership for Service {
    type ProposeStream = BoxStream<'static, Result<ProposeResponse, Status>>;

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

    async fn propose(&self, request: Rpc<Streaming<ProposeRequest>>) -> Result<Answer<Self::ProposeStream>, Status> {
        let consensus = self.member.consensus.clone();
        let answers = request
            .into_inner()
            // A broken stream ends here; its proposals in flight are finished, and nobody hears of it.
            .take_while(|request| std::future::ready(request.is_ok()))
            .filter_map(|request| std::future::ready(request.ok()))
            .map(move |request| answer_proposal(consensus.clone(), request))
            .buffer_unordered(PROPOSALS_IN_FLIGHT);
        let shutdown = self.shutdown.clone();
        let end = async move { shutdown.requested().await };
        Ok(Answer::new(answers.take_until(Box::pin(end)).boxed()))
    }

    async fn read_index(&self, _: Rpc<ReadIndexRequest>) -> Result<Answer<ReadIndexResponse>, Status> {
        let linearizer = self
            .member
            .raft
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Answer::new(ReadIndexResponse {
            index: linearizer.read_log_id().index(),
        }))
    }

    async fn report(&self, _: Rpc<ReportRequest>) -> Result<Answer<Frame>, Status> {
        let body = serde_json::to_vec(&(self.report)()).map_err(internal)?;
        Ok(Answer::new(Frame { body: body.into() }))
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
        let node_id = match self.member.consensus.propose(command).await {
            Ok(Response::Registered(id)) => id.0,
            Ok(other) => return Err(internal(format!("unexpected answer: {other:?}"))),
            Err(ConsensusError::Refused(refusal)) => return Err(Status::unauthenticated(refusal.to_string())),
            Err(error) => return Err(Status::unavailable(error.to_string())),
        };
        let state = self
            .member
            .consensus
            .linearizable()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let facts = state
            .facts()
            .ok_or_else(|| internal("the cluster has not been founded"))?;
        let authority = open_authority(&self.identity.cluster_key, &state).map_err(internal)?;
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

async fn answer_proposal(consensus: Consensus, request: ProposeRequest) -> Result<ProposeResponse, Status> {
    let mut proposal = Packed(request.proposal);
    let forwarded = if request.to_leader_only {
        consensus.propose_here(proposal).await
    } else {
        // Whoever comes from outside does not know how far the log is.
        let opened = proposal
            .open()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if opened.after.is_none() {
            let after = consensus.applied();
            proposal = Packed::new(&Proposal { after, ..opened }).map_err(internal)?;
        }
        match consensus.propose_packed(&proposal).await {
            Ok(response) => Forwarded::Applied(response),
            Err(ConsensusError::Refused(refusal)) => Forwarded::Applied(Response::Refused(refusal)),
            Err(error) => Forwarded::Failed(error.to_string()),
        }
    };
    let outcome = match forwarded {
        Forwarded::Applied(response) => Outcome::Applied(pack(&response).map_err(internal)?.into()),
        Forwarded::NotLeader => Outcome::NotLeader(true),
        Forwarded::Failed(why) => Outcome::Failed(why),
    };
    Ok(ProposeResponse {
        id: request.id,
        outcome: Some(outcome),
    })
}

/// How long a peer may take over a call that is answered from memory.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_millis(1500);
