//! Measures the Raft group on three processes of this machine, beside three etcd members in the same run.
//!
//! `deploy/bench consensus` builds and runs it. Every node is a process of its own with its own folder on the same disk; all
//! sync their logs; all traffic is TLS in which both sides prove who they are. The clients of both systems are this program,
//! over gRPC with the same TLS, the same number of connections and the same values.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark stops where something is not as it should be"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the benchmark's own tasks; it is no part of the product"
)]

mod blocking;
mod cluster;
mod etcd;
mod failover;
mod load;
mod node;
mod report;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use crate::cluster::Cluster;
use crate::etcd::Etcd;
use crate::load::{Load, Put, Target};
use crate::report::Report;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is measured, and how much of it.
#[derive(Parser, Debug, Clone)]
pub(crate) struct Options {
    /// Which parts: put, failover, freeze, transfer, idle, blocking, state, soak; all but soak by default.
    parts: Vec<String>,
    /// Rounds of each load; the systems take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds a load runs.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Clients of the throughput load, each with a connection of its own.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Trials of each way to lose the leader.
    #[arg(long, default_value_t = 50)]
    trials: usize,
    /// Queries that wait for one key.
    #[arg(long, default_value_t = 1000)]
    queries: usize,
    /// Seconds of the soak: idle group, loaded processor and disk.
    #[arg(long, default_value_t = 300)]
    soak: u64,
    /// Leaves the soak's own load out: the machine is busy already.
    #[arg(long)]
    busy: bool,
    /// Files in the manifest of the large state.
    #[arg(long, default_value_t = 200_000)]
    files: usize,
    /// Keys in the large state.
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// Leaves etcd out.
    #[arg(long)]
    no_etcd: bool,
    /// Where the JSON goes.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the nodes' folders are made; the system's temporary folder by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Cargo passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How a node process is called by the benchmark itself.
const NODE: &str = "--conclave-node";

fn main() -> anyhow::Result<()> {
    conclave_net::install_crypto_provider();
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == NODE) {
        return node::main(&arguments[2..]);
    }
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&options))
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let root = tempfile::Builder::new().prefix("consensus-bench").tempdir_in(parent)?;
    let wanted =
        |part: &str| options.parts.iter().any(|name| name == part) || (options.parts.is_empty() && part != "soak");
    let mut report = Report::new();
    if ["put", "failover", "freeze", "transfer", "idle", "blocking", "soak"]
        .iter()
        .any(|part| wanted(part))
    {
        let mut cluster = Cluster::start(&root.path().join("conclave"), 3).await?;
        if wanted("idle") {
            report.add("idle", failover::idle(&cluster, Duration::from_secs(30)).await?);
        }
        if wanted("put") {
            puts(options, &cluster, root.path(), &mut report).await?;
        }
        // What serves the queries goes on to run: after what is measured of a member without it.
        if wanted("blocking") {
            let result = blocking::queries(&cluster, options.queries, options.trials).await?;
            report.add("blocking queries", result);
        }
        if wanted("transfer") {
            report.add("transfer", failover::transfers(&cluster, options.trials).await?);
        }
        if wanted("failover") {
            report.add("leader killed", failover::kills(&mut cluster, options.trials).await?);
        }
        if wanted("freeze") {
            report.add("leader frozen", failover::freezes(&cluster, options.trials).await?);
        }
        if wanted("soak") {
            let result = failover::soak(&cluster, options, root.path()).await?;
            report.add("soak", result);
        }
        cluster.stop();
    }
    if wanted("state") {
        report.add("large state", state::large(options, &root.path().join("state")).await?);
    }
    report.print();
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report.json())?)?;
    }
    Ok(())
}

async fn puts(options: &Options, cluster: &Cluster, root: &std::path::Path, report: &mut Report) -> anyhow::Result<()> {
    let etcd = if options.no_etcd {
        None
    } else {
        Some(Etcd::start(&root.join("etcd"), &cluster.identity_of(1)?).await?)
    };
    let run = Duration::from_secs(options.seconds);
    for clients in [1, options.clients] {
        for round in 0..options.rounds {
            let load = Load {
                clients,
                run,
                value_bytes: 256,
            };
            let mut cells = Vec::new();
            let leader = cluster.leader().await?;
            cells.push(("conclave, gRPC + mTLS", load.run(&cluster.target(leader)?).await?));
            cells.push((
                "conclave, in the leader's process",
                cluster.load_inside(leader, &load).await?,
            ));
            cells.push((
                "gRPC + mTLS alone, nothing written",
                load.run(&cluster.transport(leader)?).await?,
            ));
            if let Some(etcd) = &etcd {
                let target: Box<dyn Target> = Box::new(etcd.target().await?);
                cells.push(("etcd, gRPC + mTLS", load.run(&*target).await?));
            }
            for (system, result) in cells {
                eprintln!("{system}, {clients} clients, round {round}: {result}");
                report.put(Put {
                    system: system.into(),
                    clients,
                    result,
                });
            }
        }
    }
    if let Some(etcd) = etcd {
        report.note("etcd", json!(etcd.version()));
    }
    Ok(())
}
