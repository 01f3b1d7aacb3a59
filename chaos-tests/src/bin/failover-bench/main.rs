//! How long writes are away when a PostgreSQL's primary is lost, of this manager and of Patroni with etcd, on the same machine in
//! the same run: docs/benchmarks.md, "Failover".
//!
//! Three machines are network namespaces. A client on each of them writes a row every 20 ms. The primary's node is killed, or its
//! PostgreSQL, or it is cut off from both others, or another node is made primary as planned; then it comes back.
//! A table for people goes to standard error; `--json FILE` gets every trial.

mod clients;
mod conclave;
mod etcd;
mod rival;
mod subject;
mod trial;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use conclave_chaos_tests::hosts::Hosts;
use serde_json::{Value, json};

use crate::clients::Clients;
use crate::conclave::Conclave;
use crate::rival::{Rival, Timings};
use crate::subject::Subject;
use crate::trial::{Fault, Trials};

/// What is measured, and how often.
#[derive(Parser)]
struct Arguments {
    /// The `conclave` program; the one beside this program by default.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Who is measured.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "conclave,patroni-default,patroni-tightest"
    )]
    subjects: Vec<Who>,
    /// What goes wrong.
    #[arg(long, value_delimiter = ',', default_value = "node,postgres,cut,switchover")]
    faults: Vec<Fault>,
    /// How often, with Conclave.
    #[arg(long, default_value_t = 50)]
    trials: usize,
    /// How often with Patroni, whose trials take half a minute each.
    #[arg(long, default_value_t = 4)]
    patroni_trials: usize,
    /// Where every trial is written. What others have measured and stands there stays.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keeps the logs of what is measured there.
    #[arg(long)]
    logs: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Who {
    Conclave,
    PatroniDefault,
    PatroniTightest,
    PatroniSynchronous,
}

fn main() -> Result<()> {
    conclave_net::install_crypto_provider();
    let arguments = Arguments::parse();
    let program = conclave_chaos_tests::program_of_bench(arguments.program.as_deref())?;
    let hosts = Hosts::new(3).context("this benchmark needs root, for its network namespaces")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    for who in &arguments.subjects {
        let folder = tempfile::Builder::new().prefix("conclave-bench").tempdir()?;
        open_to_servers(folder.path())?;
        let outcome = runtime.block_on(async {
            match who {
                Who::Conclave => {
                    let subject = Conclave::start(folder.path(), program.clone(), &hosts).await?;
                    all_faults(subject, &hosts, &arguments, arguments.trials).await
                }
                Who::PatroniDefault => rival(folder.path(), &hosts, &arguments, &Timings::DEFAULT).await,
                Who::PatroniTightest => rival(folder.path(), &hosts, &arguments, &Timings::TIGHTEST).await,
                Who::PatroniSynchronous => rival(folder.path(), &hosts, &arguments, &Timings::SYNCHRONOUS).await,
            }
        });
        if let Some(kept) = &arguments.logs {
            keep_logs(folder.path(), kept)?;
        }
        outcome.with_context(|| format!("{who:?}"))?;
    }
    Ok(())
}

/// The servers' accounts have to pass through.
fn open_to_servers(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).context("open the folder to the servers")
}

async fn rival(folder: &Path, hosts: &Hosts, arguments: &Arguments, timings: &Timings) -> Result<()> {
    let subject = Rival::start(folder, timings, hosts).await?;
    all_faults(subject, hosts, arguments, arguments.patroni_trials).await
}

async fn all_faults<S: Subject>(mut subject: S, hosts: &Hosts, arguments: &Arguments, count: usize) -> Result<()> {
    eprintln!("\n{}\n", subject.name());
    let outcome = async {
        let clients = Clients::start(&subject, hosts).await?;
        for fault in &arguments.faults {
            let mut trials = Trials::default();
            for number in 1..=count {
                let trial = trial::run(&mut subject, hosts, &clients, *fault).await;
                let trial = trial.with_context(|| format!("{fault:?}, trial {number}"))?;
                eprintln!("{fault:?} {number}: {trial}");
                trials.add(trial);
                // Also of a run that does not come to its end.
                if let Some(file) = &arguments.json {
                    record(file, subject.name(), *fault, &trials)?;
                }
            }
            trials.show(*fault);
        }
        Ok(())
    }
    .await;
    subject.stop().await?;
    outcome
}

/// Puts the trials in the place of what the file says of that subject and fault.
fn record(file: &Path, subject: &str, fault: Fault, trials: &Trials) -> Result<()> {
    let mut all: Value = match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))?,
        Err(_none_yet) => json!({}),
    };
    all[subject][fault.key()] = trials.json();
    std::fs::write(file, serde_json::to_vec_pretty(&all)?).with_context(|| format!("write {}", file.display()))
}

/// Every log below the folder, under the name of the folder that it lies in.
fn keep_logs(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("data/postgres/data") {
                keep_logs(&path, to)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let name = path.strip_prefix("/tmp").unwrap_or(&path).display().to_string();
            std::fs::copy(&path, to.join(name.replace('/', "-")))?;
        }
    }
    Ok(())
}
