//! Three nodes: every one answers, and the loss of the leader is survived.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, Cluster, until, until_answer};

/// Writes until it succeeds; how long that took.
async fn write_until_done(client: &Client, key: &str) -> Duration {
    let begun = Instant::now();
    loop {
        if let Ok(answer) = client.try_send("PUT", &format!("/v1/kv/{key}"), b"x").await
            && answer.status == 200
        {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no write succeeds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_answers_and_the_leader_may_die() {
    let mut cluster = Cluster::of(3).await;
    let clients: Vec<Client> = cluster.nodes.iter().map(crate::support::Node::client).collect();
    for (number, client) in clients.iter().enumerate() {
        assert!(client.wrote(&format!("/v1/kv/n{number}"), "x").await);
        for reader in &clients {
            assert_eq!(
                reader.get(&format!("/v1/kv/n{number}")).await.status,
                200,
                "acknowledged writes are seen"
            );
        }
        assert_eq!(client.get("/v1/status/peers").await.json().as_array().unwrap().len(), 3);
        assert_eq!(client.get("/v1/operator/autopilot/health").await.status, 200);
        let configuration = client.get("/v1/operator/raft/configuration").await.json();
        let leaders = configuration["Servers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|server| server["Leader"] == json!(true));
        assert_eq!(leaders.count(), 1);
        let own = client.get("/v1/agent/self").await.json();
        assert_eq!(own["Config"]["NodeName"], json!(format!("node{}", number + 1)));
        assert!(
            own["Stats"]["raft"]
                .as_object()
                .unwrap()
                .values()
                .all(serde_json::Value::is_string)
        );
    }
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let survivor = &clients[follower];
    let session = survivor
        .session(r#"{"TTL": "2s", "Checks": [], "Behavior": "delete"}"#)
        .await;
    assert!(survivor.wrote(&format!("/v1/kv/leader?acquire={session}"), "me").await);
    let index = survivor.get("/v1/kv/leader").await.index();
    let watching = {
        let (client, path) = (survivor.clone(), format!("/v1/kv/leader?index={index}&wait=30s"));
        tokio::runtime::Handle::current().spawn(async move { client.get(&path).await })
    };
    for _ in 0..3 {
        assert_eq!(
            survivor.put(&format!("/v1/session/renew/{session}"), "").await.status,
            200
        );
    }
    let killed = Instant::now();
    cluster.nodes[leader].kill();
    assert_eq!(
        survivor.get("/v1/kv/leader?stale").await.status,
        200,
        "stale reads never stop"
    );
    let gap = write_until_done(survivor, "after").await;
    eprintln!("first write {gap:?} after the loss of the leader");
    assert!(gap < Duration::from_secs(5));
    assert_eq!(
        survivor.put(&format!("/v1/session/renew/{session}"), "").await.status,
        200
    );
    let renewed = Instant::now();
    let woken = watching.await.unwrap();
    assert_eq!(
        woken.status, 404,
        "the watcher outlived the leader and saw the session end"
    );
    assert!(
        renewed.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        renewed.elapsed()
    );
    assert!(killed.elapsed() < Duration::from_secs(15));
    let dead = format!("node{}", leader + 1);
    until_answer(survivor, &format!("/v1/health/node/{dead}"), "the verdict", |answer| {
        answer.json()[0]["Status"] == json!("critical")
    })
    .await;
    until_answer(
        survivor,
        "/v1/operator/autopilot/health",
        "autopilot's verdict",
        |answer| answer.status == 429,
    )
    .await;

    // A second loss leaves a minority: it says so at once, and its own state can still be read.
    let rest = (0..3).find(|number| *number != leader && *number != follower).unwrap();
    cluster.nodes[rest].kill();
    until("the loss to be noticed", || {
        !cluster.nodes[follower].consensus.leadership().borrow().has_quorum
    })
    .await;
    until_answer(survivor, "/v1/kv/after", "the refusal", |answer| {
        answer.status == 500 && answer.text() == "No cluster leader"
    })
    .await;
    let refused = survivor.put("/v1/kv/x", "").await;
    assert_eq!((refused.status, refused.text().as_str()), (500, "No cluster leader"));
    let stale = survivor.get("/v1/kv/after?stale").await;
    assert_eq!((stale.status, stale.header("x-consul-knownleader")), (200, "false"));
    assert_eq!(survivor.get("/v1/status/leader").await.text(), "\"\"");
    let ready = survivor.get("/health/ready").await;
    assert_eq!(ready.status, 503);
    let causes = ready.json()["causes"].clone();
    let cut_off = causes
        .as_array()
        .unwrap()
        .iter()
        .find(|cause| cause["why"].as_str().unwrap().contains("cut off"))
        .unwrap();
    assert!(cut_off["since"].is_string(), "{cut_off}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_metrics_tell_what_happens() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let text = client.get("/metrics").await.text();
    for line in [
        "conclave_raft_role{role=\"leader\"} 1",
        "conclave_node_alive{node=\"node1\"} 1",
        "conclave_kv_keys 0",
    ] {
        assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
    }
    assert_eq!(
        client.get("/v1/agent/metrics").await.json()["Gauges"][0]["Labels"],
        json!({})
    );
    client.put("/v1/kv/counted", "1").await;
    let page = client.get("/v1/agent/metrics?format=prometheus").await.text();
    for line in [
        "consul_raft_state_leader 1",
        "consul_raft_commitTime_count 1",
        "consul_kvs_apply_count 1",
        "consul_txn_apply_count 0",
        "consul_session_apply_count 0",
    ] {
        assert!(page.lines().any(|own| own == line), "{line} is not in\n{page}");
    }
    for path in ["/metrics", "/v1/agent/metrics?format=prometheus"] {
        let page = client.get(path).await.text();
        for name in ["consul_raft_leader_dispatchLog", "consul_raft_fsm_apply"] {
            let (count, sum) = (
                figure(&page, &format!("{name}_count")),
                figure(&page, &format!("{name}_sum")),
            );
            assert!(count >= 1.0 && sum > 0.0, "{path}: {name} {count} {sum}");
        }
        for name in ["appendEntries_rpc", "heartbeat"] {
            let name = format!("consul_raft_replication_{name}_count");
            assert_eq!(figure(&page, &name), 0.0, "{path}: {name}: there is no other member");
        }
    }
    let samples = client.get("/v1/agent/metrics").await.json();
    let applied = samples["Samples"].as_array().unwrap().iter();
    let mut applied = applied.filter(|sample| sample["Name"] == "consul.raft.fsm.apply");
    assert!(applied.next().unwrap()["Sum"].as_f64() > Some(0.0), "{samples}");
    assert_eq!(
        (
            client.get("/health/live").await.status,
            client.get("/health/leader").await.status
        ),
        (200, 200)
    );
    // What was is told to whoever comes later.
    let events = client.listen("/v1/cluster/events", "event: voters").await;
    assert!(
        events.contains("event: leader") && events.contains("leads in term"),
        "{events}"
    );
    let setting = conclave_catalog::Command::PutSetting {
        key: "colour".into(),
        value: "secret".into(),
    };
    cluster.nodes[0].consensus.propose(setting).await.unwrap();
    let events = client.listen("/v1/cluster/events", "event: setting").await;
    assert!(events.contains("colour") && !events.contains("secret"), "{events}");
}

/// A figure of a page without labels.
fn figure(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is not in\n{page}"))
        .trim()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_of_raft_are_measured_where_they_are_taken() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader();
    let client = cluster.nodes[leader].client();
    let names = [
        "consul_raft_leader_dispatchLog",
        "consul_raft_replication_appendEntries_rpc",
        "consul_raft_replication_heartbeat",
        "consul_raft_fsm_apply",
    ];
    let figures = |page: &str, kind: &str| names.map(|name| figure(page, &format!("{name}_{kind}")));
    let before = figures(&client.get("/metrics").await.text(), "count");
    for number in 0..20 {
        assert!(client.wrote(&format!("/v1/kv/k{number}"), "v").await);
    }
    // Heartbeats come by themselves.
    let page = until_answer(&client, "/metrics", "another heartbeat", |answer| {
        figures(&answer.text(), "count")[2] > before[2]
    })
    .await
    .text();
    let (after, sums) = (figures(&page, "count"), figures(&page, "sum"));
    for place in [0, 1, 3] {
        let more = after[place] - before[place];
        assert!(more >= 20.0, "{}: {more} more for 20 writes", names[place]);
    }
    // A step that takes no time at all was not measured, nor was one of a minute.
    for (place, name) in names.iter().enumerate() {
        let mean = sums[place] / after[place];
        assert!(mean > 0.0 && mean < 60_000.0, "{name}: {mean} ms");
    }
    let follower = cluster.nodes.iter().find(|node| !node.leads()).unwrap();
    let own = follower.client().get("/metrics").await.text();
    let [dispatched, .., applied] = figures(&own, "count");
    assert!(applied >= 1.0, "it applies what the leader has dispatched: {own}");
    assert!(dispatched < after[0], "it is the leader's to dispatch: {dispatched}");
}
