//! The life of a cluster through its command line: moving the active node, rotating certificates, tokens, removal, leaving.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use conclave_chaos_tests::{TestCluster, call, program, wait_for};
use conclave_localcluster::RestClient;
use conclave_runtime::Tasks;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

/// `conclave cluster ARGUMENTS --json` on a node: what it printed, or what it complained of.
fn cluster(test: &TestCluster, number: u8, arguments: &[&str]) -> Result<Value, String> {
    let output = Command::new(program())
        .arg("cluster")
        .args(arguments)
        .arg("--json")
        .arg("--config")
        .arg(test.cluster.layout().node(number).config_file())
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What a client saw that wrote all the time.
struct Written {
    acknowledged: usize,
    failed: Vec<String>,
    slowest: Duration,
}

async fn write_all_the_time(client: RestClient, prefix: &str, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written {
        acknowledged: 0,
        failed: Vec::new(),
        slowest: Duration::ZERO,
    };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        let path = format!("/api/v3.1/tenants/{prefix}{number}");
        match call(&client, "POST", &path, Value::Null).await {
            Ok(_) => written.acknowledged += 1,
            Err(error) => written.failed.push(error),
        }
        written.slowest = written.slowest.max(begun.elapsed());
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn the_active_node_moves_without_a_failed_request() {
    let test = TestCluster::three().await;
    let tasks = Tasks::new("test");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (1..=3u8)
        .map(|number| {
            let (client, stop) = (test.client(number), Arc::clone(&stop));
            tasks.spawn("writer", async move {
                write_all_the_time(client, &format!("from{number}-"), stop).await
            })
        })
        .collect();
    for name in ["node2", "node3", "node1", "node1"] {
        let moved = cluster(&test, 1, &["set-active", name]).unwrap_or_else(|error| test.fail(&error));
        eprintln!("set-active {name}: {} ms", moved["milliseconds"]);
        let nodes = cluster(&test, 2, &["nodes"]).unwrap();
        let node = nodes["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|node| node["name"] == name);
        let node = node.unwrap();
        assert_eq!(
            (node["raft"].as_str(), node["database"].as_str()),
            (Some("leader"), Some("primary"))
        );
        // The node that was primary comes back as a standby before the next move.
        if let Err(error) = test.cluster.wait_healthy(1, LONG).await {
            test.fail(&error);
        }
    }
    cluster(&test, 3, &["certificates", "rotate"]).unwrap();
    for number in 1..=3 {
        let marker = test.cluster.node(number).data_dir.join("identity/node.json");
        wait_for("a renewed certificate", LONG, || async {
            let marker: Value = serde_json::from_slice(&std::fs::read(&marker).unwrap()).unwrap();
            (marker["generation"] == 1).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        let written = writer.join().await.unwrap();
        eprintln!(
            "{} writes, the slowest took {} ms",
            written.acknowledged,
            written.slowest.as_millis()
        );
        if written.acknowledged < 10 || !written.failed.is_empty() {
            test.fail(&format!(
                "{} acknowledged, refused: {:?}",
                written.acknowledged, written.failed
            ));
        }
    }
    if let Err(error) = test.cluster.wait_healthy(2, LONG).await {
        test.fail(&error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_removed_and_leave() {
    let test = TestCluster::three().await;
    let made = cluster(&test, 1, &["join-token", "create"]).unwrap();
    let id = made["token"].as_str().unwrap().split('.').next().unwrap().to_owned();
    let listed = cluster(&test, 2, &["join-token", "list"]).unwrap();
    assert_eq!(listed["tokens"][0]["id"], id.as_str(), "{listed}");
    cluster(&test, 2, &["join-token", "revoke", &id]).unwrap();
    assert_eq!(
        cluster(&test, 1, &["join-token", "list"]).unwrap()["tokens"],
        serde_json::json!([])
    );
    let again = cluster(&test, 2, &["join-token", "revoke", &id]).unwrap_err();
    assert!(again.contains("unknown"), "{again}");

    let nobody = cluster(&test, 1, &["remove", "node9"]).unwrap_err();
    assert!(nobody.contains("node1, node2, node3"), "{nobody}");
    let primary = cluster(&test, 2, &["remove", "node1"]).unwrap_err();
    assert!(primary.contains("set-active"), "{primary}");
    // The active node leaves: another takes over first.
    cluster(&test, 1, &["leave"]).unwrap_or_else(|error| test.fail(&error));
    wait_for("the end of the manager that has left", LONG, || async {
        test.cluster.manager(1).is_none().then_some(())
    })
    .await;
    let refused = cluster(&test, 1, &["nodes"]).unwrap_err();
    assert!(refused.contains("no leader answered"), "{refused}");
    let (active, other) = match test.leader(2).await {
        Some(2) => (2, "node3"),
        _ => (3, "node2"),
    };
    let client = test.client(active);
    wait_for("a write with two nodes", LONG, || async {
        call(&client, "POST", "/api/v3.1/tenants/two", Value::Null).await.ok()
    })
    .await;
    wait_for("the removal of the other", LONG, || async {
        cluster(&test, active, &["remove", other]).ok()
    })
    .await;
    let number = if active == 2 { 3 } else { 2 };
    wait_for("the end of the removed node's manager", LONG, || async {
        test.cluster.manager(number).is_none().then_some(())
    })
    .await;
    wait_for("a write on the last node", LONG, || async {
        call(&client, "POST", "/api/v3.1/tenants/alone", Value::Null).await.ok()
    })
    .await;
    let nodes = cluster(&test, active, &["nodes"]).unwrap();
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1);
    let last = cluster(&test, active, &["leave"]).unwrap_err();
    assert!(last.contains("no other can take over"), "{last}");
}
