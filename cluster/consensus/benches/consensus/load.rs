//! Closed-loop load: each client waits for its answer before it asks again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conclave_catalog::Command;
use conclave_catalog::directory::{DirectoryCommand, KvOp, KvWrite};
use serde::{Deserialize, Serialize};

/// What is loaded.
#[async_trait::async_trait]
pub(crate) trait Target: Send + Sync {
    /// A client with a connection of its own.
    async fn client(&self) -> anyhow::Result<Arc<dyn Client>>;
}

/// One client.
#[async_trait::async_trait]
pub(crate) trait Client: Send + Sync {
    /// Stores a value durably, on a majority.
    async fn put(&self, key: String, value: String) -> anyhow::Result<()>;
}

/// A key of Consul's KV, as a client of port 8500 writes it.
pub(crate) fn put(key: &str, value: String) -> Command {
    Command::Directory(DirectoryCommand::Kv(KvOp::Set(KvWrite {
        key: key.into(),
        value: value.into_bytes().into(),
        flags: 0,
    })))
}

/// The load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) run: Duration,
    pub(crate) value_bytes: usize,
}

/// What came of it. Times in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    pub(crate) failed: usize,
}

/// One cell of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Put {
    pub(crate) system: String,
    pub(crate) clients: usize,
    pub(crate) result: Outcome,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            per_second,
            p50,
            p99,
            max,
            failed,
        } = self;
        write!(
            f,
            "{per_second:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.1} ms, {failed} failed"
        )
    }
}

/// The value at a share of a sorted list.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let last = sorted.len() - 1;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let place = (share * last as f64).ceil() as usize;
    sorted[place.min(last)]
}

pub(crate) fn outcome(mut times: Vec<f64>, failed: usize, run: Duration) -> Outcome {
    times.sort_by(f64::total_cmp);
    Outcome {
        #[allow(clippy::cast_precision_loss)]
        per_second: times.len() as f64 / run.as_secs_f64(),
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
        max: quantile(&times, 1.0),
        failed,
    }
}

impl Load {
    /// Connects, warms up for a tenth of the time, then measures.
    pub(crate) async fn run(&self, target: &dyn Target) -> anyhow::Result<Outcome> {
        let mut clients = Vec::new();
        for number in 0..self.clients {
            let client = target.client().await?;
            client.put(format!("warm-up-{number}"), "x".into()).await?;
            clients.push(client);
        }
        let begin = Instant::now() + self.run / 10;
        let end = begin + self.run;
        let value = "v".repeat(self.value_bytes);
        let running: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                let value = value.clone();
                tokio::spawn(async move {
                    let (mut times, mut failed, mut turn) = (Vec::new(), 0, 0);
                    while Instant::now() < end {
                        turn = (turn + 1) % 16;
                        let asked = Instant::now();
                        let answer = client.put(format!("key-{number}-{turn}"), value.clone()).await;
                        if asked < begin {
                            continue;
                        }
                        match answer {
                            Ok(()) => times.push(asked.elapsed().as_secs_f64() * 1000.0),
                            Err(_) => failed += 1,
                        }
                    }
                    (times, failed)
                })
            })
            .collect();
        let (mut all, mut failures) = (Vec::new(), 0);
        for task in running {
            let (times, failed) = task.await?;
            all.extend(times);
            failures += failed;
        }
        Ok(outcome(all, failures, self.run))
    }
}
