//! Starting, finding and stopping the nodes.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::layout::{FIRST_ADDRESS, Layout, NodeLayout};
use crate::ports::{holder_of, try_bind};
use crate::process::TrackedProcess;
use crate::rest::{RestClient, RestError};

/// gRPC between nodes.
const PEER_PORT: u16 = 8300;
/// Opening the log and binding the ports takes milliseconds; a machine under load gets time.
const LISTEN_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a log an error quotes.
const TAIL_LINES: usize = 12;
/// How long a manager may take to stop its servers before it is ended.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Spec {
    /// How many nodes: 1, 3 or 5.
    pub nodes: u8,
    /// Everything lies below it.
    pub dir: PathBuf,
    /// The `conclave` program.
    pub program: PathBuf,
}

/// The administrator of a new cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admin {
    /// `admin`.
    pub username: String,
    /// Made at random when the cluster was founded.
    pub password: String,
}

/// A node as others need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Where its REST API is.
    pub rest: String,
    /// Where its status API is.
    pub status: String,
    /// What it keeps.
    pub data_dir: PathBuf,
    /// The manager's process id; absent while it does not run.
    pub pid: Option<i32>,
}

/// What the cluster was made with.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Facts {
    nodes: u8,
    program: PathBuf,
    rest_port: u16,
    admin: Admin,
    #[serde(default = "first_address")]
    first_address: Ipv4Addr,
    /// One for each node, or none.
    #[serde(default)]
    namespaces: Vec<PathBuf>,
}

fn first_address() -> Ipv4Addr {
    FIRST_ADDRESS
}

/// Told about each step.
pub trait Progress: Send + Sync {
    /// A step begins or has ended; one line for a person.
    fn step(&self, text: &str);
}

/// Why the cluster did not come up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// Somebody else listens there.
    #[error("port {port} on {address} is in use by {holder}: end it, or choose another port", port = address.port(), address = address.ip())]
    PortInUse {
        /// Where we wanted to listen.
        address: SocketAddr,
        /// Who does.
        holder: String,
    },
    /// The folder holds a cluster that does not fit what was asked for.
    #[error("{dir} holds a cluster of {found} nodes, and {wanted} were asked for: use `deploy/down --dir {dir} --wipe` first, or another --dir", dir = dir.display())]
    OtherCluster {
        /// The folder.
        dir: PathBuf,
        /// What is there.
        found: u8,
        /// What was asked for.
        wanted: u8,
    },
    /// There is no cluster in the folder.
    #[error("{0} holds no cluster: start one with `deploy/up`")]
    NoCluster(PathBuf),
    /// A file or process operation failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The `conclave` program refused.
    #[error("`conclave {command}` failed: {output}")]
    Program {
        /// Its arguments.
        command: String,
        /// What it said.
        output: String,
    },
    /// It did not happen in time.
    #[error("{what} did not happen within {} s; see {}", deadline.as_secs(), log.display())]
    Deadline {
        /// What was waited for, with the last thing seen.
        what: String,
        /// How long.
        deadline: Duration,
        /// Where to look.
        log: PathBuf,
    },
    /// The API answered with an error.
    #[error(transparent)]
    Rest(#[from] RestError),
}

fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> UpError {
    let what = what.into();
    move |source| UpError::System { what, source }
}

/// A cluster on this machine, running or not.
#[derive(Debug, Clone)]
pub struct LocalCluster {
    layout: Layout,
    facts: Facts,
}

impl LocalCluster {
    /// The cluster of `spec`: made if it is not there yet, and every node of it started that does not run. It returns
    /// as soon as the processes run; [`Self::wait_serving`] and [`Self::wait_healthy`] wait for more.
    ///
    /// # Errors
    /// When a port is in use, another cluster is in the folder, or a node cannot be made or started.
    pub async fn up(spec: &Spec, progress: &dyn Progress) -> Result<Self, UpError> {
        Self::up_at(spec, FIRST_ADDRESS, progress).await
    }

    /// The same for a cluster that is made with another first address. One that is there keeps its addresses.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub async fn up_at(spec: &Spec, first_address: Ipv4Addr, progress: &dyn Progress) -> Result<Self, UpError> {
        Self::up_in(spec, first_address, &[], progress).await
    }

    /// The same with each node in a network of its own: `namespaces` are the files of network namespaces that have the nodes'
    /// addresses, the first for `node1`. The caller must be able to reach these addresses.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub async fn up_in(
        spec: &Spec,
        first_address: Ipv4Addr,
        namespaces: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<Self, UpError> {
        let layout = Layout::at(&spec.dir, first_address);
        let cluster = match Self::load(&spec.dir) {
            Ok(found) if found.facts.nodes != spec.nodes => {
                let (dir, found) = (spec.dir.clone(), found.facts.nodes);
                return Err(UpError::OtherCluster {
                    dir,
                    found,
                    wanted: spec.nodes,
                });
            }
            Ok(mut found) => {
                found.facts.program = spec.program.clone();
                found
            }
            Err(UpError::NoCluster(_)) => Self::found(spec, layout, namespaces, progress).await?,
            Err(error) => return Err(error),
        };
        for number in 1..=spec.nodes {
            if !cluster.layout.node(number).config_file().exists() {
                cluster.join(number, progress).await?;
            }
            if cluster.start(number).await? {
                progress.step(&format!("node{number} started"));
            }
        }
        Ok(cluster)
    }

    /// The cluster in `dir`.
    ///
    /// # Errors
    /// [`UpError::NoCluster`] when there is none.
    pub fn load(dir: &Path) -> Result<Self, UpError> {
        let layout = Layout::new(dir);
        let file = layout.facts_file();
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(UpError::NoCluster(dir.to_owned()));
            }
            Err(error) => return Err(system(format!("read {}", file.display()))(error)),
        };
        let facts: Facts =
            serde_json::from_slice(&text).map_err(|error| system(format!("read {}", file.display()))(error.into()))?;
        let layout = Layout::at(dir, facts.first_address);
        Ok(Self { layout, facts })
    }

    async fn found(
        spec: &Spec,
        layout: Layout,
        namespaces: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<Self, UpError> {
        std::fs::create_dir_all(&spec.dir).map_err(system(format!("create {}", spec.dir.display())))?;
        // Nobody else is in the nodes' own networks, and this program cannot listen there.
        let rest_port = if namespaces.is_empty() {
            let rest_port = choose_rest_port(&layout, progress)?;
            for number in 1..=spec.nodes {
                check_ports(&layout.node(number), rest_port)?;
            }
            rest_port
        } else {
            443
        };
        let node = layout.node(1);
        write_config(&node, rest_port)?;
        let init = inside(namespaces, 1, &spec.program);
        let said = run(init, &["cluster", "init", "--json", "--config"], &node.config_file()).await?;
        let admin: Admin = serde_json::from_value(said["admin"].clone())
            .map_err(|error| system("read the answer of `conclave cluster init`")(error.into()))?;
        let ca = said["ca_certificate"].as_str().unwrap_or_default();
        std::fs::write(layout.ca_file(), ca).map_err(system(format!("write {}", layout.ca_file().display())))?;
        let facts = Facts {
            nodes: spec.nodes,
            program: spec.program.clone(),
            rest_port,
            admin,
            first_address: layout.first_address(),
            namespaces: namespaces.to_vec(),
        };
        let text = serde_json::to_vec_pretty(&facts).map_err(|error| system("write facts")(error.into()))?;
        write_private(&layout.facts_file(), &text)?;
        progress.step("cluster founded: node1 has its certificate authority");
        Ok(Self { layout, facts })
    }

    async fn join(&self, number: u8, progress: &dyn Progress) -> Result<(), UpError> {
        let (first, node) = (self.layout.node(1), self.layout.node(number));
        write_config(&node, self.facts.rest_port)?;
        let outcome = async {
            self.wait_listening(1).await?;
            let said = run(
                self.command(1),
                &["cluster", "join-token", "create", "--json", "--config"],
                &first.config_file(),
            )
            .await?;
            let token = said["token"].as_str().unwrap_or_default().to_owned();
            let peer = format!("{}:{PEER_PORT}", first.address);
            let arguments = [
                "cluster", "join", "--json", "--token", &token, "--peer", &peer, "--config",
            ];
            run(self.command(number), &arguments, &node.config_file()).await
        }
        .await;
        if let Err(error) = outcome {
            // Without its configuration the next `up` tries the join again from the start.
            std::fs::remove_file(node.config_file()).map_err(system("undo a failed join"))?;
            return Err(error);
        }
        progress.step(&format!("{} joined with a one-time token", node.name));
        Ok(())
    }

    /// Starts the manager of a node; `false` when it runs already.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub async fn start(&self, number: u8) -> Result<bool, UpError> {
        let node = self.layout.node(number);
        if self.manager(number).is_some() {
            return Ok(false);
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(node.log_file())
            .map_err(system(format!("open {}", node.log_file().display())))?;
        let errors = log.try_clone().map_err(system("share the log file"))?;
        let child = Command::from(self.command(number))
            .arg("manager")
            .arg("--config")
            .arg(node.config_file())
            .current_dir(&node.dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(system(format!("start {}", self.facts.program.display())))?;
        let process = child.id().and_then(|pid| TrackedProcess::running(pid as i32));
        let ended = || UpError::Program {
            command: format!("manager --config {}", node.config_file().display()),
            output: format!("it ended at once; see {}", node.log_file().display()),
        };
        process
            .ok_or_else(ended)?
            .remember(&node.process_file())
            .map_err(system(format!("write {}", node.process_file().display())))?;
        Ok(true)
    }

    /// The `conclave` program, to be given arguments and started where a node's address is.
    pub fn command(&self, number: u8) -> std::process::Command {
        inside(&self.facts.namespaces, number, &self.facts.program)
    }

    /// The running manager of a node.
    pub fn manager(&self, number: u8) -> Option<TrackedProcess> {
        TrackedProcess::recall(&self.layout.node(number).process_file()).filter(TrackedProcess::is_running)
    }

    /// The postmaster of a node, from its own pid file.
    pub fn postmaster(&self, number: u8) -> Option<TrackedProcess> {
        let file = self.layout.node(number).data_dir().join("postgres/data/postmaster.pid");
        let pid = std::fs::read_to_string(file)
            .ok()?
            .lines()
            .next()?
            .trim()
            .parse()
            .ok()?;
        TrackedProcess::running(pid)
    }

    /// The broker of a node.
    pub fn broker(&self, number: u8) -> Option<TrackedProcess> {
        TrackedProcess::recall(&self.layout.node(number).broker_process_file()).filter(TrackedProcess::is_running)
    }

    /// Kills a node as a power cut would: manager, PostgreSQL and RabbitMQ at once, without a word.
    pub fn kill(&self, number: u8) {
        let victims: Vec<_> = [self.manager(number), self.postmaster(number), self.broker(number)]
            .into_iter()
            .flatten()
            .collect();
        for victim in &victims {
            victim.signal(Signal::SIGKILL);
        }
    }

    /// Waits until `number`'s REST API reads and writes.
    ///
    /// # Errors
    /// [`UpError::Deadline`] with the last thing seen.
    pub async fn wait_serving(&self, number: u8, deadline: Duration) -> Result<(), UpError> {
        let client = self.client(number)?;
        let probe = || async {
            match client.get("/api/v3.1/status").await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("answers {}", answer.status)),
                Err(error) => Err(error.to_string()),
            }
        };
        self.wait(number, "the REST API to serve", deadline, probe).await
    }

    /// Waits until every part of every node is healthy, as node `number` sees it.
    ///
    /// # Errors
    /// [`UpError::Deadline`] with what is wrong still.
    pub async fn wait_healthy(&self, number: u8, deadline: Duration) -> Result<(), UpError> {
        let client = self.client(number)?;
        let wanted = usize::from(self.facts.nodes);
        let probe = || async {
            let answer = client
                .get_status("/v1/cluster/status")
                .await
                .map_err(|error| error.to_string())?;
            let nodes = answer["nodes"].as_array().map_or(0, Vec::len);
            if answer["status"] == "healthy" && nodes == wanted {
                return Ok(());
            }
            Err(format!("{nodes} of {wanted} nodes; {}", causes(&answer)))
        };
        self.wait(number, "every node to be healthy", deadline, probe).await
    }

    /// Waits until a node that was just started listens for its peers: its own programs can talk to it from then on.
    async fn wait_listening(&self, number: u8) -> Result<(), UpError> {
        let address = SocketAddr::new(self.layout.node(number).address, PEER_PORT);
        let probe = || async move {
            match tokio::net::TcpStream::connect(address).await {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{address}: {error}")),
            }
        };
        let what = format!("node{number} to listen for its peers");
        self.wait(number, &what, LISTEN_DEADLINE, probe).await
    }

    async fn wait<F, Fut>(&self, number: u8, what: &str, deadline: Duration, probe: F) -> Result<(), UpError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<(), String>>,
    {
        let end = tokio::time::Instant::now() + deadline;
        loop {
            let Err(seen) = probe().await else { return Ok(()) };
            let log = self.layout.node(number).log_file();
            if self.manager(number).is_none() {
                let output = format!(
                    "the manager of node{number} has ended; {} ends with\n{}",
                    log.display(),
                    tail(&log)
                );
                return Err(UpError::Program {
                    command: "manager".into(),
                    output,
                });
            }
            if tokio::time::Instant::now() >= end {
                return Err(UpError::Deadline {
                    what: format!("{what} (last seen: {seen})"),
                    deadline,
                    log,
                });
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Stops every node and all that it supervises; with `wipe`, removes the folder as well.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub async fn down(&self, wipe: bool, progress: &dyn Progress) -> Result<(), UpError> {
        let stops = (1..=self.facts.nodes).map(|number| async move {
            if let Some(manager) = self.manager(number) {
                manager.stop(STOP_GRACE).await;
                progress.step(&format!("node{number} stopped"));
            }
            self.end_orphans(number).await;
        });
        futures::future::join_all(stops).await;
        if wipe {
            let dir = self.layout.dir();
            std::fs::remove_dir_all(dir).map_err(system(format!("remove {}", dir.display())))?;
            progress.step(&format!("{} removed", dir.display()));
        }
        Ok(())
    }

    /// Ends servers whose manager was killed before it could.
    async fn end_orphans(&self, number: u8) {
        if let Some(postmaster) = self.postmaster(number) {
            postmaster.signal(Signal::SIGINT);
            if !postmaster.wait_end(STOP_GRACE).await {
                postmaster.stop(Duration::ZERO).await;
            }
        }
        if let Some(broker) = self.broker(number) {
            broker.stop(STOP_GRACE).await;
        }
    }

    /// A client of a node's APIs, logged in as the administrator.
    ///
    /// # Errors
    /// When the certificate of the cluster cannot be read.
    pub fn client(&self, number: u8) -> Result<RestClient, UpError> {
        let facts = self.node(number);
        Ok(RestClient::new(
            &facts.rest,
            &facts.status,
            &self.ca_file(),
            &self.facts.admin,
        )?)
    }

    /// What others need to know of a node.
    pub fn node(&self, number: u8) -> NodeFacts {
        let node = self.layout.node(number);
        NodeFacts {
            name: node.name.clone(),
            address: node.address.to_string(),
            rest: format!("https://{}:{}", node.address, self.facts.rest_port),
            status: format!("https://{}:8500", node.address),
            data_dir: node.data_dir(),
            pid: self.manager(number).map(|process| process.pid),
        }
    }

    /// Every node.
    pub fn nodes(&self) -> Vec<NodeFacts> {
        (1..=self.facts.nodes).map(|number| self.node(number)).collect()
    }

    /// The administrator.
    pub fn admin(&self) -> &Admin {
        &self.facts.admin
    }

    /// The certificate that clients verify all nodes with.
    pub fn ca_file(&self) -> PathBuf {
        self.layout.ca_file()
    }

    /// The folders.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The port of the REST API on every node.
    pub fn rest_port(&self) -> u16 {
        self.facts.rest_port
    }
}

/// The last lines of a log, for an error that would send its reader there.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn causes(status: &serde_json::Value) -> String {
    let list = status["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |cause: &serde_json::Value| {
        format!(
            "{}: {}",
            cause["what"].as_str().unwrap_or("?"),
            cause["why"].as_str().unwrap_or("?")
        )
    };
    if list.is_empty() {
        "no cause given".into()
    } else {
        list.iter().map(text).collect::<Vec<_>>().join("; ")
    }
}

/// 443 if this process may bind it, else 8443.
fn choose_rest_port(layout: &Layout, progress: &dyn Progress) -> Result<u16, UpError> {
    match try_bind(SocketAddr::new(layout.node(1).address, 443)) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            progress.step("this account may not bind port 443: the REST API is on port 8443");
            Ok(8443)
        }
        _ => Ok(443),
    }
}

fn check_ports(node: &NodeLayout, rest_port: u16) -> Result<(), UpError> {
    for port in [rest_port, 53333, 5671, 25672, 5432, 15432, 8300, 8500, 22000] {
        let address = SocketAddr::new(node.address, port);
        if let Err(error) = try_bind(address) {
            if error.kind() != std::io::ErrorKind::AddrInUse {
                return Err(system(format!("listen on {address}"))(error));
            }
            let holder = holder_of(address).map_or_else(|| "somebody unknown".to_owned(), |holder| holder.to_string());
            return Err(UpError::PortInUse { address, holder });
        }
    }
    Ok(())
}

/// The configuration of a node: the standard ports on its own address, apart from the REST API's.
fn write_config(node: &NodeLayout, rest_port: u16) -> Result<(), UpError> {
    std::fs::create_dir_all(&node.dir).map_err(system(format!("create {}", node.dir.display())))?;
    // PostgreSQL and RabbitMQ run under accounts of their own and must be able to pass through.
    std::fs::set_permissions(&node.dir, std::fs::Permissions::from_mode(0o755))
        .map_err(system(format!("open {} to the servers' accounts", node.dir.display())))?;
    let text = format!(
        "# Written by deploy/up. The keys are explained in docs/configuration.md.\n\
         node:\n  name: {name}\n  address: {address}\n\
         data_dir: {data_dir}\n\
         ports:\n  rest: {rest_port}\n",
        name = node.name,
        address = node.address,
        data_dir = node.data_dir().display(),
    );
    std::fs::write(node.config_file(), text).map_err(system(format!("write {}", node.config_file().display())))
}

fn write_private(file: &Path, text: &[u8]) -> Result<(), UpError> {
    use std::io::Write;
    let what = || system(format!("write {}", file.display()));
    let mut handle = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .map_err(what())?;
    handle.write_all(text).map_err(what())
}

/// A program in a node's network. What enters the namespace becomes the program: the process stays the same.
fn inside(namespaces: &[PathBuf], number: u8, program: &Path) -> std::process::Command {
    let Some(namespace) = namespaces.get(usize::from(number) - 1) else {
        return std::process::Command::new(program);
    };
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg(program);
    command
}

/// Runs `conclave` with `arguments` and a configuration file, and reads the JSON that it prints.
async fn run(program: std::process::Command, arguments: &[&str], config: &Path) -> Result<serde_json::Value, UpError> {
    let command = || arguments.join(" ");
    let output = Command::from(program)
        .args(arguments)
        .arg(config)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(system(format!("run conclave {}", command())))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(UpError::Program {
            command: command(),
            output: said,
        });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| UpError::Program {
        command: command(),
        output: format!("unreadable answer: {error}"),
    })
}
