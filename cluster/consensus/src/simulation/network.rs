//! The simulated network: openraft's and the members' own messages, delayed, lost, doubled, cut and held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::world::{Origin, World, below, chance, count, millis, trace};
use crate::log_store::LogStore;
use crate::member::Member;
use crate::network::purged::until_stuck;
use crate::packed::Packed;
use crate::peers::{NoAnswer, Peer, Peers};
use crate::server::Forwarded;
use crate::snapshot::SnapshotFile;
use crate::types::{Group, LogId, Snapshot, Vote};

/// As the product's own limits for calls.
const CALL: Duration = Duration::from_millis(1500);
const ANSWER: Duration = Duration::from_secs(2);
const PIECE_BYTES: usize = 2048;

fn unreachable(why: impl ToString) -> Unreachable<Group> {
    Unreachable::from_string(why)
}

impl World {
    /// One message from here to there. What is cut never arrives, and nobody hears of it.
    pub(super) async fn hop(&self, from: Origin, to: u64, kind: &'static str) -> Result<(), NoAnswer> {
        let (loss, most) = self.weather(|weather| (weather.loss_permille, weather.delay_ms_max));
        let slow = if chance(20) { most * 5 } else { most };
        tokio::time::sleep(Duration::from_millis(below(slow + 1))).await;
        while self.weather(|weather| weather.held.contains(&from.node) || weather.held.contains(&to)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.is_cut(from.node, to) || !self.is_current(from) {
            return std::future::pending().await;
        }
        if chance(loss) {
            return Err("lost".into());
        }
        trace(&(self.elapsed().as_millis(), from, to, kind));
        Ok(())
    }

    /// A question and its answer.
    async fn call<T, F, Fut>(&self, from: Origin, to: u64, kind: &'static str, work: F) -> Result<T, NoAnswer>
    where
        T: Send + 'static,
        F: Fn(Member) -> Fut,
        Fut: Future<Output = Result<T, NoAnswer>> + Send + 'static,
    {
        self.hop(from, to, kind).await?;
        let Some((member, there)) = self.target(to) else {
            return Err("refused".into());
        };
        if chance(self.weather(|weather| weather.duplicate_permille)) {
            let again = work(member.clone());
            tokio::spawn(async move {
                tokio::time::sleep(millis(0, 300)).await;
                // The second answer has no one to go to.
                let _unheard = again.await;
            });
        }
        let answer = work(member).await?;
        if !self.is_current(there) {
            return Err("reset".into());
        }
        self.hop(there, from.node, kind).await?;
        Ok(answer)
    }
}

#[derive(Clone)]
pub(super) struct SimNetwork {
    pub(super) world: World,
    pub(super) me: Origin,
    pub(super) log: LogStore,
}

impl RaftNetworkFactory<Group> for SimNetwork {
    type Network = SimLink;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> SimLink {
        SimLink {
            network: self.clone(),
            target,
        }
    }
}

pub(super) struct SimLink {
    network: SimNetwork,
    target: u64,
}

impl SimLink {
    async fn ask<T, F, Fut>(&self, kind: &'static str, option: &RPCOption, work: F) -> Result<T, RPCError<Group>>
    where
        T: Send + 'static,
        F: Fn(Member) -> Fut,
        Fut: Future<Output = Result<T, NoAnswer>> + Send + 'static,
    {
        let SimNetwork { world, me, .. } = &self.network;
        let answer = tokio::time::timeout(option.hard_ttl(), world.call(*me, self.target, kind, work)).await;
        Ok(answer
            .map_err(|_| unreachable("no answer in time"))?
            .map_err(unreachable)?)
    }
}

impl RaftNetworkV2<Group> for SimLink {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Group>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Group>, RPCError<Group>> {
        self.ask("append", &option, |member| {
            let rpc = rpc.clone();
            async move {
                let answer = member
                    .raft
                    .append_entries(rpc)
                    .await
                    .map_err(|error| error.to_string())?;
                if answer.is_success() {
                    member.heard.now();
                }
                Ok(answer)
            }
        })
        .await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Group>, RPCError<Group>>>, RPCError<Group>>>
    where
        S: Stream<Item = AppendEntriesRequest<Group>> + OptionalSend + Unpin + 'static,
    {
        let (world, me, to) = (self.network.world.clone(), self.network.me, self.target);
        let log = self.network.log.clone();
        let (input, stuck) = until_stuck(input, move |previous| log.has_purged_after(previous));
        Box::pin(async move {
            let opening = tokio::time::timeout(CALL, world.hop(me, to, "open")).await;
            opening.map_err(|_| unreachable("not opened"))?.map_err(unreachable)?;
            let (member, there) = world.target(to).ok_or_else(|| unreachable("refused"))?;
            let (requests, arriving) = mpsc::channel(64);
            let sent = Arc::new(AtomicU64::new(0));
            let (counter, sky) = (Arc::clone(&sent), world.clone());
            let (open, closed) = oneshot::channel::<()>();
            let mut input = input.take_until(closed);
            // In order, as a connection carries them; a lost one breaks it.
            tokio::spawn(async move {
                while let Some(request) = input.next().await {
                    counter.fetch_add(1, Ordering::SeqCst);
                    if sky.hop(me, to, "stream").await.is_err() || !sky.is_current(there) {
                        return;
                    }
                    if requests.send(request).await.is_err() {
                        return;
                    }
                }
            });
            let answers = member.raft.stream_append(ReceiverStream::new(arriving)).boxed();
            let state = Some((answers, 0_u64, open));
            let heard = member.heard.clone();
            let stream = futures::stream::unfold(state, move |state| {
                let (world, sent, heard, stuck) = (world.clone(), Arc::clone(&sent), heard.clone(), stuck.clone());
                async move {
                    let (mut answers, answered, open) = state?;
                    let answer = loop {
                        let waiting = sent.load(Ordering::SeqCst) > answered;
                        match tokio::time::timeout(ANSWER, answers.next()).await {
                            Ok(_) if !world.is_current(there) => break Err("reset".to_owned()),
                            // What never arrives, the end of the stream too, ends the connection: its probes fail as well.
                            Ok(answer) => {
                                let hop = tokio::time::timeout(ANSWER, world.hop(there, me.node, "streamed"));
                                break hop.await.unwrap_or_else(|_| Err("lost".to_owned())).map(|()| answer);
                            }
                            Err(_) if waiting => break Err("no answer in time".to_owned()),
                            Err(_) if !world.is_current(there) => break Err("reset".to_owned()),
                            // Nothing was asked: silence is all right.
                            Err(_) => {}
                        }
                    };
                    match answer {
                        Ok(Some(Ok(result))) => {
                            let good = result.is_ok();
                            if good {
                                heard.now();
                            }
                            Some((Ok(result), good.then_some((answers, answered + 1, open))))
                        }
                        Ok(Some(Err(fatal))) => Some((Err(unreachable(fatal).into()), None)),
                        Ok(None) => match stuck.check() {
                            Ok(()) => None,
                            Err(error) => {
                                count("append stream stuck");
                                Some((Err(error.into()), None))
                            }
                        },
                        Err(why) => Some((Err(unreachable(why).into()), None)),
                    }
                }
            });
            Ok(stream.boxed())
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Group>,
        option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        self.ask("vote", &option, |member| {
            let rpc = rpc.clone();
            async move { member.raft.vote(rpc).await.map_err(|error| error.to_string()) }
        })
        .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Group>,
        option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        self.ask("pre-vote", &option, |member| {
            let rpc = rpc.clone();
            async move { member.raft.pre_vote(rpc).await.map_err(|error| error.to_string()) }
        })
        .await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Group>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Group>, RPCError<Group>> {
        self.ask("transfer", &option, |member| {
            let req = req.clone();
            async move {
                let handled = member.raft.handle_transfer_leader(req).await;
                handled.map_err(|error| error.to_string())
            }
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
        let SimNetwork { world, me, .. } = self.network.clone();
        let to = self.target;
        let sending = async move {
            world.hop(me, to, "snapshot").await?;
            let (member, there) = world.target(to).ok_or("refused")?;
            let mut receiving = member.snapshots.receive().map_err(|error| error.to_string())?;
            let mut offset = 0;
            loop {
                let piece = snapshot.snapshot.piece(offset, PIECE_BYTES);
                let piece = piece.map_err(|error| error.to_string())?;
                if piece.is_empty() {
                    break;
                }
                world.hop(me, to, "piece").await?;
                if !world.is_current(there) {
                    return Err("reset".to_owned());
                }
                receiving.write(&piece).map_err(|error| error.to_string())?;
                offset += piece.len() as u64;
            }
            let (meta, file) = receiving.finish().map_err(|error| error.to_string())?;
            let snapshot = Snapshot { meta, snapshot: file };
            let installed = member.raft.install_full_snapshot(vote, snapshot).await;
            let answer = installed.map_err(|error| error.to_string())?;
            count("snapshot installed");
            world.hop(there, me.node, "snapshot").await?;
            Ok(answer)
        };
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            answer = tokio::time::timeout(Duration::from_secs(10), sending) => {
                Ok(answer.map_err(|_| unreachable("the snapshot is not taken"))?.map_err(unreachable)?)
            }
        }
    }
}

#[async_trait::async_trait]
impl Peers for SimNetwork {
    fn channel(&self, _: &Peer) -> Result<Channel, NoAnswer> {
        Err("there are no channels in a simulation".into())
    }

    async fn forward(&self, leader: &Peer, proposal: &Packed) -> Result<Forwarded, NoAnswer> {
        let work = |member: Member| {
            let proposal = proposal.clone();
            async move { Ok(member.consensus.propose_here(proposal).await) }
        };
        let answer = tokio::time::timeout(CALL * 2, self.world.call(self.me, leader.id, "forward", work)).await;
        answer.map_err(|_| "no answer in time".to_owned())?
    }

    async fn read_index(&self, leader: &Peer) -> Result<u64, NoAnswer> {
        let work = |member: Member| async move {
            let reading = member.raft.get_read_linearizer(openraft::ReadPolicy::ReadIndex).await;
            Ok(reading.map_err(|error| error.to_string())?.read_log_id().index())
        };
        let answer = tokio::time::timeout(CALL, self.world.call(self.me, leader.id, "read index", work)).await;
        answer.map_err(|_| "no answer in time".to_owned())?
    }

    async fn attend(&self, peer: &Peer) {
        let Some((_, there)) = self.world.target(peer.id) else {
            return;
        };
        if self.world.hop(self.me, peer.id, "attend").await.is_err() {
            return;
        }
        while self.world.is_current(there) || self.world.is_cut(peer.id, self.me.node) {
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    }

    async fn is_gone(&self, peer: &Peer) -> bool {
        let exchange = async {
            self.world.hop(self.me, peer.id, "probe").await.ok()?;
            // The machine answers, also for a process that is gone.
            if self.world.is_cut(peer.id, self.me.node) {
                return None;
            }
            Some(self.world.target(peer.id).is_none())
        };
        let answer = tokio::time::timeout(Duration::from_millis(100), exchange).await;
        answer.ok().flatten().unwrap_or(false)
    }

    async fn confirm_loss(&self, peer: &Peer, leader: Vote, last: Option<LogId>) -> Result<(), NoAnswer> {
        let work = |member: Member| async move { member.watch.confirm(leader, last).await.map_err(str::to_owned) };
        let answer = tokio::time::timeout(CALL, self.world.call(self.me, peer.id, "confirm loss", work)).await;
        answer.map_err(|_| "no answer in time".to_owned())?
    }
}
