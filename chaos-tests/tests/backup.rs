//! The database is backed up while it works, and brought back to points in time, across a change of the primary.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::time::Duration;

use conclave_chaos_tests::{TestCluster, wait_for};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(120);

/// Writes a row; a position after its commit.
async fn put(test: &TestCluster, number: u8, n: u32) -> u64 {
    let client = test.database(number);
    let sql = format!("INSERT INTO t VALUES ({n}); SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn");
    let rows = client.run(&sql).await.unwrap_or_else(|error| test.fail(&error));
    rows.last().unwrap().parse().unwrap()
}

async fn rows(test: &TestCluster, number: u8) -> Vec<String> {
    let client = test.database(number);
    let read = || async { client.run("SELECT n FROM t ORDER BY n").await.ok() };
    wait_for("the restored database", LONG, read).await
}

fn shown(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}

fn position(text: &Value) -> u64 {
    let (high, low) = text.as_str().unwrap().split_once('/').unwrap();
    let part = |text: &str| u64::from_str_radix(text, 16).unwrap();
    part(high) << 32 | part(low)
}

fn backup(test: &TestCluster, arguments: &[&str]) -> Result<Value, String> {
    test.conclave(1, &[&["backup"], arguments].concat())
}

/// Waits until the first backup can be brought up to a position.
async fn archived(test: &TestCluster, until: u64) -> Value {
    let look = || async {
        let list = backup(test, &["list"]).ok()?;
        let backup = list["databases"][0]["backups"][0].clone();
        (position(&backup["restorable_until"]["lsn"]) >= until).then_some(backup)
    };
    wait_for("the archive of the log", LONG, look).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_comes_back_to_a_point_between_two_writes() {
    let test = TestCluster::three().await;
    let target = test.dir().join("backups");
    for number in 1..=3 {
        test.stop(number).await;
        test.configure(
            number,
            &format!("backup: {{target: {}, segment_seconds: 1}}\n", target.display()),
        );
        test.cluster.start(number).await.unwrap();
    }
    let healthy = test.cluster.wait_healthy(1, LONG).await;
    healthy.unwrap_or_else(|error| test.fail(&error));
    let create = test.database(2).run("CREATE TABLE t (n int PRIMARY KEY)").await;
    create.unwrap_or_else(|error| test.fail(&error));
    put(&test, 1, 1).await;
    let made = backup(&test, &["create"]).unwrap_or_else(|error| test.fail(&error));
    assert_eq!(made["verified"], true, "{made}");
    let second = put(&test, 2, 2).await;
    // Another primary, on another timeline: the archive goes on.
    let primary = test.client(1).get_status("/v1/cluster/status").await.unwrap()["database"]["primary"].clone();
    let other = if primary == 2 { "node3" } else { "node2" };
    test.conclave(1, &["cluster", "set-active", other])
        .unwrap_or_else(|error| test.fail(&error));
    let third = put(&test, 3, 3).await;
    let fourth = put(&test, 1, 4).await;
    let listed = archived(&test, fourth).await;
    assert_eq!(listed["verified"], true, "{listed}");
    let left = listed["restorable_until"]["timeline"].as_u64().unwrap();
    assert!(
        listed["timeline"].as_u64().unwrap() < left,
        "it leads across timelines: {listed}"
    );

    // All stop; one goes back to between the third write and the fourth.
    let running = backup(&test, &["restore"]).unwrap_err();
    assert!(running.contains("stop this node's manager first"), "{running}");
    for number in 1..=3 {
        test.stop(number).await;
    }
    let others = backup(&test, &["restore"]).unwrap_err();
    assert!(
        others.contains("node2, node3") && others.contains("--give-up-other-nodes"),
        "{others}"
    );
    let present = backup(&test, &["restore", "--give-up-other-nodes"]).unwrap_err();
    assert!(present.contains("--replace-database"), "{present}");
    let meant = ["restore", "--give-up-other-nodes", "--replace-database", "--to-lsn"];
    let beyond = backup(&test, &[&meant[..], &["7F/0"]].concat()).unwrap_err();
    assert!(beyond.contains("the archive has no log"), "{beyond}");
    let restored = backup(&test, &[&meant[..], &[&shown(third)]].concat()).unwrap_or_else(|error| test.fail(&error));
    assert_eq!(
        restored["given_up"],
        serde_json::json!(["node2", "node3"]),
        "{restored}"
    );
    assert!(restored["timeline"].as_u64().unwrap() > left, "{restored}");
    test.cluster.start(1).await.unwrap();
    assert_eq!(rows(&test, 1).await, ["1", "2", "3"]);
    // It works on, and so does its archive.
    let fifth = put(&test, 1, 5).await;
    archived(&test, fifth).await;

    // What was given up can still be reached, and so can what came later.
    test.stop(1).await;
    let left = left.to_string();
    let back = ["restore", "--replace-database", "--timeline", &left];
    backup(&test, &back).unwrap_or_else(|error| test.fail(&error));
    test.cluster.start(1).await.unwrap();
    assert_eq!(rows(&test, 1).await, ["1", "2", "3", "4"]);
    test.stop(1).await;
    let first = ["restore", "--replace-database", "--to-lsn", &shown(second)];
    backup(&test, &first).unwrap_or_else(|error| test.fail(&error));
    test.cluster.start(1).await.unwrap();
    assert_eq!(rows(&test, 1).await, ["1", "2"]);

    let kept = backup(&test, &["create", "--keep", "1"]).unwrap_or_else(|error| test.fail(&error));
    assert_eq!(kept["pruned"]["backups"].as_array().unwrap().len(), 1, "{kept}");
    let list = backup(&test, &["list"]).unwrap();
    let backups = list["databases"][0]["backups"].as_array().unwrap();
    assert_eq!(backups.len(), 1, "{list}");
    assert_eq!(backups[0]["id"], kept["id"]);
}
