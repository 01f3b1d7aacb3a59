//! Reads that see every write acknowledged before them, many for the price of one.
//!
//! A linearizable read costs the leader a round to a majority. Whoever asks while rounds are under way shares the next one:
//! a thousand readers cost a handful of rounds, and one reader waits for nobody.

use conclave_consensus::Consensus;
use conclave_runtime::Tasks;
use tokio::sync::{mpsc, oneshot};

use crate::patience::Patience;

/// Readers that may stand in line; more wait before it.
const QUEUE: usize = 4096;
/// Rounds under way at once: enough that a reader does not wait for one that began before it, few enough to share.
const ROUNDS: usize = 4;

/// No majority answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no leader confirmed the read in time")]
pub(crate) struct NotConfirmed;

/// A handle on the readers' queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Barrier {
    queue: mpsc::Sender<oneshot::Sender<Result<(), NotConfirmed>>>,
}

impl Barrier {
    pub(crate) fn start(consensus: Consensus, patience: Patience, tasks: &Tasks) -> Self {
        let (queue, mut waiting) = mpsc::channel::<oneshot::Sender<_>>(QUEUE);
        let (rounds, shutdown) = (tasks.clone(), tasks.shutdown());
        tasks.spawn("read barrier", async move {
            let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(ROUNDS));
            loop {
                let next = async {
                    let permit = std::sync::Arc::clone(&permits).acquire_owned().await.ok()?;
                    let mut batch = Vec::new();
                    let count = waiting.recv_many(&mut batch, QUEUE).await;
                    (count > 0).then_some((permit, batch))
                };
                let Some(Some((permit, batch))) = shutdown.run_until(next).await else {
                    return;
                };
                let (consensus, patience) = (consensus.clone(), patience.clone());
                rounds.spawn("read round", async move {
                    let confirmed = confirm(&consensus, &patience).await;
                    drop(permit);
                    for reader in batch {
                        // A reader whose client has left is gone.
                        let _gone = reader.send(confirmed);
                    }
                });
            }
        });
        Self { queue }
    }

    /// Resolves when this node's state holds every write that was acknowledged before the call.
    pub(crate) async fn pass(&self) -> Result<(), NotConfirmed> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(answer).await.map_err(|_| NotConfirmed)?;
        answered.await.map_err(|_| NotConfirmed)?
    }
}

/// Asks until a leader confirms, through elections and hanging leaders.
async fn confirm(consensus: &Consensus, patience: &Patience) -> Result<(), NotConfirmed> {
    let end = patience.deadline();
    loop {
        let mut leadership = consensus.leadership();
        let before = leadership.borrow_and_update().leader;
        let replaced = async {
            // An error means that Raft has stopped; the deadline ends the wait.
            if leadership.wait_for(|now| now.leader != before).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let asked = async {
            let answer = consensus.linearizable().await.is_ok();
            if !answer {
                tokio::time::sleep(patience.retry()).await;
            }
            answer
        };
        tokio::select! {
            confirmed = asked => if confirmed {
                return Ok(());
            },
            () = replaced => {}
            () = tokio::time::sleep_until(end) => return Err(NotConfirmed),
        }
    }
}
