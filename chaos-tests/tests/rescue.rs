//! Bad days: a majority is lost, then everything.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::Path;
use std::time::Duration;

use conclave_chaos_tests::{TestCluster, call, wait_for};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(20);

/// `conclave cluster ARGUMENTS` on a node: what it printed, or what it complained of.
fn cluster(test: &TestCluster, number: u8, arguments: &[&str]) -> Result<Value, String> {
    test.conclave(number, &[&["cluster"], arguments].concat())
}

async fn write_tenant(test: &TestCluster, number: u8, name: &str) {
    let client = test.client(number);
    let path = format!("/api/v3.1/tenants/{name}");
    wait_for(&format!("the write of {name}"), LONG, || async {
        call(&client, "POST", &path, Value::Null).await.ok()
    })
    .await;
}

fn names(nodes: &Value) -> Vec<&str> {
    let nodes = nodes["nodes"].as_array().unwrap();
    nodes.iter().map(|node| node["name"].as_str().unwrap()).collect()
}

async fn stop(test: &TestCluster, number: u8) {
    test.cluster.manager(number).unwrap().stop(GRACE).await;
}

/// A backup that has lost a byte's worth of truth.
fn damaged(backup: &Path) -> std::path::PathBuf {
    let file = backup.with_file_name("damaged");
    let mut bytes = std::fs::read(backup).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_outlives_its_majority_and_all_of_its_nodes() {
    let test = TestCluster::three().await;
    write_tenant(&test, 1, "before").await;
    test.consul(1).put("kept", "value").await.unwrap();
    let backup = test.dir().join("state.backup");
    let made = cluster(&test, 2, &["backup", &backup.to_string_lossy()]).unwrap_or_else(|error| test.fail(&error));
    assert_eq!((&made["nodes"], &made["keys"]), (&3.into(), &1.into()), "{made}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&backup).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // A standby is what remains: neither the leader nor the primary.
    let leader = test.leader(1).await.unwrap();
    let status = test.client(leader).get_status("/v1/cluster/status").await.unwrap();
    let primary = status["database"]["primary"].as_u64().unwrap();
    let survivor = (1..=3u8)
        .find(|number| *number != leader && u64::from(*number) != primary)
        .unwrap();
    let lost: Vec<u8> = (1..=3).filter(|number| *number != survivor).collect();
    test.cluster
        .wait_healthy(survivor, LONG)
        .await
        .unwrap_or_else(|error| test.fail(&error));
    lost.iter().for_each(|number| test.cluster.kill(*number));
    let unmeant = cluster(&test, survivor, &["recover"]).unwrap_err();
    assert!(unmeant.contains("--i-have-lost-the-majority"), "{unmeant}");
    let recover = ["recover", "--i-have-lost-the-majority"];
    let running = cluster(&test, survivor, &recover).unwrap_err();
    assert!(running.contains("stop this node's manager first"), "{running}");
    stop(&test, survivor).await;
    let recovered = cluster(&test, survivor, &recover).unwrap_or_else(|error| test.fail(&error));
    assert_eq!(recovered["given_up"].as_array().unwrap().len(), 2, "{recovered}");
    // Once more, as after a crash of the first, changes nothing that matters.
    cluster(&test, survivor, &recover).unwrap_or_else(|error| test.fail(&error));
    test.cluster.start(survivor).await.unwrap();
    if let Err(error) = test.cluster.wait_serving(survivor, LONG).await {
        test.fail(&error);
    }
    write_tenant(&test, survivor, "alone").await;
    let nodes = cluster(&test, survivor, &["nodes"]).unwrap();
    assert_eq!(names(&nodes), [format!("node{survivor}")]);
    assert_eq!(
        (&nodes["nodes"][0]["raft"], &nodes["nodes"][0]["database"]),
        (&"leader".into(), &"primary".into())
    );
    let tenants = call(&test.client(survivor), "GET", "/api/v3.1/tenants", Value::Null)
        .await
        .unwrap()
        .to_string();
    assert!(tenants.contains("before") && tenants.contains("alone"), "{tenants}");

    // Now the last one is lost as well.
    stop(&test, survivor).await;
    let (first, second) = (test.cluster.layout().node(1), test.cluster.layout().node(2));
    for node in [&first, &second] {
        std::fs::remove_dir_all(node.data_dir()).unwrap();
    }
    let broken = damaged(&backup);
    let refused = cluster(&test, 1, &["restore", &broken.to_string_lossy()]).unwrap_err();
    assert!(refused.contains("damaged"), "{refused}");
    assert!(!first.data_dir().exists());
    std::fs::create_dir_all(first.data_dir().join("postgres")).unwrap();
    let used = cluster(&test, 1, &["restore", &backup.to_string_lossy()]).unwrap_err();
    assert!(used.contains("holds postgres already"), "{used}");
    std::fs::remove_dir_all(first.data_dir()).unwrap();
    let restored = cluster(&test, 1, &["restore", &backup.to_string_lossy()]).unwrap_or_else(|error| test.fail(&error));
    assert_eq!(
        (&restored["node_id"], &restored["cluster_id"]),
        (&4.into(), &made["cluster_id"]),
        "{restored}"
    );
    let twice = cluster(&test, 1, &["restore", &backup.to_string_lossy()]).unwrap_err();
    assert!(twice.contains("belongs to node 4"), "{twice}");
    test.cluster.start(1).await.unwrap();
    if let Err(error) = test.cluster.wait_serving(1, LONG).await {
        test.fail(&error);
    }
    assert_eq!(names(&cluster(&test, 1, &["nodes"]).unwrap()), ["node1"]);
    assert_eq!(test.consul(1).entry("kept").await.unwrap()["Value"], "dmFsdWU=");
    // Others join it as they join any cluster.
    let token = cluster(&test, 1, &["join-token", "create"]).unwrap()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let peer = format!("{}:8300", first.address);
    cluster(&test, 2, &["join", "--token", &token, "--peer", &peer]).unwrap_or_else(|error| test.fail(&error));
    test.cluster.start(2).await.unwrap();
    if let Err(error) = test.cluster.wait_serving(2, LONG).await {
        test.fail(&error);
    }
    assert_eq!(names(&cluster(&test, 1, &["nodes"]).unwrap()), ["node1", "node2"]);
    write_tenant(&test, 2, "again").await;
}
