//! A snapshot on its way to a member: read piece by piece on a thread, sent as frames, never whole in memory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conclave_proto::consensus::Frame;
use conclave_proto::consensus::raft_client::RaftClient;
use openraft::OptionalSend;
use openraft::errors::{ReplicationClosed, StreamingError};
use openraft::raft::SnapshotResponse;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::unreachable;
use crate::packed::{pack, unpack};
use crate::snapshot::SnapshotFile;
use crate::types::{Group, Snapshot, Vote};

/// A frame of the stream.
const FRAME_BYTES: usize = 256 << 10;
/// Frames read ahead.
const FRAMES_AHEAD: usize = 4;
/// Between two frames the sender rests this long: a snapshot takes no more than a share of the connection's and the
/// processor's time from proposals. At most 128 MiB/s.
const PAUSE: Duration = Duration::from_millis(2);
/// A receiver that takes nothing for this long, or does not install the whole in this time, is given up.
const STALL: Duration = Duration::from_secs(30);

pub(super) async fn send(
    mut client: RaftClient<Channel>,
    vote: Vote,
    snapshot: Snapshot,
    cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
    let head = pack(&(vote, &snapshot.meta)).map_err(unreachable)?;
    let (frames, stream) = mpsc::channel(FRAMES_AHEAD);
    let sent = Arc::new(AtomicU64::new(0));
    let file = snapshot.snapshot;
    let bytes = file.bytes();
    let progress = Arc::clone(&sent);
    std::thread::Builder::new()
        .name("raft-snapshot-out".into())
        .spawn(move || {
            // The stream tells what the receiver missed; here it only ends.
            if let Err(error) = read(&file, head, &frames, &progress) {
                tracing::warn!(%error, "a snapshot could not be read to its end");
            }
        })
        .map_err(unreachable)?;
    let sending = client.install_snapshot(ReceiverStream::new(stream));
    let answer = tokio::select! {
        biased;
        closed = cancel => return Err(closed.into()),
        answer = sending => answer,
        () = stalled(&sent) => return Err(unreachable("the snapshot is not taken").into()),
    };
    let frame = answer.map_err(|status| unreachable(status.message()))?;
    tracing::info!(bytes, "snapshot sent");
    Ok(unpack(&frame.into_inner().body).map_err(unreachable)?)
}

fn read(file: &SnapshotFile, head: Vec<u8>, frames: &mpsc::Sender<Frame>, progress: &AtomicU64) -> io::Result<()> {
    let mut offset = 0;
    let mut next = head;
    while !next.is_empty() {
        if frames.blocking_send(Frame { body: next.into() }).is_err() {
            return Ok(());
        }
        progress.fetch_add(1, Ordering::Relaxed);
        next = file.piece(offset, FRAME_BYTES)?;
        offset += next.len() as u64;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Resolves when the count has stood still for too long.
async fn stalled(count: &AtomicU64) {
    let mut last = count.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(STALL).await;
        let now = count.load(Ordering::Relaxed);
        if now == last {
            return;
        }
        last = now;
    }
}
