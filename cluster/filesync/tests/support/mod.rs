//! Real nodes in one process: consensus and files, on free loopback ports, each on a runtime of its own.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test program uses a part of it; a test fails where it must"
)]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conclave_catalog::NodePorts;
use conclave_consensus::{
    AdminClient, Consensus, FoundOptions, JoinOptions, Profile, StartOptions, found, identity_dir, join, start,
};
use conclave_filesync::{FileSync, FileSyncOptions, FilesClient, FilesStatus};
use conclave_net::{NodeIdentity, ServerTls, bind, serve};
use conclave_runtime::Tasks;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub const DEADLINE: Duration = Duration::from_secs(60);

struct Running {
    runtime: tokio::runtime::Runtime,
    consensus: Consensus,
    files: FileSync,
}

pub struct Node {
    running: Option<Running>,
    pub dir: PathBuf,
    peer: u16,
    files_port: u16,
}

impl Node {
    fn start(dir: PathBuf, peer: u16, files_port: u16) -> Self {
        let mut node = Self {
            running: None,
            dir,
            peer,
            files_port,
        };
        node.resume();
        node
    }

    /// Starts it, after it was made or killed.
    pub fn resume(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let identity = NodeIdentity::load(&identity_dir(&self.dir)).unwrap();
        let (dir, peer, port) = (self.dir.clone(), self.peer, self.files_port);
        let (consensus, files) = runtime.block_on(async move {
            let tasks = Tasks::new("node");
            let tls = ServerTls::for_peers_and_joiners(&identity).unwrap();
            let address = |port| format!("127.0.0.1:{port}").parse().unwrap();
            let listener = bind(address(peer)).await.unwrap();
            let options = StartOptions {
                data_dir: dir.clone(),
                identity: identity.clone(),
                peer_address: format!("127.0.0.1:{peer}"),
                profile: Profile::Cautious,
                report: Arc::new(|| serde_json::Value::Null),
            };
            let (consensus, routes) = start(options, &tasks).await.unwrap();
            serve(&tasks, "peers", listener, tls, routes.into_router());
            let options = FileSyncOptions {
                data_dir: dir,
                identity,
                listener: bind(address(port)).await.unwrap(),
            };
            let files = FileSync::start(options, &consensus, &tasks).unwrap();
            std::mem::forget(tasks);
            (consensus, files)
        });
        self.running = Some(Running {
            runtime,
            consensus,
            files,
        });
    }

    /// Ends it as a killed process would end.
    pub fn kill(&mut self) {
        let running = self.running.take().unwrap();
        running.runtime.shutdown_timeout(Duration::from_secs(5));
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn files(&self) -> &FileSync {
        &self.running().files
    }

    /// What `conclave files` uses.
    pub fn client(&self) -> FilesClient {
        let identity = NodeIdentity::load(&identity_dir(&self.dir)).unwrap();
        self.block_on(async { FilesClient::new(&identity, "127.0.0.1", self.files_port).unwrap() })
    }

    pub fn consensus(&self) -> &Consensus {
        &self.running().consensus
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.running().runtime.block_on(work)
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("resources")
    }

    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    pub fn version(&self) -> u64 {
        self.consensus().state().borrow().files().version()
    }

    pub fn status(&self) -> FilesStatus {
        self.files().status()
    }

    /// Puts a file through the API.
    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> u64 {
        let source = std::io::Cursor::new(bytes.as_ref().to_vec());
        let putting = self
            .files()
            .put_file(path, source, 0o644, None, conclave_filesync::Expected::Anything);
        self.block_on(putting).unwrap()
    }

    /// Whether it shows all there is, and nothing is under way.
    pub fn is_quiet(&self, version: u64) -> bool {
        let status = self.status();
        let is_open = !status.watching.is_empty();
        is_open && status.applied >= version && status.missing == 0 && status.edits == 0 && status.missing_chunks == 0
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.runtime.shutdown_background();
        }
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    disks: Vec<SmallDisk>,
    pub dir: tempfile::TempDir,
}

/// A disk of limited size, in memory, that goes with its guard.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// At a folder, which is made. `options` are those of tmpfs: `size`, `nr_inodes`.
    pub fn mount(folder: &Path, options: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let nothing = MsFlags::empty();
        mount(Some("conclave-test"), folder, Some("tmpfs"), nothing, Some(options)).unwrap();
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Another size, with all that is on it.
    pub fn resize(&self, options: &str) {
        let none = None::<&str>;
        mount(none, &self.folder, none, MsFlags::MS_REMOUNT, Some(options)).unwrap();
    }

    pub fn free(&self) -> u64 {
        let disk = nix::sys::statvfs::statvfs(&self.folder).unwrap();
        disk.blocks_available() * disk.fragment_size()
    }

    /// A file that leaves so many bytes free. Removing it gives them back.
    pub fn fill_up_to(&self, left: u64) -> PathBuf {
        let ballast = self.folder.join("ballast");
        let length = i64::try_from(self.free().checked_sub(left).unwrap()).unwrap();
        let file = std::fs::File::create(&ballast).unwrap();
        nix::fcntl::posix_fallocate(&file, 0, length).unwrap();
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.folder, MntFlags::MNT_DETACH) {
            eprintln!("{} is still mounted: {error}", self.folder.display());
        }
    }
}

/// Whether this account may mount; it is said when not.
pub fn may_mount() -> bool {
    let may = nix::unistd::Uid::effective().is_root();
    if !may {
        eprintln!("skipped: to mount a small disk takes root");
    }
    may
}

pub fn wait(what: &str, condition: impl Fn() -> bool) {
    wait_within(DEADLINE, what, condition);
}

pub fn wait_within(limit: Duration, what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn free_ports() -> (u16, u16) {
    let bound = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [a, b] = bound.map(|listener| listener.local_addr().unwrap().port());
    (a, b)
}

impl Cluster {
    pub fn of(count: usize) -> Self {
        Self::on(count, &[])
    }

    /// The same with small disks, each at a folder of the cluster's, with tmpfs's options.
    pub fn on(count: usize, disks: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disks = disks
            .iter()
            .map(|(folder, options)| SmallDisk::mount(&dir.path().join(folder), options));
        let mut cluster = Self {
            disks: disks.collect(),
            nodes: Vec::new(),
            dir,
        };
        let (peer, files) = free_ports();
        let options = FoundOptions {
            data_dir: cluster.dir.path().join("node1"),
            node_name: "node1".into(),
            address: "127.0.0.1".into(),
            ports: ports(peer, files),
            settings: BTreeMap::new(),
        };
        found(&options).unwrap();
        cluster.nodes.push(Node::start(options.data_dir, peer, files));
        wait("the founding", || {
            cluster.nodes[0].consensus().state().borrow().facts().is_some()
        });
        for _ in 1..count {
            cluster.grow();
        }
        let voters = if count.is_multiple_of(2) { count - 1 } else { count };
        wait("the voters", || {
            let settled = |node: &Node| node.consensus().voters().is_some_and(|all| all.len() == voters);
            cluster.nodes.iter().all(settled)
        });
        cluster
    }

    pub fn disk(&self) -> &SmallDisk {
        &self.disks[0]
    }

    /// Lets a new node join.
    pub fn grow(&mut self) {
        let (peer, files) = free_ports();
        let name = format!("node{}", self.nodes.len() + 1);
        let first = &self.nodes[0];
        let identity = NodeIdentity::load(&identity_dir(&first.dir)).unwrap();
        let options = first.block_on(async {
            let admin = AdminClient::new(identity, "127.0.0.1", first.peer).unwrap();
            let options = JoinOptions {
                data_dir: self.dir.path().join(&name),
                node_name: name,
                address: "127.0.0.1".into(),
                ports: ports(peer, files),
                token: admin.create_join_token(Duration::from_secs(600)).await.unwrap(),
                peer: format!("127.0.0.1:{}", first.peer),
            };
            join(&options).await.unwrap();
            options
        });
        self.nodes.push(Node::start(options.data_dir, peer, files));
    }

    /// Waits until every node shows the same, and the same is what the manifest says.
    pub fn wait_equal(&self) {
        let end = Instant::now() + DEADLINE;
        loop {
            let version = self.nodes.iter().map(Node::version).max().unwrap();
            let quiet = |node: &Node| node.version() == version && node.is_quiet(version);
            if self.nodes.iter().all(quiet) {
                let trees: Vec<_> = self.nodes.iter().map(|node| tree(&node.root())).collect();
                if trees.iter().all(|tree| *tree == trees[0]) {
                    return;
                }
                if Instant::now() > end {
                    trees.iter().for_each(|tree| assert_same(tree, &trees[0]));
                }
            }
            let states = || {
                self.nodes
                    .iter()
                    .map(|node| (node.version(), node.status()))
                    .collect::<Vec<_>>()
            };
            assert!(Instant::now() < end, "the nodes do not come together: {:#?}", states());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn assert_same(one: &BTreeMap<Vec<u8>, String>, other: &BTreeMap<Vec<u8>, String>) {
    for (path, what) in one {
        assert_eq!(Some(what), other.get(path), "{:?}", String::from_utf8_lossy(path));
    }
    for path in other.keys() {
        assert!(one.contains_key(path), "{:?} is missing", String::from_utf8_lossy(path));
    }
}

fn ports(peer: u16, files: u16) -> NodePorts {
    NodePorts {
        peer,
        files,
        ..NodePorts::default()
    }
}

/// Every path with its kind, mode and content.
pub fn tree(root: &Path) -> BTreeMap<Vec<u8>, String> {
    use std::os::unix::fs::PermissionsExt;
    let (mut all, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            let mode = metadata.permissions().mode() & 0o777;
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            if name.starts_with(b".conclave-") {
                continue;
            }
            let what = if metadata.is_symlink() {
                format!("link {:?}", std::fs::read_link(&path).unwrap())
            } else if metadata.is_dir() {
                open.push(path.clone());
                format!("folder {mode:o}")
            } else {
                format!(
                    "file {mode:o} {}",
                    blake3::hash(&std::fs::read(&path).unwrap_or_default())
                )
            };
            all.insert(name, what);
        }
    }
    all
}

/// Bytes without pattern, the same for the same seed.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut noise = vec![0; bytes];
    reader.fill(&mut noise);
    noise
}
