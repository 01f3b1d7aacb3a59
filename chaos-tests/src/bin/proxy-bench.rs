//! What the way through the proxy costs: pgbench by the socket of the primary's own server, through the proxy of its node, and through
//! that of another node, in turns.
//!
//! Prints a table for people on standard error and one JSON object on standard output.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use conclave_chaos_tests::ledger::Access;
use conclave_chaos_tests::sample::Sample;
use conclave_localcluster::{LocalCluster, Progress, Spec};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_postgres::config::Host;

const NODES: u8 = 3;
const HEALTHY_DEADLINE: Duration = Duration::from_secs(180);
/// Rows of `pgbench_accounts`, in hundreds of thousands: all of it fits into the server's buffers.
const SCALE: &str = "--scale=4";

#[derive(Parser)]
struct Arguments {
    /// The `conclave` program; the one beside this program by default.
    #[arg(long)]
    program: Option<PathBuf>,
    /// The loopback address of node1; the others' follow it.
    #[arg(long, default_value_t = Ipv4Addr::new(127, 0, 0, 41))]
    first_address: Ipv4Addr,
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// For how many seconds each time.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
}

struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
}

/// What clients do.
struct Work {
    name: &'static str,
    options: &'static [&'static str],
}

const WORKS: [Work; 4] = [
    Work {
        name: "1 client, reads",
        options: &["--client=1", "--select-only"],
    },
    Work {
        name: "1 client, reads, a connection for each",
        options: &["--client=1", "--select-only", "--connect"],
    },
    Work {
        name: "16 clients, reads",
        options: &["--client=16", "--select-only"],
    },
    Work {
        name: "16 clients, writes",
        options: &["--client=16", "--skip-some-updates"],
    },
];

/// A way to the primary's server.
struct Way {
    name: &'static str,
    config: tokio_postgres::Config,
}

/// What one way took for one kind of work.
#[derive(Default)]
struct Figures {
    latency_ms: Sample,
    rate: Sample,
}

#[tokio::main]
async fn main() -> Result<()> {
    conclave_net::install_crypto_provider();
    let arguments = Arguments::parse();
    let program = conclave_chaos_tests::program_of_bench(arguments.program.as_deref())?;
    let root = tempfile::Builder::new().prefix("conclave-bench").tempdir()?;
    // PostgreSQL's account has to pass through.
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755))
        .context("open the folder to the servers")?;
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

async fn measure(spec: &Spec, arguments: &Arguments) -> Result<Value> {
    let cluster = LocalCluster::up_at(spec, arguments.first_address, &Silent).await?;
    cluster.wait_healthy(1, HEALTHY_DEADLINE).await?;
    let status = cluster.client(1)?.get_status("/v1/cluster/status").await?;
    let primary = status["database"]["primary"].as_u64();
    let primary = u8::try_from(primary.context("the status names no primary")?)?;
    let access = Access::new(&cluster);
    let ways = [
        Way {
            name: "its server's socket",
            config: access.way_to(primary),
        },
        Way {
            name: "its node's proxy",
            config: access.way_through(primary),
        },
        Way {
            name: "another node's proxy",
            config: access.way_through(primary % NODES + 1),
        },
    ];
    pgbench(&ways[0], &["--initialize", SCALE, "--quiet"]).await?;
    eprintln!("| pgbench | way to the primary | latency (ms) | transactions/s | of the socket's |");
    eprintln!("| --- | --- | --- | --- | --- |");
    let mut results = Vec::new();
    for work in &WORKS {
        let mut figures = ways.each_ref().map(|_| Figures::default());
        for _ in 0..arguments.rounds.max(1) {
            for (way, figures) in ways.iter().zip(&mut figures) {
                let (latency, rate) = run(way, work, arguments.seconds).await?;
                figures.latency_ms.0.push(latency);
                figures.rate.0.push(rate);
            }
        }
        let direct = figures[0].rate.quantile(0.5);
        for (way, figures) in ways.iter().zip(&figures) {
            let (latency, rate) = (figures.latency_ms.quantile(0.5), figures.rate.quantile(0.5));
            let share = 100.0 * rate / direct;
            eprintln!(
                "| {} | {} | {latency:.3} | {rate:.0} | {share:.0} % |",
                work.name, way.name
            );
            results.push(json!({
                "work": work.name, "way": way.name, "latency_ms": figures.latency_ms.json(), "per_second": figures.rate.json(),
            }));
        }
    }
    Ok(json!({ "seconds": arguments.seconds, "results": results }))
}

/// Latency in milliseconds, and transactions a second.
async fn run(way: &Way, work: &Work, seconds: u32) -> Result<(f64, f64)> {
    let time = format!("--time={seconds}");
    let said = pgbench(way, &[work.options, &["--no-vacuum", &time]].concat()).await?;
    let figure = |name: &str| -> Result<f64> {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        let word = word.with_context(|| format!("pgbench says no '{name}': {said}"))?;
        word.parse()
            .with_context(|| format!("what pgbench says of '{name}': {word}"))
    };
    Ok((figure("latency average =")?, figure("tps =")?))
}

async fn pgbench(way: &Way, arguments: &[&str]) -> Result<String> {
    let config = &way.config;
    let host = match config.get_hosts().first().context("a way leads to a host")? {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
    let output = Command::new("pgbench")
        .args(arguments)
        .env("PGHOST", host)
        .env("PGPORT", config.get_ports().first().unwrap_or(&5432).to_string())
        .env("PGUSER", config.get_user().unwrap_or_default())
        .env("PGPASSWORD", password)
        .env("PGDATABASE", config.get_dbname().unwrap_or_default())
        .output()
        .await
        .context("run pgbench")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench {}: {said}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
