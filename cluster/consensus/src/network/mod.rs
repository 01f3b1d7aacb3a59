//! Raft's messages to the other members.
//!
//! Appends go through one stream per member without waiting for their answers ([`append`]), heartbeats through another
//! ([`heartbeats`]); snapshots go from the file into
//! a stream of frames ([`snapshot`]).

mod append;
mod heartbeats;
pub(crate) mod purged;
mod snapshot;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_net::PeerConnector;
use conclave_proto::consensus::Frame;
use conclave_proto::consensus::raft_client::RaftClient;
use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::transport::Channel;

use crate::log_store::LogStore;
use crate::packed::{pack, unpack};
use crate::snapshot::SnapshotFile;
use crate::timings::{Spent, Timings};
use crate::types::{Group, Snapshot, Vote};
use crate::wire::{append_out, response_in};

/// Above what one append may carry: [`crate::log_store`] cuts them at 1 MiB, or after the first entry.
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

/// Raft's way to the other members.
pub(crate) struct Links {
    pub(crate) channels: Channels,
    /// What is sent comes from here.
    pub(crate) log: LogStore,
    pub(crate) timings: Timings,
}

impl RaftNetworkFactory<Group> for Links {
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

impl Links {
    fn link(&self, target: u64, node: &BasicNode, lane: Lane) -> Link {
        let channel = self
            .channels
            .get(target, &node.addr, lane)
            .map_err(|error| error.to_string());
        let client = channel.map(|channel| {
            RaftClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        });
        let spent = match lane {
            Lane::Heartbeat => &self.timings.heartbeat,
            Lane::Log | Lane::Snapshot | Lane::Calls => &self.timings.append,
        };
        Link {
            client,
            lane,
            heartbeats: None,
            log: self.log.clone(),
            spent: spent.clone(),
        }
    }
}

/// One lane to one member.
pub(crate) struct Link {
    client: Result<RaftClient<Channel>, String>,
    lane: Lane,
    /// The stream that the heartbeats go through, while it stands.
    heartbeats: Option<heartbeats::Standing>,
    log: LogStore,
    /// What its appends take.
    spent: Spent,
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
            body: pack(body).map_err(unreachable)?.into(),
        };
        let client = self.client()?.clone();
        let answer = within(limit, call(client, frame)).await?;
        Ok(unpack(&answer.body).map_err(unreachable)?)
    }
}

/// The answer to a call, if it comes in time.
async fn within<A>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<A>, tonic::Status>>,
) -> Result<A, Unreachable<Group>> {
    let answer = tokio::time::timeout(limit, call)
        .await
        .map_err(|_| unreachable(format!("no answer within {} ms", limit.as_millis())))?
        .map_err(|status| unreachable(status.message()))?;
    Ok(answer.into_inner())
}

impl RaftNetworkV2<Group> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Group>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Group>, RPCError<Group>> {
        let request = append_out(rpc).map_err(unreachable)?;
        let mut client = self.client()?.clone();
        let answer = within(option.hard_ttl(), client.append(request)).await?;
        Ok(response_in(answer).map_err(unreachable)?)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Group>, RPCError<Group>>>, RPCError<Group>>>
    where
        S: Stream<Item = AppendEntriesRequest<Group>> + OptionalSend + Unpin + 'static,
    {
        let client = self.client().cloned();
        let (log, spent) = (self.log.clone(), self.spent.clone());
        if self.lane == Lane::Heartbeat {
            let standing = &mut self.heartbeats;
            return Box::pin(async move { Ok(heartbeats::stream(standing, client?, input, spent)) });
        }
        let (input, stuck) = purged::until_stuck(input, move |previous| log.has_purged_after(previous));
        Box::pin(async move { append::stream(client?, input, stuck, spent, option).await })
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
        _: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        let client = self.client()?.clone();
        snapshot::send(client, vote, snapshot, cancel).await
    }
}
