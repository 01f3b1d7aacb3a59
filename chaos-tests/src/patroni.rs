//! Three PostgreSQLs that unmodified Patroni keeps available.
//!
//! In the tests the cluster's Consul API is the store of its decisions, and each Patroni asks the node with its own number, as on
//! machines that run both. Benchmarks give it stores of other kinds.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use conclave_localcluster::{Signal, TrackedProcess, holder_of};
use conclave_runtime::account::Account;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{TestCluster, python_program};

/// How many instances there are.
pub const INSTANCES: u8 = 3;
/// Patroni's name for the PostgreSQL cluster.
pub const SCOPE: &str = "chaos";
const PORT: u16 = 5432;
const REST_PORT: u16 = 8008;
/// A statement that takes longer is lost with its connection.
const STATEMENT_LIMIT: Duration = Duration::from_secs(5);
const END_LIMIT: Duration = Duration::from_secs(10);
/// A takeover takes at most this and a few rounds; the time to live of a session is half of it.
pub const TTL_SECONDS: u64 = 20;

/// Far from where clusters of ours are put, by these tests and by people.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 54, 1);

/// Where the instances run, and with what.
pub struct Setup {
    /// Each instance has a folder below it.
    pub dir: PathBuf,
    /// The program.
    pub program: PathBuf,
    /// The address of the first; the others' follow it.
    pub first_address: Ipv4Addr,
    /// The files of their network namespaces, or none.
    pub namespaces: Vec<PathBuf>,
    /// From where clients need no password.
    pub trusted: &'static str,
    /// Patroni's dynamic configuration.
    pub dynamic: Value,
    /// What each of them needs to find its store: `{"consul": {...}}`.
    pub stores: [Value; INSTANCES as usize],
}

/// The instances. Dropping them ends what they started, by process.
pub struct PatroniCluster {
    setup: Setup,
    programs: PathBuf,
    account: Account,
    processes: [Option<std::process::Child>; INSTANCES as usize],
}

impl PatroniCluster {
    /// Configures instances that ask the Consul API; none of them runs yet.
    ///
    /// # Panics
    /// When PostgreSQL or Patroni is not there.
    #[must_use]
    pub fn new(test: &TestCluster) -> Self {
        let token = test.consul_token();
        let store = |number: u8| {
            json!({"consul": {
                "url": test.cluster.node(number).status, "cacert": test.cluster.ca_file(), "token": token,
                "register_service": true, "service_check_interval": "1s",
            }})
        };
        Self::with(Setup {
            dir: test.dir().to_owned(),
            program: python_program("consul-clients", "patroni"),
            first_address: FIRST_ADDRESS,
            namespaces: Vec::new(),
            trusted: "127.0.0.0/8",
            dynamic: json!({
                "ttl": TTL_SECONDS, "loop_wait": 2, "retry_timeout": 5,
                // What was acknowledged is on the next leader, so that a lost row is somebody's mistake.
                "synchronous_mode": true,
                "postgresql": {"use_pg_rewind": true},
            }),
            stores: [store(1), store(2), store(3)],
        })
    }

    /// Configures instances of any kind.
    ///
    /// # Panics
    /// When PostgreSQL is not there.
    #[must_use]
    pub fn with(setup: Setup) -> Self {
        let cluster = Self {
            setup,
            programs: programs(),
            account: Account::for_children("postgres").expect("the account of PostgreSQL"),
            processes: [const { None }; INSTANCES as usize],
        };
        for number in 1..=INSTANCES {
            let folder = cluster.folder(number);
            std::fs::create_dir(&folder).expect("a folder for the instance");
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("its mode");
            std::fs::write(cluster.config_file(number), cluster.config(number).to_string()).expect("its configuration");
            for path in [folder, cluster.config_file(number)] {
                cluster.account.own(&path).expect("its owner");
            }
        }
        cluster
    }

    fn folder(&self, number: u8) -> PathBuf {
        self.setup.dir.join(name(number))
    }

    /// The configuration of an instance, for Patroni's other programs.
    #[must_use]
    pub fn config_file(&self, number: u8) -> PathBuf {
        self.folder(number).join("patroni.json")
    }

    fn data(&self, number: u8) -> PathBuf {
        self.folder(number).join("data")
    }

    /// Where an instance's PostgreSQL listens.
    #[must_use]
    pub fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.setup.first_address.to_bits() + u32::from(number) - 1)
    }

    /// JSON is YAML too.
    fn config(&self, number: u8) -> Value {
        let (address, folder, trusted) = (self.address(number), self.folder(number), self.setup.trusted);
        let listen = |port: u16| format!("{address}:{port}");
        let user = |name: &str| json!({"username": name, "password": name});
        let mut config = json!({
            "scope": SCOPE,
            "name": name(number),
            "restapi": {"listen": listen(REST_PORT), "connect_address": listen(REST_PORT)},
            "bootstrap": {
                "dcs": self.setup.dynamic,
                "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": listen(PORT), "connect_address": listen(PORT),
                "data_dir": self.data(number), "bin_dir": self.programs, "pgpass": folder.join("pgpass"),
                "authentication": {
                    "superuser": user("postgres"), "replication": user("replicator"), "rewind": user("rewinder"),
                },
                "parameters": {"unix_socket_directories": folder},
                "pg_hba": [format!("host all all {trusted} trust"), format!("host replication all {trusted} trust")],
            },
        });
        let store = self.setup.stores[usize::from(number) - 1].as_object();
        for (key, value) in store.into_iter().flatten() {
            config[key] = value.clone();
        }
        config
    }

    /// Starts an instance.
    ///
    /// # Panics
    /// When Patroni cannot be started, or somebody else has its ports: it would take a stranger's PostgreSQL for its own.
    pub fn start(&mut self, number: u8) {
        if self.setup.namespaces.is_empty() {
            for port in [PORT, REST_PORT] {
                let address = SocketAddr::new(self.address(number).into(), port);
                if let Some(holder) = holder_of(address) {
                    panic!("{address} is in use by {holder}");
                }
            }
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(number));
        let log = log.expect("its log");
        let child = self
            .command(number)
            .arg(self.config_file(number))
            .current_dir(self.folder(number))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log"))
            .stderr(log)
            .spawn()
            .expect("Patroni starts");
        self.processes[usize::from(number) - 1] = Some(child);
    }

    /// Patroni where the instance is. What comes before it becomes it: the process stays the same.
    fn command(&self, number: u8) -> std::process::Command {
        let mut words: Vec<String> = Vec::new();
        if let Some(namespace) = self.setup.namespaces.get(usize::from(number) - 1) {
            words.extend(["nsenter".into(), format!("--net={}", namespace.display())]);
        }
        // PostgreSQL refuses to be root, and its account may not enter the folder of a root's virtual environment.
        if nix::unistd::geteuid().is_root() {
            words.extend([
                "setpriv".into(),
                format!("--reuid={}", self.account.name()),
                format!("--regid={}", self.account.name()),
                "--clear-groups".into(),
                "--inh-caps=+dac_read_search".into(),
                "--ambient-caps=+dac_read_search".into(),
            ]);
        }
        words.push(self.setup.program.to_string_lossy().into_owned());
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// What an instance's Patroni says.
    #[must_use]
    pub fn log(&self, number: u8) -> PathBuf {
        self.folder(number).join("patroni.log")
    }

    /// The postmaster of an instance.
    #[must_use]
    pub fn postmaster(&self, number: u8) -> Option<TrackedProcess> {
        let data = self.data(number);
        let file = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid: i32 = file.lines().next()?.trim().parse().ok()?;
        let process = TrackedProcess::running(pid)?;
        // The file can be older than the process that has the number now.
        let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        (folder == data).then_some(process)
    }

    /// Kills Patroni and its PostgreSQL at once.
    pub fn kill(&mut self, number: u8) {
        let postmaster = self.postmaster(number);
        if let Some(mut patroni) = self.processes[usize::from(number) - 1].take()
            && let Err(error) = patroni.kill().and_then(|()| patroni.wait().map(drop))
        {
            eprintln!("{} was not ended: {error}", name(number));
        }
        // Patroni may have started one meanwhile.
        let found = [postmaster, self.postmaster(number)];
        for postmaster in found.into_iter().flatten() {
            postmaster.signal(Signal::SIGKILL);
        }
        let end = Instant::now() + END_LIMIT;
        while found.into_iter().flatten().any(|postmaster| postmaster.is_running()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A client of one instance.
    #[must_use]
    pub fn on(&self, number: u8) -> Sql {
        self.sql(format!("postgresql://postgres@{}/postgres", self.address(number)))
    }

    /// A client of whichever instance takes writes. Its answer means that they are committed, there and on a standby.
    #[must_use]
    pub fn on_leader(&self) -> Sql {
        let hosts: Vec<String> = (1..=INSTANCES).map(|number| self.address(number).to_string()).collect();
        let hosts = hosts.join(",");
        self.sql(format!(
            "postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
        ))
    }

    fn sql(&self, target: String) -> Sql {
        Sql {
            psql: self.programs.join("psql"),
            target,
        }
    }

    /// The last words of each instance, for a test that fails.
    #[must_use]
    pub fn last_words(&self) -> String {
        const SHOWN: usize = 200;
        let logs = (1..=INSTANCES).map(|number| {
            let text = std::fs::read_to_string(self.log(number)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN)..];
            format!("--- {}\n{}\n", name(number), last.join("\n"))
        });
        logs.collect()
    }
}

impl Drop for PatroniCluster {
    fn drop(&mut self) {
        (1..=INSTANCES).for_each(|number| self.kill(number));
    }
}

/// A client of PostgreSQL, with a connection for each statement.
#[derive(Clone)]
pub struct Sql {
    psql: PathBuf,
    target: String,
}

impl Sql {
    /// What a statement gave; `None` when it was refused, or it is not known what became of it.
    pub async fn run(&self, statement: &str) -> Option<String> {
        let running = Command::new(&self.psql)
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .args(["-d", &self.target, "-c", statement])
            .env("PGCONNECT_TIMEOUT", "2")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(STATEMENT_LIMIT, running).await.ok()?.ok()?;
        // A warning may say that a standby was not waited for.
        let good = output.status.success() && output.stderr.is_empty();
        good.then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// The name of an instance.
#[must_use]
pub fn name(number: u8) -> String {
    format!("pg{number}")
}

/// PostgreSQL's own programs, as Debian puts them.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let folders = versions.flatten().map(|version| version.path().join("bin"));
    let mut found: Vec<PathBuf> = folders.filter(|folder| folder.join("initdb").exists()).collect();
    found.sort();
    found.pop().expect("PostgreSQL is installed")
}
