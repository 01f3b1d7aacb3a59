//! A simulated node: the real member on a simulated disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::RequestId;
use conclave_runtime::Tasks;
use conclave_wal::{Disk, Options};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::network::SimNetwork;
use super::runtime::next_number;
use super::world::{Origin, World, below, chance, leads, millis};
use crate::compaction::Policy;
use crate::group::{Profile, config};
use crate::log_store::{LogStore, Writer};
use crate::member::{self, Parts, Storage};
use crate::offload::Offload;
use crate::snapshot::SnapshotStore;

/// Small, so that a run crosses segments, snapshots and purges.
const OPTIONS: Options = Options { segment_bytes: 4096 };
const POLICY: Policy = Policy {
    kept_entries: 20,
    kept_bytes: 1 << 20,
    growth_bytes_min: 1 << 20,
    growth_bytes_max: 1 << 20,
    growth_entries: 40,
};

/// Starts a node on what its disk holds.
pub(super) async fn start(world: &World, node: u64) {
    let (disk, me) = world.node(node, |slot| {
        slot.incarnation += 1;
        let me = Origin {
            node,
            incarnation: slot.incarnation,
        };
        (slot.disk.clone(), me)
    });
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let (snapshots, current) =
        SnapshotStore::open(Arc::clone(&disk), Path::new("/raft"), false).expect("snapshots open");
    let (log, writer) = LogStore::open(disk, Path::new("/raft/log"), OPTIONS).expect("the log opens");
    tokio::spawn(write(writer, world.clone(), me));
    let network = SimNetwork {
        world: world.clone(),
        me,
        log: log.clone(),
    };
    let clock = world.clone();
    let parts = Parts {
        node_id: node,
        config: config(Profile::Lan, "simulation").expect("the configuration is valid"),
        network: network.clone(),
        peers: Arc::new(network),
        storage: Storage {
            log,
            snapshots,
            current,
        },
        offload: Offload::Inline,
        policy: POLICY,
        stamps: Arc::new(move || {
            let request = u128::from(next_number()) << 64 | u128::from(next_number());
            (RequestId(uuid::Uuid::from_u128(request)), wall_clock(&clock, node))
        }),
        report: Arc::new(|| serde_json::Value::Null),
        timings: crate::timings::Timings::default(),
    };
    let tasks = Tasks::new("node");
    let member = member::start(parts, &tasks)
        .await
        .expect("a member starts on what a crash left");
    tokio::spawn(report_leadership(member.raft.clone(), node));
    world.node(node, |slot| {
        slot.member = Some(member);
        slot.tasks = Some(tasks);
    });
    world.say(|| format!("node {node} starts"));
}

/// Every node's own, off by its skew.
fn wall_clock(world: &World, node: u64) -> jiff::Timestamp {
    let skew = world.node(node, |slot| slot.skew_ms);
    let now = i64::try_from(world.elapsed().as_millis()).unwrap_or(0) + 1_700_000_000_000 + skew;
    jiff::Timestamp::from_millisecond(now).expect("within the calendar")
}

async fn report_leadership(raft: crate::types::Raft, node: u64) {
    let mut roles = raft.server_metrics();
    loop {
        {
            let now = roles.borrow_and_update();
            if now.state == ServerState::Leader {
                leads(node, now.vote.leader_id.term);
            }
        }
        if roles.changed().await.is_err() {
            return;
        }
    }
}

/// The log's writer: a write and a sync take their time, and a crash may come between.
async fn write(mut writer: Writer, world: World, me: Origin) {
    while let Some(first) = writer.next().await {
        let stall = if chance(10) { millis(50, 400) } else { millis(0, 2) };
        tokio::time::sleep(stall).await;
        if !world.is_current(me) {
            return;
        }
        let mut batch = writer.write_pending(first);
        tokio::time::sleep(millis(0, 2)).await;
        if !world.is_current(me) {
            return;
        }
        writer.sync_pending(&mut batch);
        writer.acknowledge_pending(batch);
    }
}

/// Ends a node as a power cut does, or as SIGKILL does.
pub(super) fn crash(world: &World, node: u64) {
    let (member, tasks, disk) = world.node(node, |slot| {
        slot.incarnation += 1;
        (slot.member.take(), slot.tasks.take(), slot.disk.clone())
    });
    let Some(member) = member else { return };
    super::count("crash");
    let power = chance(600);
    world.say(|| format!("node {node} {}", if power { "loses power" } else { "is killed" }));
    if power {
        let lose_all = chance(300);
        disk.crash(lose_all, &mut below);
    } else {
        disk.end_process();
    }
    // What is left of it acts no more: its disk is dead to it and its messages go nowhere.
    tokio::spawn(async move {
        if let Some(tasks) = tasks {
            tasks.stop(Duration::ZERO).await;
        }
        let _ended = member.raft.shutdown().await;
    });
}
