//! The cluster is restarted node by node while a client writes.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conclave_chaos_tests::{DatabaseClient, TestCluster, not_begun};
use conclave_runtime::Tasks;
use serde_json::Value;

const PAUSE: Duration = Duration::from_millis(20);
const ROUNDS: [(&str, &str); 2] = [("max_connections", "260"), ("max_connections", "120")];

/// What a writer has seen.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: Vec<u32>,
    failed: Vec<String>,
}

/// Writes one row after the other until told to stop. A write goes to the first of the clients that takes it.
async fn write(clients: Vec<DatabaseClient>, from: u32, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    let mut n = from;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let statement = format!("INSERT INTO r VALUES ({n})");
        for (index, client) in clients.iter().enumerate() {
            match client.run(&statement).await {
                Ok(_) => {
                    seen.acknowledged.push(n);
                    break;
                }
                // Nothing was done: the next node is asked, as a load balancer does.
                Err(error) if not_begun(&error) && index + 1 < clients.len() => {}
                Err(error) => {
                    seen.failed.push(format!("{n}: {error}"));
                    break;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    seen
}

/// Runs a command while a client writes; what the client has seen.
async fn while_writing(test: &TestCluster, from: u32, clients: &[u8], arguments: &[&str]) -> (Value, Seen) {
    let stop = Arc::new(AtomicBool::new(false));
    let clients = clients.iter().map(|number| test.database(*number)).collect();
    let writing = Tasks::new("test").spawn("writer", write(clients, from, Arc::clone(&stop)));
    let said = tokio::task::block_in_place(|| test.conclave(1, arguments));
    stop.store(true, Ordering::Relaxed);
    let seen = writing.join().await.unwrap();
    let said = said.unwrap_or_else(|error| test.fail(&error));
    (said, seen)
}

async fn running(test: &TestCluster, number: u8, name: &str) -> String {
    // Each node's own server is asked by its report: the proxy leads to the primary.
    let status = test.client(number).get_status("/v1/cluster/status").await.unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    let node = nodes
        .iter()
        .find(|node| node["name"] == format!("node{number}"))
        .unwrap();
    node["report"]["parts"]["postgres"]["details"]["parameters"]["running"][name].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing() {
    let test = TestCluster::three().await;
    let database = test.database(1);
    database.run("CREATE TABLE r (n int PRIMARY KEY)").await.unwrap();
    let mut acknowledged = Vec::new();
    let restart = ["cluster", "restart", "--rolling", "--postgres-only"];

    let wrong = test
        .conclave(1, &["cluster", "settings", "set", "fsync", "off"])
        .unwrap_err();
    assert!(wrong.contains("cannot be set here"), "{wrong}");
    let wrong = test
        .conclave(1, &["cluster", "settings", "set", "work_mem", "16Mx"])
        .unwrap_err();
    assert!(wrong.contains("PostgreSQL does not take"), "{wrong}");

    // Higher: standbys first, and no client notices. Lower: the primary first, in place.
    for (round, (name, value)) in ROUNDS.into_iter().enumerate() {
        test.conclave(1, &["cluster", "settings", "set", name, value])
            .unwrap_or_else(|error| test.fail(&error));
        // Until the node's driver has looked, the restart would not know that the primary has to go first.
        let wanted = || async {
            let list = test.conclave(1, &["cluster", "settings", "list"]).ok()?;
            let pending = list["nodes"].as_array()?.iter().all(|node| {
                node["pending"]
                    .as_array()
                    .is_some_and(|pending| pending.iter().any(|item| item["wanted"].as_u64() == value.parse().ok()))
            });
            pending.then_some(())
        };
        conclave_chaos_tests::wait_for("the setting", Duration::from_secs(30), wanted).await;
        let from = 100_000 * u32::try_from(round + 1).unwrap();
        let (said, seen) = while_writing(&test, from, &[2], &restart).await;
        println!(
            "{name} = {value}: {said}; {} acknowledged, failed: {:?}",
            seen.acknowledged.len(),
            seen.failed
        );
        assert_eq!(seen.failed, Vec::<String>::new(), "{said}");
        assert!(seen.acknowledged.len() > 10, "{seen:?}");
        acknowledged.extend(seen.acknowledged);
        for number in 1..=3 {
            // The report follows the server a moment later.
            let shown = || async { (running(&test, number, name).await == value).then_some(()) };
            conclave_chaos_tests::wait_for("the value in the node's report", Duration::from_secs(30), shown).await;
        }
    }

    // The whole managers: a client that goes to another node when one is away.
    let before = test.client(1).get_status("/v1/cluster/status").await.unwrap();
    let (said, seen) = while_writing(&test, 900_000, &[2, 3, 1], &["cluster", "restart", "--rolling"]).await;
    println!(
        "{said}; {} acknowledged, failed: {:?}",
        seen.acknowledged.len(),
        seen.failed
    );
    assert_eq!(seen.failed, Vec::<String>::new(), "{said}");
    assert!(seen.acknowledged.len() > 10, "{seen:?}");
    acknowledged.extend(seen.acknowledged);
    let after = test.client(1).get_status("/v1/cluster/status").await.unwrap();
    for (old, new) in before["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .zip(after["nodes"].as_array().unwrap())
    {
        assert_ne!(
            old["report"]["started_at"], new["report"]["started_at"],
            "{}",
            old["name"]
        );
        assert_eq!(
            old["report"]["pid"], new["report"]["pid"],
            "whoever supervises it sees one process"
        );
        let broker = |node: &Value| node["report"]["parts"]["broker"]["details"]["broker"]["pid"].clone();
        assert!(broker(old).is_number(), "{old}");
        assert_eq!(broker(old), broker(new), "nothing has changed for the broker");
    }
    for number in 1..=3 {
        // The settings that a manager reads at its start hold the orders of before, which it has obeyed.
        let log = std::fs::read_to_string(test.cluster.layout().node(number).log_file()).unwrap();
        let starts = log.lines().filter(|line| line.contains("node starts")).count();
        assert_eq!(starts, 2, "node{number} restarts once:\n{log}");
    }
    let rows = database.run("SELECT n FROM r").await.unwrap();
    let lost: Vec<_> = acknowledged.iter().filter(|n| !rows.contains(&n.to_string())).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}
