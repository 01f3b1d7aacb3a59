//! What this node asks of other members besides Raft's own messages; over gRPC, or in a simulator.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use conclave_proto::consensus::membership_client::MembershipClient;
use conclave_proto::consensus::raft_client::RaftClient;
use conclave_proto::consensus::{AttendRequest, ConfirmLossRequest, ReadIndexRequest};
use conclave_runtime::Tasks;
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::network::{Channels, Lane};
use crate::packed::Packed;
use crate::propose_lane::ProposeLane;
use crate::server::{CALL_TIMEOUT, Forwarded};
use crate::types::{LogId, Vote};
use crate::wire::{log_id_out, vote_out};

/// A member and where it listens: `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) address: String,
}

/// Why a peer gave no answer.
pub(crate) type NoAnswer = String;

#[async_trait::async_trait]
pub(crate) trait Peers: Send + Sync + 'static {
    /// A channel for other services of the peer.
    fn channel(&self, peer: &Peer) -> Result<Channel, NoAnswer>;
    /// Hands a proposal to the leader.
    async fn forward(&self, leader: &Peer, proposal: &Packed) -> Result<Forwarded, NoAnswer>;
    /// The log index that a linearizable read must wait for, from the leader.
    async fn read_index(&self, leader: &Peer) -> Result<u64, NoAnswer>;
    /// Returns when the peer's end of a connection goes away, or none can be had.
    async fn attend(&self, peer: &Peer);
    /// Whether the peer's machine says that nobody listens there any more. Silence is not that.
    async fn is_gone(&self, peer: &Peer) -> bool;
    /// Whether `peer`, too, finds the leader that holds `leader` gone, and would follow a log that ends at `last`.
    async fn confirm_loss(&self, peer: &Peer, leader: Vote, last: Option<LogId>) -> Result<(), NoAnswer>;
}

/// A machine that is there refuses a connection in less.
const PROBE_TIMEOUT: Duration = Duration::from_millis(100);
/// How long one try of a proposal may take: longer than a slow disk, shorter than the patience of whoever waits.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);

/// Peers over gRPC.
pub(crate) struct Remote {
    channels: Channels,
    lanes: Mutex<HashMap<Peer, ProposeLane>>,
    tasks: Tasks,
}

impl Remote {
    pub(crate) fn new(channels: Channels, tasks: &Tasks) -> Self {
        Self {
            channels,
            lanes: Mutex::default(),
            tasks: tasks.clone(),
        }
    }

    fn lane(&self, peer: &Peer) -> Result<ProposeLane, NoAnswer> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(peer) {
            return Ok(lane.clone());
        }
        let lane = ProposeLane::new(self.channel(peer)?, &self.tasks);
        lanes.insert(peer.clone(), lane.clone());
        Ok(lane)
    }
}

#[async_trait::async_trait]
impl Peers for Remote {
    fn channel(&self, peer: &Peer) -> Result<Channel, NoAnswer> {
        let channel = self.channels.get(peer.id, &peer.address, Lane::Calls);
        channel.map_err(|error| error.to_string())
    }

    async fn forward(&self, leader: &Peer, proposal: &Packed) -> Result<Forwarded, NoAnswer> {
        self.lane(leader)?.propose(proposal, true, FORWARD_TIMEOUT).await
    }

    async fn read_index(&self, leader: &Peer) -> Result<u64, NoAnswer> {
        let mut client = MembershipClient::new(self.channel(leader)?);
        let answer = tokio::time::timeout(CALL_TIMEOUT, client.read_index(ReadIndexRequest {}))
            .await
            .map_err(|_| "the leader does not answer".to_owned())?
            .map_err(|status| status.message().to_owned())?;
        Ok(answer.into_inner().index)
    }

    async fn attend(&self, peer: &Peer) {
        let Ok(channel) = self.channel(peer) else { return };
        let mut client = RaftClient::new(channel);
        let opened = tokio::time::timeout(CALL_TIMEOUT, client.attend(AttendRequest {})).await;
        if let Ok(Ok(stream)) = opened {
            let mut stream = stream.into_inner();
            // HTTP/2 pings end it when the peer has vanished without a word.
            while let Ok(Some(_)) = stream.message().await {}
        }
    }

    async fn is_gone(&self, peer: &Peer) -> bool {
        let probe = tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(&peer.address)).await;
        matches!(probe, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    async fn confirm_loss(&self, peer: &Peer, leader: Vote, last: Option<LogId>) -> Result<(), NoAnswer> {
        let mut client = RaftClient::new(self.channel(peer)?);
        let request = ConfirmLossRequest {
            leader: Some(vote_out(&leader)),
            last: last.map(log_id_out),
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, client.confirm_loss(request))
            .await
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|status| status.message().to_owned())?
            .into_inner();
        if answer.confirmed { Ok(()) } else { Err(answer.reason) }
    }
}
