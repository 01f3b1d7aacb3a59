//! Chunks on their way from a writer to this node's disk and to as many others as make a majority.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_runtime::{TaskHandle, Tasks};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::Peers;
use crate::FileSyncError;
use crate::chunk::Chunk;
use crate::error::blocking;
use crate::store::{ChunkStore, Lease};

/// Batches that wait for a node.
const WAITING: usize = 1;
/// Batches that are on their way to one disk: while one is synced, the next is brought there.
const AT_ONCE: usize = 2;
/// How much later than the others a node may be before they go on without it: it fetches the rest by itself.
const LAG: Duration = Duration::from_secs(2);

type Batch = Arc<Vec<Chunk>>;
/// One for each batch that is stored here.
type Kept = Result<Vec<Lease>, FileSyncError>;

struct Target {
    node: NodeId,
    queue: mpsc::Sender<Batch>,
}

/// Batches of chunks, on their way. Dropped: given up; what has arrived is swept one day.
pub(crate) struct Spread {
    own: Own,
    targets: Vec<Target>,
    running: JoinSet<Result<(), String>>,
    wanted: usize,
    last: Arc<Mutex<String>>,
}

/// The way to this node's own disk.
struct Own {
    queue: mpsc::Sender<Batch>,
    storing: TaskHandle<Kept>,
}

impl Own {
    fn begin(store: &ChunkStore, tasks: &Tasks) -> Self {
        let (queue, batches) = mpsc::channel::<Batch>(WAITING);
        let store = store.clone();
        let storing = ReceiverStream::new(batches)
            .map(move |batch| {
                let store = store.clone();
                blocking(move || keep(&store, &batch))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect();
        let storing = tasks.spawn("chunks to this node", storing);
        Self { queue, storing }
    }

    async fn finish(self) -> Kept {
        drop(self.queue);
        self.storing.join().await.unwrap_or(Err(FileSyncError::CutOff))
    }
}

fn keep(store: &ChunkStore, batch: &[Chunk]) -> Result<Lease, FileSyncError> {
    let mut lease = store.lease();
    // What is here already must not be swept between this look and the change that names it.
    lease.add(batch.iter().map(|chunk| chunk.hash));
    store.put(batch)?;
    lease.add(batch.iter().map(|chunk| chunk.hash));
    Ok(lease)
}

impl Spread {
    /// Ready for the first batch.
    pub(crate) fn begin(store: &ChunkStore, peers: &Peers, tasks: &Tasks) -> Self {
        let wanted = peers.majority();
        let last = Arc::new(Mutex::new("no other node answered".to_owned()));
        let mut running = JoinSet::new();
        // More than two at a time would make this node's link the narrow place; the rest fetch from those that have it.
        let count = wanted.saturating_sub(1).max(2);
        let targets = peers.others().into_iter().take(count).map(|node| {
            let (queue, batches) = mpsc::channel::<Batch>(WAITING);
            let (peers, last) = (peers.clone(), Arc::clone(&last));
            let given = tasks.spawn("chunks to a peer", async move {
                let given = ReceiverStream::new(batches)
                    .map(|batch| give(&peers, node, batch))
                    .buffer_unordered(AT_ONCE)
                    .try_for_each(|()| std::future::ready(Ok(())));
                let given = given.await;
                if let Err(reason) = &given {
                    tracing::debug!(%node, reason, "a peer did not take chunks");
                    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                    *last = format!("node {node}: {reason}");
                }
                given
            });
            running.spawn(async move { given.join().await.unwrap_or(Err("the task was lost".into())) });
            Target { node, queue }
        });
        Self {
            own: Own::begin(store, tasks),
            targets: targets.collect(),
            running,
            wanted,
            last,
        }
    }

    /// One batch: on its way to this node's disk and to the others when it returns. Not taken when this node's disk has refused an earlier
    /// one; [`Self::finish`] says why.
    pub(crate) async fn add(&mut self, chunks: Vec<Chunk>) -> bool {
        let batch: Batch = Arc::new(chunks);
        let (own, late) = tokio::join!(self.own.queue.send(Arc::clone(&batch)), send_all(&self.targets, &batch));
        self.targets.retain(|target| !late.contains(&target.node));
        own.is_ok()
    }

    /// Returns when everything is on a majority. The chunks are kept as long as the leases are.
    ///
    /// # Errors
    /// [`FileSyncError::TooFewCopies`], and what this node's disk says.
    pub(crate) async fn finish(mut self) -> Result<Vec<Lease>, FileSyncError> {
        self.targets.clear();
        let leases = self.own.finish().await?;
        let mut stored = 1;
        while stored < self.wanted {
            match self.running.join_next().await {
                Some(Ok(Ok(()))) => stored += 1,
                Some(_) => {}
                None => {
                    let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let wanted = self.wanted;
                    return Err(FileSyncError::TooFewCopies { stored, wanted, last });
                }
            }
        }
        // Whoever is a little behind goes on: it would fetch the same soon.
        self.running.detach_all();
        Ok(leases)
    }
}

async fn give(peers: &Peers, node: NodeId, batch: Batch) -> Result<(), String> {
    peers.give(node, &batch).await
}

/// Hands a batch to every target that takes it in time; the others.
async fn send_all(targets: &[Target], batch: &Batch) -> Vec<NodeId> {
    let sends = targets.iter().map(|target| async {
        let sent = tokio::time::timeout(LAG, target.queue.send(Arc::clone(batch))).await;
        (!matches!(sent, Ok(Ok(())))).then_some(target.node)
    });
    futures::future::join_all(sends).await.into_iter().flatten().collect()
}
