//! Chunks on their way from a writer to this node's disk and to as many others as make a majority.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_runtime::Tasks;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Peers;
use crate::FileSyncError;
use crate::chunk::Chunk;
use crate::error::blocking;
use crate::store::{ChunkStore, Lease};

/// Batches that wait for a node.
const WAITING: usize = 2;
/// How much later than the others a node may be before they go on without it: it fetches the rest by itself.
const LAG: Duration = Duration::from_secs(2);

type Batch = Arc<Vec<Chunk>>;

struct Target {
    node: NodeId,
    queue: mpsc::Sender<Batch>,
}

/// Batches of chunks, on their way. Dropped: given up; what has arrived is swept one day.
pub(crate) struct Spread {
    store: ChunkStore,
    lease: Lease,
    targets: Vec<Target>,
    running: JoinSet<Result<(), String>>,
    wanted: usize,
    last: Arc<Mutex<String>>,
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
            let (queue, mut batches) = mpsc::channel::<Batch>(WAITING);
            let (peers, last) = (peers.clone(), Arc::clone(&last));
            let given = tasks.spawn("chunks to a peer", async move {
                while let Some(batch) = batches.recv().await {
                    if let Err(reason) = peers.give(node, &batch).await {
                        tracing::debug!(%node, reason, "a peer did not take chunks");
                        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                        *last = format!("node {node}: {reason}");
                        return Err(reason);
                    }
                }
                Ok(())
            });
            running.spawn(async move { given.join().await.unwrap_or(Err("the task was lost".into())) });
            Target { node, queue }
        });
        Self {
            lease: store.lease(),
            store: store.clone(),
            targets: targets.collect(),
            running,
            wanted,
            last,
        }
    }

    /// One batch: stored here when it returns, and on its way to the others.
    pub(crate) async fn add(&mut self, chunks: Vec<Chunk>) -> Result<(), FileSyncError> {
        let batch: Batch = Arc::new(chunks);
        // What is here already must not be swept between this look and the change that names it.
        self.lease.add(batch.iter().map(|chunk| chunk.hash));
        let (store, own) = (self.store.clone(), Arc::clone(&batch));
        let storing = blocking(move || store.put(&own));
        let sending = send_all(&self.targets, &batch);
        let (stored, late) = tokio::join!(storing, sending);
        stored?;
        self.lease.add(batch.iter().map(|chunk| chunk.hash));
        self.targets.retain(|target| !late.contains(&target.node));
        Ok(())
    }

    /// Returns when everything is on a majority. The chunks are kept as long as the lease is.
    ///
    /// # Errors
    /// [`FileSyncError::TooFewCopies`]
    pub(crate) async fn finish(mut self) -> Result<Lease, FileSyncError> {
        self.targets.clear();
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
        Ok(self.lease)
    }
}

/// Hands a batch to every target that takes it in time; the others.
async fn send_all(targets: &[Target], batch: &Batch) -> Vec<NodeId> {
    let sends = targets.iter().map(|target| async {
        let sent = tokio::time::timeout(LAG, target.queue.send(Arc::clone(batch))).await;
        (!matches!(sent, Ok(Ok(())))).then_some(target.node)
    });
    futures::future::join_all(sends).await.into_iter().flatten().collect()
}
