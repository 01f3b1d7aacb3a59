//! Clients that write all the time, each on a machine of its own, and what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use conclave_chaos_tests::hosts::Hosts;
use conclave_chaos_tests::ledger::open;
use conclave_chaos_tests::within;
use tokio_postgres::{Client, Config};

use crate::subject::{NODES, PATIENCE, Subject};

/// Between two statements of one client.
const PACE: Duration = Duration::from_millis(20);
/// A statement that takes longer has an unknown outcome, and the client looks for the primary anew.
const STATEMENT_LIMIT: Duration = Duration::from_secs(1);
/// A connection may be one that waits for a primary.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// A row that a client was told is there.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// The row.
    pub id: i64,
    /// The client's node.
    pub node: u8,
    asked: Instant,
    answered: Instant,
}

/// The clients. Dropping them ends them.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    next: AtomicI64,
    written: Mutex<Vec<Written>>,
}

impl Shared {
    fn written(&self) -> std::sync::MutexGuard<'_, Vec<Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    /// Makes the table and starts a client on each machine.
    pub async fn start<S: Subject>(subject: &S, hosts: &Hosts) -> Result<Self> {
        let client = open(&subject.way_to_primary(1)).await?;
        client
            .batch_execute("CREATE TABLE failover_bench (id bigint PRIMARY KEY)")
            .await?;
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for node in NODES {
            let (shared, config) = (Arc::clone(&shared), subject.way_to_primary(node));
            let (ready, entered) = std::sync::mpsc::sync_channel(1);
            let namespace = hosts.namespace(node);
            threads.push(std::thread::Builder::new().spawn(move || {
                let runtime = Hosts::enter(&namespace)
                    .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
                match runtime {
                    Ok(runtime) => {
                        let _starter_left = ready.send(Ok(()));
                        runtime.block_on(work(&shared, node, &config));
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?);
            entered
                .recv()?
                .with_context(|| format!("enter the machine of node{node}"))?;
        }
        Ok(Self { shared, threads })
    }

    /// Waits until each of these nodes' clients was told that a row is there that it asked for after `since`.
    pub async fn wait_for_writes(&self, nodes: &[u8], since: Instant) -> Result<()> {
        let seen = || async {
            let written = self.shared.written();
            let fresh = written.iter().rev().take_while(|row| row.answered >= since);
            let who: BTreeSet<u8> = fresh.filter(|row| row.asked >= since).map(|row| row.node).collect();
            nodes.iter().all(|node| who.contains(node)).then_some(())
        };
        let limit = PATIENCE.as_secs();
        within(PATIENCE, seen)
            .await
            .with_context(|| format!("no acknowledged write through each of {nodes:?} within {limit} s"))
    }

    /// The longest time since then in which none of these nodes' clients was told that a row is there.
    pub fn longest_gap(&self, nodes: &[u8], since: Instant) -> Duration {
        let mut last = since;
        let mut longest = Duration::ZERO;
        for row in self.shared.written().iter() {
            if row.answered > since && nodes.contains(&row.node) {
                longest = longest.max(row.answered.duration_since(last));
                last = row.answered;
            }
        }
        longest
    }

    /// Takes what was written so far.
    pub fn take(&self) -> Vec<Written> {
        std::mem::take(&mut *self.shared.written())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a client has panicked");
            }
        }
    }
}

/// How many of these rows are not there, by the node of the client that was told they are.
pub async fn lost<S: Subject>(subject: &S, written: &[Written]) -> Result<BTreeMap<u8, usize>> {
    let Some(first) = written.iter().map(|row| row.id).min() else {
        bail!("nothing was acknowledged");
    };
    let connected = within(PATIENCE, || async { open(&subject.way_to_primary(1)).await.ok() }).await;
    let client = connected.context("the checker gets no connection")?;
    let rows = client
        .query("SELECT id FROM failover_bench WHERE id >= $1", &[&first])
        .await?;
    let stored: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let mut lost = BTreeMap::new();
    for row in written.iter().filter(|row| !stored.contains(&row.id)) {
        *lost.entry(row.node).or_default() += 1;
    }
    Ok(lost)
}

async fn work(shared: &Shared, node: u8, config: &Config) {
    let mut client: Option<Client> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(connected) = &client else {
            let connecting = tokio::time::timeout(CONNECT_LIMIT, open(config)).await;
            client = connecting.ok().and_then(Result::ok);
            if client.is_none() {
                tokio::time::sleep(PACE).await;
            }
            continue;
        };
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let sql = format!("INSERT INTO failover_bench VALUES ({id})");
        let asked = Instant::now();
        let done = tokio::time::timeout(STATEMENT_LIMIT, connected.batch_execute(&sql)).await;
        if matches!(done, Ok(Ok(()))) {
            // In the order of the answers, for whoever looks for gaps.
            let mut written = shared.written();
            let answered = Instant::now();
            written.push(Written {
                id,
                node,
                asked,
                answered,
            });
        } else {
            client = None;
        }
        tokio::time::sleep(PACE).await;
    }
}
