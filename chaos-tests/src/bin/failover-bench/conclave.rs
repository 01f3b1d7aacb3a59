//! Three of our managers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use conclave_chaos_tests::hosts::{FIRST_HOST, Hosts};
use conclave_chaos_tests::ledger::Access;
use conclave_localcluster::{LocalCluster, Progress, Signal, Spec};
use tokio_postgres::Config;

use crate::subject::{NODES, PATIENCE, Return, Subject, length, since};

struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
}

/// The cluster, with whole managers: broker, REST API, workflows.
pub struct Conclave {
    cluster: LocalCluster,
    access: Access,
}

impl Conclave {
    /// Starts it and waits until all is well.
    pub async fn start(folder: &Path, program: PathBuf, hosts: &Hosts) -> Result<Self> {
        let spec = Spec {
            nodes: 3,
            dir: folder.join("cluster"),
            program,
        };
        let outcome = async {
            let cluster = LocalCluster::up_in(&spec, FIRST_HOST, &hosts.namespaces(), &Silent).await?;
            cluster.wait_healthy(1, PATIENCE).await?;
            Ok(cluster)
        };
        match outcome.await {
            Ok(cluster) => {
                let access = Access::new(&cluster);
                Ok(Self { cluster, access })
            }
            Err(error) => {
                if let Ok(half) = LocalCluster::load(&spec.dir) {
                    half.down(false, &Silent).await?;
                }
                Err(error)
            }
        }
    }

    fn log(&self, node: u8) -> PathBuf {
        self.cluster.layout().node(node).log_file()
    }
}

impl Subject for Conclave {
    fn name(&self) -> &str {
        "Conclave"
    }

    fn way_to_primary(&self, node: u8) -> Config {
        self.access.way_through(node)
    }

    fn way_to(&self, node: u8) -> Config {
        self.access.way_to(node)
    }

    async fn settled(&self) -> Result<()> {
        for node in NODES {
            self.cluster.wait_healthy(node, PATIENCE).await?;
        }
        Ok(())
    }

    async fn kill_node(&mut self, node: u8) -> Result<()> {
        let processes = [
            self.cluster.manager(node),
            self.cluster.postmaster(node),
            self.cluster.broker(node),
        ];
        self.cluster.kill(node);
        for process in processes.into_iter().flatten() {
            ensure!(process.wait_end(Duration::from_secs(10)).await, "node{node} lives on");
        }
        Ok(())
    }

    fn kill_postgres(&self, node: u8) -> Result<()> {
        let postmaster = self.cluster.postmaster(node).context("PostgreSQL runs")?;
        postmaster.signal(Signal::SIGKILL);
        Ok(())
    }

    async fn start_node(&mut self, node: u8) -> Result<()> {
        self.cluster.start(node).await?;
        Ok(())
    }

    async fn switch_over(&self, _from: u8, to: u8) -> Result<()> {
        let command = self.cluster.command(to);
        let output = tokio::process::Command::from(command)
            .args(["cluster", "set-active", &format!("node{to}"), "--config"])
            .arg(self.cluster.layout().node(to).config_file())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "set-active: {said}");
        Ok(())
    }

    fn said(&self, node: u8) -> u64 {
        length(&self.log(node))
    }

    fn way_back(&self, node: u8, from: u64) -> Return {
        let said = since(&self.log(node), from);
        if said.contains("cloning the primary") {
            Return::Copy
        } else if said.contains("undoing what it does not hold") {
            Return::Rewind
        } else {
            Return::Plain
        }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(self.cluster.down(false, &Silent).await?)
    }
}
