//! The handle that the rest of the process holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::{ClusterState, Command, NodeId, Proposal, Refusal, RequestId, Response};
use conclave_net::{JoinSecret, NodeIdentity, PeerConnector};
use conclave_proto::consensus::ReportRequest;
use conclave_proto::consensus::membership_client::MembershipClient;
use conclave_runtime::{Backoff, Tasks, clock};
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ReadPolicy, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::ConsensusError;
use crate::group::ReportSource;
use crate::group_commit::GroupCommit;
use crate::member::LastHeard;
use crate::packed::Packed;
use crate::peers::{Peer, Peers};
use crate::propose_lane::ProposeLane;
use crate::server::{CALL_TIMEOUT, Forwarded};
use crate::timings::Timings;
use crate::types::{Raft, ServerMetrics};

/// How long a proposal is tried before its outcome is given up as unknown.
pub(crate) const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// How long one try may take: longer than a slow disk, shorter than the patience of whoever waits.
const TRY_TIMEOUT: Duration = Duration::from_secs(3);

/// A voter this close to the end of the log has the rest by the time that it stands for election.
const TRANSFER_LAG: u64 = 1000;
/// How long a transfer waits for its target's log.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the election of the target may take; without it, the timers elect someone.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);

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

/// Gives a proposal its name and its time.
pub(crate) type Stamps = Arc<dyn Fn() -> (RequestId, jiff::Timestamp) + Send + Sync>;

/// A handle on this node's part of the group. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    pub(crate) raft: Raft,
    pub(crate) group_commit: GroupCommit,
    pub(crate) me: NodeId,
    pub(crate) state: watch::Receiver<Arc<ClusterState>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) stamps: Stamps,
    pub(crate) report: ReportSource,
    pub(crate) heard: LastHeard,
    pub(crate) timings: Timings,
}

impl Consensus {
    /// Commits a command, from any node: forwarded to the leader, repeated under one request id until a deadline of 10 s.
    /// When it returns, the change is visible in this node's [`Self::state`] only if this node leads; elsewhere it follows
    /// within a round trip.
    ///
    /// # Errors
    /// [`ConsensusError::Refused`] when the state machine refused; [`ConsensusError::Unavailable`] without a leader.
    pub async fn propose(&self, command: Command) -> Result<Response, ConsensusError> {
        self.propose_within(command, PROPOSE_DEADLINE).await
    }

    /// The same with another deadline, for callers whose own clients wait less.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_within(&self, command: Command, limit: Duration) -> Result<Response, ConsensusError> {
        self.propose_stamped(command, None, limit).await
    }

    /// The same for what this node has decided as the leader of `term`, by what it observed: applied in that term, or refused.
    ///
    /// # Errors
    /// As [`Self::propose`]; [`conclave_catalog::Refusal::OtherTerm`] when another term has begun.
    pub async fn propose_in_term(
        &self,
        term: u64,
        command: Command,
        limit: Duration,
    ) -> Result<Response, ConsensusError> {
        self.propose_stamped(command, Some(term), limit).await
    }

    async fn propose_stamped(
        &self,
        command: Command,
        only_in_term: Option<u64>,
        limit: Duration,
    ) -> Result<Response, ConsensusError> {
        let (request, at) = (self.stamps)();
        let proposal = Proposal {
            after: self.applied(),
            only_in_term,
            ..Proposal::new(request, at, command)
        };
        self.try_until(&packed(&proposal)?, limit).await
    }

    /// How long ago this node last heard a leader that it followed; `None` when it never did.
    #[must_use]
    pub fn leader_silence(&self) -> Option<Duration> {
        self.heard.elapsed()
    }

    /// The last entry that this node has applied.
    pub(crate) fn applied(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.last_applied.map(|applied| applied.index)
    }

    pub(crate) async fn propose_request(&self, proposal: &Proposal) -> Result<Response, ConsensusError> {
        self.propose_packed(&packed(proposal)?).await
    }

    pub(crate) async fn propose_packed(&self, proposal: &Packed) -> Result<Response, ConsensusError> {
        self.try_until(proposal, PROPOSE_DEADLINE).await
    }

    async fn try_until(&self, proposal: &Packed, limit: Duration) -> Result<Response, ConsensusError> {
        let end = Instant::now() + limit;
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        // Proposers must not try in step; what they propose tells them apart.
        let jitter = f64::from(crc32fast::hash(&proposal.0)) / f64::from(u32::MAX);
        let mut last = "no leader is known".to_owned();
        let mut roles = self.raft.server_metrics();
        while Instant::now() < end {
            let leader = roles.borrow_and_update().current_leader;
            // Another leader is worth asking at once: the one that was asked may be frozen, or have stepped down with the
            // proposal in its log. The same request is applied once, wherever it is sent.
            let outcome = tokio::select! {
                biased;
                outcome = tokio::time::timeout_at(end, self.try_propose(leader.map(NodeId), proposal)) => outcome
                    .unwrap_or_else(|_| Forwarded::Failed(format!("not committed within {} ms", limit.as_millis()))),
                () = another_leader(&mut roles, leader) => continue,
            };
            match outcome {
                Forwarded::Applied(Response::Refused(late @ Refusal::TooLate)) => {
                    return Err(ConsensusError::Unavailable(late.to_string()));
                }
                Forwarded::Applied(Response::Refused(refusal)) => return Err(refusal.into()),
                Forwarded::Applied(response) => return Ok(response),
                Forwarded::NotLeader => {}
                Forwarded::Failed(why) => last = why,
            }
            let wait = backoff.next_delay_with(jitter);
            let _elected_or_waited = tokio::time::timeout(wait, another_leader(&mut roles, leader)).await;
        }
        Err(ConsensusError::Unavailable(last))
    }

    /// One try, with the leader that is given.
    pub(crate) async fn try_propose(&self, leader: Option<NodeId>, proposal: &Packed) -> Forwarded {
        match leader {
            None => Forwarded::NotLeader,
            Some(leader) if leader == self.me => self.propose_here(proposal.clone()).await,
            Some(leader) => self.forward(leader, proposal).await.unwrap_or_else(Forwarded::Failed),
        }
    }

    /// Commits a proposal as the leader.
    pub(crate) async fn propose_here(&self, proposal: Packed) -> Forwarded {
        tokio::time::timeout(TRY_TIMEOUT, self.group_commit.propose(proposal))
            .await
            .unwrap_or_else(|_| Forwarded::Failed(format!("not committed within {} ms", TRY_TIMEOUT.as_millis())))
    }

    async fn forward(&self, leader: NodeId, proposal: &Packed) -> Result<Forwarded, String> {
        let leader = self.peer(leader).map_err(|error| error.to_string())?;
        self.peers.forward(&leader, proposal).await
    }

    /// The latest applied state. Woken at each change.
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    /// Who leads. Woken at each change.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The state as of now or later: a read that sees every proposal acknowledged before it (ReadIndex; Raft
    /// dissertation, section 6.4).
    ///
    /// # Errors
    /// [`ConsensusError::Unavailable`] without a majority.
    pub async fn linearizable(&self) -> Result<Arc<ClusterState>, ConsensusError> {
        let unavailable = |why: String| ConsensusError::Unavailable(why);
        // The condensed view follows Raft's own a moment later: whoever has just proposed knows the leader already.
        let published = self.leadership.borrow().leader;
        let heard = self.raft.server_metrics().borrow_watched().current_leader;
        let leader = published
            .or(heard.map(NodeId))
            .ok_or_else(|| unavailable("no leader is known".into()))?;
        let index = if leader == self.me {
            let reading = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
            let linearizer = tokio::time::timeout(CALL_TIMEOUT, reading)
                .await
                .map_err(|_| unavailable("the majority does not answer".into()))?
                .map_err(|error| unavailable(error.to_string()))?;
            linearizer.read_log_id().index()
        } else {
            self.peers.read_index(&self.peer(leader)?).await.map_err(unavailable)?
        };
        self.raft
            .wait(Some(CALL_TIMEOUT))
            .applied_index_at_least(Some(index), "linearizable read")
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        Ok(Arc::clone(&self.state.borrow()))
    }

    /// The members that vote, as this node knows; `None` while a change of them is under way, when the loss of an old or
    /// a new member can stop the group (joint consensus; Raft dissertation, section 4.3).
    pub fn voters(&self) -> Option<BTreeSet<NodeId>> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let settled = membership.get_joint_config().len() == 1;
        settled.then(|| membership.voter_ids().map(NodeId).collect())
    }

    /// How long Raft's steps take on this node.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    fn peer(&self, node: NodeId) -> Result<Peer, ConsensusError> {
        let state = self.state.borrow();
        let record = state.nodes().get(&node).ok_or_else(|| ConsensusError::Peer {
            node,
            reason: "it is not in the cluster".into(),
        })?;
        Ok(Peer {
            id: node.0,
            address: format!("{}:{}", record.address, record.ports.peer),
        })
    }

    /// A cached channel to a peer's port 8300, in mutual TLS.
    ///
    /// # Errors
    /// [`ConsensusError::Peer`] when the node is unknown.
    pub fn channel(&self, node: NodeId) -> Result<Channel, ConsensusError> {
        let peer = self.peer(node)?;
        self.peers
            .channel(&peer)
            .map_err(|reason| ConsensusError::Peer { node, reason })
    }

    /// A node's own report of its health. This node's comes without a detour.
    ///
    /// # Errors
    /// [`ConsensusError::Peer`] when it does not answer.
    pub async fn report_of(&self, node: NodeId) -> Result<serde_json::Value, ConsensusError> {
        if node == self.me {
            return Ok((self.report)());
        }
        let peer = |reason: String| ConsensusError::Peer { node, reason };
        let mut client = MembershipClient::new(self.channel(node)?);
        let answer = tokio::time::timeout(CALL_TIMEOUT, client.report(ReportRequest {}))
            .await
            .map_err(|_| peer("no answer in time".into()))?
            .map_err(|status| peer(status.message().into()))?;
        serde_json::from_slice(&answer.into_inner().body).map_err(|error| peer(error.to_string()))
    }

    /// Hands leadership from this node to `node` and returns when it leads. Proposals wait meanwhile; none fails.
    ///
    /// # Errors
    /// [`ConsensusError::Peer`] when `node` does not vote or its log stays behind, [`ConsensusError::Unavailable`] when this
    /// node does not lead, or `node` was not elected in time.
    pub async fn transfer_leader(&self, node: NodeId) -> Result<(), ConsensusError> {
        let peer = |reason: &str| ConsensusError::Peer {
            node,
            reason: reason.into(),
        };
        if self.raft.metrics().borrow_watched().current_leader == Some(node.0) {
            return Ok(());
        }
        // The target must have the whole log when it stands: one that is far behind would keep everybody waiting.
        let waiting = self.raft.wait(Some(CATCH_UP_TIMEOUT));
        let near = waiting.metrics(
            |metrics| {
                let matched = metrics
                    .replication
                    .as_ref()
                    .and_then(|all| all.get(&node.0).copied().flatten());
                let leads = metrics.state == ServerState::Leader;
                !leads
                    || matched.is_some_and(|log_id| log_id.index + TRANSFER_LAG >= metrics.last_log_index.unwrap_or(0))
            },
            "the target of a transfer catches up",
        );
        let metrics = near.await.map_err(|_| peer("its log is too far behind to lead"))?;
        if metrics.state != ServerState::Leader {
            return Err(ConsensusError::Unavailable("this node does not lead".into()));
        }
        if !metrics
            .membership_config
            .membership()
            .voter_ids()
            .any(|id| id == node.0)
        {
            return Err(peer("it does not vote"));
        }
        self.raft
            .trigger()
            .transfer_leader(node.0)
            .await
            .map_err(|error| ConsensusError::Unavailable(error.to_string()))?;
        self.raft
            .wait(Some(TRANSFER_TIMEOUT))
            .metrics(
                |metrics| metrics.current_leader == Some(node.0),
                "the target of a transfer leads",
            )
            .await
            .map_err(|error| ConsensusError::Unavailable(error.to_string()))?;
        Ok(())
    }

    /// Stops Raft on this node; a leader hands over first. Proposals fail from then on.
    pub async fn stop(&self) {
        if let Some(heir) = self.heir()
            && let Err(error) = self.transfer_leader(heir).await
        {
            tracing::info!(%error, "leadership was not handed over before the stop");
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
    }

    /// As the leader: the voter with the most of the log among those that have answered lately.
    fn heir(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let heartbeats = metrics.heartbeat?;
        let answers = |id: &u64| {
            let last = heartbeats.get(id).copied().flatten();
            last.is_some_and(|last| last.elapsed() < CALL_TIMEOUT / 3)
        };
        let candidates = metrics.replication?.into_iter();
        candidates
            .filter(|(id, _)| *id != metrics.id && voters.contains(id) && answers(id))
            .max_by_key(|(_, matched)| *matched)
            .map(|(id, _)| NodeId(id))
    }
}

fn packed(proposal: &Proposal) -> Result<Packed, ConsensusError> {
    Packed::new(proposal).map_err(|error| ConsensusError::Setup(error.to_string()))
}

/// Resolves when a leader is known that is not `leader`.
async fn another_leader(roles: &mut ServerMetrics, leader: Option<u64>) {
    loop {
        let now = roles.borrow_and_update().current_leader;
        if now.is_some() && now != leader {
            return;
        }
        if roles.changed().await.is_err() {
            // Raft has stopped: nobody will be elected here any more.
            return std::future::pending().await;
        }
    }
}

/// An operator's access to a running node, by proving to be that node: the command line on its machine uses it.
pub struct AdminClient {
    pub(crate) channel: Channel,
    lane: ProposeLane,
    identity: NodeIdentity,
}

impl AdminClient {
    /// Connects, when first used, to the node that `identity` belongs to. Belongs into a runtime.
    ///
    /// # Errors
    /// When the identity cannot be used.
    pub fn new(identity: NodeIdentity, address: &str, port: u16) -> Result<Self, ConsensusError> {
        let channel = PeerConnector::new(&identity)?.channel(identity.node_id, address, port)?;
        let lane = ProposeLane::new(channel.clone(), &Tasks::new("admin client"));
        Ok(Self {
            channel,
            lane,
            identity,
        })
    }

    /// Commits a command through the node.
    ///
    /// # Errors
    /// As [`Consensus::propose`].
    pub async fn propose(&self, command: Command) -> Result<Response, ConsensusError> {
        let proposal = Proposal::new(RequestId(uuid::Uuid::now_v7()), clock::now(), command);
        let packed = Packed::new(&proposal).map_err(|error| ConsensusError::Setup(error.to_string()))?;
        let answer = self.lane.propose(&packed, false, PROPOSE_DEADLINE).await;
        match answer.map_err(ConsensusError::Unavailable)? {
            Forwarded::Applied(Response::Refused(refusal)) => Err(refusal.into()),
            Forwarded::Applied(response) => Ok(response),
            Forwarded::NotLeader => Err(ConsensusError::Unavailable("the node found no leader".into())),
            Forwarded::Failed(why) => Err(ConsensusError::Unavailable(why)),
        }
    }

    /// Makes a one-time token that lets a node join until `lifetime` has passed.
    ///
    /// # Errors
    /// As [`Consensus::propose`].
    pub async fn create_join_token(&self, lifetime: Duration) -> Result<String, ConsensusError> {
        let secret = JoinSecret::for_authority(&self.identity.ca_certificate_pem)?;
        let expires_at = clock::now()
            .checked_add(jiff::SignedDuration::try_from(lifetime).unwrap_or(jiff::SignedDuration::MAX))
            .map_err(|_| ConsensusError::Setup("the lifetime of the token is too long".into()))?;
        let token = conclave_catalog::JoinToken {
            id: conclave_catalog::TokenId(secret.id.clone()),
            secret_hash: secret.secret_hash(),
            expires_at,
        };
        self.propose(Command::CreateToken(token)).await?;
        Ok(secret.text())
    }
}
