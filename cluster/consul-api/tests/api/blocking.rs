//! Queries that wait.

use std::time::{Duration, Instant};

use crate::support::{Answer, Client, Cluster, Node};

/// Asks in the background.
fn ask(client: &Client, path: String) -> tokio::task::JoinHandle<Answer> {
    let client = client.clone();
    tokio::runtime::Handle::current().spawn(async move { client.get(&path).await })
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
    let answer = one_prefix.await.unwrap();
    assert!(answer.index() > prefix && answer.json().as_array().unwrap().len() == 1);
    client.delete("/v1/kv/p/a").await;
    let answer = one_key.await.unwrap();
    assert!(answer.status == 404 && answer.index() > key);
    assert!(!one_missing.is_finished());
    assert!(client.wrote("/v1/kv/q", "").await);
    let answer = one_missing.await.unwrap();
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

/// On each node of three, with the write at one of them. How fast they wake is measured by `deploy/bench consensus blocking`.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_queries_wake_on_one_write() {
    const COUNT: u64 = 999;
    let cluster = Cluster::of(3).await;
    let clients: Vec<Client> = cluster.nodes.iter().map(Node::client).collect();
    assert!(clients[0].wrote("/v1/kv/leader", "1").await);
    let index = clients[0].get("/v1/kv/leader").await.index();
    let mut waiting = Vec::new();
    // Connections are made in portions: a thousand at once fill the listener's queue.
    for portion in 1..=COUNT / 111 {
        for number in 0..111 {
            let client = &clients[number % clients.len()];
            waiting.push(ask(client, format!("/v1/kv/leader?index={index}&wait=100s")));
        }
        for client in &clients {
            watchers(client, 37 * portion).await;
        }
    }
    // One more, of another key, which is to sleep on.
    let other = ask(&clients[0], format!("/v1/kv/other?index={index}&wait=100s"));
    watchers(&clients[0], COUNT / 3 + 1).await;
    assert!(waiting.iter().all(|waiter| !waiter.is_finished()));
    assert!(clients[1].wrote("/v1/kv/leader", "2").await);
    let now = clients[1].get("/v1/kv/leader").await.index();
    for waiter in waiting {
        let answer = waiter.await.unwrap();
        assert_eq!((answer.status, answer.index()), (200, now));
        assert_eq!(answer.json()[0]["Value"], "Mg==");
    }
    watchers(&clients[0], 1).await;
    assert!(!other.is_finished());
    assert!(clients[2].wrote("/v1/kv/other", "").await);
    assert_eq!(other.await.unwrap().status, 200);
    for client in &clients {
        watchers(client, 0).await;
    }
}
