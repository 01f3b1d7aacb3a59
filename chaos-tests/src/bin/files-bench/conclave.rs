//! Three of our managers.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use conclave_chaos_tests::within;
use conclave_consensus::identity_dir;
use conclave_filesync::{Expected, FilePath, FilesClient, Modified};
use conclave_localcluster::{LocalCluster, Progress, Spec};
use conclave_net::NodeIdentity;

use crate::subject::{FILES_PORT, NODES, PATIENCE, Subject, Way};
use crate::visible::{Content, Wanted, wait};

const FOLDER: &str = "global-resources/bench";
/// Where the file server takes archives.
const SETS: &str = "deployments/default_tenant/bench/sets";
const MODE: u32 = 0o644;

struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
}

/// The cluster, with whole managers.
pub struct Conclave {
    cluster: LocalCluster,
    clients: Vec<FilesClient>,
    version: String,
}

impl Conclave {
    /// Starts it and waits until files come through.
    pub async fn start(folder: &Path, program: PathBuf, first: Ipv4Addr) -> Result<Self> {
        let output = std::process::Command::new(&program).arg("--version").output()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let spec = Spec {
            nodes: 3,
            dir: folder.join("cluster"),
            program,
        };
        let outcome = async {
            let cluster = LocalCluster::up_at(&spec, first, &Silent).await?;
            cluster.wait_healthy(1, PATIENCE).await?;
            let mut clients = Vec::new();
            for node in NODES {
                let facts = cluster.node(node);
                let identity = NodeIdentity::load(&identity_dir(&facts.data_dir))?;
                clients.push(FilesClient::new(&identity, &facts.address, FILES_PORT)?);
            }
            let conclave = Self {
                cluster,
                clients,
                version,
            };
            conclave.warm_up().await?;
            Ok(conclave)
        };
        let outcome: Result<Self> = outcome.await;
        if outcome.is_err()
            && let Ok(half) = LocalCluster::load(&spec.dir)
        {
            half.down(false, &Silent).await?;
        }
        outcome
    }

    /// A file by each node, and every disk watched.
    async fn warm_up(&self) -> Result<()> {
        for client in &self.clients {
            let watching = || async {
                let status = client.status().await.ok()?;
                (status.watching == "events").then_some(())
            };
            within(PATIENCE, watching)
                .await
                .context("a node does not watch its disk")?;
        }
        let source = self.cluster.layout().dir().join("warm-up");
        std::fs::write(&source, b"warm")?;
        let mut wanted = Vec::new();
        for node in NODES {
            let name = format!("warm-up-{node}");
            self.put(node, &name, &source).await?;
            wanted.extend(NODES.map(|node| Wanted {
                path: self.folder(node).join(&name),
                content: Content::Bytes(b"warm".to_vec()),
            }));
        }
        let since = std::time::Instant::now();
        tokio::task::spawn_blocking(move || wait(wanted, since, PATIENCE)).await??;
        Ok(())
    }

    fn tree(&self, node: u8) -> PathBuf {
        self.cluster.node(node).data_dir.join("resources")
    }
}

impl Subject for Conclave {
    fn name(&self) -> &str {
        "Conclave"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn ways(&self) -> &'static [Way] {
        &[Way::Api, Way::Disk]
    }

    fn folder(&self, node: u8) -> PathBuf {
        self.tree(node).join(FOLDER)
    }

    fn folder_of_sets(&self, node: u8, way: Way) -> PathBuf {
        match way {
            Way::Api => self.tree(node).join(SETS),
            Way::Disk => self.folder(node),
        }
    }

    async fn put(&self, node: u8, name: &str, source: &Path) -> Result<()> {
        let client = self.clients.get(usize::from(node) - 1).context("a node")?;
        let path = FilePath::from_text(&format!("{FOLDER}/{name}")).context("a path")?;
        let source = File::open(source)?;
        let modified = Modified {
            seconds: 0,
            nanoseconds: 0,
        };
        let size = source.metadata()?.len();
        client
            .put(&path, source, Some(size), MODE, modified, Expected::Anything)
            .await?;
        Ok(())
    }

    async fn put_set(&self, node: u8, archive: Vec<u8>) -> Result<()> {
        let place = format!("/resources/{SETS}?extract=true");
        let client = self.cluster.client(node)?;
        let answer = client.call("PUT", &place, archive.into(), PATIENCE).await?;
        ensure!(
            answer.status == 200,
            "the file server says {}: {}",
            answer.status,
            answer.body
        );
        Ok(())
    }

    /// It finds everything itself.
    async fn changed(&self, _node: u8) -> Result<()> {
        Ok(())
    }

    async fn look_now(&self, _node: u8) -> Result<()> {
        Ok(())
    }

    /// Chunks alone: what is around them is in what the system counts. A node counts as sent what it gives to others unasked, and as
    /// received what it has asked for, so that each chunk is counted at one end.
    async fn moved(&self) -> Result<u64> {
        let mut all = 0;
        for client in &self.clients {
            let status = client.status().await?;
            all += status.bytes_sent + status.bytes_received;
        }
        Ok(all)
    }

    fn addresses(&self) -> Vec<String> {
        NODES.map(|node| self.cluster.node(node).address).into()
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(self.cluster.down(false, &Silent).await?)
    }
}
