//! A group of node processes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use conclave_catalog::NodePorts;
use conclave_consensus::{AdminClient, FoundOptions, JoinOptions, found, identity_dir, join};
use conclave_net::{NodeIdentity, PeerConnector};
use conclave_proto::consensus::membership_client::MembershipClient;
use conclave_proto::consensus::propose_response::Outcome as Proposed;
use conclave_proto::consensus::{ProposeRequest, ProposeResponse};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::load::{Client, Load, Outcome, Target, put};

pub(crate) const ADDRESS: &str = "127.0.0.1";

pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<u64, Node>,
}

/// A node's process and the line to it.
pub(crate) struct Node {
    dir: PathBuf,
    pub(crate) port: u16,
    child: Child,
    line: Mutex<(ChildStdin, BufReader<std::process::ChildStdout>)>,
    /// What the node itself needed from its first line to the end of its start.
    pub(crate) started_ms: f64,
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((ADDRESS, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn ports(peer: u16) -> NodePorts {
    NodePorts {
        peer,
        ..NodePorts::default()
    }
}

impl Node {
    pub(crate) fn start(dir: PathBuf, port: u16) -> anyhow::Result<Self> {
        let mut child = Process::new(std::env::current_exe()?)
            .args([crate::NODE, &dir.display().to_string(), ADDRESS, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("a pipe")?;
        let mut stdout = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut first = String::new();
        stdout.read_line(&mut first)?;
        let first: Value = serde_json::from_str(&first).context("the node did not start")?;
        Ok(Self {
            dir,
            port,
            child,
            line: Mutex::new((stdin, stdout)),
            started_ms: first["started_ms"].as_f64().unwrap_or(f64::NAN),
        })
    }

    /// Asks and waits for the answer. Blocks.
    pub(crate) fn ask(&self, words: &str) -> anyhow::Result<Value> {
        let mut line = self.line.lock().expect("no panic while asking");
        writeln!(line.0, "{words}")?;
        line.0.flush()?;
        let mut answer = String::new();
        line.1.read_line(&mut answer)?;
        let answer: Value = serde_json::from_str(&answer)?;
        match answer.get("error") {
            Some(error) => anyhow::bail!("{words}: {error}"),
            None => Ok(answer),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) -> anyhow::Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid())?);
        Ok(nix::sys::signal::kill(pid, signal)?)
    }

    /// SIGKILL, and the process is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        *self = Self::start(self.dir.clone(), self.port)?;
        Ok(())
    }

    pub(crate) fn admin(&self) -> anyhow::Result<AdminClient> {
        let identity = NodeIdentity::load(&identity_dir(&self.dir))?;
        Ok(AdminClient::new(identity, ADDRESS, self.port)?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Gone already, or goes now.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Cluster {
    pub(crate) async fn start(root: &Path, size: usize) -> anyhow::Result<Self> {
        let (dir, port) = (root.join("1"), free_port());
        found(&FoundOptions {
            data_dir: dir.clone(),
            node_name: "node1".into(),
            address: ADDRESS.into(),
            ports: ports(port),
            settings: BTreeMap::new(),
        })?;
        let mut cluster = Self {
            nodes: BTreeMap::from([(1, Node::start(dir, port)?)]),
        };
        for _ in 1..size {
            cluster.grow(root).await?;
        }
        cluster
            .wait_for("all votes", |status| {
                status["voters"] == size && status["quorum"] == true
            })
            .await?;
        Ok(cluster)
    }

    /// Lets one more node join; its number.
    pub(crate) async fn grow(&mut self, root: &Path) -> anyhow::Result<u64> {
        let number = self.nodes.len() as u64 + 1;
        let (dir, port) = (root.join(number.to_string()), free_port());
        let first = &self.nodes[&1];
        let admin = first.admin()?;
        let end = Instant::now() + Duration::from_secs(20);
        let token = loop {
            match admin.create_join_token(Duration::from_secs(600)).await {
                Ok(token) => break token,
                Err(error) if Instant::now() > end => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let identity = join(&JoinOptions {
            data_dir: dir.clone(),
            node_name: format!("node{number}"),
            address: ADDRESS.into(),
            ports: ports(port),
            token,
            peer: format!("{ADDRESS}:{}", first.port),
        })
        .await?;
        self.nodes.insert(identity.node_id, Node::start(dir, port)?);
        Ok(identity.node_id)
    }

    pub(crate) async fn wait_for(&self, what: &str, good: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let statuses: Vec<_> = self.nodes.values().map(|node| node.ask("status")).collect();
            if statuses.iter().all(|status| status.as_ref().is_ok_and(&good)) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "{what}: not within a minute: {statuses:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The leader that leads and knows it.
    pub(crate) async fn leader(&self) -> anyhow::Result<u64> {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            for (number, node) in &self.nodes {
                if node.ask("status")?["leads"] == true {
                    return Ok(*number);
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::bail!("no node leads")
    }

    pub(crate) fn identity_of(&self, node: u64) -> anyhow::Result<NodeIdentity> {
        Ok(NodeIdentity::load(&identity_dir(&self.nodes[&node].dir))?)
    }

    /// Clients of one node.
    pub(crate) fn target(&self, node: u64) -> anyhow::Result<Remote> {
        Ok(Remote {
            identity: self.identity_of(node)?,
            port: self.nodes[&node].port,
        })
    }

    /// Clients of a node that does not lead.
    pub(crate) fn transport(&self, leader: u64) -> anyhow::Result<Transport> {
        let follower = self.nodes.keys().find(|node| **node != leader);
        let follower = *follower.context("a follower")?;
        Ok(Transport {
            identity: self.identity_of(follower)?,
            port: self.nodes[&follower].port,
        })
    }

    pub(crate) async fn load_inside(&self, node: u64, load: &Load) -> anyhow::Result<Outcome> {
        let words = format!("load {}", serde_json::to_string(load)?);
        let answer = tokio::task::block_in_place(|| self.nodes[&node].ask(&words))?;
        Ok(serde_json::from_value(answer)?)
    }

    pub(crate) fn stop(self) {
        for node in self.nodes.values() {
            let mut line = node.line.lock().expect("no panic while asking");
            // It may be gone already.
            let _gone = writeln!(line.0, "stop").and_then(|()| line.0.flush());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Clients over gRPC.
pub(crate) struct Remote {
    identity: NodeIdentity,
    port: u16,
}

#[async_trait::async_trait]
impl Target for Remote {
    async fn client(&self) -> anyhow::Result<Arc<dyn Client>> {
        Ok(Arc::new(RemoteClient(AdminClient::new(
            self.identity.clone(),
            ADDRESS,
            self.port,
        )?)))
    }
}

pub(crate) struct RemoteClient(pub(crate) AdminClient);

#[async_trait::async_trait]
impl Client for RemoteClient {
    async fn put(&self, key: String, value: String) -> anyhow::Result<()> {
        self.0.propose(put(&key, value)).await?;
        Ok(())
    }
}

/// Clients of a follower, which says at once that it does not lead: what the connections alone allow, with nothing written.
pub(crate) struct Transport {
    identity: NodeIdentity,
    port: u16,
}

struct TransportClient(tokio::sync::Mutex<(mpsc::Sender<ProposeRequest>, tonic::Streaming<ProposeResponse>)>);

#[async_trait::async_trait]
impl Target for Transport {
    async fn client(&self) -> anyhow::Result<Arc<dyn Client>> {
        let channel = PeerConnector::new(&self.identity)?.channel(self.identity.node_id, ADDRESS, self.port)?;
        let (requests, stream) = mpsc::channel(1);
        let answers = MembershipClient::new(channel)
            .propose(ReceiverStream::new(stream))
            .await?
            .into_inner();
        Ok(Arc::new(TransportClient((requests, answers).into())))
    }
}

#[async_trait::async_trait]
impl Client for TransportClient {
    async fn put(&self, key: String, value: String) -> anyhow::Result<()> {
        let (requests, answers) = &mut *self.0.lock().await;
        let request = ProposeRequest {
            id: 1,
            proposal: (key + &value).into_bytes().into(),
            to_leader_only: true,
        };
        requests.send(request).await?;
        let answer = answers.message().await?.context("the stream has ended")?;
        anyhow::ensure!(matches!(answer.outcome, Some(Proposed::NotLeader(_))), "it leads");
        Ok(())
    }
}
