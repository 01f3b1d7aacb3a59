//! The cluster, as the other parts look at it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conclave_catalog::{Command, NodeRecord, Refusal};
use conclave_consensus::{AdminClient, Consensus, ConsensusError};
use conclave_consul_api::{Feed, NodeStatus, collect};
use conclave_executor::Resources;
use conclave_filesync::{FileSync, FileSyncError};
use conclave_operations::ServiceError;
use conclave_rest::{BrokerView, ClusterError, ClusterView, Invitation, LogLine, NodeChecks, NodeView};
use conclave_runtime::Tasks;
use tokio::sync::watch;

/// As long as that of the command line.
const INVITATION_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What the REST API asks of the cluster.
pub(crate) struct RaftView {
    pub(crate) consensus: Consensus,
    /// Gives orders as the command line does.
    pub(crate) admin: Arc<AdminClient>,
    pub(crate) events: Feed,
    pub(crate) ca_certificate: String,
    /// What is begun here goes on when the client that asked for it has gone.
    pub(crate) tasks: Tasks,
}

impl RaftView {
    fn record(&self, name: &str) -> Result<NodeRecord, ClusterError> {
        let state = self.consensus.state();
        let state = state.borrow();
        let found = state.nodes().values().find(|node| node.name == name);
        found
            .cloned()
            .ok_or_else(|| ClusterError::UnknownNode(format!("no node is named {name:?}")))
    }

    /// Where the node that is asked for listens for its peers.
    fn peer_address(&self, id: conclave_catalog::NodeId) -> Option<String> {
        let state = self.consensus.state();
        let state = state.borrow();
        let node = state.nodes().get(&id)?;
        Some(format!("{}:{}", node.address, node.ports.peer))
    }
}

fn failed(error: ConsensusError) -> ClusterError {
    let text = error.to_string();
    match error {
        ConsensusError::Refused(Refusal::UnknownNode(_)) => ClusterError::UnknownNode(text),
        ConsensusError::Refused(_) => ClusterError::Refused(text),
        _ => ClusterError::Unavailable(text),
    }
}

fn node_view(node: NodeStatus, leads: bool) -> NodeView {
    let parts = node.report.as_ref().map(|report| &report.parts);
    let healthy = |name: &str| parts.is_some_and(|parts| parts.get(name).is_some_and(|part| part.healthy));
    let others = |name: &String| !["raft", "postgres"].contains(&name.as_str());
    let checks = NodeChecks {
        raft: healthy("raft"),
        database: healthy("postgres"),
        services: parts.is_some_and(|parts| parts.iter().all(|(name, part)| part.healthy || !others(name))),
        heartbeat: node.alive && parts.is_some(),
    };
    NodeView {
        id: node.id.0,
        leads,
        online: checks.heartbeat,
        checks,
        name: node.name,
        address: node.address,
        failures: node
            .causes
            .into_iter()
            .map(|cause| format!("{}: {}", cause.what, cause.why))
            .collect(),
    }
}

#[async_trait::async_trait]
impl ClusterView for RaftView {
    async fn nodes(&self) -> Vec<NodeView> {
        let status = collect(&self.consensus).await;
        let leader = status.leader.map(|leader| leader.id);
        let nodes = status.nodes.into_iter();
        nodes
            .map(|node| {
                let leads = leader == Some(node.id);
                node_view(node, leads)
            })
            .collect()
    }

    fn brokers(&self) -> Vec<BrokerView> {
        let state = self.consensus.state().borrow().clone();
        let view = |node: &conclave_catalog::NodeRecord| BrokerView {
            name: node.name.clone(),
            address: node.address.clone(),
            port: node.ports.broker,
        };
        state.nodes().values().map(view).collect()
    }

    fn ca_certificate(&self) -> String {
        self.ca_certificate.clone()
    }

    fn is_leader(&self) -> bool {
        self.consensus.leadership().borrow().is_leader
    }

    fn leader_address(&self) -> Option<String> {
        let leader = self.consensus.leadership().borrow().leader?;
        self.peer_address(leader)
    }

    fn log(&self, since: Option<&str>) -> Vec<LogLine> {
        let events = self.events.remembered(since).into_iter();
        events
            .map(|(cursor, event)| LogLine {
                cursor,
                at: event.at.as_microsecond(),
                text: event.text.clone(),
            })
            .collect()
    }

    async fn make_active(&self, name: &str) -> Result<(), ClusterError> {
        let (wanted, admin) = (self.record(name)?, Arc::clone(&self.admin));
        let moving = self
            .tasks
            .spawn("planned move", async move { admin.make_active(&wanted).await });
        let ended = moving.join().await;
        ended
            .map_err(|error| ClusterError::Unavailable(error.to_string()))?
            .map_err(failed)
    }

    async fn remove(&self, name: &str) -> Result<(), ClusterError> {
        let removal = Command::RemoveNode(self.record(name)?.id);
        self.consensus.propose(removal).await.map(drop).map_err(failed)
    }

    async fn invite(&self) -> Result<Invitation, ClusterError> {
        let token = self
            .admin
            .create_join_token(INVITATION_LIFETIME)
            .await
            .map_err(failed)?;
        let gone = || ClusterError::Unavailable("this node is no longer in the cluster".to_owned());
        let peer = self.peer_address(self.consensus.me()).ok_or_else(gone)?;
        Ok(Invitation { token, peer })
    }
}

/// Files for operations.
pub(crate) struct FileResources(pub(crate) FileSync);

#[async_trait::async_trait]
impl Resources for FileResources {
    async fn read(&self, path: &str) -> Result<Bytes, ServiceError> {
        self.0.read(path).await.map_err(|error| match error {
            FileSyncError::NotFound(path) => ServiceError::NotFound(path),
            other => ServiceError::Failed(other.to_string()),
        })
    }
}

/// Names of the managers that the leader holds for alive. A node that hears no leader believes itself alone in nothing: it
/// takes no new work, for the list is empty then.
pub(crate) fn live_managers(consensus: &Consensus, tasks: &Tasks) -> watch::Receiver<Vec<String>> {
    let (publish, live) = watch::channel(Vec::new());
    let (mut state, mut leadership, shutdown) = (consensus.state(), consensus.leadership(), tasks.shutdown());
    tasks.spawn("live managers", async move {
        loop {
            let known = leadership.borrow_and_update().has_quorum;
            let names: Vec<String> = {
                let state = state.borrow_and_update();
                state
                    .nodes()
                    .values()
                    .filter(|node| known && node.alive)
                    .map(|node| node.name.clone())
                    .collect()
            };
            publish.send_if_modified(|old| {
                let changed = *old != names;
                *old = names;
                changed
            });
            tokio::select! {
                () = shutdown.requested() => return,
                changed = state.changed() => if changed.is_err() { return },
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    });
    live
}
