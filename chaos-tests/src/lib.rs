//! Whole clusters of real processes, and what is done to them.
//!
//! The tests in `tests/` kill nodes and look at what clients see. They go through the programs and the public APIs alone.

pub mod clocks;
mod consul;
mod database;
pub mod drill;
pub mod frozen;
pub mod hosts;
pub mod ledger;
pub mod patroni;
mod python;
pub mod resources;
pub mod sample;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use conclave_localcluster::{FIRST_ADDRESS, Layout, LocalCluster, Progress, RestClient, Spec};
use serde_json::{Value, json};

pub use consul::ConsulClient;
pub use database::{DatabaseClient, not_begun};
use hosts::{FIRST_HOST, Hosts};
pub use python::python_program;

/// Where `cargo` has put the programs of this build: beside the test programs' folder.
///
/// # Panics
/// When `conclave` has not been built.
#[must_use]
pub fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a test is a program");
    let folder = own
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in target/<profile>/deps");
    let program = folder.join("conclave");
    assert!(
        program.exists(),
        "{} is not there: `cargo build --workspace --bins` first",
        program.display()
    );
    program
}

/// The program that a benchmark measures: the one that was asked for, or the one beside the benchmark's own.
///
/// # Errors
/// When it is not there.
pub fn program_of_bench(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match asked {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("conclave"),
    };
    anyhow::ensure!(program.exists(), "{} is not there: use deploy/bench", program.display());
    Ok(program)
}

/// The folder of this package in the clone that is tested.
///
/// Asked at run time: clones that share a target folder share the tests' programs.
///
/// # Panics
/// When cargo does not run the test.
#[must_use]
pub fn package_dir() -> PathBuf {
    let dir = std::env::var_os("CARGO_MANIFEST_DIR");
    dir.expect("cargo says where the package is: run this by cargo test")
        .into()
}

/// Progress that only shows when a test fails.
pub struct Quiet;

impl Progress for Quiet {
    fn step(&self, text: &str) {
        eprintln!("{text}");
    }
}

/// How much of each log a failed test shows.
const LOG_LINES_SHOWN: usize = 60;

/// A cluster that is stopped and wiped when the guard is dropped, also when a test fails.
pub struct TestCluster {
    /// The cluster.
    pub cluster: LocalCluster,
    dir: tempfile::TempDir,
    disks: Vec<PathBuf>,
    /// Goes last.
    _addresses: Option<TestAddresses>,
}

/// The loopback addresses, which belong to one test at a time.
pub struct TestAddresses {
    _lock: std::fs::File,
}

impl TestAddresses {
    /// Waits until no other test has them.
    ///
    /// # Panics
    /// When there is no place for the lock.
    pub async fn lock() -> Self {
        let locking = tokio::task::spawn_blocking(|| {
            let path = std::env::temp_dir().join("conclave-test-addresses.lock");
            let file = std::fs::File::create(path).expect("the lock file can be made");
            file.lock().expect("the lock can be had");
            file
        });
        Self {
            _lock: locking.await.expect("the lock's thread"),
        }
    }
}

impl TestCluster {
    /// Starts three nodes and waits until all of them are healthy.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn three() -> Self {
        let addresses = TestAddresses::lock().await;
        Self::start(Some(addresses), 3, FIRST_ADDRESS, &[], None).await
    }

    /// A node by itself.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn one() -> Self {
        let addresses = TestAddresses::lock().await;
        Self::start(Some(addresses), 1, FIRST_ADDRESS, &[], None).await
    }

    /// The same on machines of their own, each with a disk of so many mebibytes.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn on(hosts: &Hosts, disk: u32) -> Self {
        Self::start(None, hosts.count(), FIRST_HOST, &hosts.namespaces(), Some(disk)).await
    }

    async fn start(
        addresses: Option<TestAddresses>,
        nodes: u8,
        first_address: Ipv4Addr,
        namespaces: &[PathBuf],
        disk: Option<u32>,
    ) -> Self {
        use std::os::unix::fs::PermissionsExt;
        conclave_net::install_crypto_provider();
        let dir = tempfile::Builder::new()
            .prefix("conclave")
            .tempdir()
            .expect("a temporary folder");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("the servers' accounts pass through");
        // Nodes on machines of their own have clocks of their own.
        let own_clocks = (!namespaces.is_empty()).then(|| clocks::starter(&program(), dir.path()));
        let spec = Spec {
            nodes,
            dir: dir.path().join("cluster"),
            program: own_clocks.flatten().unwrap_or_else(program),
        };
        let layout = Layout::at(&spec.dir, first_address);
        let data_dirs = (1..=spec.nodes).map(|number| layout.node(number).data_dir());
        let disks: Vec<PathBuf> = data_dirs.filter(|_| disk.is_some()).collect();
        for number in (1..=spec.nodes).filter(|_| !namespaces.is_empty()) {
            let node = layout.node(number).dir;
            std::fs::create_dir_all(&node).expect("the node's folder");
            clocks::set(&node, 0).expect("the node's clock");
        }
        for folder in &disks {
            hosts::mount_small_disk(folder, disk.unwrap_or_default());
        }
        let cluster = match LocalCluster::up_in(&spec, first_address, namespaces, &Quiet).await {
            Ok(cluster) => cluster,
            Err(error) => {
                if let Ok(half) = LocalCluster::load(&spec.dir) {
                    half.down(false, &Quiet).await.expect("what was started can be stopped");
                }
                panic!("the cluster does not start: {error}");
            }
        };
        let guard = Self {
            cluster,
            dir,
            disks,
            _addresses: addresses,
        };
        let deadline = Duration::from_secs(90);
        guard
            .cluster
            .wait_serving(1, deadline)
            .await
            .unwrap_or_else(|error| guard.fail(&error));
        guard
            .cluster
            .wait_healthy(1, deadline)
            .await
            .unwrap_or_else(|error| guard.fail(&error));
        guard
    }

    /// A folder for the test's own files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends the test with what the nodes said last. All that they said is copied to the folder that `CONCLAVE_TEST_LOGS` names.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, why: &dyn std::fmt::Display) -> ! {
        for number in (1..).take(self.cluster.nodes().len()) {
            let node = self.cluster.layout().node(number);
            for file in [node.log_file(), node.data_dir().join("postgres/postgres.log")] {
                let log = std::fs::read_to_string(&file).unwrap_or_default();
                if let (Some(folder), Some(name)) = (std::env::var_os("CONCLAVE_TEST_LOGS"), file.file_name()) {
                    let copy = Path::new(&folder).join(format!("node{number}-{}", name.display()));
                    std::fs::write(&copy, &log).unwrap_or_else(|error| eprintln!("{}: {error}", copy.display()));
                }
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
                eprintln!("--- node{number}: {}\n{}", file.display(), last.join("\n"));
            }
        }
        panic!("{why}");
    }

    /// A node's client.
    ///
    /// # Panics
    /// When the cluster's CA cannot be read.
    #[must_use]
    pub fn client(&self, number: u8) -> RestClient {
        self.cluster.client(number).expect("the CA of the cluster is there")
    }

    /// `conclave ARGUMENTS --json` on a node: what it printed, or what it complained of.
    ///
    /// # Errors
    /// What it wrote to standard error, when it failed.
    ///
    /// # Panics
    /// When the program cannot be started, or prints no JSON.
    pub fn conclave(&self, number: u8, arguments: &[&str]) -> Result<Value, String> {
        let output = self
            .cluster
            .command(number)
            .args(arguments)
            .arg("--json")
            .arg("--config")
            .arg(self.cluster.layout().node(number).config_file())
            .output()
            .expect("the program starts");
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).expect("JSON is printed"));
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Adds to the configuration of a node, which takes it at its next start.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure(&self, number: u8, more: &str) {
        use std::io::Write;
        let file = self.cluster.layout().node(number).config_file();
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(file)
            .expect("the configuration is there");
        file.write_all(more.as_bytes())
            .expect("the configuration can be written");
    }

    /// Stops the manager of a node, and with it all that it supervises.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn stop(&self, number: u8) {
        let manager = self.cluster.manager(number).expect("the manager runs");
        manager.stop(Duration::from_secs(40)).await;
    }

    /// A client of the database, through a node's proxy.
    ///
    /// # Panics
    /// When the node has no identity.
    #[must_use]
    pub fn database(&self, number: u8) -> DatabaseClient {
        let facts = self.cluster.node(number);
        DatabaseClient::of(&facts.data_dir, &facts.address)
    }

    /// The token that opens the Consul API.
    ///
    /// # Panics
    /// When it cannot be had.
    #[must_use]
    pub fn consul_token(&self) -> String {
        let shown = self
            .conclave(1, &["consul", "token"])
            .unwrap_or_else(|error| self.fail(&error));
        shown["token"].as_str().expect("a token").to_owned()
    }

    /// A client of a node's Consul API.
    ///
    /// # Panics
    /// When the cluster's CA cannot be read.
    #[must_use]
    pub fn consul(&self, number: u8) -> ConsulClient {
        let address = self.cluster.node(number).status;
        ConsulClient::new(&address, &self.cluster.ca_file(), &self.consul_token())
    }

    /// The number of the node that a status field names, as node `asked` sees it: `leader`, or the database's primary.
    pub async fn leader(&self, asked: u8) -> Option<u8> {
        let status = self.client(asked).get_status("/v1/cluster/status").await.ok()?;
        status["leader"]["name"].as_str()?.strip_prefix("node")?.parse().ok()
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        let cluster = self.cluster.clone();
        // The test's runtime may be going down: the clean-up has one of its own.
        let cleanup = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(async { cluster.down(false, &Quiet).await }))
        });
        match cleanup.join() {
            Ok(Ok(Ok(()))) => {}
            other => eprintln!("the cluster was not cleaned up: {other:?}"),
        }
        self.disks.iter().for_each(|disk| hosts::unmount(disk));
        if let Err(error) = std::fs::remove_dir_all(self.dir.path()) {
            eprintln!("{} was not removed: {error}", self.dir.path().display());
        }
    }
}

/// Waits until `look` gives a value, and panics with `what` when it does not within `limit`.
///
/// # Panics
/// When the time is over.
pub async fn wait_for<T, F, Fut>(what: &str, limit: Duration, look: F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let found = within(limit, look).await;
    found.unwrap_or_else(|| panic!("{what} did not happen within {} s", limit.as_secs()))
}

/// Looks until there is a value: `None` when there is none within `limit`.
pub async fn within<T, F, Fut>(limit: Duration, look: F) -> Option<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A request whose answer must be good.
///
/// # Errors
/// What the API said.
pub async fn call(client: &RestClient, method: &str, path: &str, body: Value) -> Result<Value, String> {
    let body = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    client
        .expect(method, path, body)
        .await
        .map_err(|error| error.to_string())
}

/// Uploads a blueprint made of these files.
///
/// # Errors
/// What the API said.
pub async fn upload(client: &RestClient, id: &str, files: &BTreeMap<&str, String>) -> Result<Value, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).map_err(|error| error.to_string())?;
    }
    let archive = conclave_archive::pack_tar_gz(folder.path(), id).map_err(|error| error.to_string())?;
    let uploaded = client
        .expect("PUT", &format!("/api/v3.1/blueprints/{id}"), archive.into())
        .await;
    uploaded.map_err(|error| error.to_string())
}

/// Creates a deployment and starts its install; the execution's id.
///
/// # Errors
/// What the API said.
pub async fn install(client: &RestClient, blueprint: &str, deployment: &str) -> Result<String, String> {
    let create = json!({"blueprint_id": blueprint, "inputs": {}});
    call(client, "PUT", &format!("/api/v3.1/deployments/{deployment}"), create).await?;
    let start = json!({"deployment_id": deployment, "workflow_id": "install"});
    let execution = call(client, "POST", "/api/v3.1/executions", start).await?;
    Ok(execution["id"].as_str().unwrap_or_default().to_owned())
}
