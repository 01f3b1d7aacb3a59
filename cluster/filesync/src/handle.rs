//! The handle: what other parts of the manager do with resource files.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use conclave_catalog::files::{Entry, Expected, FilePath, Live, Modified, Past, Step};
use conclave_consensus::Consensus;
use conclave_net::{NodeIdentity, ServerTls, serve};
use conclave_proto::files::contents_server::ContentsServer;
use conclave_proto::files::operator_server::OperatorServer;
use conclave_runtime::{Tasks, clock};
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::FileSyncError;
use crate::error::parse;
use crate::ingest::{bytes_within, collect, commit, file_entry, ingest, put, replace, too_large};
use crate::keeper::Keeper;
use crate::operator::OperatorService;
use crate::publish::Publisher;
use crate::reader::{FileReader, Sources};
use crate::recent::RecentChunks;
use crate::status::{FilesStatus, ScrubReport};
use crate::store::ChunkStore;
use crate::transfer::{Fetching, MESSAGE_BYTES_MAX, Members, Peers, Service, Spread};
use crate::tree::{Beside, Root};
use crate::upkeep::Upkeep;

/// How long a write waits until this node's own tree shows it.
const LOCAL_WAIT: Duration = Duration::from_secs(10);
/// Orders that wait for the keeper.
const ORDERS: usize = 64;
/// What [`FileSync::read`] keeps in memory at most.
const READ_BYTES_MAX: u64 = 256 << 20;
/// Of the disk, this stays free for Raft and the database.
const RESERVE_BYTES: u64 = 256 << 20;

/// What the files need.
pub struct FileSyncOptions {
    /// The node's data directory: `files/` and `resources/` are in it.
    pub data_dir: PathBuf,
    /// Who the node is.
    pub identity: NodeIdentity,
    /// Bound to port 22000 of the node's address.
    pub listener: TcpListener,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Where.
    pub path: FilePath,
    /// What.
    pub entry: Entry,
    /// The version of the manifest that put it there.
    pub version: u64,
}

impl Listing {
    fn of(path: &FilePath, live: &Live) -> Self {
        Self {
            path: path.clone(),
            entry: live.entry.clone(),
            version: live.version,
        }
    }
}

/// What a tree was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedTree {
    root: FilePath,
    version: Option<u64>,
    entries: Vec<(FilePath, Entry)>,
}

impl RememberedTree {
    /// What must be there for the tree to be as it was.
    pub fn expected(&self) -> Expected {
        self.version.map_or(Expected::Nothing, Expected::Version)
    }
}

/// The resource files. Cheap to clone.
#[derive(Clone)]
pub struct FileSync {
    consensus: Consensus,
    sources: Sources,
    fetching: Fetching,
    upkeep: Upkeep,
    status: Arc<watch::Sender<FilesStatus>>,
    root: PathBuf,
    tasks: Tasks,
}

impl FileSync {
    /// Starts serving peers and following the manifest.
    ///
    /// # Errors
    /// When the folders or the identity cannot be used.
    pub fn start(options: FileSyncOptions, consensus: &Consensus, tasks: &Tasks) -> Result<Self, FileSyncError> {
        let dir = options.data_dir.join("files");
        std::fs::create_dir_all(&dir).map_err(FileSyncError::system("create", &dir))?;
        let store = ChunkStore::open(&dir, RESERVE_BYTES)?;
        let root = Root::new(options.data_dir.join("resources"), &dir);
        let peers = Peers::new(consensus.clone(), &options.identity)?;
        let fetching = Fetching::start(&store, &peers, tasks);
        let recent = RecentChunks::default();
        let (orders, keeper_orders) = mpsc::channel(ORDERS);
        let (status, _) = watch::channel(FilesStatus::default());
        let (disk, disk_seen) = watch::channel(None);
        let upkeep = Upkeep {
            consensus: consensus.clone(),
            store: store.clone(),
            fetching: fetching.clone(),
            disk: disk_seen,
            status: status.subscribe(),
            orders: orders.clone(),
            scrubbing: Arc::default(),
        };
        let files = Self {
            consensus: consensus.clone(),
            sources: Sources {
                store: store.clone(),
                recent: recent.clone(),
                peers: peers.clone(),
            },
            fetching: fetching.clone(),
            upkeep: upkeep.clone(),
            status: Arc::new(status.clone()),
            root: root.path().to_owned(),
            tasks: tasks.clone(),
        };
        let members = Members(consensus.clone());
        let contents = Service {
            members: members.clone(),
            store: store.clone(),
            tasks: tasks.clone(),
        };
        let contents = ContentsServer::new(contents)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let operator = OperatorService {
            members,
            files: files.clone(),
        };
        let router = tonic::service::Routes::new(contents).add_service(OperatorServer::new(operator));
        let tls = ServerTls::for_peers(&options.identity)?;
        serve(tasks, "files", options.listener, tls, router.into_axum_router());
        let keeper = Keeper {
            consensus: consensus.clone(),
            store: store.clone(),
            fetching,
            publisher: Publisher {
                consensus: consensus.clone(),
                store,
                peers,
                tasks: tasks.clone(),
            },
            root,
            beside: Beside {
                quarantine: dir.join("quarantine"),
                unsynced: dir.join("unsynced"),
            },
            last_shown: dir.join("last-shown"),
            status,
            disk,
            orders: keeper_orders,
            own_orders: orders,
            tasks: tasks.clone(),
        };
        tasks.spawn("file tree", keeper.run());
        tasks.spawn("recent chunks", recent.let_go(tasks.shutdown()));
        tasks.spawn("file upkeep", upkeep.run(tasks.shutdown()));
        Ok(files)
    }

    /// Replaces everything at and below `root` by what is in `folder`: one change, for all nodes. It returns once the contents
    /// are on a majority of the nodes, the change is committed, and this node's tree shows it.
    ///
    /// # Errors
    /// [`FileSyncError::TooFewCopies`] without a majority; nothing is changed then.
    pub async fn put_tree(&self, root: impl AsRef<[u8]>, folder: &Path) -> Result<u64, FileSyncError> {
        self.put_trees(vec![(root.as_ref().to_vec(), folder.to_owned(), Expected::Anything)])
            .await
    }

    /// The same for several trees (or files) in one change, each with what must be at its root before. The version that it made.
    ///
    /// # Errors
    /// [`FileSyncError::Conflict`] when something else is there, and as [`Self::put_tree`]; nothing is changed then.
    pub async fn put_trees(&self, trees: Vec<(Vec<u8>, PathBuf, Expected)>) -> Result<u64, FileSyncError> {
        let spread = Spread::begin(&self.sources.store, &self.sources.peers, &self.tasks);
        let (store, tree) = (self.sources.store.clone(), self.root.clone());
        let steps = ingest(spread, move |feeder| {
            let sizes = trees.iter().map(|(_, folder, _)| bytes_within(folder));
            let bytes = sizes.sum::<Result<u64, _>>()?;
            store.check_file(&tree, bytes, bytes)?;
            let step = |(root, folder, expected): (Vec<u8>, PathBuf, Expected)| {
                let entries = collect(feeder, &folder, &parse(&root)?)?;
                replace(&root, entries, expected)
            };
            trees.into_iter().map(step).collect::<Result<Vec<_>, _>>()
        });
        let (steps, _leases) = steps.await?;
        self.change(steps).await
    }

    /// Whether this node's disk takes a file of so many bytes, once as chunks and once in its tree, and what is kept for Raft and the
    /// database besides. Whoever knows how large a file will be asks before it comes.
    ///
    /// # Errors
    /// [`FileSyncError::DiskFull`]
    pub fn check_room(&self, bytes: u64) -> Result<(), FileSyncError> {
        self.sources.store.check_file(&self.root, bytes, bytes)
    }

    /// The same for a file that is kept in the data directory while it comes in.
    ///
    /// # Errors
    /// [`FileSyncError::DiskFull`]
    pub fn check_upload(&self, bytes: u64) -> Result<(), FileSyncError> {
        self.sources
            .store
            .check_file(&self.root, bytes.saturating_mul(2), bytes)
    }

    /// Puts one file. The version that it made.
    ///
    /// # Errors
    /// [`FileSyncError::Conflict`] when something else is there than was expected; nothing is changed then.
    pub async fn put_file(
        &self,
        path: impl AsRef<[u8]>,
        source: impl Read + Send + 'static,
        mode: u32,
        modified: Option<Modified>,
        expected: Expected,
    ) -> Result<u64, FileSyncError> {
        let path = parse(path)?;
        let modified = modified.unwrap_or_else(now);
        let spread = Spread::begin(&self.sources.store, &self.sources.peers, &self.tasks);
        let name = path.clone();
        let found = ingest(spread, move |feeder| {
            feeder.cut(source).map_err(|error| too_large(&name, error))
        });
        let (found, _leases) = found.await?;
        let entry = Entry::File(file_entry(found, mode, modified));
        self.change(vec![put(path, entry, expected)]).await
    }

    /// Removes everything at and below `root`.
    ///
    /// # Errors
    /// When the change cannot be committed.
    pub async fn remove(&self, root: impl AsRef<[u8]>) -> Result<u64, FileSyncError> {
        self.remove_if(root, Expected::Anything).await
    }

    /// The same, if what is there is what is expected.
    ///
    /// # Errors
    /// [`FileSyncError::Conflict`] when it is not.
    pub async fn remove_if(&self, root: impl AsRef<[u8]>, expected: Expected) -> Result<u64, FileSyncError> {
        let root = parse(root)?;
        self.change(vec![Step::Remove { root, expected }]).await
    }

    /// Gives a file or a tree another name. No content moves.
    ///
    /// # Errors
    /// [`FileSyncError::Conflict`] when there is nothing, or it cannot have that name.
    pub async fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<u64, FileSyncError> {
        let (from, to, expected) = (parse(from)?, parse(to)?, Expected::Anything);
        self.change(vec![Step::Rename { from, to, expected }]).await
    }

    /// What a tree is now, to be put back later; without entries when there is nothing.
    ///
    /// # Errors
    /// [`FileSyncError::Path`] when the path is none.
    pub fn remember(&self, root: impl AsRef<[u8]>) -> Result<RememberedTree, FileSyncError> {
        let root = parse(root)?;
        let state = self.consensus.state();
        let state = state.borrow();
        let tree = state.files().tree(&root);
        Ok(RememberedTree {
            version: state.files().get(&root).map(|live| live.version),
            entries: tree.map(|(path, live)| (path.clone(), live.entry.clone())).collect(),
            root,
        })
    }

    /// Puts trees back as they were, in one change, each if what is there now is what is expected.
    ///
    /// # Errors
    /// [`FileSyncError::Conflict`] when it is not; nothing is changed then.
    pub async fn put_back(&self, trees: Vec<(RememberedTree, Expected)>) -> Result<u64, FileSyncError> {
        let step = |(tree, expected): (RememberedTree, Expected)| match tree.version {
            None => Step::Remove {
                root: tree.root,
                expected,
            },
            Some(_) => Step::ReplaceTree {
                root: tree.root,
                entries: tree.entries,
                expected,
            },
        };
        self.change(trees.into_iter().map(step).collect()).await
    }

    /// Previous versions of a path, oldest first.
    ///
    /// # Errors
    /// [`FileSyncError::Path`] when the path is none.
    pub fn versions(&self, path: impl AsRef<[u8]>) -> Result<Vec<Past>, FileSyncError> {
        let path = parse(path)?;
        Ok(self.consensus.state().borrow().files().past(&path).cloned().collect())
    }

    /// Makes a previous version of a path the present one; the present one becomes a previous one. The last one, when none is named.
    ///
    /// # Errors
    /// [`FileSyncError::NotFound`] when it is not kept.
    pub async fn restore(&self, path: impl AsRef<[u8]>, version: Option<u64>) -> Result<u64, FileSyncError> {
        let at = parse(path)?;
        let past = self
            .versions(&at)?
            .into_iter()
            .rfind(|past| version.is_none_or(|version| past.version == version));
        let past = past.ok_or_else(|| match version {
            Some(version) => FileSyncError::NotFound(format!("{at} of version {version}")),
            None => FileSyncError::NotFound(format!("a previous version of {at}")),
        })?;
        self.change(vec![put(at, past.entry, Expected::Anything)]).await
    }

    /// Commits steps, and waits until this node's tree shows them.
    async fn change(&self, steps: Vec<Step>) -> Result<u64, FileSyncError> {
        let version = commit(&self.consensus, steps).await?;
        let mut status = self.status.subscribe();
        let shown = status.wait_for(|status| status.seen >= version && !status.waiting.contains(&version));
        // The change is committed and safe; a tree that lags is shown in the status.
        let _shown_or_late = tokio::time::timeout(LOCAL_WAIT, shown).await;
        Ok(version)
    }

    /// Waits until this node's tree shows everything that was acknowledged anywhere before, within `limit`.
    ///
    /// # Errors
    /// [`FileSyncError::Remote`] when the tree lags, or no majority can be reached.
    pub async fn barrier(&self, limit: Duration) -> Result<(), FileSyncError> {
        let late = || FileSyncError::Remote("this node's files are behind; try again, or ask another node".into());
        let wait = async {
            let version = self.consensus.linearizable().await?.files().version();
            let mut status = self.status.subscribe();
            let shown = status.wait_for(|status| status.applied >= version).await;
            shown.map(drop).map_err(|_| FileSyncError::CutOff)
        };
        tokio::time::timeout(limit, wait).await.map_err(|_| late())?
    }

    /// What is at a path, as this node knows it.
    pub fn entry(&self, path: impl AsRef<[u8]>) -> Option<Listing> {
        let path = parse(path).ok()?;
        let state = self.consensus.state();
        let state = state.borrow();
        state.files().get(&path).map(|live| Listing::of(&path, live))
    }

    /// What is directly in a folder, by name; the root of the tree for an empty path. `None` when it is no folder.
    pub fn list(&self, folder: impl AsRef<[u8]>) -> Option<Vec<Listing>> {
        let state = self.consensus.state();
        let state = state.borrow();
        let files = state.files();
        let folder = match folder.as_ref() {
            b"" => None,
            path => Some(parse(path).ok()?),
        };
        if let Some(folder) = &folder
            && !files.get(folder)?.entry.is_directory()
        {
            return None;
        }
        let children = files.children(folder.as_ref()).into_iter();
        Some(children.map(|(path, live)| Listing::of(path, live)).collect())
    }

    /// Opens a file for reading. What this node lacks of it comes from a peer.
    ///
    /// # Errors
    /// [`FileSyncError::NotFound`] when the manifest has no such file.
    pub async fn open(&self, path: impl AsRef<[u8]>) -> Result<FileReader, FileSyncError> {
        let shown = || FileSyncError::NotFound(String::from_utf8_lossy(path.as_ref()).into_owned());
        let found = self.entry(path.as_ref()).ok_or_else(shown)?;
        let Entry::File(file) = found.entry else {
            return Err(shown());
        };
        FileReader::open(found.path.to_string(), file, found.version, &self.sources).await
    }

    /// Opens a previous version of a file, or the present one by its version.
    ///
    /// # Errors
    /// [`FileSyncError::NotFound`] when it is not kept.
    pub async fn open_version(&self, path: impl AsRef<[u8]>, version: u64) -> Result<FileReader, FileSyncError> {
        let at = parse(path)?;
        let present = self.entry(&at).map(|found| (found.version, found.entry));
        let past = self.versions(&at)?.into_iter().map(|past| (past.version, past.entry));
        let found = past.chain(present).find(|(of, _)| *of == version);
        match found {
            Some((_, Entry::File(file))) => FileReader::open(at.to_string(), file, version, &self.sources).await,
            _ => Err(FileSyncError::NotFound(format!("{at} of version {version}"))),
        }
    }

    /// The whole content of a file. For files that are known to be small; [`Self::open`] streams.
    ///
    /// # Errors
    /// As [`Self::open`]; [`FileSyncError::Refused`] for more than 256 MiB.
    pub async fn read(&self, path: impl AsRef<[u8]>) -> Result<Bytes, FileSyncError> {
        let reader = self.open(path.as_ref()).await?;
        if reader.size() > READ_BYTES_MAX {
            let name = String::from_utf8_lossy(path.as_ref()).into_owned();
            return Err(FileSyncError::Refused(name, "it is too large to be read at once"));
        }
        let mut pieces = std::pin::pin!(reader.read_all());
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.try_next().await? {
            if whole.is_empty() && piece.len() as u64 == reader.size() {
                return Ok(piece);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// The name of a file's content, hexadecimal: it changes when the content does. None for what is no file.
    pub fn content_name(&self, path: impl AsRef<[u8]>) -> Option<String> {
        let found = self.entry(path)?;
        found.entry.file().map(|file| file.content.to_string())
    }

    /// How far this node's tree is.
    pub fn status(&self) -> FilesStatus {
        let mut status = self.status.borrow().clone();
        (status.missing_chunks, status.missing_bytes) = self.fetching.backlog();
        (status.chunks, status.chunk_bytes) = self.sources.store.totals();
        status.damaged = self.sources.store.found_damaged();
        let counters = &self.sources.peers.counters;
        status.wrong_from_peers = counters.wrong.load(Ordering::Relaxed);
        status.bytes_received = counters.bytes_received.load(Ordering::Relaxed);
        status.bytes_sent = counters.bytes_sent.load(Ordering::Relaxed);
        status.error = self.fetching.failure().or(status.error);
        status
    }

    /// Woken when the tree has come further.
    pub fn watch_status(&self) -> watch::Receiver<FilesStatus> {
        self.status.subscribe()
    }

    /// Reads every chunk and every file, and has what is damaged made anew.
    ///
    /// # Errors
    /// When the tree is not open.
    pub async fn scrub(&self) -> Result<ScrubReport, FileSyncError> {
        self.upkeep.scrub(Duration::ZERO).await
    }

    /// The root of the tree on this node's disk.
    pub fn resources_dir(&self) -> &Path {
        &self.root
    }
}

fn now() -> Modified {
    let now = clock::now();
    Modified {
        seconds: now.as_second(),
        nanoseconds: u32::try_from(now.subsec_nanosecond()).unwrap_or_default(),
    }
}
