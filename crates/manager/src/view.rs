//! The cluster, as the other parts look at it.

use bytes::Bytes;
use conclave_consensus::Consensus;
use conclave_consul_api::collect;
use conclave_executor::Resources;
use conclave_filesync::{FileSync, FileSyncError};
use conclave_operations::ServiceError;
use conclave_rest::{BrokerView, ClusterView, NodeView};
use conclave_runtime::Tasks;
use tokio::sync::watch;

/// What the REST API asks of the cluster.
pub(crate) struct RaftView {
    consensus: Consensus,
    ca_certificate: String,
}

impl RaftView {
    pub(crate) fn new(consensus: Consensus, ca_certificate: String) -> Self {
        Self {
            consensus,
            ca_certificate,
        }
    }
}

#[async_trait::async_trait]
impl ClusterView for RaftView {
    async fn nodes(&self) -> Vec<NodeView> {
        let status = collect(&self.consensus).await;
        let node = |node: conclave_consul_api::NodeStatus| NodeView {
            id: node.id.0,
            name: node.name,
            address: node.address,
            failures: node
                .causes
                .into_iter()
                .map(|cause| format!("{}: {}", cause.what, cause.why))
                .collect(),
        };
        status.nodes.into_iter().map(node).collect()
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
