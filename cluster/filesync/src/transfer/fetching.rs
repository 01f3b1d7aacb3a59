//! Carries out what [`Fetcher`] decides.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::files::ContentHash;
use conclave_runtime::{Shutdown, Tasks};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Peers;
use crate::core::fetch::{Ask, Fetcher, Input};
use crate::error::blocking;
use crate::store::ChunkStore;

/// What happened and was not told to the planner yet.
const WAITING: usize = 256;
/// How often the peers are looked at while something is fetched.
const LOOK: Duration = Duration::from_millis(500);
/// What came is written when it is so much, or the answer is over.
const STORE_BYTES: usize = 4 << 20;

/// Fetches in the background. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fetching {
    inputs: mpsc::Sender<Input>,
    arrived: watch::Receiver<u64>,
    backlog: Arc<Mutex<(usize, u64)>>,
    failure: Arc<Mutex<Option<String>>>,
}

struct Driver {
    store: ChunkStore,
    peers: Peers,
    tasks: Tasks,
    inputs: mpsc::Sender<Input>,
    arrived: watch::Sender<u64>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Fetching {
    pub(crate) fn start(store: &ChunkStore, peers: &Peers, tasks: &Tasks) -> Self {
        let (inputs, receiver) = mpsc::channel(WAITING);
        let (sender, arrived) = watch::channel(0);
        let (backlog, failure) = (Arc::default(), Arc::default());
        let driver = Driver {
            store: store.clone(),
            peers: peers.clone(),
            tasks: tasks.clone(),
            inputs: inputs.clone(),
            arrived: sender,
            failure: Arc::clone(&failure),
        };
        tasks.spawn(
            "chunk fetcher",
            run(Arc::new(driver), receiver, Arc::clone(&backlog), tasks.shutdown()),
        );
        Self {
            inputs,
            arrived,
            backlog,
            failure,
        }
    }

    /// These are needed. They come in this order, more or less.
    pub(crate) async fn want(&self, hashes: Vec<(ContentHash, u64)>) {
        // It is refused when the node stops.
        let _stopping = self.inputs.send(Input::Want(hashes)).await;
    }

    /// Woken when chunks have come.
    pub(crate) fn arrived(&self) -> watch::Receiver<u64> {
        self.arrived.clone()
    }

    /// Chunks and bytes that are still to come, as far as is known.
    pub(crate) fn backlog(&self) -> (usize, u64) {
        *self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why what came could not be kept.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn run(
    driver: Arc<Driver>,
    mut inputs: mpsc::Receiver<Input>,
    backlog: Arc<Mutex<(usize, u64)>>,
    shutdown: Shutdown,
) {
    let (begin, mut fetcher) = (Instant::now(), Fetcher::default());
    loop {
        let wake = fetcher.wake_at().map(|at| begin + at);
        let idle = fetcher.backlog().0 == 0;
        let pause = async {
            match wake {
                _ if idle => std::future::pending().await,
                Some(at) => tokio::time::sleep_until(at.min(Instant::now() + LOOK)).await,
                None => tokio::time::sleep(LOOK).await,
            }
        };
        let input = tokio::select! {
            () = shutdown.requested() => return,
            input = inputs.recv() => match input {
                Some(input) => input,
                None => return,
            },
            () = pause => Input::Tick,
        };
        let now = begin.elapsed();
        let mut asks = fetcher.step(now, Input::Peers(driver.peers.alive()));
        asks.extend(fetcher.step(now, input));
        let left = fetcher.backlog();
        let before = std::mem::replace(&mut *backlog.lock().unwrap_or_else(PoisonError::into_inner), left);
        if before.0 > 0 && left.0 == 0 {
            // Whoever waits for the last has been woken when it came, and may have looked before this was known.
            driver.arrived.send_modify(|count| *count += 1);
        }
        for ask in asks {
            driver.tasks.spawn("fetch chunks", Arc::clone(&driver).ask(ask));
        }
    }
}

impl Driver {
    async fn ask(self: Arc<Self>, ask: Ask) {
        let (mut waiting, mut bytes, mut kept) = (Vec::new(), 0, true);
        // Some may have been given in the meantime.
        let missing = self.store.missing(ask.hashes.iter().copied());
        for hash in ask.hashes.iter().filter(|hash| !missing.contains(hash)) {
            let _stopping = self.inputs.send(Input::Got(*hash)).await;
        }
        if missing.is_empty() {
            self.arrived.send_modify(|count| *count += 1);
            let _stopping = self.inputs.send(Input::Answered(ask.id)).await;
            return;
        }
        // What could not be kept is not brought here again and again while the disk is full.
        let (store, expected) = (self.store.clone(), ask.bytes);
        if let Err(error) = blocking(move || store.check_room(expected)).await {
            self.fail(Some(error.to_string()));
            let _stopping = self.inputs.send(Input::Failed(ask.id)).await;
            return;
        }
        let outcome = async {
            let mut answer = self.peers.fetch(ask.peer, &missing).await?;
            while let Some((right, wrong)) = answer.next().await? {
                for wrong in wrong {
                    let _stopping = self.inputs.send(Input::Wrong(ask.peer, wrong.0)).await;
                }
                bytes += right.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
                waiting.extend(right);
                if bytes >= STORE_BYTES {
                    bytes = 0;
                    kept &= self.keep(std::mem::take(&mut waiting)).await;
                }
            }
            Ok::<_, String>(())
        };
        let outcome = outcome.await;
        kept &= self.keep(waiting).await;
        if let Err(reason) = &outcome {
            tracing::debug!(peer = %ask.peer, reason, "a peer did not give chunks");
        }
        let ended = if outcome.is_ok() && kept {
            Input::Answered(ask.id)
        } else {
            Input::Failed(ask.id)
        };
        let _stopping = self.inputs.send(ended).await;
    }

    /// Remembers why nothing can be kept, or that it can be.
    fn fail(&self, reason: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    async fn keep(&self, chunks: Vec<crate::chunk::Chunk>) -> bool {
        if chunks.is_empty() {
            return true;
        }
        let (store, hashes) = (
            self.store.clone(),
            chunks.iter().map(|chunk| chunk.hash).collect::<Vec<_>>(),
        );
        let kept = blocking(move || store.put(&chunks)).await;
        self.fail(kept.as_ref().err().map(ToString::to_string));
        if kept.is_err() {
            return false;
        }
        for hash in hashes {
            let _stopping = self.inputs.send(Input::Got(hash)).await;
        }
        self.arrived.send_modify(|count| *count += 1);
        true
    }
}
