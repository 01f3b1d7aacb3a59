//! Debian's Patroni with Debian's etcd.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use conclave_chaos_tests::hosts::{FIRST_HOST, Hosts, address};
use conclave_chaos_tests::ledger::open;
use conclave_chaos_tests::patroni::{PatroniCluster, SCOPE, Setup, name};
use conclave_chaos_tests::within;
use conclave_localcluster::Signal;
use serde_json::json;
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use crate::etcd::Etcd;
use crate::subject::{NODES, PATIENCE, Return, Subject, length, since};

const PROGRAM: &str = "/usr/bin/patroni";
const CONTROL: &str = "/usr/bin/patronictl";

/// What an operator would choose.
pub struct Timings {
    name: &'static str,
    ttl: u32,
    loop_wait: u32,
    retry_timeout: u32,
    synchronous: bool,
}

impl Timings {
    /// As Patroni comes.
    pub const DEFAULT: Self = Self {
        name: "Patroni, default settings",
        ttl: 30,
        loop_wait: 10,
        retry_timeout: 10,
        synchronous: false,
    };
    /// The least that it keeps to; versions after Debian's refuse a time to live below 20 s.
    pub const TIGHTEST: Self = Self {
        name: "Patroni, tightest settings",
        ttl: 10,
        loop_wait: 2,
        retry_timeout: 3,
        synchronous: false,
    };
    /// The same, and commits wait for a standby.
    pub const SYNCHRONOUS: Self = Self {
        name: "Patroni, tightest settings, synchronous",
        synchronous: true,
        ..Self::TIGHTEST
    };
}

/// Three instances with a member of etcd beside each.
pub struct Rival {
    name: &'static str,
    patroni: PatroniCluster,
    etcd: Etcd,
    synchronous: bool,
}

impl Rival {
    /// Starts it and waits until all is well.
    pub async fn start(folder: &Path, timings: &Timings, hosts: &Hosts) -> Result<Self> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is not there: use deploy/bench");
        let etcd = Etcd::start(folder, hosts)?;
        let members: Vec<String> = NODES.map(|node| format!("{}:2379", address(node))).to_vec();
        let store = json!({"etcd3": {"hosts": members}});
        let mut patroni = PatroniCluster::with(Setup {
            dir: folder.to_owned(),
            program: PathBuf::from(PROGRAM),
            first_address: FIRST_HOST,
            namespaces: hosts.namespaces(),
            trusted: "0.0.0.0/0",
            dynamic: json!({
                "ttl": timings.ttl, "loop_wait": timings.loop_wait, "retry_timeout": timings.retry_timeout,
                "synchronous_mode": timings.synchronous, "postgresql": {"use_pg_rewind": true},
            }),
            stores: [store.clone(), store.clone(), store],
        });
        NODES.into_iter().for_each(|node| patroni.start(node));
        let rival = Self {
            name: timings.name,
            patroni,
            etcd,
            synchronous: timings.synchronous,
        };
        if let Err(error) = rival.settled().await {
            eprintln!("{}", rival.patroni.last_words());
            return Err(error);
        }
        Ok(rival)
    }

    fn base() -> Config {
        let mut config = Config::new();
        config.user("postgres").dbname("postgres");
        config
    }
}

impl Subject for Rival {
    fn name(&self) -> &str {
        self.name
    }

    /// As libpq does with a list of hosts.
    fn way_to_primary(&self, _node: u8) -> Config {
        let mut config = Self::base();
        for node in NODES {
            config.host(self.patroni.address(node).to_string());
        }
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(std::time::Duration::from_millis(500));
        config
    }

    fn way_to(&self, node: u8) -> Config {
        let mut config = Self::base();
        config.host(self.patroni.address(node).to_string());
        config
    }

    async fn settled(&self) -> Result<()> {
        let sql = "SELECT NOT pg_is_in_recovery(), count(*), count(*) FILTER (WHERE sync_state = 'sync'),
            coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)), 0)::bigint
            FROM pg_stat_replication WHERE state = 'streaming'";
        let whole = || async {
            for node in NODES {
                // A standby refuses the question: it writes no log.
                let Ok(client) = open(&self.way_to(node)).await else {
                    continue;
                };
                let Ok(row) = client.query_one(sql, &[]).await else {
                    continue;
                };
                let (leads, standbys, synchronous, lag): (bool, i64, i64, i64) =
                    (row.get(0), row.get(1), row.get(2), row.get(3));
                let protected = synchronous > 0 || !self.synchronous;
                if leads && standbys == 2 && protected && lag < 1 << 20 {
                    return Some(());
                }
            }
            None
        };
        within(PATIENCE, whole)
            .await
            .context("Patroni did not come to have a primary and two standbys")
    }

    async fn kill_node(&mut self, node: u8) -> Result<()> {
        self.patroni.kill(node);
        self.etcd.kill_member(node)
    }

    fn kill_postgres(&self, node: u8) -> Result<()> {
        let postmaster = self.patroni.postmaster(node).context("PostgreSQL runs")?;
        postmaster.signal(Signal::SIGKILL);
        Ok(())
    }

    async fn start_node(&mut self, node: u8) -> Result<()> {
        self.etcd.start_member(node)?;
        self.patroni.start(node);
        Ok(())
    }

    async fn switch_over(&self, from: u8, to: u8) -> Result<()> {
        let output = tokio::process::Command::new(CONTROL)
            .arg("-c")
            .arg(self.patroni.config_file(to))
            .args(["switchover", SCOPE, "--force"])
            .args(["--leader", &name(from), "--candidate", &name(to)])
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "patronictl: {said}");
        Ok(())
    }

    fn said(&self, node: u8) -> u64 {
        length(&self.patroni.log(node))
    }

    fn way_back(&self, node: u8, from: u64) -> Return {
        let said = since(&self.patroni.log(node), from);
        if said.contains("replica has been created") {
            Return::Copy
        } else if said.contains("running pg_rewind") {
            Return::Rewind
        } else {
            Return::Plain
        }
    }

    async fn stop(&mut self) -> Result<()> {
        for node in NODES {
            self.kill_node(node).await?;
        }
        Ok(())
    }
}
