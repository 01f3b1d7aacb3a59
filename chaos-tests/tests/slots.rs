//! What is dead keeps no more log than it may: the disk does not fill, and a standby that was away for too long is made anew.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::time::Duration;

use conclave_chaos_tests::{TestCluster, wait_for};

const LONG: Duration = Duration::from_secs(180);
const SEGMENT_BYTES: u64 = 16 << 20;
/// What is written while a standby is away.
const SEGMENTS: u64 = 30;
/// What may be kept of it: what is kept for standbys, what a checkpoint needs, and what is being written.
const KEPT_SEGMENTS: u64 = 20;

async fn number(test: &TestCluster, node: u8, sql: &str) -> u64 {
    let rows = test.database(node).run(sql).await;
    let rows = rows.unwrap_or_else(|error| test.fail(&error));
    rows.last().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_standby_does_not_fill_the_disk_and_comes_back_by_a_copy() {
    let test = TestCluster::three().await;
    let standard = test.database(1).run("SHOW max_slot_wal_keep_size").await.unwrap();
    assert_eq!(standard, ["2GB"], "there is a limit by itself");
    for (name, value) in [
        ("wal_keep_size", "64MB"),
        ("max_slot_wal_keep_size", "64MB"),
        ("max_wal_size", "128MB"),
        ("min_wal_size", "32MB"),
    ] {
        test.conclave(1, &["cluster", "settings", "set", name, value])
            .unwrap_or_else(|error| test.fail(&error));
    }
    let in_force = || async {
        let shown = test.database(1).run("SHOW max_slot_wal_keep_size").await.ok()?;
        (shown == ["64MB"]).then_some(())
    };
    wait_for("the settings", LONG, in_force).await;
    let status = test.client(1).get_status("/v1/cluster/status").await.unwrap();
    let primary = u8::try_from(status["database"]["primary"].as_u64().unwrap()).unwrap();
    let away = (1..=3).rev().find(|node| *node != primary).unwrap();
    let here = (1..=3).find(|node| *node != away).unwrap();
    test.cluster.kill(away);
    // A slot whose reader never comes is what a dead standby of another kind leaves.
    let sql = "CREATE TABLE t (n int); SELECT pg_create_physical_replication_slot('nobody', true)";
    test.database(here)
        .run(sql)
        .await
        .unwrap_or_else(|error| test.fail(&error));
    for n in 0..SEGMENTS {
        let sql = format!("INSERT INTO t VALUES ({n}); SELECT pg_switch_wal()");
        test.database(here)
            .run(&sql)
            .await
            .unwrap_or_else(|error| test.fail(&error));
        if n % 10 == 9 {
            test.database(here)
                .run("CHECKPOINT")
                .await
                .unwrap_or_else(|error| test.fail(&error));
        }
    }
    let lost = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'nobody' AND wal_status = 'lost'";
    assert_eq!(number(&test, here, lost).await, 1, "the slot's log was given up");
    let bytes = number(&test, here, "SELECT sum(size)::bigint FROM pg_ls_waldir()").await;
    assert!(bytes <= KEPT_SEGMENTS * SEGMENT_BYTES, "{} MB of log", bytes >> 20);

    let log = test.cluster.layout().node(away).log_file();
    let clones = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.matches("cloning the primary").count()
    };
    let before = clones();
    test.cluster.start(away).await.unwrap();
    let healthy = test.cluster.wait_healthy(here, LONG).await;
    healthy.unwrap_or_else(|error| test.fail(&error));
    assert!(clones() > before, "node{away} was made anew from the primary");
    assert_eq!(number(&test, away, "SELECT count(*) FROM t").await, SEGMENTS);
}
