//! Raft's messages to the other members.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_net::PeerConnector;
use conclave_proto::consensus::Frame;
use conclave_proto::consensus::raft_client::RaftClient;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::transport::Channel;

use crate::types::{Group, Snapshot, SnapshotData, Vote, decode, encode};

/// A frame of a snapshot stream.
const SNAPSHOT_FRAME_BYTES: usize = 1 << 20;
/// Above what one append may carry: `max_payload_entries` proposals with large file manifests.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Traffic of different urgency does not share a connection: a heartbeat never waits behind a large append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Log,
    Heartbeat,
    Snapshot,
    Calls,
}

/// A member, its address, and what for.
type Destination = (u64, String, Lane);

/// Channels to the other members, made once and shared.
#[derive(Clone)]
pub(crate) struct Channels {
    connector: PeerConnector,
    made: Arc<Mutex<HashMap<Destination, Channel>>>,
}

impl Channels {
    pub(crate) fn new(connector: PeerConnector) -> Self {
        Self {
            connector,
            made: Arc::default(),
        }
    }

    /// `address` is `host:port`.
    pub(crate) fn get(&self, node: u64, address: &str, lane: Lane) -> Result<Channel, conclave_net::NetError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (node, address.to_owned(), lane);
        if let Some(channel) = made.get(&key) {
            return Ok(channel.clone());
        }
        let malformed = || conclave_net::NetError::Connect {
            peer: address.into(),
            reason: "no host:port".into(),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
        let channel = self
            .connector
            .channel(node, host, port.parse().map_err(|_| malformed())?)?;
        made.insert(key, channel.clone());
        Ok(channel)
    }
}

impl RaftNetworkFactory<Group> for Channels {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Link {
        self.link(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Link {
        self.link(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &BasicNode) -> Link {
        self.link(target, node, Lane::Snapshot)
    }
}

impl Channels {
    fn link(&self, target: u64, node: &BasicNode, lane: Lane) -> Link {
        let channel = self.get(target, &node.addr, lane).map_err(|error| error.to_string());
        let client = channel.map(|channel| {
            RaftClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        });
        Link { client }
    }
}

/// One lane to one member.
pub(crate) struct Link {
    client: Result<RaftClient<Channel>, String>,
}

fn unreachable(why: impl ToString) -> Unreachable<Group> {
    Unreachable::from_string(why)
}

impl Link {
    fn client(&mut self) -> Result<&mut RaftClient<Channel>, Unreachable<Group>> {
        self.client.as_mut().map_err(|why| unreachable(&*why))
    }

    /// Sends `body` with `call` and reads the answer within `limit`. Everything that fails is "unreachable": openraft
    /// then waits before the next try.
    async fn exchange<B, A, F, Fut>(&mut self, body: &B, limit: Duration, call: F) -> Result<A, RPCError<Group>>
    where
        B: Serialize,
        A: DeserializeOwned,
        F: FnOnce(RaftClient<Channel>, Frame) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Frame>, tonic::Status>>,
    {
        let frame = Frame {
            body: encode(body).map_err(unreachable)?.into(),
        };
        let client = self.client()?.clone();
        let answer = tokio::time::timeout(limit, call(client, frame))
            .await
            .map_err(|_| unreachable(format!("no answer within {} ms", limit.as_millis())))?
            .map_err(|status| unreachable(status.message()))?;
        Ok(decode(&answer.into_inner().body).map_err(unreachable)?)
    }
}

impl RaftNetworkV2<Group> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Group>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Group>, RPCError<Group>> {
        self.exchange(&rpc, option.hard_ttl(), |mut client, frame| async move {
            client.append(frame).await
        })
        .await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Group>,
        option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        self.exchange(&rpc, option.hard_ttl(), |mut client, frame| async move {
            client.vote(frame).await
        })
        .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Group>,
        option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        self.exchange(&rpc, option.hard_ttl(), |mut client, frame| async move {
            client.pre_vote(frame).await
        })
        .await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Group>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Group>, RPCError<Group>> {
        self.exchange(&req, option.hard_ttl(), |mut client, frame| async move {
            client.transfer_leader(frame).await
        })
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        let head = encode(&(vote, &snapshot.meta)).map_err(unreachable)?;
        let body = snapshot.snapshot;
        let frames = std::iter::once(head)
            .chain(
                body.chunks(SNAPSHOT_FRAME_BYTES)
                    .map(<[u8]>::to_vec)
                    .collect::<Vec<_>>(),
            )
            .map(|body| Frame { body: body.into() })
            .collect::<Vec<_>>();
        let mut client = self.client()?.clone();
        let sending = client.install_snapshot(tokio_stream::iter(frames));
        let answer = tokio::select! {
            closed = cancel => return Err(closed.into()),
            answer = tokio::time::timeout(option.hard_ttl(), sending) => answer,
        };
        let frame = answer
            .map_err(|_| unreachable("the snapshot was not taken in time"))?
            .map_err(|status| unreachable(status.message()))?;
        Ok(decode(&frame.into_inner().body).map_err(unreachable)?)
    }
}
