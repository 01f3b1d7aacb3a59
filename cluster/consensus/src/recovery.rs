//! What is left to do when a majority, or everything, is lost.
//!
//! Both ways end in the same: a state and a membership of one node, written as this node's current snapshot, with a log position
//! after everything that is in its log. They are for a node that does not run. Killed anywhere before the snapshot takes its
//! place, nothing has changed; killed after it, all has.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conclave_catalog::{ClusterState, NodeId, NodePorts};
use conclave_net::{Credentials, NodeIdentity, new_key_and_request};
use conclave_runtime::clock;
use conclave_wal::{Disk, Options, OsDisk};
use openraft::storage::RaftLogStorage;
use openraft::{BasicNode, EntryPayload, Membership};

use crate::certificates::open_authority;
use crate::founding::{identity_dir, refuse_second_identity};
use crate::log_store::LogStore;
use crate::offload::Offload;
use crate::snapshot::SnapshotStore;
use crate::types::{LogId, SnapshotMeta, StoredMembership, Vote};
use crate::wire::log_id_in;
use crate::{Backup, ConsensusError};

/// What recovering left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The node that goes on.
    pub node: NodeId,
    /// The names of the nodes that were given up.
    pub given_up: Vec<String>,
    /// The last entry of the log that was taken over.
    pub index: u64,
}

/// What restoring made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// This node's number in it.
    pub node: NodeId,
    /// The names of the nodes of the lost cluster.
    pub given_up: Vec<String>,
    /// The CA's certificate (PEM), which clients have already.
    pub ca_certificate: String,
}

/// Makes this node a cluster of its own, with what it holds: everything in its log counts as committed, for the majority that
/// would know better is lost. The node must not be running, and the others must never start again: they would be a second
/// cluster of the same name.
///
/// # Errors
/// When the node has no identity, its files cannot be read, or it was never a full member.
pub async fn recover_alone(data_dir: &Path, peer_address: &str) -> Result<Recovered, ConsensusError> {
    let identity = NodeIdentity::load(&identity_dir(data_dir))?;
    let me = NodeId(identity.node_id);
    let storage = Stores::open(data_dir.join("raft")).await?;
    let (mut state, applied) = storage.whole_state()?;
    let given_up = names(&state, Some(me));
    let index = applied.map_or(0, |applied| applied.index);
    if !state.carry_on_alone(me, index) {
        return Err(ConsensusError::Setup(format!(
            "what {} holds does not have this node in it: it has never caught up, or was removed; use another node's",
            data_dir.display()
        )));
    }
    storage.become_alone(me, peer_address, applied, state).await?;
    Ok(Recovered {
        node: me,
        given_up,
        index,
    })
}

/// The replicated state of a node that does not run.
pub struct StoppedNode {
    me: NodeId,
    storage: Stores,
    state: ClusterState,
    applied: Option<LogId>,
}

impl StoppedNode {
    /// Reads all that the node holds, committed or not.
    ///
    /// # Errors
    /// When the node has no identity, or its files cannot be read.
    pub async fn open(data_dir: &Path) -> Result<Self, ConsensusError> {
        let identity = NodeIdentity::load(&identity_dir(data_dir))?;
        let storage = Stores::open(data_dir.join("raft")).await?;
        let (state, applied) = storage.whole_state()?;
        Ok(Self {
            me: NodeId(identity.node_id),
            storage,
            state,
            applied,
        })
    }

    /// The state.
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// The names of the other nodes.
    pub fn others(&self) -> Vec<String> {
        names(&self.state, Some(self.me))
    }

    /// Makes this node a cluster of its own, as [`recover_alone`] does, with a database that was brought back from a backup.
    ///
    /// # Errors
    /// When its files cannot be written, or it was never a full member.
    pub async fn go_on_with_database(
        mut self,
        peer_address: &str,
        system_id: String,
        timeline: u32,
    ) -> Result<Recovered, ConsensusError> {
        let given_up = self.others();
        let index = self.applied.map_or(0, |applied| applied.index);
        if !self.state.carry_on_alone(self.me, index) {
            return Err(ConsensusError::Setup(
                "what this node holds does not have it in it: it has never caught up, or was removed; use another node's"
                    .into(),
            ));
        }
        self.state.database_restored(self.me, system_id, timeline);
        self.storage
            .become_alone(self.me, peer_address, self.applied, self.state)
            .await?;
        Ok(Recovered {
            node: self.me,
            given_up,
            index,
        })
    }
}

/// Brings a lost cluster back on a new node from a backup. The CA and its certificate stay; the nodes are gone, and others join
/// by tokens. Start the node's manager afterwards.
///
/// # Errors
/// When the node belongs to a cluster already, or files cannot be written.
pub async fn restore(
    data_dir: &Path,
    node_name: &str,
    address: &str,
    ports: NodePorts,
    backup: Backup,
) -> Result<Restored, ConsensusError> {
    refuse_second_identity(data_dir)?;
    let raft_dir = data_dir.join("raft");
    // Left by a restore that was interrupted: without an identity nobody has used it.
    match std::fs::remove_dir_all(&raft_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ConsensusError::storage("clear the raft folder")(error));
        }
        _ => {}
    }
    let cluster_key = backup.cluster_key()?;
    let (about, mut state) = (backup.about, backup.state);
    let given_up = names(&state, None);
    let me = state.bring_back(
        about.index,
        node_name.to_owned(),
        address.to_owned(),
        ports.clone(),
        clock::now(),
    );
    let ca_certificate = state
        .facts()
        .map(|facts| facts.ca_certificate.clone())
        .ok_or_else(|| ConsensusError::Setup("the backup is of a cluster that was never founded".into()))?;
    let (key_pem, request) = new_key_and_request(node_name)?;
    let authority = open_authority(&cluster_key, &state)?;
    let certificate = authority.sign(&request, &about.cluster_id, me.0, node_name, address)?;
    let identity = NodeIdentity {
        cluster_id: about.cluster_id.clone(),
        node_id: me.0,
        name: node_name.to_owned(),
        credentials: Credentials::new(certificate, key_pem, &ca_certificate)?,
        generation: state.certificate_generation(),
        ca_certificate_pem: ca_certificate.clone(),
        cluster_key,
    };
    let applied = log_id_in(conclave_proto::consensus::LogId {
        term: about.term,
        index: about.index,
    });
    let peer_address = format!("{address}:{}", ports.peer);
    let storage = Stores::open(raft_dir).await?;
    storage.become_alone(me, &peer_address, Some(applied), state).await?;
    // Last: a node with an identity has all of the rest.
    identity.store(&identity_dir(data_dir))?;
    Ok(Restored {
        cluster_id: about.cluster_id,
        node: me,
        given_up,
        ca_certificate,
    })
}

fn names(state: &ClusterState, but: Option<NodeId>) -> Vec<String> {
    let others = state.nodes().values().filter(|node| Some(node.id) != but);
    others.map(|node| node.name.clone()).collect()
}

/// The raft folder of a node that does not run.
struct Stores {
    log: LogStore,
    snapshots: SnapshotStore,
    current: Option<(SnapshotMeta, ClusterState)>,
}

impl Stores {
    async fn open(dir: PathBuf) -> Result<Self, ConsensusError> {
        let opening = Offload::Threads.run("raft-open", move || {
            let disk: Arc<dyn Disk> = Arc::new(OsDisk);
            let (snapshots, current) = SnapshotStore::open(Arc::clone(&disk), &dir, false)?;
            let (log, writer) = LogStore::open(disk, &dir.join("log"), Options::default())?;
            writer.run_on_thread()?;
            Ok(Self {
                log,
                snapshots,
                current,
            })
        });
        opening.await.map_err(ConsensusError::storage("open the raft storage"))
    }

    /// The snapshot with all of the log after it, committed or not.
    fn whole_state(&self) -> Result<(ClusterState, Option<LogId>), ConsensusError> {
        let (meta, mut state) = self.current.clone().unwrap_or_default();
        let mut applied = meta.last_log_id;
        for entry in self.log.all_entries() {
            if Some(entry.log_id.index) <= applied.map(|applied| applied.index) {
                continue;
            }
            if let EntryPayload::Normal(packed) = &entry.payload {
                let applied = packed.apply(&mut state, entry.log_id);
                applied.map_err(ConsensusError::storage("read the raft log"))?;
            }
            applied = Some(entry.log_id);
        }
        Ok((state, applied))
    }

    async fn become_alone(
        mut self,
        me: NodeId,
        peer_address: &str,
        applied: Option<LogId>,
        state: ClusterState,
    ) -> Result<(), ConsensusError> {
        let term = applied.map_or(1, |applied| applied.leader_id.term.max(1));
        let last = log_id_in(conclave_proto::consensus::LogId {
            term,
            index: applied.map_or(1, |applied| applied.index + 1),
        });
        // A term below that of the log would let this node give out numbers again that have been given.
        if self.log.vote().is_none_or(|vote| vote.leader_id.term < term) {
            let vote = Vote::new(term, me.0);
            let saving = self.log.save_vote(&vote).await;
            saving.map_err(ConsensusError::storage("write the vote"))?;
        }
        let node = BasicNode::new(peer_address);
        let membership = Membership::new(vec![[me.0].into()], std::collections::BTreeMap::from([(me.0, node)]))
            .map_err(|error| ConsensusError::Setup(error.to_string()))?;
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), membership),
        };
        let snapshots = self.snapshots.clone();
        let building = Offload::Threads.run("raft-recover", move || snapshots.build(&meta, &state));
        building
            .await
            .map(drop)
            .map_err(ConsensusError::storage("write the recovered state"))
    }
}
