//! Unmodified Patroni with the cluster's Consul API as its store: it elects, fails over, and outlives the loss of our leader.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use conclave_chaos_tests::patroni::{INSTANCES, PatroniCluster, SCOPE, Sql, TTL_SECONDS, name};
use conclave_chaos_tests::{ConsulClient, TestCluster};
use conclave_runtime::{TaskHandle, Tasks};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_millis(50);

/// A cluster of ours, one of Patroni's on top of it, and a writer who never rests.
struct Scene {
    patroni: PatroniCluster,
    writer: Option<TaskHandle<BTreeSet<u64>>>,
    stop: Arc<AtomicBool>,
    _tasks: Tasks,
    test: TestCluster,
}

/// Who holds the leader's key, and under which session.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lead {
    number: u8,
    session: String,
}

async fn lead(consul: &ConsulClient) -> Option<Lead> {
    let entry = consul.entry(&format!("service/{SCOPE}/leader")).await?;
    let text = |key: &str| Some(entry[key].as_str()?.to_owned());
    let value = decoded(&entry)?;
    Some(Lead {
        number: (1..=INSTANCES).find(|number| name(*number) == value)?,
        session: text("Session")?,
    })
}

fn decoded(entry: &Value) -> Option<String> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(entry["Value"].as_str()?)
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// Writes numbers until told to stop; those that were acknowledged.
async fn write_numbers(sql: Sql, stop: Arc<AtomicBool>) -> BTreeSet<u64> {
    let mut acknowledged = BTreeSet::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let statement = format!("INSERT INTO numbers VALUES ({number})");
        if sql.run(&statement).await.is_some() {
            acknowledged.insert(number);
        }
        tokio::time::sleep(PATIENCE).await;
    }
    acknowledged
}

impl Scene {
    /// Starts everything and waits for a leader with two standbys.
    async fn set() -> Self {
        let test = TestCluster::three().await;
        let mut patroni = PatroniCluster::new(&test);
        (1..=INSTANCES).for_each(|number| patroni.start(number));
        let (tasks, stop) = (Tasks::new("test"), Arc::new(AtomicBool::new(false)));
        let sql = patroni.on_leader();
        let first = Self::numbers_table(&sql).await;
        let writer = tasks.spawn("writer", write_numbers(sql, Arc::clone(&stop)));
        let scene = Self {
            patroni,
            writer: Some(writer),
            stop,
            _tasks: tasks,
            test,
        };
        if !first {
            scene.fail("Patroni did not bring up a PostgreSQL that takes writes");
        }
        scene.whole(1).await;
        scene
    }

    async fn numbers_table(sql: &Sql) -> bool {
        let end = Instant::now() + LONG;
        while sql
            .run("CREATE TABLE IF NOT EXISTS numbers (number bigint PRIMARY KEY)")
            .await
            .is_none()
        {
            if Instant::now() > end {
                return false;
            }
            tokio::time::sleep(PATIENCE).await;
        }
        true
    }

    fn fail(&self, why: &str) -> ! {
        eprintln!("{}", self.patroni.last_words());
        self.test.fail(&why);
    }

    /// Waits for what `look` finds.
    async fn until<T, F, Fut>(&self, what: &str, look: F) -> T
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Option<T>>,
    {
        let end = Instant::now() + LONG;
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if Instant::now() > end {
                self.fail(&format!("{what} did not happen within {} s", LONG.as_secs()));
            }
            tokio::time::sleep(PATIENCE).await;
        }
    }

    /// Waits until one instance leads with both others as standbys, one of which may follow it: as node `asked` tells.
    async fn whole(&self, asked: u8) -> Lead {
        let consul = self.test.consul(asked);
        let standbys = "SELECT count(*), count(*) FILTER (WHERE sync_state = 'sync') FROM pg_stat_replication \
            WHERE state = 'streaming' AND application_name LIKE 'pg_'";
        self.until("a leader with two standbys", || async {
            let lead = lead(&consul).await?;
            let on = self.patroni.on(lead.number);
            let writable = on.run("SELECT NOT pg_is_in_recovery()").await?;
            let standbys = on.run(standbys).await?;
            // Until Patroni has written down who has all that was acknowledged, it lets nobody follow.
            let sync: Value =
                serde_json::from_str(&decoded(&consul.entry(&format!("service/{SCOPE}/sync")).await?)?).ok()?;
            let follower = sync["leader"] == name(lead.number) && sync["sync_standby"].is_string();
            (writable == "t" && standbys == "2|1" && follower).then_some(lead)
        })
        .await
    }

    /// Waits until somebody else leads than `before`, and takes writes.
    async fn next(&self, asked: u8, before: &Lead) -> Lead {
        let consul = self.test.consul(asked);
        let begun = Instant::now();
        let next = self
            .until("another leader", || async {
                let lead = lead(&consul).await.filter(|lead| lead.number != before.number)?;
                let writable = self
                    .patroni
                    .on(lead.number)
                    .run("SELECT NOT pg_is_in_recovery()")
                    .await?;
                (writable == "t").then_some(lead)
            })
            .await;
        let took = begun.elapsed();
        eprintln!(
            "{} follows {} after {:.1} s",
            name(next.number),
            name(before.number),
            took.as_secs_f64()
        );
        next
    }

    /// Makes a node of ours the leader.
    async fn move_our_leader(&self, number: u8) {
        let name = format!("node{number}");
        if let Err(error) = self.test.conclave(number, &["cluster", "set-active", &name]) {
            self.fail(&error);
        }
        if let Err(error) = self.test.cluster.wait_healthy(number, LONG).await {
            self.fail(&error.to_string());
        }
        assert_eq!(self.test.leader(number).await, Some(number));
    }

    async fn start_node(&self, number: u8) {
        self.test.cluster.start(number).await.unwrap();
        if let Err(error) = self.test.cluster.wait_healthy(number, LONG).await {
            self.fail(&error.to_string());
        }
    }

    /// Every number that was acknowledged is there, on the leader and on both standbys.
    async fn check_numbers(mut self, lead: &Lead) {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = self.writer.take().unwrap().join().await.unwrap();
        let position = self
            .patroni
            .on(lead.number)
            .run("SELECT pg_current_wal_lsn()")
            .await
            .unwrap();
        for number in 1..=INSTANCES {
            let on = self.patroni.on(number);
            let caught_up = format!("SELECT pg_is_in_recovery() IS FALSE OR pg_last_wal_replay_lsn() >= '{position}'");
            self.until("the standby to have it all", || async {
                on.run(&caught_up).await.filter(|answer| answer == "t")
            })
            .await;
            let stored = on.run("SELECT number FROM numbers").await.unwrap();
            let stored: BTreeSet<u64> = stored.lines().map(|line| line.parse().unwrap()).collect();
            let lost: Vec<_> = acknowledged.difference(&stored).collect();
            assert!(
                acknowledged.len() > 20 && lost.is_empty(),
                "{} acknowledged, lost on {}: {lost:?}",
                acknowledged.len(),
                name(number)
            );
        }
        eprintln!(
            "{} numbers were acknowledged, and all of them are everywhere",
            acknowledged.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patroni_elects_a_leader_and_replaces_it() {
    let mut scene = Scene::set().await;
    let first = scene.whole(1).await;
    // It shows its instances in the catalog, with a check that this cluster carries out.
    let consul = scene.test.consul(1);
    let passing = format!("/v1/health/service/{SCOPE}?passing");
    scene
        .until("three passing checks", || async {
            let rows = consul.json(&passing).await?;
            (rows.as_array()?.len() == usize::from(INSTANCES)).then_some(())
        })
        .await;
    let primary = format!("/v1/health/service/{SCOPE}?passing&tag=primary");
    let shows = |number: u8| {
        let (consul, path) = (&consul, primary.clone());
        move || {
            let path = path.clone();
            async move {
                let rows = consul.json(&path).await?;
                let one = rows.as_array()?.len() == 1;
                (one && rows[0]["Service"]["ID"] == format!("{SCOPE}/{}", name(number))).then_some(())
            }
        }
    };
    scene.until("the leader's tag", shows(first.number)).await;

    scene.patroni.kill(first.number);
    let second = scene.next(1, &first).await;
    scene.until("the next leader's tag", shows(second.number)).await;
    scene.patroni.start(first.number);
    let lead = scene.whole(1).await;
    assert_eq!(lead.number, second.number, "who comes back takes nothing over");
    scene.check_numbers(&lead).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patroni_outlives_the_loss_of_our_leader() {
    let mut scene = Scene::set().await;
    let first = scene.whole(1).await;
    let others: Vec<u8> = (1..=INSTANCES).filter(|number| *number != first.number).collect();
    let (bystander, witness) = (others[0], others[1]);

    // Our leader is lost, and Patroni's asks another node: it goes on, under the same session, for longer than that would
    // live without being renewed.
    scene.move_our_leader(bystander).await;
    let first = scene.whole(witness).await;
    let timeline = scene
        .patroni
        .on(first.number)
        .run("SELECT timeline_id FROM pg_control_checkpoint()")
        .await;
    scene.test.cluster.kill(bystander);
    let consul = scene.test.consul(witness);
    let end = Instant::now() + Duration::from_secs(TTL_SECONDS + 5);
    let status = format!("/v1/kv/service/{SCOPE}/status");
    while Instant::now() < end {
        // With each round the leader writes how far it is: the wait for that is what paces this loop.
        let before = consul.json(&status).await.map(|rows| rows[0]["ModifyIndex"].clone());
        scene
            .until("the leader's next round", || async {
                let now = consul.json(&status).await.map(|rows| rows[0]["ModifyIndex"].clone());
                (now.is_some() && now != before).then_some(())
            })
            .await;
        let now = lead(&consul).await;
        if now.as_ref() != Some(&first) {
            scene.fail(&format!(
                "{first:?} led, and now {now:?} although nothing happened to it"
            ));
        }
    }
    assert_eq!(
        scene
            .patroni
            .on(first.number)
            .run("SELECT timeline_id FROM pg_control_checkpoint()")
            .await,
        timeline
    );
    scene.start_node(bystander).await;

    // A machine is lost that both lead on.
    scene.move_our_leader(first.number).await;
    let first = scene.whole(witness).await;
    scene.test.cluster.kill(first.number);
    scene.patroni.kill(first.number);
    let asked = if first.number == witness { bystander } else { witness };
    let second = scene.next(asked, &first).await;
    scene.start_node(first.number).await;
    scene.patroni.start(first.number);
    let second_whole = scene.whole(asked).await;
    assert_eq!(second_whole.number, second.number);

    // Patroni's leader loses the only node that it asks, which is our leader: it steps down before another one leads.
    scene.move_our_leader(second.number).await;
    let second = scene.whole(second.number).await;
    let asked = (1..=INSTANCES).find(|number| *number != second.number).unwrap();
    scene.test.cluster.kill(second.number);
    let third = scene.next(asked, &second).await;
    let still = scene
        .patroni
        .on(second.number)
        .run("SELECT NOT pg_is_in_recovery()")
        .await;
    assert_ne!(
        still.as_deref(),
        Some("t"),
        "two instances take writes: {second:?} and {third:?}"
    );
    scene.start_node(second.number).await;
    let lead = scene.whole(asked).await;
    scene.check_numbers(&lead).await;
}
