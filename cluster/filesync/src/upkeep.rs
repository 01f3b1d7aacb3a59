//! What has to be looked after in the background: chunks that are missing, chunks that nothing names, and bytes that rot.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::files::{ContentHash, Entry, FileEntry, FilePath, Layout, Manifest};
use conclave_consensus::Consensus;
use conclave_runtime::Shutdown;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::FileSyncError;
use crate::error::blocking;
use crate::keeper::Order;
use crate::status::{FilesStatus, ScrubReport};
use crate::store::{ChunkStore, Contents};
use crate::transfer::Fetching;
use crate::tree::{Disk, has_content};

/// How often the store is compared with the manifest.
const ROUND: Duration = Duration::from_secs(3600);
/// The first time comes soon: what was lost while the node was down is missed.
const FIRST_ROUND: Duration = Duration::from_secs(2);
/// Everything is read once in so many rounds.
const ROUNDS_PER_SCRUB: u64 = 7 * 24;
/// What nothing names is kept for this long: an upload may be about to name it.
const GRACE: Duration = Duration::from_secs(24 * 3600);
/// Read at once, then others come first for a moment.
const READ_AT_ONCE: usize = 64;
const READ_PAUSE: Duration = Duration::from_millis(20);
/// How long a scrub that somebody asked for waits until what it found is whole again.
const HEAL_WAIT: Duration = Duration::from_secs(30);

/// Looks after the store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upkeep {
    pub(crate) consensus: Consensus,
    pub(crate) store: ChunkStore,
    pub(crate) fetching: Fetching,
    pub(crate) disk: watch::Receiver<Option<Arc<Disk>>>,
    pub(crate) status: watch::Receiver<FilesStatus>,
    pub(crate) orders: mpsc::Sender<Order>,
    /// One at a time.
    pub(crate) scrubbing: Arc<Mutex<()>>,
}

/// What the manifest names, and what of that is not here.
#[derive(Default)]
struct Named {
    live: HashSet<ContentHash>,
    missing: Vec<(ContentHash, u64)>,
    /// Lists that are missing: which chunks they name is not known.
    unknown: usize,
}

fn files(manifest: &Manifest) -> impl Iterator<Item = &FileEntry> {
    let live = manifest.live().values().map(|live| &live.entry);
    let past = manifest.all_past().map(|(_, past)| &past.entry);
    live.chain(past).chain(manifest.staged()).filter_map(Entry::file)
}

/// Everything that a version within retention names. Blocking.
fn named(store: &ChunkStore, manifest: &Manifest) -> Named {
    let (mut named, mut seen) = (Named::default(), HashSet::new());
    let want = |named: &mut Named, hash: ContentHash, bytes: u64| {
        if named.live.insert(hash) && !store.has(hash) {
            named.missing.push((hash, bytes));
        }
    };
    for file in files(manifest) {
        if !seen.insert(file.content) {
            continue;
        }
        match file.layout {
            Layout::Whole => want(&mut named, file.content, file.size),
            Layout::Listed => {
                want(&mut named, file.content, file.size / 4096);
                match Contents::of(store, file.content) {
                    Some(contents) => {
                        named.unknown += contents.lacking.len();
                        for listed in contents.lists.iter().chain(&contents.chunks) {
                            want(&mut named, listed.hash, listed.bytes.into());
                        }
                    }
                    None => named.unknown += 1,
                }
            }
        }
    }
    named
}

impl Upkeep {
    /// Until the node stops.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut pause = FIRST_ROUND;
        for round in 1u64.. {
            if !shutdown.sleep(pause).await {
                return;
            }
            pause = ROUND;
            let done = async {
                if round % ROUNDS_PER_SCRUB == 0 {
                    return self.scrub(READ_PAUSE).await.map(drop);
                }
                self.complete_and_sweep().await.map(drop)
            };
            match shutdown.run_until(done).await {
                None => return,
                Some(Err(error)) => tracing::warn!(%error, "the chunk store could not be looked after"),
                Some(Ok(())) => {}
            }
        }
    }

    /// Fetches what is missing, as often as lists of chunks come and name more; sweeps when all is known. How many were swept.
    async fn complete_and_sweep(&self) -> Result<(usize, usize), FileSyncError> {
        let mut missed = 0;
        let mut arrived = self.fetching.arrived();
        loop {
            arrived.mark_unchanged();
            let (store, state) = (self.store.clone(), self.consensus.state().borrow().clone());
            let (named, swept) = blocking(move || {
                let named = named(&store, state.files());
                // While a list is missing, nobody knows what it names.
                let swept = if named.unknown == 0 {
                    store.sweep(&named.live, GRACE)
                } else {
                    (0, 0)
                };
                Ok((named, swept))
            })
            .await?;
            if swept.0 > 0 {
                tracing::info!(
                    chunks = swept.0,
                    bytes = swept.1,
                    "chunks that nothing names were removed"
                );
            }
            if named.missing.is_empty() {
                return Ok((missed, swept.0));
            }
            missed = named.missing.len().max(missed);
            let unknown = named.unknown;
            let bytes = named.missing.iter().map(|(_, bytes)| *bytes).sum();
            let store = self.store.clone();
            if let Err(error) = blocking(move || store.check_room(bytes)).await {
                // What the tree has to show comes first, and takes what room there is.
                tracing::warn!(%error, chunks = missed, "missing chunks are not fetched");
                return Ok((missed, swept.0));
            }
            self.fetching.want(named.missing).await;
            if unknown == 0 {
                return Ok((missed, swept.0));
            }
            let more = tokio::time::timeout(HEAL_WAIT, arrived.changed()).await;
            if !matches!(more, Ok(Ok(()))) {
                return Ok((missed, swept.0));
            }
        }
    }

    /// Reads everything, has what is damaged made anew, and waits until it is, for a while.
    pub(crate) async fn scrub(&self, pause: Duration) -> Result<ScrubReport, FileSyncError> {
        let _alone = self.scrubbing.lock().await;
        let mut report = ScrubReport::default();
        let (done, looked) = oneshot::channel();
        self.order(Order::LookThrough(done), looked).await?;
        let all = self.store.all();
        let damaged_before = self.store.found_damaged();
        report.chunks = all.len();
        for some in all.chunks(READ_AT_ONCE) {
            let (store, some) = (self.store.clone(), some.to_vec());
            blocking(move || {
                for hash in some {
                    // Damaged ones are set aside by being read.
                    let _read = store.get(hash);
                }
                Ok(())
            })
            .await?;
            tokio::time::sleep(pause).await;
        }
        let found = self.store.found_damaged() - damaged_before;
        let (missed, swept) = self.complete_and_sweep().await?;
        report.damaged_chunks = missed.max(usize::try_from(found).unwrap_or(usize::MAX));
        report.swept_chunks = swept;
        self.scrub_files(&mut report, pause).await?;
        report.healed = self.wait_whole().await;
        Ok(report)
    }

    async fn scrub_files(&self, report: &mut ScrubReport, pause: Duration) -> Result<(), FileSyncError> {
        let Some(disk) = self.disk.borrow().clone() else {
            return Err(FileSyncError::Remote(
                "the resource tree is not open; the status says why".into(),
            ));
        };
        let manifest = self.consensus.state().borrow().files().clone();
        let of_files = manifest.live().iter().filter(|(_, live)| live.entry.file().is_some());
        let paths: Vec<FilePath> = of_files.map(|(path, _)| path.clone()).collect();
        let mut damaged = Vec::new();
        for some in paths.chunks(READ_AT_ONCE) {
            let (disk, manifest, some) = (Arc::clone(&disk), manifest.clone(), some.to_vec());
            report.files += some.len();
            let bad = blocking(move || {
                let is_bad = |path: &FilePath| {
                    manifest
                        .get(path)
                        .is_some_and(|live| !has_content(&disk, path, &live.entry))
                };
                Ok(some.into_iter().filter(is_bad).collect::<Vec<_>>())
            });
            damaged.extend(bad.await?);
            tokio::time::sleep(pause).await;
        }
        // What has changed since, or is not shown yet, is not damaged.
        let now = self.consensus.state().borrow().files().clone();
        damaged.retain(|path| now.get(path) == manifest.get(path));
        if damaged.is_empty() {
            return Ok(());
        }
        tracing::warn!(count = damaged.len(), first = %damaged[0], "files of the tree are damaged; they are made anew");
        report.damaged_files = damaged.iter().map(ToString::to_string).collect();
        let (done, mended) = oneshot::channel();
        self.order(Order::Mend(damaged, done), mended).await
    }

    async fn order(&self, order: Order, done: oneshot::Receiver<()>) -> Result<(), FileSyncError> {
        self.orders.send(order).await.map_err(|_| FileSyncError::CutOff)?;
        done.await.map_err(|_| FileSyncError::CutOff)
    }

    /// Whether everything is here and shown, within a while.
    async fn wait_whole(&self) -> bool {
        let (mut status, mut arrived) = (self.status.clone(), self.fetching.arrived());
        let whole = async {
            loop {
                let version = self.consensus.state().borrow().files().version();
                let shown = {
                    let status = status.borrow_and_update();
                    status.missing == 0 && status.error.is_none() && status.seen >= version
                };
                if shown && self.fetching.backlog().0 == 0 {
                    return;
                }
                tokio::select! {
                    changed = status.changed() => if changed.is_err() { return std::future::pending().await },
                    changed = arrived.changed() => if changed.is_err() { return std::future::pending().await },
                }
            }
        };
        tokio::time::timeout(HEAL_WAIT, whole).await.is_ok()
    }
}
