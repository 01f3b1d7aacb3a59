//! The one task that works on the tree: it makes the tree look like the manifest, and takes up what persons change in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::files::{ContentHash, FilePath, Live, Manifest, Origin};
use conclave_consensus::Consensus;
use conclave_runtime::{Backoff, Shutdown, Tasks};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::FileSyncError;
use crate::core::brake::Brake;
use crate::core::origin::is_edit;
use crate::core::plan::{Job, Shown, Unit, plan};
use crate::core::settle::{Seen, Settling};
use crate::error::blocking;
use crate::publish::{Edit, Published, Publisher};
use crate::status::FilesStatus;
use crate::store::ChunkStore;
use crate::transfer::Fetching;
use crate::tree::{
    Beside, Disk, Done, EDITABLE, Hands, Kind, Opened, Root, Scan, Stamp, is_editable, make_areas, open, scan,
};
use crate::watch::{Event, Watch};

/// While contents arrive, the tree is looked at again no sooner than this after the last time.
const BREATH: Duration = Duration::from_millis(40);
/// Without events of the disk, the editable areas are looked through as often as this.
const SCAN_BLIND: Duration = Duration::from_secs(10);
/// With them, everything is looked through as often as this.
const SCAN_ALL: Duration = Duration::from_secs(300);
/// Lost events have everything looked through, but not before so many times as long as it took the last time have passed.
const SCAN_SHARE: u32 = 5;
/// Chunks that are asked for at once: so many that no peer waits for orders.
const WANTED_AT_ONCE: usize = 50_000;

/// What others ask of the keeper.
pub(crate) enum Order {
    /// Something is not what it should be: it is made anew.
    Mend(Vec<FilePath>, oneshot::Sender<()>),
    /// Everything is looked through now.
    LookThrough(oneshot::Sender<()>),
    /// Edits were published, or not.
    Published(Vec<Published>),
}

/// What the keeper has.
pub(crate) struct Keeper {
    pub(crate) consensus: Consensus,
    pub(crate) store: ChunkStore,
    pub(crate) fetching: Fetching,
    pub(crate) publisher: Publisher,
    pub(crate) root: Root,
    pub(crate) beside: Beside,
    /// The version that the tree showed last, remembered over restarts.
    pub(crate) last_shown: PathBuf,
    pub(crate) status: watch::Sender<FilesStatus>,
    pub(crate) disk: watch::Sender<Option<Arc<Disk>>>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) own_orders: mpsc::Sender<Order>,
    pub(crate) tasks: Tasks,
}

/// What is known of an open tree.
struct Tree {
    hands: Option<Hands>,
    shown: Shown,
    settling: Settling,
    /// Being published: left alone meanwhile.
    capturing: BTreeSet<FilePath>,
    /// Of these, what has changed again meanwhile.
    changed_meanwhile: BTreeSet<FilePath>,
    brake: Brake,
    held: BTreeSet<FilePath>,
    watch: Option<Watch>,
    blind: Option<String>,
    complete: bool,
    next_scan: Instant,
    /// When the last one was over, and how long it took.
    last_scan: (Instant, Duration),
    refused: BTreeMap<FilePath, String>,
    remembered: u64,
}

/// One pass, on a thread of its own.
struct Pass {
    hands: Hands,
    shown: Shown,
    wants: Vec<(ContentHash, u64)>,
    edited: Vec<FilePath>,
    waiting: Vec<u64>,
    missing: usize,
    error: Option<FileSyncError>,
}

impl Keeper {
    /// Until the node stops. A tree that cannot be opened is tried again.
    pub(crate) async fn run(mut self) {
        let shutdown = self.tasks.shutdown();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        while !shutdown.is_requested() {
            let kept = self.keep(&shutdown, &mut backoff).await;
            self.disk.send_replace(None);
            if let Err(error) = kept {
                tracing::warn!(%error, "the resource files cannot be kept; trying again");
                self.status.send_modify(|status| status.error = Some(error.to_string()));
            }
            shutdown.sleep(backoff.next_delay()).await;
        }
    }

    async fn keep(&mut self, shutdown: &Shutdown, backoff: &mut Backoff) -> Result<(), FileSyncError> {
        let mut tree = self.open().await?;
        let begin = Instant::now();
        let (mut state, mut arrived) = (self.consensus.state(), self.fetching.arrived());
        loop {
            let mut retry = None;
            let last_pass = Instant::now();
            if let Err(error) = self.pass(&mut tree, begin).await {
                self.publish_status(&tree, |status| status.error = Some(error.to_string()));
                if matches!(error, FileSyncError::ForeignRoot { .. } | FileSyncError::CutOff) {
                    return Err(error);
                }
                tracing::warn!(%error, "the resource tree could not be brought up to date; trying again");
                retry = Some(Instant::now() + backoff.next_delay());
            } else {
                backoff.reset();
            }
            self.take_up(&mut tree, begin).await?;
            // Waits until there is something to do for the tree.
            loop {
                let settles = tree.settling.next().map(|at| begin + at);
                let due = [settles, retry, Some(tree.next_scan)].into_iter().flatten().min();
                let due = due.unwrap_or(tree.next_scan);
                let complete = tree.complete;
                let event = async {
                    match &mut tree.watch {
                        Some(watch) => watch.events.recv().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = shutdown.requested() => return Ok(()),
                    changed = state.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        let version = state.borrow_and_update().files().version();
                        if version != self.status.borrow().seen {
                            break;
                        }
                    }
                    order = self.orders.recv() => match order {
                        Some(order) => {
                            self.obey(&mut tree, order, begin).await?;
                            break;
                        }
                        None => return Ok(()),
                    },
                    event = event => self.notice(&mut tree, event, begin),
                    changed = arrived.changed(), if !complete => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        shutdown.run_until(tokio::time::sleep_until(last_pass + BREATH)).await;
                        arrived.mark_unchanged();
                        break;
                    }
                    () = tokio::time::sleep_until(due) => {
                        if tree.next_scan <= Instant::now() {
                            self.look_through(&mut tree, begin).await?;
                        }
                        if settles.is_some_and(|at| at <= Instant::now()) && retry.is_none() {
                            self.take_up(&mut tree, begin).await?;
                            continue;
                        }
                        break;
                    }
                }
            }
        }
    }

    /// The manifest as of now. What this node has shown was committed, but its log may not say so yet when it starts, and what
    /// the manifest has never heard of looks like an edit: a removed file would come back. Without a majority it waits, as edits would.
    async fn current_manifest(&self) -> Result<Manifest, FileSyncError> {
        let shutdown = self.tasks.shutdown();
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            let state = shutdown.run_until(self.consensus.linearizable());
            match state.await.ok_or(FileSyncError::CutOff)? {
                Ok(state) => return Ok(state.files().clone()),
                Err(error) => {
                    let why = format!("the resource files wait for the cluster: {error}");
                    self.status.send_modify(|status| status.error = Some(why));
                }
            }
            shutdown.sleep(backoff.next_delay()).await;
        }
    }

    async fn open(&self) -> Result<Tree, FileSyncError> {
        let (root, beside, store) = (self.root.clone(), self.beside.clone(), self.store.clone());
        let remembered: u64 = std::fs::read_to_string(&self.last_shown)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or_default();
        let wanted = self.current_manifest().await?;
        let known = wanted.clone();
        let opened = blocking(move || open(&root, beside, store, &wanted)).await?;
        let Opened {
            mut hands,
            shown,
            foreign,
        } = opened;
        self.disk.send_replace(Some(Arc::clone(&hands.disk)));
        let mut settling = Settling::default();
        for path in foreign {
            if is_editable(&path) && is_edit(&known, &path, remembered) {
                settling.saw(Duration::ZERO, path, Seen::Made);
            } else {
                hands.expel(&path)?;
            }
        }
        let watched = self.root.path().to_owned();
        let (watch, blind) = match blocking(move || Ok(Watch::begin(&watched))).await? {
            Ok(watch) => (Some(watch), None),
            Err(reason) => (None, Some(reason)),
        };
        if let Some(reason) = &blind {
            tracing::warn!(reason, "changes on disk are not noticed at once");
        }
        Ok(Tree {
            hands: Some(hands),
            shown,
            settling,
            capturing: BTreeSet::new(),
            changed_meanwhile: BTreeSet::new(),
            brake: Brake::default(),
            held: BTreeSet::new(),
            watch,
            blind,
            complete: false,
            // What came between the look and the watch is found by this.
            next_scan: Instant::now(),
            last_scan: (Instant::now(), Duration::ZERO),
            refused: BTreeMap::new(),
            remembered,
        })
    }

    fn publish_status(&self, tree: &Tree, change: impl FnOnce(&mut FilesStatus)) {
        self.status.send_modify(|status| {
            status.edits = tree.settling.len() + tree.capturing.len();
            status.held_deletions = tree.held.len();
            status.watching = if tree.blind.is_some() { "scan" } else { "events" }.to_owned();
            status.watch_failure.clone_from(&tree.blind);
            status.quarantined = tree
                .hands
                .as_ref()
                .map_or(status.quarantined, |hands| hands.quarantined);
            change(status);
        });
    }

    /// Brings the tree as far as the contents that are here allow.
    async fn pass(&mut self, tree: &mut Tree, begin: Instant) -> Result<(), FileSyncError> {
        let wanted = self.consensus.state().borrow().files().clone();
        let Some(hands) = tree.hands.take() else {
            return Err(FileSyncError::CutOff);
        };
        let (shown, capturing, root) = (
            std::mem::take(&mut tree.shown),
            tree.capturing.clone(),
            self.root.clone(),
        );
        let goal = wanted.clone();
        let mut pass = blocking(move || Ok(one_pass(hands, shown, &goal, &capturing, &root))).await?;
        tree.complete = pass.waiting.is_empty() && pass.error.is_none();
        if tree.complete {
            // The same, and shared from now on: the next difference costs what differs.
            pass.shown = wanted.live().clone();
        }
        let now = begin.elapsed();
        for path in pass.edited {
            tree.settling.saw(now, path, Seen::Whole);
        }
        tree.shown = pass.shown;
        tree.hands = Some(pass.hands);
        let failure = pass.error.as_ref().map(ToString::to_string);
        let refused = tree
            .refused
            .iter()
            .next()
            .map(|(path, why)| format!("{path} is not taken up: {why}"));
        let held = (!tree.held.is_empty()).then(|| {
            format!(
                "{} files vanished from disk at once and were not taken for deleted: `conclave files scrub` brings them back, \
                 `conclave files rm` removes them everywhere",
                tree.held.len()
            )
        });
        self.publish_status(tree, |status| {
            status.seen = wanted.version();
            let first = pass.waiting.first();
            status.applied = first
                .map_or(wanted.version(), |first| first.saturating_sub(1))
                .max(status.applied);
            status.missing = pass.missing;
            status.waiting = pass.waiting.iter().take(1000).copied().collect();
            status.error = failure.or(held).or(refused);
        });
        self.fetching.want(pass.wants).await;
        let Some(mut hands) = tree.hands.take() else {
            return Err(FileSyncError::CutOff);
        };
        // What everybody sees already becomes durable: until it is, a start would make it again.
        let (synced, hands) = blocking(move || {
            let synced = hands.sync();
            Ok((synced, hands))
        })
        .await?;
        tree.hands = Some(hands);
        for (path, fault) in synced? {
            tree.shown.remove(&path);
            tree.complete = false;
            pass.error = Some(fault);
        }
        if tree.complete && wanted.version() != tree.remembered {
            tree.remembered = wanted.version();
            if let Err(error) = std::fs::write(&self.last_shown, tree.remembered.to_string()) {
                return Err(FileSyncError::system("write", &self.last_shown)(error));
            }
        }
        pass.error.map_or(Ok(()), Err)
    }

    fn notice(&self, tree: &mut Tree, event: Option<Event>, begin: Instant) {
        let now = begin.elapsed();
        match event {
            Some(Event::Seen(path, seen)) => {
                if seen == Seen::Whole && EDITABLE.contains(&path.as_bytes()) {
                    // A whole area has come or gone: there has to be one.
                    tree.next_scan = Instant::now();
                }
                tree.settling.saw(now, path, seen);
            }
            Some(Event::Lost) => {
                // What this node itself makes of a large set may be more than the queue takes, again and again.
                let (over, took) = tree.last_scan;
                let soon = (over + took * SCAN_SHARE).max(Instant::now());
                if soon < tree.next_scan {
                    tracing::warn!(
                        "more has changed on disk than the system tells of at once; everything is looked through"
                    );
                    tree.next_scan = soon;
                }
            }
            Some(Event::Blind(reason)) => {
                tracing::warn!(reason, "changes on disk are not noticed at once");
                tree.blind = Some(reason);
                tree.next_scan = tree.next_scan.min(Instant::now() + SCAN_BLIND);
                self.publish_status(tree, |_| {});
            }
            Some(Event::Sighted) => {
                tracing::info!("changes on disk are noticed at once again");
                tree.blind = None;
                // What came where nothing was watched.
                tree.next_scan = Instant::now();
                self.publish_status(tree, |_| {});
            }
            None => {
                tree.watch = None;
                tree.blind.get_or_insert("the system's events have ended".into());
                tree.next_scan = tree.next_scan.min(Instant::now() + SCAN_BLIND);
            }
        }
    }

    async fn obey(&mut self, tree: &mut Tree, order: Order, begin: Instant) -> Result<(), FileSyncError> {
        match order {
            Order::Mend(paths, done) => {
                self.mend(tree, paths).await?;
                // Whoever asked may have gone.
                let _gone = done.send(());
            }
            Order::LookThrough(done) => {
                // What vanished and was not taken for deleted comes back.
                for path in std::mem::take(&mut tree.held) {
                    tree.shown.remove(&path);
                    if let Some(hands) = &mut tree.hands {
                        hands.stamps.remove(&path);
                    }
                }
                self.look_through(tree, begin).await?;
                let _gone = done.send(());
            }
            Order::Published(all) => {
                let now = begin.elapsed();
                for published in all {
                    self.published(tree, published, now);
                }
            }
        }
        Ok(())
    }

    fn published(&self, tree: &mut Tree, published: Published, now: Duration) {
        let Some(hands) = &mut tree.hands else { return };
        let path = published.path();
        tree.capturing.remove(path);
        if tree.changed_meanwhile.remove(path) {
            tree.settling.saw(now, path.clone(), Seen::Whole);
        }
        match published {
            Published::Put(path, stamp, entry, version) => {
                tree.refused.remove(&path);
                let live = Live {
                    entry,
                    version,
                    origin: Origin::Put,
                };
                hands.stamps.insert(path.clone(), stamp);
                tree.shown.insert(path, live);
            }
            Published::Gone(path) => {
                hands.stamps.remove(&path);
                tree.shown.remove(&path);
            }
            Published::Later(path, why) => {
                if why.is_some() {
                    tree.refused.insert(path.clone(), why.unwrap_or_default());
                }
                tree.settling.again(now, path);
            }
            Published::Refused(path, why) => {
                tracing::warn!(%path, why, "a change on disk is not taken up");
                tree.refused.insert(path, why);
            }
        }
    }

    /// Makes paths anew, whatever is there.
    async fn mend(&self, tree: &mut Tree, paths: Vec<FilePath>) -> Result<(), FileSyncError> {
        let Some(mut hands) = tree.hands.take() else {
            return Err(FileSyncError::CutOff);
        };
        let damaged = paths.clone();
        let (done, hands) = blocking(move || {
            let done = damaged.iter().try_for_each(|path| hands.expel(path));
            Ok((done, hands))
        })
        .await?;
        tree.hands = Some(hands);
        let count = paths.len();
        for path in paths {
            tree.shown.remove(&path);
        }
        // Whoever waits until the tree is whole waits for these, too.
        self.publish_status(tree, |status| status.missing += count);
        done
    }

    /// Compares all of the tree with what is remembered of it.
    async fn look_through(&self, tree: &mut Tree, begin: Instant) -> Result<(), FileSyncError> {
        let begin_scan = Instant::now();
        tree.next_scan = begin_scan + if tree.blind.is_some() { SCAN_BLIND } else { SCAN_ALL };
        let Some(hands) = tree.hands.take() else {
            return Err(FileSyncError::CutOff);
        };
        let root = self.root.clone();
        let (scanned, hands) = blocking(move || {
            let scanned = root.check().and_then(|()| {
                make_areas(&root)?;
                scan(&hands.disk, None, &hands.stamps)
            });
            Ok((scanned, hands))
        })
        .await?;
        tree.hands = Some(hands);
        tree.last_scan = (Instant::now(), begin_scan.elapsed());
        let Scan { changed, vanished, .. } = scanned?;
        let now = begin.elapsed();
        let mut mend = Vec::new();
        for path in changed.into_iter().chain(vanished.iter().cloned()) {
            let gone = vanished.binary_search(&path).is_ok();
            if tree.capturing.contains(&path) || tree.refused.contains_key(&path) && !gone {
                continue;
            }
            if !is_editable(&path) {
                mend.push(path);
            } else if !gone {
                tree.settling.saw(now, path, Seen::Made);
            } else if !tree.held.contains(&path) {
                tree.settling.saw(now, path, Seen::Whole);
            }
        }
        // A folder of which only the mode is different is not put aside with all that is in it.
        let folders: Vec<FilePath> = mend.iter().filter(|path| self.is_folder(tree, path)).cloned().collect();
        for path in &folders {
            if let Some(hands) = &mut tree.hands {
                hands.stamps.remove(path);
            }
            tree.shown.remove(path);
        }
        mend.retain(|path| !folders.contains(path));
        self.mend(tree, mend).await
    }

    fn is_folder(&self, tree: &Tree, path: &FilePath) -> bool {
        tree.shown.get(path).is_some_and(|live| live.entry.is_directory())
    }

    /// Takes up what has settled.
    async fn take_up(&mut self, tree: &mut Tree, begin: Instant) -> Result<(), FileSyncError> {
        let now = begin.elapsed();
        let settled = tree.settling.take(now);
        if settled.is_empty() {
            return Ok(());
        }
        let Some(hands) = tree.hands.take() else {
            return Err(FileSyncError::CutOff);
        };
        // What is just being published may have changed behind its reader, or gone with a folder above it, before this node knows that
        // it has it: it is looked at again when it is published.
        for path in &settled {
            let (from, to) = path.below();
            let below = tree.capturing.range(from..to).cloned();
            tree.changed_meanwhile
                .extend(tree.capturing.get(path).cloned().into_iter().chain(below));
        }
        let (shown, root) = (tree.shown.clone(), self.root.clone());
        let (edits, hands) = blocking(move || {
            let edits = root.check().and_then(|()| edits(&hands, &shown, settled));
            Ok((edits, hands))
        })
        .await?;
        let disk = Arc::clone(&hands.disk);
        tree.hands = Some(hands);
        let (mut edits, later) = edits?;
        for path in later {
            tree.settling.again(now, path);
        }
        leave_for_later(tree, &mut edits, now);
        let files = |edit: &&Edit| matches!(edit, Edit::Gone(_, Some(_)));
        let vanished = edits.iter().filter(files).count();
        if vanished > 0 && !tree.brake.lets_go(now, vanished, editable_files(&tree.shown)) {
            tracing::warn!(
                vanished,
                "so many files vanished from disk at once that they are not taken for deleted"
            );
            let gone = |edit: &Edit| matches!(edit, Edit::Gone(..));
            tree.held
                .extend(edits.iter().filter(|edit| gone(edit)).map(|edit| edit.path().clone()));
            edits.retain(|edit| !gone(edit));
        }
        if !edits.is_empty() {
            tree.capturing.extend(edits.iter().map(|edit| edit.path().clone()));
            let (publisher, orders) = (self.publisher.clone(), self.own_orders.clone());
            self.tasks.spawn("edits of files", async move {
                let published = publisher.publish(disk, edits).await;
                // The keeper is gone when the node stops.
                let _stopping = orders.send(Order::Published(published)).await;
            });
        }
        self.publish_status(tree, |_| {});
        Ok(())
    }
}

/// How many files persons may change. It looks at all there are.
fn editable_files(shown: &Shown) -> usize {
    let is_one = |(path, live): &(&FilePath, &Live)| is_editable(path) && !live.entry.is_directory();
    shown.iter().filter(is_one).count()
}

/// What is being published is looked at again when it is; a folder that went cannot go before what was in it.
fn leave_for_later(tree: &mut Tree, edits: &mut Vec<Edit>, now: Duration) {
    let (capturing, settling) = (&tree.capturing, &mut tree.settling);
    edits.retain(|edit| {
        let path = edit.path();
        if capturing.contains(path) {
            return false;
        }
        let (from, to) = path.below();
        if matches!(edit, Edit::Gone(..)) && capturing.range(from..to).next().is_some() {
            settling.again(now, path.clone());
            return false;
        }
        true
    });
}

/// What is different on disk at these places, and below those that are folders. What below them has not settled itself comes later.
fn edits(hands: &Hands, shown: &Shown, settled: Vec<FilePath>) -> Result<(Vec<Edit>, Vec<FilePath>), FileSyncError> {
    let (mut edits, mut later) = (BTreeMap::new(), Vec::new());
    let all: BTreeSet<FilePath> = settled.iter().cloned().collect();
    for path in settled {
        if !is_editable(&path) || edits.contains_key(&path) {
            continue;
        }
        let disk = &hands.disk;
        let look_at = |path: &FilePath| disk.stamp(path).map_err(disk.system("look at", path));
        let is_area = EDITABLE.contains(&path.as_bytes());
        match look_at(&path)? {
            None if is_area => {}
            None => note_gone(hands, shown, &path, &mut edits),
            Some(stamp) => {
                note(hands, &path, stamp, &mut edits);
                if stamp.kind == Kind::Directory {
                    let found = scan(disk, Some(&path), &hands.stamps)?;
                    for below in found.changed {
                        let Some(stamp) = look_at(&below)? else { continue };
                        if stamp.kind == Kind::Directory {
                            note(hands, &below, stamp, &mut edits);
                        } else if !all.contains(&below) {
                            // Somebody may be writing it.
                            later.push(below);
                        }
                    }
                    for below in found.vanished {
                        note_gone(hands, shown, &below, &mut edits);
                    }
                }
            }
        }
    }
    Ok((edits.into_values().collect(), later))
}

fn note(hands: &Hands, path: &FilePath, stamp: Stamp, edits: &mut BTreeMap<FilePath, Edit>) {
    let known = hands.stamps.get(path);
    if !known.is_some_and(|known| known.same_bytes(&stamp) && known.mode == stamp.mode) {
        edits.insert(path.clone(), Edit::Put(path.clone(), stamp));
    }
}

fn note_gone(hands: &Hands, shown: &Shown, path: &FilePath, edits: &mut BTreeMap<FilePath, Edit>) {
    // What this node never had cannot have been deleted here.
    if !hands.stamps.contains_key(path) {
        return;
    }
    let (from, to) = path.below();
    let below = shown.range(from..to).map(|(path, live)| (path.clone(), live.clone()));
    let own = shown.get(path).map(|live| (path.clone(), live.clone()));
    for (path, live) in own.into_iter().chain(below) {
        let version = (!live.entry.is_directory()).then_some(live.version);
        edits.insert(path.clone(), Edit::Gone(path, version));
    }
}

fn one_pass(
    mut hands: Hands,
    mut shown: Shown,
    wanted: &Manifest,
    capturing: &BTreeSet<FilePath>,
    root: &Root,
) -> Pass {
    let mut pass = (Vec::new(), Vec::new(), Vec::new(), 0, None);
    let (wants, edited, waiting, missing, error) = (&mut pass.0, &mut pass.1, &mut pass.2, &mut pass.3, &mut pass.4);
    if let Err(foreign) = root.check() {
        *error = Some(foreign);
    } else {
        let plan = plan(&shown, wanted);
        for (path, live) in plan.same {
            shown.insert(path, live);
        }
        for unit in plan.units {
            let lacking = lacking(&hands.store, &unit, wants.len());
            let bytes: u64 = unit.jobs.iter().flat_map(Job::needs).map(|file| file.size).sum();
            let to_fetch = lacking.iter().map(|(_, bytes)| *bytes).sum();
            let space = match bytes {
                0 => Ok(()),
                bytes => hands.store.check_file(root.path(), to_fetch, bytes),
            };
            if !lacking.is_empty() || unit.jobs.iter().any(|job| touches(job, capturing)) {
                match space {
                    Ok(()) => wants.extend(lacking),
                    // What cannot be shown must not take the room of what can.
                    Err(full) => *error = Some(full),
                }
                waiting.push(unit.version);
                *missing += unit.jobs.len();
                continue;
            }
            match space.and_then(|()| carry_out(&mut hands, &mut shown, wanted, &unit)) {
                Ok(left) => {
                    if left.count > 0 {
                        waiting.push(unit.version);
                    }
                    *missing += left.count;
                    wants.extend(left.wants);
                    edited.extend(left.edited);
                }
                Err(fault) => {
                    waiting.push(unit.version);
                    *missing += unit.jobs.len();
                    *error = Some(fault);
                }
            }
        }
        if let Err(fault) = hands.settle() {
            *error = Some(fault);
        }
    }
    let (wants, edited, waiting, missing, error) = pass;
    Pass {
        hands,
        shown,
        wants,
        edited,
        waiting,
        missing,
        error,
    }
}

fn touches(job: &Job, capturing: &BTreeSet<FilePath>) -> bool {
    let (first, second) = match job {
        Job::Tree { root, .. } | Job::Remove { root } => (root, None),
        Job::Move { from, to } => (from, Some(to)),
        // What is in it may be on its way; that it is there is not to be undone.
        Job::Folder { path, .. } => return capturing.contains(path),
        Job::File { path, .. } | Job::Link { path, .. } => (path, None),
    };
    let busy = |path: &FilePath| {
        let (from, to) = path.below();
        capturing.contains(path) || capturing.range(from..to).next().is_some()
    };
    busy(first) || second.is_some_and(busy)
}

/// Chunks that a unit needs and that are not here: none of them when enough are asked for already, but not an empty answer.
fn lacking(store: &ChunkStore, unit: &Unit, asked: usize) -> Vec<(ContentHash, u64)> {
    let mut lacking = Vec::new();
    for file in unit.jobs.iter().flat_map(Job::needs) {
        lacking.extend(Hands::lacking(store, file));
        if asked + lacking.len() > WANTED_AT_ONCE {
            break;
        }
    }
    // What many small files need is there sooner than what one large file needs.
    lacking.sort_by_key(|(_, bytes)| *bytes);
    lacking
}

#[derive(Default)]
struct Left {
    count: usize,
    wants: Vec<(ContentHash, u64)>,
    edited: Vec<FilePath>,
}

fn carry_out(hands: &mut Hands, shown: &mut Shown, wanted: &Manifest, unit: &Unit) -> Result<Left, FileSyncError> {
    let mut left = Left::default();
    hands.stage(&unit.jobs)?;
    for job in &unit.jobs {
        match hands.work(job, wanted)? {
            Done::Yes => job.done(shown, wanted),
            Done::Edited(paths) => {
                left.count += 1;
                left.edited.extend(paths);
            }
            Done::Lacking(hashes) => {
                left.count += 1;
                left.wants.extend(hashes);
            }
        }
    }
    Ok(left)
}
