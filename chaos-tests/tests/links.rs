//! What the nodes say of each other while one is frozen, killed and started again.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::time::Duration;

use conclave_chaos_tests::{TestCluster, wait_for};
use conclave_localcluster::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// What node 1 knows of node 3, and whether its links are well.
async fn seen(test: &TestCluster) -> Option<(Value, bool)> {
    let status = test.client(1).get_status("/v1/cluster/status").await.ok()?;
    let nodes = status["nodes"].as_array()?;
    let node = nodes.iter().find(|node| node["name"] == "node1")?;
    let links = &node["report"]["parts"]["links"];
    Some((links["details"]["node3"].clone(), links["healthy"].as_bool()?))
}

async fn wait_for_verdict(test: &TestCluster, verdict: &str) -> Value {
    wait_for(&format!("node 1 holds node 3 for {verdict}"), SOON, || async {
        let (peer, healthy) = seen(test).await?;
        (peer["verdict"] == verdict && healthy).then_some(peer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_alive_suspected_or_gone() {
    let test = TestCluster::three().await;
    let peer = wait_for_verdict(&test, "alive").await;
    assert_eq!(peer["hears_us"], true, "{peer}");
    assert!(peer["round_trip_us"].as_u64().unwrap() < 1_000_000, "{peer}");
    assert_eq!(peer["hears"], serde_json::json!([1, 2]), "{peer}");

    let manager = test.cluster.manager(3).unwrap();
    manager.signal(Signal::SIGSTOP);
    wait_for_verdict(&test, "suspected").await;
    manager.signal(Signal::SIGCONT);
    wait_for_verdict(&test, "alive").await;

    test.cluster.kill(3);
    wait_for_verdict(&test, "gone").await;
    test.cluster.start(3).await.unwrap();
    wait_for_verdict(&test, "alive").await;
}
