//! How long the group is without a leader, and what it costs when nothing happens.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::Options;
use crate::cluster::{Cluster, RemoteClient};
use crate::load::{Client, quantile};

/// Between trials the group settles.
const SETTLE: Duration = Duration::from_millis(700);

pub(crate) fn summary(mut times: Vec<f64>) -> Value {
    times.sort_by(f64::total_cmp);
    json!({
        "trials": times.len(),
        "min_ms": times.first(),
        "p50_ms": quantile(&times, 0.5),
        "p90_ms": quantile(&times, 0.9),
        "p99_ms": quantile(&times, 0.99),
        "max_ms": times.last(),
    })
}

/// From now until a survivor has accepted a write.
async fn until_accepted(client: &RemoteClient, since: Instant, number: usize) -> anyhow::Result<f64> {
    client.put(format!("trial-{number}"), "x".into()).await?;
    Ok(since.elapsed().as_secs_f64() * 1000.0)
}

/// SIGKILL to the leader; the write goes to a survivor.
pub(crate) async fn kills(cluster: &mut Cluster, trials: usize) -> anyhow::Result<Value> {
    let mut times = Vec::new();
    for number in 0..trials {
        let leader = cluster.leader().await?;
        let survivor = *cluster.nodes.keys().find(|node| **node != leader).expect("three nodes");
        let client = RemoteClient(cluster.nodes[&survivor].admin()?);
        client.put("before".into(), "x".into()).await?;
        let killed = Instant::now();
        cluster.nodes.get_mut(&leader).expect("the leader").kill()?;
        times.push(until_accepted(&client, killed, number).await?);
        tokio::time::sleep(SETTLE).await;
        cluster.nodes.get_mut(&leader).expect("the leader").restart()?;
        cluster
            .wait_for("the killed node's return", |status| status["quorum"] == true)
            .await?;
        tokio::time::sleep(SETTLE).await;
    }
    Ok(summary(times))
}

/// SIGSTOP to the leader: its connections stay and say nothing.
pub(crate) async fn freezes(cluster: &Cluster, trials: usize) -> anyhow::Result<Value> {
    let mut times = Vec::new();
    for number in 0..trials {
        let leader = cluster.leader().await?;
        let survivor = *cluster.nodes.keys().find(|node| **node != leader).expect("three nodes");
        let client = RemoteClient(cluster.nodes[&survivor].admin()?);
        client.put("before".into(), "x".into()).await?;
        let frozen = Instant::now();
        cluster.nodes[&leader].signal(Signal::SIGSTOP)?;
        let outcome = until_accepted(&client, frozen, number).await;
        cluster.nodes[&leader].signal(Signal::SIGCONT)?;
        times.push(outcome?);
        cluster
            .wait_for("the frozen node's return", |status| status["quorum"] == true)
            .await?;
        tokio::time::sleep(SETTLE).await;
    }
    Ok(summary(times))
}

/// Planned hand-overs while clients of every node write: the longest time that a client waited, and failed writes.
pub(crate) async fn transfers(cluster: &Cluster, trials: usize) -> anyhow::Result<Value> {
    let (mut pauses, mut calls, mut missed) = (Vec::new(), Vec::new(), 0);
    let failed = Arc::new(AtomicUsize::new(0));
    for _ in 0..trials {
        let leader = cluster.leader().await?;
        let next = *cluster.nodes.keys().find(|node| **node != leader).expect("three nodes");
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for (number, node) in &cluster.nodes {
            let client = RemoteClient(node.admin()?);
            let (stop, failed, number) = (Arc::clone(&stop), Arc::clone(&failed), *number);
            writers.push(tokio::spawn(async move {
                let mut longest = 0.0_f64;
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    if client.put(format!("writer-{number}"), "x".into()).await.is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    longest = longest.max(asked.elapsed().as_secs_f64() * 1000.0);
                }
                longest
            }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let answer = tokio::task::block_in_place(|| cluster.nodes[&leader].ask(&format!("transfer {next}")))?;
        calls.push(answer["ms"].as_f64().unwrap_or(f64::NAN));
        tokio::time::sleep(Duration::from_millis(150)).await;
        if cluster.leader().await? != next {
            missed += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let mut longest = 0.0_f64;
        for writer in writers {
            longest = longest.max(writer.await?);
        }
        pauses.push(longest);
        tokio::time::sleep(SETTLE).await;
    }
    Ok(json!({
        "longest wait of a write": summary(pauses),
        "the call": summary(calls),
        "failed writes": failed.load(Ordering::Relaxed),
        "another node led afterwards": missed,
    }))
}

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

pub(crate) fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default();
    let kib: f64 = line.split_whitespace().nth(1).unwrap_or("nan").parse()?;
    Ok(kib / 1024.0)
}

/// What the group costs when nobody asks it anything.
pub(crate) async fn idle(cluster: &Cluster, time: Duration) -> anyhow::Result<Value> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let leader = cluster.leader().await?;
    let mut before = Vec::new();
    for (number, node) in &cluster.nodes {
        before.push((*number, node.pid(), cpu_seconds(node.pid())?));
    }
    tokio::time::sleep(time).await;
    let mut nodes = Vec::new();
    for (number, pid, cpu) in before {
        nodes.push(json!({
            "node": number,
            "leads": number == leader,
            "percent of a core": (cpu_seconds(pid)? - cpu) / time.as_secs_f64() * 100.0,
            "resident MiB": resident_mib(pid)?,
        }));
    }
    Ok(json!(nodes))
}

/// Two busy threads per core and a writer that syncs, or what else keeps the machine busy: the group must keep its leader.
pub(crate) async fn soak(cluster: &Cluster, options: &Options, root: &Path) -> anyhow::Result<Value> {
    let time = Duration::from_secs(options.soak);
    let term = |cluster: &Cluster| -> anyhow::Result<u64> {
        let terms = cluster.nodes.values().map(|node| node.ask("status"));
        Ok(terms
            .filter_map(|status| status.ok()?["term"].as_u64())
            .max()
            .unwrap_or(0))
    };
    let before = term(cluster)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let busy_threads = if options.busy { 0 } else { 2 * cores };
    for _ in 0..busy_threads {
        let stop = Arc::clone(&stop);
        threads.push(std::thread::spawn(move || {
            let mut number = 1_u64;
            while !stop.load(Ordering::Relaxed) {
                number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        }));
    }
    if !options.busy {
        let (stopping, file) = (Arc::clone(&stop), root.join("disk-load"));
        threads.push(std::thread::spawn(move || {
            use std::io::Write;
            let block = vec![7; 4 << 20];
            while !stopping.load(Ordering::Relaxed) {
                let mut file = std::fs::File::create(&file).expect("a file");
                for _ in 0..8 {
                    file.write_all(&block).expect("a write");
                }
                file.sync_all().expect("a sync");
            }
        }));
    }
    let begin = Instant::now();
    let mut loads = Vec::new();
    while begin.elapsed() < time {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        loads.extend(load.split(' ').next().and_then(|minute| minute.parse::<f64>().ok()));
    }
    loads.sort_by(f64::total_cmp);
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("the load's thread");
    }
    Ok(json!({
        "seconds": time.as_secs(),
        "elections": term(cluster)? - before,
        "load average: min, median, max": [quantile(&loads, 0.0), quantile(&loads, 0.5), quantile(&loads, 1.0)],
    }))
}
