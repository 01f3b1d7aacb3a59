//! Starting this node's part of the group.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::{ClusterState, Command, NodeId, Proposal, RequestId};
use conclave_net::{NodeIdentity, PeerConnector};
use conclave_runtime::{Shutdown, Tasks, clock};
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::{BasicNode, Config, ServerState, SnapshotPolicy};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::compaction::{self, KEPT_ENTRIES};
use crate::handle::Leadership;
use crate::leader_watch::LeaderWatch;
use crate::log_store::LogStore;
use crate::membership::Reconciler;
use crate::network::Channels;
use crate::offload::Offload;
use crate::peers::{Peers, Remote};
use crate::server::{MembersOnly, Service, members_only, router};
use crate::snapshot::SnapshotStore;
use crate::state_machine::StateMachine;
use crate::types::{Raft, SnapshotMeta};
use crate::{Consensus, ConsensusError, founding};

/// Answers with this node's report of its own health, from memory.
pub type ReportSource = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// A follower that has not heard its leader for this long says that it has no quorum.
const QUORUM_SILENCE: Duration = Duration::from_millis(1000);

/// Raft's timers, measured together (spec/dependencies.md, "openraft: what is attainable").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Heartbeat 50 ms, election 150–300 ms: a lost leader is replaced in about half a second.
    Lan,
    /// Heartbeat 100 ms, election 300–600 ms: about a second, for busy machines and slow disks.
    Cautious,
}

/// What this node's part of the group needs.
pub struct StartOptions {
    /// The node's data directory; the group keeps `raft/` in it.
    pub data_dir: PathBuf,
    /// Who the node is.
    pub identity: NodeIdentity,
    /// Where other members reach it: `host:port`.
    pub peer_address: String,
    /// How fast a lost leader is replaced.
    pub profile: Profile,
    /// This node's report of its own health.
    pub report: ReportSource,
}

/// When this node last heard a leader that it follows.
#[derive(Clone, Default)]
pub(crate) struct LastHeard(Arc<Mutex<Option<Instant>>>);

impl LastHeard {
    pub(crate) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_recent(&self) -> bool {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|heard| heard.elapsed() < QUORUM_SILENCE)
    }
}

/// Starts Raft from what is on disk. The second value serves port 8300; other crates' services are merged into it by
/// [`Routes::merge`].
///
/// # Errors
/// When the files cannot be read or Raft does not start.
pub async fn start(options: StartOptions, tasks: &Tasks) -> Result<(Consensus, Routes), ConsensusError> {
    let opened = open_storage(options.data_dir.join("raft")).await?;
    let (log, snapshots) = (opened.log, opened.snapshots);
    let (machine, state) = StateMachine::new(snapshots.clone(), opened.current, Offload::Threads);
    let channels = Channels::new(PeerConnector::new(&options.identity)?);
    let config = Arc::new(config(options.profile, &options.identity.cluster_id)?);
    let node_id = options.identity.node_id;
    let raft = Raft::new(node_id, config, channels.clone(), log.clone(), machine)
        .await
        .map_err(|error| ConsensusError::Storage {
            what: "start raft",
            reason: error.to_string(),
        })?;
    let peers: Arc<dyn Peers> = Arc::new(Remote::new(channels.clone(), tasks));
    let watch = LeaderWatch::new(raft.clone(), log.clone(), Arc::clone(&peers));
    let heard = LastHeard::default();
    let (publish, leadership) = watch::channel(Leadership::default());
    let consensus = Consensus {
        raft: raft.clone(),
        me: NodeId(node_id),
        state: state.clone(),
        leadership,
        channels,
        peers,
        report: Arc::clone(&options.report),
    };
    let shutdown = tasks.shutdown();
    tasks.spawn(
        "leadership",
        watch_leadership(raft.clone(), heard.clone(), publish, shutdown.clone()),
    );
    found_if_asked(&raft, &consensus, &options, tasks).await?;
    tasks.spawn(
        "membership",
        Reconciler::new(raft.clone(), consensus.clone()).run(shutdown.clone()),
    );
    tasks.spawn("leader watch", watch.clone().run(shutdown.clone()));
    tasks.spawn(
        "raft compaction",
        compaction::run(raft.clone(), log, snapshots.clone(), shutdown.clone()),
    );
    let rule = MembersOnly {
        cluster_id: options.identity.cluster_id.clone(),
        state,
    };
    let service = Service {
        raft,
        consensus: consensus.clone(),
        identity: options.identity,
        heard,
        snapshots,
        watch,
        shutdown,
        report: options.report,
    };
    Ok((
        consensus,
        Routes {
            router: router(service),
            rule,
        },
    ))
}

struct Storage {
    log: LogStore,
    snapshots: SnapshotStore,
    current: Option<(SnapshotMeta, ClusterState)>,
}

/// Reads what is on disk, and starts the log's writer.
async fn open_storage(dir: PathBuf) -> Result<Storage, ConsensusError> {
    let opening = Offload::Threads.run("raft-open", move || {
        let disk: Arc<dyn conclave_wal::Disk> = Arc::new(conclave_wal::OsDisk);
        let (snapshots, current) = SnapshotStore::open(Arc::clone(&disk), &dir, true)?;
        let (log, writer) = LogStore::open(disk, &dir.join("log"), conclave_wal::Options::default())?;
        writer.run_on_thread()?;
        Ok(Storage {
            log,
            snapshots,
            current,
        })
    });
    opening.await.map_err(ConsensusError::storage("open the raft storage"))
}

/// The services on port 8300.
pub struct Routes {
    router: axum::Router,
    rule: MembersOnly,
}

impl Routes {
    /// Adds services of other crates. They are open to present members alone, as Raft's are.
    #[must_use]
    pub fn merge(mut self, other: axum::Router) -> Self {
        self.router = self.router.merge(other.reset_fallback());
        self
    }

    /// The whole, with the rule that only members may call.
    pub fn into_router(self) -> axum::Router {
        self.router
            .layer(axum::middleware::from_fn_with_state(self.rule, members_only))
    }
}

fn config(profile: Profile, cluster_id: &str) -> Result<Config, ConsensusError> {
    let (heartbeat_interval, election_timeout_min, election_timeout_max) = match profile {
        Profile::Lan => (50, 150, 300),
        Profile::Cautious => (100, 300, 600),
    };
    let config = Config {
        cluster_name: cluster_id.to_owned(),
        heartbeat_interval,
        election_timeout_min,
        election_timeout_max,
        enable_pre_vote: Some(true),
        backoff: "50ms 100ms ..200ms".into(),
        // A leader that has lost the end of its log in a crash must not go on in its old term: it would write other entries
        // where a majority holds committed ones. It stands for election like everyone else.
        enable_leader_restore: Some(false),
        // `compaction` decides.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| ConsensusError::Setup(format!("raft configuration: {error}")))
}

/// The first start of a founding node: the group of one, and the command that founds the cluster.
async fn found_if_asked(
    raft: &Raft,
    consensus: &Consensus,
    options: &StartOptions,
    tasks: &Tasks,
) -> Result<(), ConsensusError> {
    let Some(command) = founding::pending(&options.data_dir)? else {
        return Ok(());
    };
    let storage = |reason: String| ConsensusError::Storage {
        what: "found the cluster",
        reason,
    };
    if !raft
        .is_initialized()
        .await
        .map_err(|error| storage(error.to_string()))?
    {
        let members = [(options.identity.node_id, BasicNode::new(&options.peer_address))];
        raft.initialize(std::collections::BTreeMap::from(members))
            .await
            .map_err(|error| storage(error.to_string()))?;
    }
    let (consensus, data_dir) = (consensus.clone(), options.data_dir.clone());
    tasks.spawn("founding", async move {
        // The request id comes from the cluster's: a restart in mid-founding repeats the same request.
        let Command::Found { cluster_id, .. } = &command else {
            return;
        };
        let request = RequestId(cluster_id.parse().unwrap_or_default());
        match consensus
            .propose_request(&Proposal::new(request, clock::now(), command))
            .await
        {
            Ok(_) | Err(ConsensusError::Refused(_)) => founding::done(&data_dir),
            Err(error) => tracing::error!(%error, "the cluster could not be founded; the next start tries again"),
        }
    });
    Ok(())
}

/// Condenses openraft's metrics into what the rest of the process needs to know.
async fn watch_leadership(raft: Raft, heard: LastHeard, publish: watch::Sender<Leadership>, shutdown: Shutdown) {
    let mut roles = raft.server_metrics();
    let mut metrics = raft.metrics();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        let (view, settled) = look(&raft, &heard);
        publish.send_if_modified(|old| {
            let changed = *old != view;
            *old = view.clone();
            changed
        });
        // Metrics change with each entry; roles do not. Only a leader that is not ready yet has to look at all of them.
        let progress = async {
            if settled {
                std::future::pending::<()>().await;
            }
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            changed = roles.changed() => if changed.is_err() { return },
            () = progress => {}
            _ = tick.tick() => {}
        }
    }
}

/// What this node knows of its leader now, and whether that is final until a role changes.
fn look(raft: &Raft, heard: &LastHeard) -> (Leadership, bool) {
    let metrics = raft.metrics();
    let now = metrics.borrow_watched();
    let leader = now.current_leader.map(NodeId);
    let leads = now.state == ServerState::Leader;
    let caught_up = now
        .last_applied
        .is_some_and(|applied| applied.leader_id.term == now.current_term);
    let acknowledged = now
        .last_quorum_acked
        .is_some_and(|acked| acked.elapsed() < QUORUM_SILENCE);
    let alone = now.membership_config.voter_ids().count() == 1;
    let has_quorum = if leads {
        acknowledged || alone
    } else {
        leader.is_some() && heard.is_recent()
    };
    let view = Leadership {
        term: now.current_term,
        leader,
        is_leader: leads && caught_up && has_quorum,
        has_quorum,
    };
    let settled = view.is_leader || !leads;
    (view, settled)
}
