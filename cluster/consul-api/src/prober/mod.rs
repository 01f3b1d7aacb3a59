//! Carries out the HTTP and TCP checks of this node's services (spec/consul-api.md, section 7).
//!
//! A reconciler: what is to be probed is what the replicated catalog says of this node, also after a restart. A result goes
//! into the log when it changes the check's status; an output that merely reads differently does not.

mod probe;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::Command;
use conclave_catalog::directory::{CatalogNode, CheckDefinition, CheckKind, CheckStatus, DirectoryCommand};
use conclave_consensus::Consensus;
use conclave_net::{NetError, NodeIdentity, ProbeClient};
use conclave_runtime::{Shutdown, Tasks};

use probe::Probe;

/// A result that could not be committed is told again with the next one.
const PROPOSE_LIMIT: Duration = Duration::from_secs(5);

/// The prober of one node.
pub(crate) struct Prober {
    consensus: Consensus,
    client: ProbeClient,
    tasks: Tasks,
}

/// A probe that runs.
struct Running {
    definition: CheckDefinition,
    tasks: Tasks,
}

impl Prober {
    pub(crate) fn new(consensus: Consensus, identity: &NodeIdentity, tasks: &Tasks) -> Result<Self, NetError> {
        Ok(Self {
            consensus,
            client: ProbeClient::new(&identity.ca_certificate_pem)?,
            tasks: tasks.clone(),
        })
    }

    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut state = self.consensus.state();
        let mut running: HashMap<Arc<str>, Running> = HashMap::new();
        let mut known: Option<Arc<CatalogNode>> = None;
        loop {
            let now = {
                let state = state.borrow_and_update();
                let me = state.nodes().get(&self.consensus.me());
                me.and_then(|me| state.directory().services().node(&me.name).cloned())
            };
            let same = match (&known, &now) {
                (Some(known), Some(now)) => Arc::ptr_eq(known, now),
                (None, None) => true,
                _ => false,
            };
            if !same {
                self.reconcile(now.as_ref(), &mut running);
                known = now;
            }
            if !matches!(shutdown.run_until(state.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    }

    fn reconcile(&self, node: Option<&Arc<CatalogNode>>, running: &mut HashMap<Arc<str>, Running>) {
        let wanted: HashMap<Arc<str>, CheckDefinition> = node
            .into_iter()
            .flat_map(|node| node.checks.values())
            .filter(|check| matches!(check.definition.kind, CheckKind::Http { .. } | CheckKind::Tcp { .. }))
            .map(|check| (Arc::clone(&check.id), check.definition.clone()))
            .collect();
        running.retain(|id, probe| {
            let stays = wanted.get(id) == Some(&probe.definition);
            if !stays {
                probe.tasks.request_stop();
            }
            stays
        });
        for (id, definition) in wanted {
            if running.contains_key(&id) {
                continue;
            }
            let Some(node) = node.map(|node| Arc::clone(&node.name)) else {
                continue;
            };
            let tasks = self.tasks.child("probe");
            let probe = Probe::new(&definition, self.client.clone());
            let work = repeat(self.consensus.clone(), node, Arc::clone(&id), probe, tasks.shutdown());
            tasks.spawn("probe", work);
            running.insert(id, Running { definition, tasks });
        }
    }
}

/// Probes until the end, the first time after a part of the interval, so that not all begin at once.
async fn repeat(consensus: Consensus, node: Arc<str>, id: Arc<str>, probe: Probe, shutdown: Shutdown) {
    let first = rand::random_range(Duration::ZERO..=probe.interval().min(Duration::from_secs(1)));
    if !shutdown.sleep(first).await {
        return;
    }
    loop {
        let Some((status, output)) = shutdown.run_until(probe.carry_out()).await else {
            return;
        };
        tell(&consensus, &node, &id, status, output).await;
        if !shutdown.sleep(probe.interval()).await {
            return;
        }
    }
}

async fn tell(consensus: &Consensus, node: &Arc<str>, id: &Arc<str>, status: CheckStatus, output: String) {
    let known = {
        let state = consensus.state();
        let state = state.borrow();
        let node = state.directory().services().node(node);
        node.and_then(|node| node.checks.get(id))
            .map(|check| (check.status, check.output.is_empty()))
    };
    // The first output is told in any case: it says that the probe was made.
    let Some((was, silent)) = known else { return };
    if was == status && !silent {
        return;
    }
    let command = DirectoryCommand::UpdateCheck {
        node: node.to_string(),
        check: id.to_string(),
        status,
        output,
    };
    if let Err(error) = consensus
        .propose_within(Command::Directory(command), PROPOSE_LIMIT)
        .await
    {
        tracing::debug!(%error, check = %id, "a check's result could not be told; the next one will be");
    }
}
