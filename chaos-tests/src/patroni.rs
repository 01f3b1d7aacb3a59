//! Three PostgreSQLs that unmodified Patroni keeps available, with the cluster's Consul API as the store of its decisions.
//!
//! Each Patroni asks the node with its own number, as on machines that run both.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use conclave_localcluster::{Signal, TrackedProcess, holder_of};
use conclave_runtime::account::Account;
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

/// The instances. Dropping them ends what they started, by process.
pub struct PatroniCluster {
    dir: PathBuf,
    programs: PathBuf,
    patroni: PathBuf,
    account: Account,
    processes: [Option<std::process::Child>; INSTANCES as usize],
}

impl PatroniCluster {
    /// Configures the instances; none of them runs yet.
    ///
    /// # Panics
    /// When PostgreSQL or Patroni is not there.
    #[must_use]
    pub fn new(test: &TestCluster) -> Self {
        let cluster = Self {
            dir: test.dir().to_owned(),
            programs: programs(),
            patroni: python_program("consul-clients", "patroni"),
            account: Account::for_children("postgres").expect("the account of PostgreSQL"),
            processes: [const { None }; INSTANCES as usize],
        };
        let token = test.consul_token();
        for number in 1..=INSTANCES {
            let folder = cluster.folder(number);
            std::fs::create_dir(&folder).expect("a folder for the instance");
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("its mode");
            let config = cluster.config(
                number,
                &test.cluster.node(number).status,
                &test.cluster.ca_file(),
                &token,
            );
            std::fs::write(cluster.config_file(number), config).expect("its configuration");
            for path in [folder, cluster.config_file(number)] {
                cluster.account.own(&path).expect("its owner");
            }
        }
        cluster
    }

    fn folder(&self, number: u8) -> PathBuf {
        self.dir.join(name(number))
    }

    fn config_file(&self, number: u8) -> PathBuf {
        self.folder(number).join("patroni.json")
    }

    fn data(&self, number: u8) -> PathBuf {
        self.folder(number).join("data")
    }

    /// JSON is YAML too.
    fn config(&self, number: u8, consul: &str, ca: &Path, token: &str) -> String {
        let (address, folder) = (address(number), self.folder(number));
        let listen = |port: u16| format!("{address}:{port}");
        let user = |name: &str| serde_json::json!({"username": name, "password": name});
        serde_json::json!({
            "scope": SCOPE,
            "name": name(number),
            "restapi": {"listen": listen(REST_PORT), "connect_address": listen(REST_PORT)},
            "consul": {
                "url": consul, "cacert": ca, "token": token,
                "register_service": true, "service_check_interval": "1s",
            },
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS, "loop_wait": 2, "retry_timeout": 5,
                    // What was acknowledged is on the next leader, so that a lost row is somebody's mistake.
                    "synchronous_mode": true,
                    "postgresql": {"use_pg_rewind": true},
                },
                "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": listen(PORT), "connect_address": listen(PORT),
                "data_dir": self.data(number), "bin_dir": self.programs, "pgpass": folder.join("pgpass"),
                "authentication": {
                    "superuser": user("postgres"), "replication": user("replicator"), "rewind": user("rewinder"),
                },
                "parameters": {"unix_socket_directories": folder},
                "pg_hba": ["host all all 127.0.0.0/8 trust", "host replication all 127.0.0.0/8 trust"],
            },
        })
        .to_string()
    }

    /// Starts an instance.
    ///
    /// # Panics
    /// When Patroni cannot be started, or somebody else has its ports: it would take a stranger's PostgreSQL for its own.
    pub fn start(&mut self, number: u8) {
        for port in [PORT, REST_PORT] {
            let address = SocketAddr::new(address(number).parse().expect("an address"), port);
            if let Some(holder) = holder_of(address) {
                panic!("{address} is in use by {holder}");
            }
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(number));
        let log = log.expect("its log");
        // PostgreSQL refuses to be root, and its account may not enter the folder of a root's virtual environment.
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = std::process::Command::new("setpriv");
            command.args([
                &format!("--reuid={}", self.account.name()),
                &format!("--regid={}", self.account.name()),
                "--clear-groups",
                "--inh-caps=+dac_read_search",
                "--ambient-caps=+dac_read_search",
            ]);
            command.arg(&self.patroni);
            command
        } else {
            std::process::Command::new(&self.patroni)
        };
        let child = command
            .arg(self.config_file(number))
            .current_dir(self.folder(number))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log"))
            .stderr(log)
            .spawn()
            .expect("Patroni starts");
        self.processes[usize::from(number) - 1] = Some(child);
    }

    fn log(&self, number: u8) -> PathBuf {
        self.folder(number).join("patroni.log")
    }

    /// The postmaster of an instance.
    fn postmaster(&self, number: u8) -> Option<TrackedProcess> {
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
        self.sql(format!("postgresql://postgres@{}/postgres", address(number)))
    }

    /// A client of whichever instance takes writes. Its answer means that they are committed, there and on a standby.
    #[must_use]
    pub fn on_leader(&self) -> Sql {
        let hosts: Vec<String> = (1..=INSTANCES).map(address).collect();
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

fn address(number: u8) -> String {
    // Far from where clusters of ours are put, by these tests and by people.
    format!("127.0.54.{number}")
}

/// PostgreSQL's own programs, as Debian puts them.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let folders = versions.flatten().map(|version| version.path().join("bin"));
    let mut found: Vec<PathBuf> = folders.filter(|folder| folder.join("initdb").exists()).collect();
    found.sort();
    found.pop().expect("PostgreSQL is installed")
}
