//! Starting this node's part of the group.

use std::path::PathBuf;
use std::sync::Arc;

use conclave_catalog::{Command, Proposal, RequestId};
use conclave_net::{NodeIdentity, PeerConnector};
use conclave_runtime::{Tasks, clock};
use openraft::{BasicNode, Config, SnapshotPolicy};

use crate::certificates::Renewal;
use crate::compaction::{KEPT_ENTRIES, Policy};
use crate::log_store::LogStore;
use crate::member::{self, Member, Parts, Storage};
use crate::network::{Channels, Links};
use crate::offload::Offload;
use crate::peers::Remote;
use crate::server::{MembersOnly, Service, members_only, router};
use crate::snapshot::SnapshotStore;
use crate::timings::Timings;
use crate::{Consensus, ConsensusError, founding};

/// Answers with this node's report of its own health, from memory.
pub type ReportSource = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Raft's timers, measured together (spec/dependencies.md, "openraft: what is attainable").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Heartbeat 75 ms, election 150–300 ms: a silent leader is replaced in about half a second.
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

/// Starts Raft from what is on disk. The second value serves port 8300; other crates' services are merged into it by
/// [`Routes::merge`].
///
/// # Errors
/// When the files cannot be read or Raft does not start.
pub async fn start(options: StartOptions, tasks: &Tasks) -> Result<(Consensus, Routes), ConsensusError> {
    let channels = Channels::new(PeerConnector::new(&options.identity)?);
    let storage = open_storage(options.data_dir.join("raft")).await?;
    let timings = Timings::default();
    let member = member::start(
        Parts {
            node_id: options.identity.node_id,
            config: config(options.profile, &options.identity.cluster_id)?,
            network: Links {
                channels: channels.clone(),
                log: storage.log.clone(),
                timings: timings.clone(),
            },
            peers: Arc::new(Remote::new(channels, tasks)),
            storage,
            offload: Offload::Threads,
            policy: Policy::default(),
            stamps: Arc::new(|| (RequestId(uuid::Uuid::now_v7()), clock::now())),
            report: Arc::clone(&options.report),
            timings,
        },
        tasks,
    )
    .await?;
    found_if_asked(&member, &options, tasks).await?;
    let renewal = Renewal {
        identity: options.identity.clone(),
        dir: founding::identity_dir(&options.data_dir),
        state: member.consensus.state(),
    };
    tasks.spawn("certificate renewal", renewal.run(tasks.shutdown()));
    let rule = MembersOnly {
        cluster_id: options.identity.cluster_id.clone(),
        state: member.consensus.state(),
    };
    let consensus = member.consensus.clone();
    let service = Service {
        member,
        identity: options.identity,
        shutdown: tasks.shutdown(),
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

pub(crate) fn config(profile: Profile, cluster_id: &str) -> Result<Config, ConsensusError> {
    let (heartbeat_interval, election_timeout_min, election_timeout_max) = match profile {
        Profile::Lan => (75, 150, 300),
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
async fn found_if_asked(member: &Member, options: &StartOptions, tasks: &Tasks) -> Result<(), ConsensusError> {
    let (raft, consensus) = (&member.raft, &member.consensus);
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
