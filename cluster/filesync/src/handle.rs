//! The handle, and the task that follows the manifest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conclave_catalog::Command;
use conclave_catalog::files::{Entry, FilesCommand, Manifest};
use conclave_consensus::Consensus;
use conclave_net::{NodeIdentity, ServerTls, serve};
use conclave_runtime::{Shutdown, Tasks};
use futures::future::join_all;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::FileSyncError;
use crate::contents::Contents;
use crate::peers::{Peers, Service, router};
use crate::scan::scan;
use crate::tree::{Tree, plan};

/// What could not be fetched is tried again after this.
const RETRY: Duration = Duration::from_millis(500);
/// How long a write waits until this node's own tree shows it.
const LOCAL_WAIT: Duration = Duration::from_secs(10);

/// What the files need.
pub struct FileSyncOptions {
    /// The node's data directory: `contents/` and `resources/` are in it.
    pub data_dir: PathBuf,
    /// Who the node is.
    pub identity: NodeIdentity,
    /// Bound to port 22000 of the node's address.
    pub listener: TcpListener,
}

/// How far this node's tree is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FilesStatus {
    /// The manifest version that the tree shows.
    pub applied: u64,
    /// Files whose contents are still on their way.
    pub missing: usize,
    /// What went wrong last.
    pub error: Option<String>,
}

/// The resource files. Cheap to clone.
#[derive(Clone)]
pub struct FileSync {
    consensus: Consensus,
    contents: Contents,
    tree: Tree,
    peers: Peers,
    status: Arc<watch::Sender<FilesStatus>>,
}

impl FileSync {
    /// Starts serving peers and following the manifest.
    ///
    /// # Errors
    /// When the folders or the identity cannot be used.
    pub fn start(options: FileSyncOptions, consensus: &Consensus, tasks: &Tasks) -> Result<Self, FileSyncError> {
        let contents = Contents::open(options.data_dir.join("contents"))?;
        let root = options.data_dir.join("resources");
        std::fs::create_dir_all(&root).map_err(FileSyncError::system("create", &root))?;
        let service = Service {
            contents: contents.clone(),
            consensus: consensus.clone(),
        };
        serve(
            tasks,
            "files",
            options.listener,
            ServerTls::for_peers(&options.identity)?,
            router(service),
        );
        let files = Self {
            consensus: consensus.clone(),
            contents,
            tree: Tree { root },
            peers: Peers::new(consensus.clone(), &options.identity)?,
            status: Arc::new(watch::channel(FilesStatus::default()).0),
        };
        tasks.spawn("file tree", files.clone().follow(tasks.shutdown()));
        Ok(files)
    }

    /// Replaces everything at and below `root` by what is in `folder`: one change, for all nodes. It returns once the
    /// contents are on a majority of the nodes, the change is committed, and this node's tree shows it.
    ///
    /// # Errors
    /// [`FileSyncError::TooFewCopies`] without a majority; nothing is changed then.
    pub async fn put_tree(&self, root: &str, folder: &Path) -> Result<(), FileSyncError> {
        let (contents, folder, name) = (self.contents.clone(), folder.to_owned(), root.to_owned());
        let scanned = tokio::task::spawn_blocking(move || scan(&contents, &folder, &name)).await;
        let (entries, hashes) = scanned.map_err(|error| FileSyncError::Refused(root.into(), leak_free(&error)))??;
        self.spread(&hashes).await?;
        self.commit(root, entries).await
    }

    /// Removes everything at and below `root`.
    ///
    /// # Errors
    /// When the change cannot be committed.
    pub async fn remove(&self, root: &str) -> Result<(), FileSyncError> {
        self.commit(root, Vec::new()).await
    }

    async fn commit(&self, root: &str, entries: Vec<(String, Entry)>) -> Result<(), FileSyncError> {
        let command = FilesCommand::ReplaceTree {
            root: root.to_owned(),
            entries: entries.clone(),
        };
        self.consensus.propose(Command::Files(command)).await?;
        // This node may apply it a little after the leader.
        let mut state = self.consensus.state();
        let shown = |manifest: &Manifest| {
            entries
                .iter()
                .all(|(path, entry)| manifest.entries.get(path) == Some(entry))
                && (!entries.is_empty() || !manifest.entries.contains_key(root))
        };
        let version = async {
            let state = state.wait_for(|state| shown(state.files())).await.ok()?;
            Some(state.files().version)
        };
        let Ok(Some(version)) = tokio::time::timeout(LOCAL_WAIT, version).await else {
            return Ok(());
        };
        let mut status = self.status.subscribe();
        // The change is committed and safe; a tree that lags is shown in the status.
        let _shown_or_late =
            tokio::time::timeout(LOCAL_WAIT, status.wait_for(|status| status.applied >= version)).await;
        Ok(())
    }

    /// Puts contents on as many nodes as are a majority, this one included.
    async fn spread(&self, hashes: &[conclave_catalog::files::ContentHash]) -> Result<(), FileSyncError> {
        let wanted = self.peers.majority();
        let others = self.peers.others();
        let given = join_all(others.iter().map(|node| self.peers.give(*node, &self.contents, hashes))).await;
        let stored = 1 + given.iter().filter(|outcome| outcome.is_ok()).count();
        if stored >= wanted {
            return Ok(());
        }
        let last = given
            .into_iter()
            .filter_map(Result::err)
            .next_back()
            .unwrap_or_default();
        Err(FileSyncError::TooFewCopies { stored, wanted, last })
    }

    /// The content of a file, fetched from a peer when it is not here yet.
    ///
    /// # Errors
    /// [`FileSyncError::NotFound`] when the manifest has no such file.
    pub async fn read(&self, path: &str) -> Result<Bytes, FileSyncError> {
        let entry = self.consensus.state().borrow().files().entries.get(path).cloned();
        let Some(Entry::File { content, .. }) = entry else {
            return Err(FileSyncError::NotFound(path.to_owned()));
        };
        let contents = self.contents.clone();
        if let Ok(Some(bytes)) = tokio::task::spawn_blocking(move || contents.get(content)).await {
            return Ok(bytes.into());
        }
        let fetched = self.peers.fetch(content).await;
        fetched
            .map(Bytes::from)
            .ok_or_else(|| FileSyncError::ContentMissing(path.to_owned()))
    }

    /// The name of a file's content, hexadecimal: it changes when the content does. None for what is no file.
    pub fn content_name(&self, path: &str) -> Option<String> {
        match self.consensus.state().borrow().files().entries.get(path)? {
            Entry::File { content, .. } => Some(content.0.iter().map(|byte| format!("{byte:02x}")).collect()),
            _ => None,
        }
    }

    /// How far this node's tree is.
    pub fn status(&self) -> FilesStatus {
        self.status.borrow().clone()
    }

    /// The root of the tree on this node's disk.
    pub fn resources_dir(&self) -> &Path {
        &self.tree.root
    }

    /// Makes the tree look like the manifest, again and again.
    async fn follow(self, shutdown: Shutdown) {
        let mut state = self.consensus.state();
        let first = state.borrow_and_update().files().clone();
        let tree = self.tree.clone();
        let mut applied = tokio::task::spawn_blocking(move || tree.standing(&first))
            .await
            .unwrap_or_default();
        loop {
            let wanted = state.borrow_and_update().files().clone();
            let complete = shutdown.run_until(self.converge(&mut applied, wanted)).await;
            let Some(complete) = complete else { return };
            let pause = async {
                if complete {
                    std::future::pending().await
                } else {
                    tokio::time::sleep(RETRY).await
                }
            };
            tokio::select! {
                () = shutdown.requested() => return,
                changed = state.changed() => if changed.is_err() { return },
                () = pause => {}
            }
        }
    }

    /// One pass; `true` when nothing is missing.
    async fn converge(&self, applied: &mut Manifest, wanted: Manifest) -> bool {
        let todo = plan(applied, &wanted);
        let (mut missing, mut error) = (0, None);
        for path in &todo.remove {
            match self.tree.remove(path) {
                Ok(()) => {
                    applied.entries.remove(path);
                }
                Err(why) => error = Some(why.to_string()),
            }
        }
        for (path, entry) in &todo.make {
            match self.make(path, entry).await {
                Ok(true) => {
                    applied.entries.insert(path.clone(), entry.clone());
                }
                Ok(false) => missing += 1,
                Err(why) => error = Some(why.to_string()),
            }
        }
        let complete = missing == 0 && error.is_none();
        let shown = if complete { wanted.version } else { applied.version };
        applied.version = shown;
        self.status.send_replace(FilesStatus {
            applied: shown,
            missing,
            error,
        });
        complete
    }

    async fn make(&self, path: &str, entry: &Entry) -> Result<bool, FileSyncError> {
        let attempt = || {
            let (tree, contents, path, entry) =
                (self.tree.clone(), self.contents.clone(), path.to_owned(), entry.clone());
            tokio::task::spawn_blocking(move || tree.make(&contents, &path, &entry))
        };
        let lost = |_| FileSyncError::Refused(path.to_owned(), "the thread that wrote it was lost");
        let Some(lacking) = attempt().await.map_err(lost)?? else {
            return Ok(true);
        };
        let Some(bytes) = self.peers.fetch(lacking).await else {
            return Ok(false);
        };
        let contents = self.contents.clone();
        tokio::task::spawn_blocking(move || contents.put(&bytes))
            .await
            .map_err(lost)??;
        Ok(attempt().await.map_err(lost)??.is_none())
    }
}

/// A thread that panicked says nothing that a user could act upon.
fn leak_free(_: &tokio::task::JoinError) -> &'static str {
    "the thread that read it was lost"
}
