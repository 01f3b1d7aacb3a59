//! This node's part of the group, put together: Raft on its storage and network, and the tasks that care for it. The network
//! is gRPC, or a simulator's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::{ClusterState, NodeId};
use conclave_runtime::{Shutdown, Tasks};
use openraft::async_runtime::WatchReceiver;
use openraft::network::NetSnapshot;
use openraft::{Config, Instant as _, RaftNetworkFactory, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::compaction::{self, Policy};
use crate::group::ReportSource;
use crate::group_commit::GroupCommit;
use crate::handle::{Leadership, Stamps};
use crate::leader_watch::LeaderWatch;
use crate::log_store::LogStore;
use crate::membership::Reconciler;
use crate::offload::Offload;
use crate::pacer::{self, Pace};
use crate::peers::Peers;
use crate::snapshot::{SnapshotFile, SnapshotStore};
use crate::state_machine::StateMachine;
use crate::timings::Timings;
use crate::types::{Group, Raft, SnapshotMeta};
use crate::{Consensus, ConsensusError};

/// A follower that has not heard its leader for this long says that it has no quorum.
const QUORUM_SILENCE: Duration = Duration::from_millis(1000);
/// Between two looks for a quorum that is missing.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What was on disk, open.
pub(crate) struct Storage {
    pub(crate) log: LogStore,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) current: Option<(SnapshotMeta, ClusterState)>,
}

/// What a member is made of.
pub(crate) struct Parts<N> {
    pub(crate) node_id: u64,
    pub(crate) config: Config,
    pub(crate) network: N,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) storage: Storage,
    pub(crate) offload: Offload,
    pub(crate) policy: Policy,
    pub(crate) stamps: Stamps,
    pub(crate) report: ReportSource,
    /// The network measures into these too.
    pub(crate) timings: Timings,
}

/// A member that runs.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) raft: Raft,
    pub(crate) consensus: Consensus,
    pub(crate) heard: LastHeard,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) watch: LeaderWatch,
}

/// When this node last heard a leader that it follows.
#[derive(Clone, Default)]
pub(crate) struct LastHeard(Arc<Mutex<Option<Instant>>>);

impl LastHeard {
    pub(crate) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago; `None` when it never did.
    pub(crate) fn elapsed(&self) -> Option<Duration> {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map(|heard| heard.elapsed())
    }
}

/// Starts Raft and the tasks around it.
///
/// # Errors
/// When Raft does not start.
pub(crate) async fn start<N>(parts: Parts<N>, tasks: &Tasks) -> Result<Member, ConsensusError>
where
    N: RaftNetworkFactory<Group>,
    N::Network: NetSnapshot<Group, SnapshotData = SnapshotFile>,
{
    let Storage {
        log,
        snapshots,
        current,
    } = parts.storage;
    let pace = Pace::of(&parts.config);
    let timings = parts.timings;
    let log = log.measured(parts.node_id, timings.dispatch.clone());
    let (machine, state) = StateMachine::new(snapshots.clone(), current, parts.offload, timings.apply.clone());
    let raft = Raft::new(
        parts.node_id,
        Arc::new(parts.config),
        parts.network,
        log.clone(),
        machine,
    )
    .await
    .map_err(|error| ConsensusError::Storage {
        what: "start raft",
        reason: error.to_string(),
    })?;
    let watch = LeaderWatch::new(raft.clone(), log.clone(), Arc::clone(&parts.peers));
    let heard = LastHeard::default();
    let (publish, leadership) = watch::channel(Leadership::default());
    let consensus = Consensus {
        group_commit: GroupCommit::new(raft.clone(), tasks),
        raft: raft.clone(),
        me: NodeId(parts.node_id),
        state,
        leadership,
        peers: parts.peers,
        stamps: parts.stamps,
        report: parts.report,
        heard: heard.clone(),
        timings,
    };
    let shutdown = tasks.shutdown();
    tasks.spawn(
        "leadership",
        watch_leadership(raft.clone(), heard.clone(), publish, shutdown.clone()),
    );
    tasks.spawn(
        "membership",
        Reconciler::new(raft.clone(), consensus.clone()).run(shutdown.clone()),
    );
    tasks.spawn("leader watch", watch.clone().run(shutdown.clone()));
    tasks.spawn(
        "raft pacer",
        pacer::run(pace, raft.clone(), heard.clone(), shutdown.clone()),
    );
    tasks.spawn(
        "raft compaction",
        compaction::run(parts.policy, raft.clone(), log, snapshots.clone(), shutdown),
    );
    Ok(Member {
        raft,
        consensus,
        heard,
        snapshots,
        watch,
    })
}

/// Condenses openraft's metrics into what the rest of the process needs to know.
async fn watch_leadership(raft: Raft, heard: LastHeard, publish: watch::Sender<Leadership>, shutdown: Shutdown) {
    let mut roles = raft.server_metrics();
    let mut metrics = raft.metrics();
    loop {
        let (view, settled, pause) = look(&raft, &heard);
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
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What this node knows of its leader now, whether that is final until a role changes or the quorum is lost, and when it
/// could be lost at the earliest.
fn look(raft: &Raft, heard: &LastHeard) -> (Leadership, bool, Duration) {
    let metrics = raft.metrics();
    let now = metrics.borrow_watched();
    let leader = now.current_leader.map(NodeId);
    let leads = now.state == ServerState::Leader;
    let caught_up = now
        .last_applied
        .is_some_and(|applied| applied.leader_id.term == now.current_term);
    let alone = now.membership_config.voter_ids().count() == 1;
    let silence = if !leads {
        heard.elapsed().filter(|_| leader.is_some())
    } else if alone {
        Some(Duration::ZERO)
    } else {
        now.last_quorum_acked.map(|acked| acked.elapsed())
    };
    let remaining = silence.and_then(|silence| QUORUM_SILENCE.checked_sub(silence));
    let has_quorum = remaining.is_some_and(|remaining| !remaining.is_zero());
    let view = Leadership {
        term: now.current_term,
        leader,
        is_leader: leads && caught_up && has_quorum,
        has_quorum,
    };
    let settled = view.is_leader || !leads;
    let pause = remaining.map_or(LOOK_AGAIN, |remaining| remaining.max(LOOK_AGAIN));
    (view, settled, pause)
}
