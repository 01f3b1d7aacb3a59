//! `conclave-local`: what `deploy/up` and `deploy/down` run.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use conclave_localcluster::{FIRST_ADDRESS, LocalCluster, Progress, Spec, UpError, default_dir, run_demo};
use serde_json::json;

const SERVING_DEADLINE: Duration = Duration::from_secs(60);
const HEALTHY_DEADLINE: Duration = Duration::from_secs(120);

/// A cluster of manager nodes on this machine.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the cluster, making it if it is not there.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
        nodes: u8,
        /// Everything is kept below it.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// The loopback address of node1; the others' follow it.
        #[arg(long, default_value_t = FIRST_ADDRESS)]
        first_address: Ipv4Addr,
        /// The `conclave` program; the one beside this program by default.
        #[arg(long)]
        program: Option<PathBuf>,
        /// The folder of the example blueprint.
        #[arg(long)]
        example: Option<PathBuf>,
        /// Do not install the example.
        #[arg(long)]
        no_demo: bool,
        /// Print one JSON object as the last line.
        #[arg(long)]
        json: bool,
    },
    /// Stop the cluster.
    Down {
        /// Where it is.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Remove all that it kept.
        #[arg(long)]
        wipe: bool,
    },
}

/// Steps go to standard error with the time since the start.
struct Printer(Instant);

impl Progress for Printer {
    fn step(&self, text: &str) {
        eprintln!("[{:6.2} s] {text}", self.0.elapsed().as_secs_f64());
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    conclave_net::install_crypto_provider();
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conclave-local: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    let printer = Printer(Instant::now());
    match command {
        Command::Up {
            nodes,
            dir,
            first_address,
            program,
            example,
            no_demo,
            json,
        } => {
            if nodes % 2 == 0 {
                bail!("--nodes: 1, 3 or 5; an even node adds no safety");
            }
            let spec = Spec {
                nodes,
                dir: dir.unwrap_or_else(default_dir),
                program: program_path(program)?,
            };
            up(
                &spec,
                first_address,
                example.as_deref().filter(|_| !no_demo),
                json,
                &printer,
            )
            .await
        }
        Command::Down { dir, wipe } => {
            let dir = dir.unwrap_or_else(default_dir);
            match LocalCluster::load(&dir) {
                Ok(cluster) => Ok(cluster.down(wipe, &printer).await?),
                Err(UpError::NoCluster(_)) => {
                    printer.step(&format!("{} holds no cluster: nothing to stop", dir.display()));
                    Ok(())
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

fn program_path(given: Option<PathBuf>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("conclave"),
    };
    path.canonicalize()
        .with_context(|| format!("{}: the conclave program is not there", path.display()))
}

async fn up(spec: &Spec, first_address: Ipv4Addr, example: Option<&Path>, json: bool, printer: &Printer) -> Result<()> {
    let cluster = LocalCluster::up_at(spec, first_address, printer).await?;
    cluster.wait_serving(1, SERVING_DEADLINE).await?;
    printer.step("the API reads and writes");
    cluster.wait_healthy(1, HEALTHY_DEADLINE).await?;
    printer.step(&format!("{} nodes are healthy in every part", spec.nodes));
    if let Some(example) = example {
        let demo = run_demo(&cluster.client(1)?, example, printer).await?;
        printer.step(&format!("install: {}", demo.status));
        printer.step(&format!("outputs: {}", demo.outputs));
    }
    for node in cluster.nodes() {
        printer.step(&format!(
            "{}: API {}, status {}/v1/cluster/status",
            node.name, node.rest, node.status
        ));
    }
    let admin = cluster.admin();
    printer.step(&format!(
        "user {}, password {}, CA {}",
        admin.username,
        admin.password,
        cluster.ca_file().display()
    ));
    if json {
        println!(
            "{}",
            json!({"nodes": cluster.nodes(), "admin": admin, "ca_cert": cluster.ca_file()})
        );
    }
    Ok(())
}
