//! How fast queries of the HTTP API that wait for a change come back with it: all of them at one follower, woken by one write.

use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use conclave_consul_api::token;
use conclave_net::{Answer, HttpsClient};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::cluster::{ADDRESS, Cluster};
use crate::failover::summary;

const KEY: &str = "/v1/kv/watched";
/// Connections are made in portions: more at once would fill the listener's queue.
const PORTION: usize = 100;
/// Longer than a trial.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone)]
struct Client {
    https: HttpsClient,
    base: String,
    token: String,
}

impl Client {
    async fn send(&self, method: &str, path: &str, body: String) -> anyhow::Result<Answer> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("x-consul-token", &self.token)
            .body(Full::new(Bytes::from(body)))?;
        let answer = self.https.send(request, LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{method} {path}: {}", answer.status);
        Ok(answer)
    }

    async fn index(&self) -> anyhow::Result<u64> {
        let answer = self.send("GET", KEY, String::new()).await?;
        let index = answer.headers.get("x-consul-index").context("an index")?;
        Ok(index.to_str()?.parse()?)
    }

    /// Until so many queries wait there.
    async fn all_wait(&self, count: usize) -> anyhow::Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            let page = self.send("GET", "/metrics", String::new()).await?;
            let page = String::from_utf8_lossy(&page.body).into_owned();
            let waiting = page.lines().find_map(|line| line.strip_prefix("conclave_watchers "));
            if waiting.is_some_and(|waiting| waiting.parse() == Ok(count)) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "{waiting:?} queries wait, not {count}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// `count` queries a trial. Times run from the moment that the write is sent, so that they hold its own.
pub(crate) async fn queries(cluster: &Cluster, count: usize, trials: usize) -> anyhow::Result<Value> {
    let leader = cluster.leader().await?;
    let follower = *cluster
        .nodes
        .keys()
        .find(|node| **node != leader)
        .context("a follower")?;
    let served = cluster.nodes[&follower].ask("api")?;
    let identity = cluster.identity_of(follower)?;
    let client = Client {
        https: HttpsClient::trusting(&identity.ca_certificate_pem)?,
        base: format!("https://{ADDRESS}:{}", served["port"]),
        token: token(&identity),
    };
    client.send("PUT", KEY, "first".into()).await?;
    let (mut writes, mut wakes, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for trial in 0..trials {
        let path = format!("{KEY}?index={}&wait=100s", client.index().await?);
        let mut waiting = tokio::task::JoinSet::new();
        while waiting.len() < count {
            for _ in 0..PORTION.min(count - waiting.len()) {
                let (client, path) = (client.clone(), path.clone());
                waiting.spawn(async move {
                    let answer = client.send("GET", &path, String::new()).await;
                    answer.map(|_| Instant::now())
                });
            }
            client.all_wait(waiting.len()).await?;
        }
        let sent = Instant::now();
        client.send("PUT", KEY, format!("trial {trial}")).await?;
        let milliseconds = |until: Instant| until.saturating_duration_since(sent).as_secs_f64() * 1000.0;
        writes.push(milliseconds(Instant::now()));
        let mut own = Vec::new();
        while let Some(woken) = waiting.join_next().await {
            own.push(milliseconds(woken??));
        }
        last.push(own.iter().copied().fold(0.0, f64::max));
        wakes.extend(own);
    }
    Ok(json!({
        "queries": count, "write": summary(writes), "woken": summary(wakes), "last of a trial": summary(last),
    }))
}
