//! Measures a three-node cluster on this machine: start, install, memory and CPU at rest, and what a client sees of a lost leader.
//!
//! Prints a table for people on standard error and one JSON object on standard output. Times are seconds.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use conclave_chaos_tests::sample::Sample;
use conclave_localcluster::{FIRST_ADDRESS, LocalCluster, Progress, RestClient, Spec};
use serde_json::{Value, json};

const NODES: u8 = 3;
const WRITE_PERIOD: Duration = Duration::from_millis(20);
/// A write that has no answer by then counts as refused; the client asks again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
const HEALTHY_DEADLINE: Duration = Duration::from_secs(180);
/// What a manager holds is read when start-up is over and nobody asks for anything.
const IDLE: Duration = Duration::from_secs(15);
/// Over how long the CPU time of managers at rest is taken.
const IDLE_CPU: Duration = Duration::from_secs(60);
/// Linux tells programs CPU times in these, whatever the kernel counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is measured, and how often.
#[derive(Parser)]
struct Arguments {
    /// The `conclave` program; the one beside this program by default.
    #[arg(long)]
    program: Option<PathBuf>,
    /// The folder of the example blueprint.
    #[arg(long)]
    example: PathBuf,
    /// The loopback address of node1; the others' follow it.
    #[arg(long, default_value_t = FIRST_ADDRESS)]
    first_address: Ipv4Addr,
    /// How often a cluster is started.
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// How often the example is installed.
    #[arg(long, default_value_t = 20)]
    installs: usize,
    /// How often the leader is killed.
    #[arg(long, default_value_t = 10)]
    failovers: usize,
}

struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
}

#[tokio::main]
async fn main() -> Result<()> {
    conclave_net::install_crypto_provider();
    let arguments = Arguments::parse();
    let program = conclave_chaos_tests::program_of_bench(arguments.program.as_deref())?;
    let root = tempfile::Builder::new().prefix("conclave-bench").tempdir()?;
    open_to_servers(root.path())?;
    let spec = Spec {
        nodes: NODES,
        dir: root.path().join("cluster"),
        program,
    };
    let outcome = measure(&spec, &arguments).await;
    // Also after a failure: nothing is left running.
    if let Ok(cluster) = LocalCluster::load(&spec.dir) {
        cluster.down(true, &Silent).await?;
    }
    println!("{}", outcome?);
    Ok(())
}

/// PostgreSQL's and RabbitMQ's accounts have to pass through.
fn open_to_servers(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).context("open the folder to the servers")
}

async fn measure(spec: &Spec, arguments: &Arguments) -> Result<Value> {
    eprintln!("| | p50 | min | max | trials |\n| --- | --- | --- | --- | --- |");
    let (mut writes, mut healthy) = (Sample::default(), Sample::default());
    for trial in 0..arguments.starts.max(1) {
        if trial > 0 {
            LocalCluster::load(&spec.dir)?.down(true, &Silent).await?;
        }
        let started = Instant::now();
        let cluster = LocalCluster::up_at(spec, arguments.first_address, &Silent).await?;
        first_write(&cluster.client(1)?).await?;
        writes.add(started.elapsed());
        cluster.wait_healthy(1, HEALTHY_DEADLINE).await?;
        healthy.add(started.elapsed());
    }
    writes.show("start until REST reads and writes (s)");
    healthy.show("start until three nodes are healthy in every part (s)");
    let cluster = LocalCluster::load(&spec.dir)?;
    tokio::time::sleep(IDLE).await;
    let memory = (1..=NODES)
        .map(|number| resident_mib(&cluster, number))
        .collect::<Result<Vec<_>>>()?;
    eprintln!("| resident memory of an idle manager (MiB) | {memory:?} | | | |");
    let cpu = idle_cpu(&cluster).await?;
    eprintln!("| CPU of an idle manager (% of a core) | {cpu:?} | | | |");
    let installs = installs(&cluster, &arguments.example, arguments.installs).await?;
    installs.show("install of hello-world (s)");
    let failovers = failovers(&cluster, arguments.failovers).await?;
    failovers
        .gap
        .show("no write acknowledged after kill -9 of the primary's node (s)");
    failovers.back.show("started again until healthy in every part (s)");
    eprintln!(
        "| acknowledged writes, of them lost | {}, {} | | | |",
        failovers.acknowledged, failovers.lost
    );
    eprintln!("| lost nodes that also led the Raft group | {} | | | |", failovers.led);
    Ok(json!({
        "start_until_write_s": writes.json(), "start_until_healthy_s": healthy.json(), "idle_manager_mib": memory,
        "idle_manager_cpu_percent": cpu, "install_s": installs.json(), "write_gap_s": failovers.gap.json(), "back_until_healthy_s": failovers.back.json(),
        "lost_node_led": failovers.led, "acknowledged": failovers.acknowledged, "lost": failovers.lost,
    }))
}

async fn first_write(client: &RestClient) -> Result<()> {
    let end = Instant::now() + HEALTHY_DEADLINE;
    loop {
        let answer = client
            .call("POST", "/api/v3.1/tenants/first", Bytes::new(), WRITE_TIMEOUT)
            .await;
        // A conflict is the answer to a repetition of a write whose first answer was lost.
        if answer.is_ok_and(|answer| matches!(answer.status, 201 | 409)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the cluster takes no writes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn resident_mib(cluster: &LocalCluster, number: u8) -> Result<f64> {
    let manager = cluster.manager(number).context("the manager runs")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", manager.pid))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("VmRSS")?
        .parse()?;
    Ok((kib / 1024.0 * 10.0).round() / 10.0)
}

/// What each manager takes of one core while nobody asks for anything.
async fn idle_cpu(cluster: &LocalCluster) -> Result<Vec<f64>> {
    let times = || {
        (1..=NODES)
            .map(|number| cpu_time(cluster, number))
            .collect::<Result<Vec<_>>>()
    };
    let (before, started) = (times()?, Instant::now());
    tokio::time::sleep(IDLE_CPU).await;
    let (after, passed) = (times()?, started.elapsed().as_secs_f64());
    let percent = |(after, before): (f64, f64)| ((after - before) / passed * 10_000.0).round() / 100.0;
    Ok(after.into_iter().zip(before).map(percent).collect())
}

/// User and system time since the manager's start, in seconds.
fn cpu_time(cluster: &LocalCluster, number: u8) -> Result<f64> {
    let manager = cluster.manager(number).context("the manager runs")?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", manager.pid))?;
    // The name in brackets may hold anything, so fields count from its closing bracket.
    let (_, fields) = stat.rsplit_once(')').context("the name")?;
    let ticks: Vec<f64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

async fn installs(cluster: &LocalCluster, example: &Path, count: usize) -> Result<Sample> {
    let client = cluster.client(1)?;
    let archive = conclave_archive::pack_tar_gz(example, "hello")?;
    client
        .expect("PUT", "/api/v3.1/blueprints/hello", archive.into())
        .await?;
    let mut sample = Sample::default();
    for trial in 0..count {
        let deployment = format!("hello{trial}");
        let work_dir = cluster.layout().dir().join(&deployment);
        let create = json!({"blueprint_id": "hello", "inputs": {"work_dir": work_dir}});
        let path = format!("/api/v3.1/deployments/{deployment}");
        client.expect("PUT", &path, create.to_string().into()).await?;
        let start = json!({"deployment_id": deployment, "workflow_id": "install"});
        let started = Instant::now();
        let execution = client
            .expect("POST", "/api/v3.1/executions", start.to_string().into())
            .await?;
        let path = format!("/api/v3.1/executions/{}", execution["id"].as_str().unwrap_or_default());
        loop {
            let now = client.expect("GET", &path, Bytes::new()).await?;
            match now["status"].as_str() {
                Some("terminated") => break,
                Some("failed" | "cancelled") => anyhow::bail!("the install ended {}: {}", now["status"], now["error"]),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        sample.add(started.elapsed());
    }
    Ok(sample)
}

/// What a client saw of the losses.
#[derive(Default)]
struct Failovers {
    gap: Sample,
    back: Sample,
    acknowledged: usize,
    lost: usize,
    /// How often the lost node led the Raft group as well.
    led: usize,
}

async fn failovers(cluster: &LocalCluster, count: usize) -> Result<Failovers> {
    let mut seen = Failovers::default();
    for trial in 0..count {
        let status = cluster.client(1)?.get_status("/v1/cluster/status").await?;
        // The node whose PostgreSQL is primary: the loss of any other costs a client next to nothing.
        let primary = &status["database"]["primary"];
        let nodes = status["nodes"].as_array().context("the nodes")?;
        let node = nodes.iter().find(|node| node["id"] == *primary).context("a primary")?;
        let name = node["name"].as_str().context("a name")?;
        seen.led += usize::from(status["leader"]["id"] == *primary);
        let leader: u8 = name.trim_start_matches("node").parse()?;
        let survivor = if leader == 1 { 2 } else { 1 };
        let client = cluster.client(survivor)?;
        let mut writer = Writer::new(client.clone(), trial);
        writer.write_until(Instant::now() + Duration::from_millis(500)).await;
        ensure!(
            !writer.acknowledged.is_empty(),
            "nothing could be written before the kill"
        );
        cluster.kill(leader);
        let killed = Instant::now();
        writer.gap = Duration::ZERO;
        writer.last = killed;
        writer.write_until(killed + Duration::from_secs(4)).await;
        ensure!(
            writer.last > killed,
            "no write was acknowledged after the kill of {name}"
        );
        seen.gap.add(writer.gap);
        let (acknowledged, lost) = writer.check().await?;
        seen.acknowledged += acknowledged;
        seen.lost += lost;
        let started = Instant::now();
        cluster.start(leader).await?;
        cluster.wait_healthy(survivor, HEALTHY_DEADLINE).await?;
        seen.back.add(started.elapsed());
    }
    Ok(seen)
}

/// Writes one row after the other and remembers which were acknowledged.
struct Writer {
    client: RestClient,
    trial: usize,
    next: usize,
    acknowledged: Vec<String>,
    last: Instant,
    gap: Duration,
}

impl Writer {
    fn new(client: RestClient, trial: usize) -> Self {
        Self {
            client,
            trial,
            next: 0,
            acknowledged: Vec::new(),
            last: Instant::now(),
            gap: Duration::ZERO,
        }
    }

    /// Writes every 20 ms until `end`, and goes on after it until a write is acknowledged (or half a minute has passed).
    async fn write_until(&mut self, end: Instant) {
        let begun = Instant::now();
        let give_up = end + Duration::from_secs(30);
        while Instant::now() < end || (self.last < begun && Instant::now() < give_up) {
            let name = format!("w{}-{}", self.trial, self.next);
            self.next += 1;
            let path = format!("/api/v3.1/tenants/{name}");
            let answer = self.client.call("POST", &path, Bytes::new(), WRITE_TIMEOUT).await;
            if answer.is_ok_and(|answer| answer.status == 201) {
                self.gap = self.gap.max(self.last.elapsed());
                self.last = Instant::now();
                self.acknowledged.push(name);
            }
            tokio::time::sleep(WRITE_PERIOD).await;
        }
    }

    /// How many writes were acknowledged, and how many of them are not there.
    async fn check(&self) -> Result<(usize, usize)> {
        let all = self
            .client
            .expect("GET", "/api/v3.1/tenants?_get_all_results=true", Bytes::new())
            .await?;
        let stored: std::collections::HashSet<&str> = all["items"]
            .as_array()
            .context("a list of tenants")?
            .iter()
            .filter_map(|tenant| tenant["name"].as_str())
            .collect();
        let lost = self
            .acknowledged
            .iter()
            .filter(|name| !stored.contains(name.as_str()))
            .count();
        Ok((self.acknowledged.len(), lost))
    }
}
