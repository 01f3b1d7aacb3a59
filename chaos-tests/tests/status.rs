//! What a cluster tells monitoring: events as they happen, health for load balancers, metrics for Prometheus.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::process::Stdio;
use std::time::Duration;

use conclave_chaos_tests::{TestCluster, package_dir, python_program, wait_for};
use conclave_runtime::Tasks;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const LONG: Duration = Duration::from_secs(60);

/// The samples of a page, as Prometheus' own parser reads it.
async fn samples(page: &str) -> Value {
    let mut child = Command::new(python_program("consul-clients", "python"))
        .arg(package_dir().join("clients/prometheus.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(page.as_bytes()).await.unwrap();
    drop(input);
    let output = tokio::time::timeout(LONG, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert!(output.status.success(), "Prometheus does not take\n{page}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The status codes of a path on these nodes.
async fn codes(test: &TestCluster, nodes: &[u8], path: &str) -> Vec<Option<u16>> {
    let mut codes = Vec::new();
    for number in nodes {
        codes.push(test.consul(*number).get(path).await.map(|(code, _)| code));
    }
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_sees_a_loss_and_a_return() {
    let test = TestCluster::three().await;
    let (all, leader) = ([1, 2, 3], test.leader(1).await.unwrap());
    let only = |number: u8| all.map(|node| Some(if node == number { 200 } else { 503 })).to_vec();
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(codes(&test, &all, path).await, [Some(200); 3], "{path}");
    }
    assert_eq!(codes(&test, &all, "/health/leader").await, only(leader));
    for number in all {
        let consul = test.consul(number);
        for path in ["/metrics", "/v1/agent/metrics?format=prometheus"] {
            let (code, page) = consul.get(path).await.unwrap();
            assert_eq!(code, 200);
            let found = samples(&page).await;
            let is_leader = f64::from(u8::from(number == leader));
            let name = if path == "/metrics" {
                "conclave_raft_is_leader"
            } else {
                "consul_raft_state_leader"
            };
            assert_eq!(found[name], is_leader, "{path} of node{number}");
            assert!(found["process_resident_memory_bytes"].as_f64() > Some(1e6), "{found}");
        }
    }

    // A follower tells of the leader's end and of the next one, to whoever listens.
    let (witness, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let (gone, consul) = (format!("node{leader}"), test.consul(witness));
    let tasks = Tasks::new("test");
    let listening = tasks.spawn("listener", {
        let (consul, dead) = (consul.clone(), format!("{gone} was declared dead"));
        async move {
            consul
                .listen("/v1/cluster/events", &[&dead, "is primary on timeline 2"], LONG)
                .await
        }
    });
    test.cluster.kill(leader);
    let heard = listening
        .join()
        .await
        .unwrap()
        .unwrap_or_else(|error| test.fail(&error));
    let terms = heard.matches("event: leader").count();
    assert!(terms >= 2, "the first leader and the next are told of:\n{heard}");
    let next = wait_for("the next leader", LONG, || test.leader(witness)).await;
    assert_ne!(next, leader);
    let (code, _) = test.consul(next).get("/health/leader").await.unwrap();
    assert_eq!(code, 200);
    let (_, page) = consul.get("/metrics").await.unwrap();
    let found = samples(&page).await;
    assert_eq!(found[format!("conclave_node_alive{{node={gone}}}")], 0.0);

    // A reader that comes back gets what it has missed, and not what it has seen.
    let last = heard
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .next_back()
        .unwrap();
    let again = format!("\nid: {last}\n");
    let back = format!("{gone} was declared alive");
    test.cluster.start(leader).await.unwrap();
    let later = consul.listen_after("/v1/cluster/events", last, &[&back], LONG).await;
    let later = later.unwrap_or_else(|error| test.fail(&error));
    assert!(
        !later.contains(&again) && !later.contains("was declared dead"),
        "{later}"
    );
    if let Err(error) = test.cluster.wait_healthy(witness, LONG).await {
        test.fail(&error);
    }

    // Whoever is alone lives, but is no node to send anybody to, and says why.
    test.cluster.kill(leader);
    test.cluster.kill(other);
    wait_for("the lonely node to say so", LONG, || async {
        let (code, body) = consul.get("/health/ready").await?;
        let said: Value = serde_json::from_str(&body).ok()?;
        let why = said["causes"].to_string();
        (code == 503 && said["minority"] == true && why.contains("cut off")).then_some(())
    })
    .await;
    assert_eq!(codes(&test, &[witness], "/health/live").await, [Some(200)]);
    assert_eq!(codes(&test, &[witness], "/health/leader").await, [Some(503)]);
    let (_, page) = consul.get("/metrics").await.unwrap();
    assert_eq!(samples(&page).await["conclave_raft_has_quorum"], 0.0);
}
