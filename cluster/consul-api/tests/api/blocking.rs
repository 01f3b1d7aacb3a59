//! Queries that wait.

use std::time::{Duration, Instant};

use crate::support::{Answer, Client, Cluster, until};

/// Asks in the background.
fn ask(client: &Client, path: String) -> tokio::task::JoinHandle<(Answer, Instant)> {
    let client = client.clone();
    tokio::runtime::Handle::current().spawn(async move {
        let answer = client.get(&path).await;
        (answer, Instant::now())
    })
}

async fn watchers(client: &Client, count: u64) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let text = client.get("/metrics").await.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("conclave_watchers "))
            .unwrap()
            .to_owned();
        if line.parse::<u64>().unwrap() == count {
            return;
        }
        assert!(Instant::now() < end, "{line} wait, not {count}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_wakes_for_what_it_looks_at_alone() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    assert!(client.wrote("/v1/kv/p/a", "1").await);
    assert!(client.wrote("/v1/kv/p/b", "1").await);
    let index = |answer: &Answer| answer.index();
    let key = index(&client.get("/v1/kv/p/a").await);
    let prefix = index(&client.get("/v1/kv/p/?recurse").await);
    let missing = index(&client.get("/v1/kv/q").await);
    let waiting = [
        ask(&client, format!("/v1/kv/p/a?index={key}&wait=20s")),
        ask(&client, format!("/v1/kv/p/?recurse&index={prefix}&wait=20s")),
        ask(&client, format!("/v1/kv/q?index={missing}&wait=20s")),
    ];
    watchers(&client, 3).await;
    assert!(client.wrote("/v1/kv/x", "unrelated").await);
    assert!(client.wrote("/v1/kv/p/a", "1").await, "nothing is changed");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(waiting.iter().all(|waiter| !waiter.is_finished()));
    let [one_key, one_prefix, one_missing] = waiting;
    client.delete("/v1/kv/p/b").await;
    let (answer, _) = one_prefix.await.unwrap();
    assert!(answer.index() > prefix && answer.json().as_array().unwrap().len() == 1);
    client.delete("/v1/kv/p/a").await;
    let (answer, _) = one_key.await.unwrap();
    assert!(answer.status == 404 && answer.index() > key);
    assert!(!one_missing.is_finished());
    assert!(client.wrote("/v1/kv/q", "").await);
    let (answer, _) = one_missing.await.unwrap();
    assert!(answer.status == 200 && answer.index() > missing);
    watchers(&client, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_nothing_wakes_comes_back_as_it_was() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    assert!(client.wrote("/v1/kv/a", "1").await);
    let index = client.get("/v1/kv/a").await.index();
    let begun = Instant::now();
    let answer = client.get(&format!("/v1/kv/a?index={index}&wait=500ms")).await;
    let waited = begun.elapsed();
    assert_eq!((answer.status, answer.index()), (200, index));
    assert!(
        waited >= Duration::from_millis(500) && waited < Duration::from_millis(1500),
        "{waited:?}"
    );
    let future = client
        .get(&format!("/v1/kv/a?index={}&wait=300ms", index + 1_000_000))
        .await;
    assert_eq!(future.index(), index);
    let at_once = Instant::now();
    assert_eq!(
        client
            .get(&format!("/v1/kv/a?index={}&wait=10s", index - 1))
            .await
            .index(),
        index
    );
    assert_eq!(client.get("/v1/kv/a?wait=10s").await.index(), index);
    assert!(at_once.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_waits_no_longer() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let waiting = ask(&client, "/v1/kv/a?index=1000&wait=60s".into());
    watchers(&client, 1).await;
    waiting.abort();
    drop(waiting);
    watchers(&client, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_queries_of_one_key_wake_within_100_ms() {
    const COUNT: u64 = 1000;
    let cluster = Cluster::one().await;
    let client = cluster.client();
    assert!(client.wrote("/v1/kv/leader", "1").await);
    let index = client.get("/v1/kv/leader").await.index();
    let mut waiting = Vec::new();
    // Connections are made in portions: a thousand at once fill the listener's queue.
    for portion in 1..=COUNT / 100 {
        for _ in 0..100 {
            waiting.push(ask(&client, format!("/v1/kv/leader?index={index}&wait=60s")));
        }
        watchers(&client, 100 * portion).await;
    }
    let begun = Instant::now();
    assert!(client.wrote("/v1/kv/leader", "2").await);
    let committed = Instant::now();
    let mut delays = Vec::new();
    for waiter in waiting {
        let (answer, at) = waiter.await.unwrap();
        assert!(answer.status == 200 && answer.index() > index);
        delays.push(at.saturating_duration_since(committed));
    }
    delays.sort_unstable();
    let (median, last) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    eprintln!(
        "1000 watchers: commit {:?}, median {median:?} and last {last:?} after it (client and server in one process)",
        committed - begun
    );
    let limit = if cfg!(debug_assertions) { 1000 } else { 100 };
    assert!(last < Duration::from_millis(limit), "the last woke after {last:?}");
    until("the lines to be left", || true).await;
}
