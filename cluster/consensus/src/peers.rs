//! What this node asks of other members besides Raft's own messages; over gRPC, or in a simulator.

use std::io;
use std::time::Duration;

use conclave_proto::consensus::membership_client::MembershipClient;
use conclave_proto::consensus::raft_client::RaftClient;
use conclave_proto::consensus::{AttendRequest, ConfirmLossRequest, Frame, ReadIndexRequest};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::network::{Channels, Lane, MESSAGE_BYTES_MAX};
use crate::packed::{pack, unpack};
use crate::server::{CALL_TIMEOUT, Forward, Forwarded};
use crate::types::{LogId, Vote};
use crate::wire::{log_id_out, vote_out};

/// A member and where it listens: `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) address: String,
}

/// Why a peer gave no answer.
pub(crate) type NoAnswer = String;

#[async_trait::async_trait]
pub(crate) trait Peers: Send + Sync + 'static {
    /// Hands a proposal to the leader.
    async fn forward(&self, leader: &Peer, forward: Forward) -> Result<Forwarded, NoAnswer>;
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
#[derive(Clone)]
pub(crate) struct Remote(pub(crate) Channels);

impl Remote {
    fn channel(&self, peer: &Peer) -> Result<Channel, NoAnswer> {
        let channel = self.0.get(peer.id, &peer.address, Lane::Calls);
        channel.map_err(|error| error.to_string())
    }
}

/// Sends a proposal over a channel and waits for the answer.
pub(crate) async fn send_forward(channel: Channel, forward: &Forward, limit: Duration) -> Result<Forwarded, NoAnswer> {
    let body = pack(forward).map_err(|error| error.to_string())?;
    let mut client = MembershipClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let answer = tokio::time::timeout(limit, client.propose(Frame { body: body.into() }))
        .await
        .map_err(|_| format!("no answer within {} ms", limit.as_millis()))?
        .map_err(|status| status.message().to_owned())?;
    unpack(&answer.into_inner().body).map_err(|error| error.to_string())
}

#[async_trait::async_trait]
impl Peers for Remote {
    async fn forward(&self, leader: &Peer, forward: Forward) -> Result<Forwarded, NoAnswer> {
        send_forward(self.channel(leader)?, &forward, FORWARD_TIMEOUT).await
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
