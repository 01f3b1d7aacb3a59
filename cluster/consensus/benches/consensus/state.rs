//! A large state: how long a start takes, and what a new member costs those who write.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Options;
use crate::cluster::Cluster;
use crate::failover::resident_mib;
use crate::load::Load;

pub(crate) async fn large(options: &Options, root: &Path) -> anyhow::Result<Value> {
    let mut cluster = Cluster::start(root, 3).await?;
    let leader = cluster.leader().await?;
    let words = format!("fill {} {}", options.files, options.keys);
    let filled = tokio::task::block_in_place(|| cluster.nodes[&leader].ask(&words))?;
    // The compaction writes its snapshot meanwhile.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let memory = resident_mib(cluster.nodes[&leader].pid())?;
    let disk = folder_mib(&root.join(leader.to_string()))?;

    let mut starts = Vec::new();
    for _ in 0..5 {
        let follower = *cluster.nodes.keys().find(|node| **node != leader).expect("three nodes");
        let node = cluster.nodes.get_mut(&follower).expect("a follower");
        node.kill()?;
        node.restart()?;
        starts.push(node.started_ms);
        cluster
            .wait_for("the follower", |status| status["quorum"] == true)
            .await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    starts.sort_by(f64::total_cmp);

    let leader = cluster.leader().await?;
    let load = Load {
        clients: 4,
        run: Duration::from_secs(10),
        value_bytes: 256,
    };
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let idle = load.run(&cluster.target(leader)?).await?;
        // As many writes again, from the moment that a new node joins until it has everything.
        let writing = tokio::spawn({
            let target = cluster.target(leader)?;
            let load = Load {
                run: Duration::from_secs(6),
                ..load.clone()
            };
            async move { load.run(&target).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begin = Instant::now();
        let new = cluster.grow(root).await?;
        let took = loop {
            let status = tokio::task::block_in_place(|| cluster.nodes[&new].ask("status"))?;
            if status["files"] == options.files / 1000 * 1000 {
                break begin.elapsed().as_secs_f64();
            }
            anyhow::ensure!(
                begin.elapsed() < Duration::from_secs(60),
                "the new node does not catch up: {status}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let during = writing.await??;
        rounds.push(json!({
            "idle": idle,
            "while a node joins": during,
            "p99 ratio": during.p99 / idle.p99,
            "from join to caught up, s": took,
        }));
    }
    cluster.stop();
    Ok(json!({
        "files": options.files,
        "keys": options.keys,
        "filled in s": filled["seconds"],
        "leader's resident MiB": memory,
        "its folder, MiB": disk,
        "start ms (sorted)": starts,
        "rounds": rounds,
    }))
}

fn folder_mib(dir: &Path) -> anyhow::Result<f64> {
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            bytes += folder_mib(&entry.path())? * f64::from(1 << 20);
        } else {
            #[allow(clippy::cast_precision_loss)]
            {
                bytes += metadata.len() as f64;
            }
        }
    }
    Ok(bytes / f64::from(1 << 20))
}
