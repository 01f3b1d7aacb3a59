//! Raft's messages from the other members.

use std::io;
use std::time::Duration;

use conclave_proto::consensus::raft_server::Raft as RaftService;
use conclave_proto::consensus::{
    AppendRequest, AppendResponse, AttendRequest, ConfirmLossRequest, ConfirmLossResponse, Frame,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::raft::{AppendEntriesResponse, StreamAppendError};
use tokio::sync::mpsc;
use tonic::{Request as Rpc, Response as Answer, Status, Streaming};

use crate::offload::Offload;
use crate::packed::unpack;
use crate::server::{Service, frame, internal};
use crate::snapshot::Receiving;
use crate::types::{Snapshot, SnapshotMeta, Vote};
use crate::wire::{append_in, log_id_in, result_out, vote_in};

/// Largest state that a node accepts as a snapshot.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// Pieces of a snapshot that may wait for the disk.
const PIECES_WAITING: usize = 4;
/// A sender that sends nothing for this long is given up.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

#[tonic::async_trait]
impl RaftService for Service {
    type AppendStreamStream = BoxStream<'static, Result<AppendResponse, Status>>;
    type AttendStream = BoxStream<'static, Result<Frame, Status>>;

    async fn append(&self, request: Rpc<AppendRequest>) -> Result<Answer<AppendResponse>, Status> {
        let request = append_in(request.into_inner()).map_err(internal)?;
        let (previous, last) = (
            request.prev_log_id,
            request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id),
        );
        let result = match self.member.raft.append_entries(request).await.map_err(internal)? {
            AppendEntriesResponse::Success => Ok(last),
            AppendEntriesResponse::PartialSuccess(matched) => Ok(matched),
            AppendEntriesResponse::Conflict => Err(StreamAppendError::Conflict(
                previous.ok_or_else(|| internal("a conflict before the log's beginning"))?,
            )),
            AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        };
        if result.is_ok() {
            self.member.heard.now();
        }
        Ok(Answer::new(result_out(result)))
    }

    async fn append_stream(
        &self,
        request: Rpc<Streaming<AppendRequest>>,
    ) -> Result<Answer<Self::AppendStreamStream>, Status> {
        // A broken or unreadable stream ends; what was read of it is answered.
        let requests = futures::stream::unfold(request.into_inner(), |mut requests| async {
            let next = requests.message().await.map_err(|status| status.to_string());
            match next.and_then(|next| next.map(append_in).transpose().map_err(|error| error.to_string())) {
                Ok(next) => next.map(|next| (next, requests)),
                Err(error) => {
                    tracing::debug!(error, "an append stream broke off");
                    None
                }
            }
        });
        let heard = self.member.heard.clone();
        let answers = self
            .member
            .raft
            .stream_append(requests)
            .map(move |result| match result {
                Ok(result) => {
                    if result.is_ok() {
                        heard.now();
                    }
                    Ok(result_out(result))
                }
                Err(fatal) => Err(internal(fatal)),
            });
        let shutdown = self.shutdown.clone();
        let end = async move { shutdown.requested().await };
        Ok(Answer::new(answers.take_until(Box::pin(end)).boxed()))
    }

    async fn vote(&self, request: Rpc<Frame>) -> Result<Answer<Frame>, Status> {
        let body = unpack(&request.into_inner().body).map_err(internal)?;
        frame(&self.member.raft.vote(body).await.map_err(internal)?)
    }

    async fn pre_vote(&self, request: Rpc<Frame>) -> Result<Answer<Frame>, Status> {
        let body = unpack(&request.into_inner().body).map_err(internal)?;
        frame(&self.member.raft.pre_vote(body).await.map_err(internal)?)
    }

    async fn transfer_leader(&self, request: Rpc<Frame>) -> Result<Answer<Frame>, Status> {
        let body = unpack(&request.into_inner().body).map_err(internal)?;
        frame(&self.member.raft.handle_transfer_leader(body).await.map_err(internal)?)
    }

    async fn install_snapshot(&self, request: Rpc<Streaming<Frame>>) -> Result<Answer<Frame>, Status> {
        let mut frames = request.into_inner();
        let head = frames
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))?;
        let (vote, meta): (Vote, SnapshotMeta) = unpack(&head.body).map_err(internal)?;
        let snapshots = self.member.snapshots.clone();
        let receiving = Offload::Threads
            .run("raft-receive", move || snapshots.receive())
            .await
            .map_err(internal)?;
        let (pieces, queue) = mpsc::channel(PIECES_WAITING);
        let writing = Offload::Threads.run("raft-receive", move || write_pieces(receiving, queue));
        let feeding = async move {
            loop {
                let next = tokio::time::timeout(PIECE_TIMEOUT, frames.message())
                    .await
                    .map_err(|_| Status::deadline_exceeded("the snapshot stream stands still"))??;
                let Some(piece) = next else { return Ok::<(), Status>(()) };
                if pieces.send(piece.body).await.is_err() {
                    // The writer has given up and says why.
                    return Ok(());
                }
            }
        };
        let (fed, written) = futures::join!(feeding, writing);
        fed?;
        let (found, snapshot) = written.map_err(internal)?;
        if found != meta {
            return Err(Status::invalid_argument(
                "the snapshot is not the one that was announced",
            ));
        }
        tracing::info!(bytes = snapshot.bytes(), "snapshot received");
        let installing = self
            .member
            .raft
            .install_full_snapshot(vote, Snapshot { meta, snapshot });
        frame(&installing.await.map_err(internal)?)
    }

    async fn attend(&self, _: Rpc<AttendRequest>) -> Result<Answer<Self::AttendStream>, Status> {
        let shutdown = self.shutdown.clone();
        let end = async move { shutdown.requested().await };
        Ok(Answer::new(
            futures::stream::pending().take_until(Box::pin(end)).boxed(),
        ))
    }

    async fn confirm_loss(&self, request: Rpc<ConfirmLossRequest>) -> Result<Answer<ConfirmLossResponse>, Status> {
        let request = request.into_inner();
        let leader = request
            .leader
            .ok_or_else(|| Status::invalid_argument("a question without a leader"))?;
        let outcome = self
            .member
            .watch
            .confirm(vote_in(&leader), request.last.map(log_id_in))
            .await;
        Ok(Answer::new(ConfirmLossResponse {
            confirmed: outcome.is_ok(),
            reason: outcome.err().unwrap_or_default().to_owned(),
        }))
    }
}

/// Takes pieces until their sender is gone, then checks the whole. A stream that broke off leaves an unfinished file, which
/// the check refuses.
fn write_pieces(
    mut receiving: Receiving,
    mut pieces: mpsc::Receiver<bytes::Bytes>,
) -> io::Result<(SnapshotMeta, crate::snapshot::SnapshotFile)> {
    while let Some(piece) = pieces.blocking_recv() {
        if receiving.bytes() + piece.len() as u64 > SNAPSHOT_BYTES_MAX {
            return Err(io::Error::other("the snapshot is larger than this node accepts"));
        }
        receiving.write(&piece)?;
    }
    receiving.finish()
}
