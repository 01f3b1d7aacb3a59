//! How long files take from one node to all nodes, of this manager and of Debian's syncthing, on the same machine in the same run:
//! docs/benchmarks.md, "Resource files".
//!
//! Three nodes on loopback addresses. A file, a set of files, a large file, and a large file with one byte more are brought to one node, through
//! the API or on its disk; they are there when every node's tree shows them, whole and with the right bytes.
//! A table for people goes to standard error; `--json FILE` gets every trial.

mod conclave;
mod content;
mod figures;
mod parts;
mod subject;
mod syncthing;
mod visible;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use conclave_localcluster::FIRST_ADDRESS;
use serde_json::{Value, json};

use crate::conclave::Conclave;
use crate::content::Workshop;
use crate::figures::Trials;
use crate::parts::Part;
use crate::subject::Subject;
use crate::syncthing::{Noticing, Syncthing};

/// What is measured, and how often.
#[derive(Parser)]
struct Arguments {
    /// The `conclave` program; the one beside this program by default.
    #[arg(long)]
    program: Option<PathBuf>,
    /// The loopback address of the first node; the others' follow it.
    #[arg(long, default_value_t = FIRST_ADDRESS)]
    first_address: Ipv4Addr,
    /// Who is measured.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "conclave,syncthing-default,syncthing-tightest,syncthing-asked"
    )]
    subjects: Vec<Who>,
    /// What is brought to the nodes.
    #[arg(long, value_delimiter = ',', default_value = "small,set,large,insert")]
    parts: Vec<Part>,
    /// How often a small file, with Conclave and each way.
    #[arg(long, default_value_t = 100)]
    trials: usize,
    /// How often a small file with Syncthing, which takes up to 10 s for each.
    #[arg(long, default_value_t = 5)]
    syncthing_trials: usize,
    /// How often everything else, with each and each way.
    #[arg(long, default_value_t = 3)]
    large_trials: usize,
    /// Size of the large file.
    #[arg(long, default_value_t = 200)]
    mib: u64,
    /// Where every trial is written. What others have measured and stands there stays.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Who {
    Conclave,
    SyncthingDefault,
    SyncthingTightest,
    SyncthingAsked,
}

fn main() -> Result<()> {
    conclave_net::install_crypto_provider();
    let arguments = Arguments::parse();
    let program = conclave_chaos_tests::program_of_bench(arguments.program.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let cores = std::thread::available_parallelism()?.get();
    eprintln!("{cores} cores; times until all three nodes show it\n");
    if let Some(file) = &arguments.json {
        record(file, &["machine"], json!({ "cores": cores }))?;
    }
    figures::head();
    for who in &arguments.subjects {
        // Trees and what is prepared are on one disk: things are put into trees by their names.
        let folder = tempfile::Builder::new().prefix("conclave-bench").tempdir()?;
        open_to_servers(folder.path())?;
        let first = arguments.first_address;
        let rival = |noticing| Syncthing::start(folder.path(), first, noticing);
        let outcome = runtime.block_on(async {
            match who {
                Who::Conclave => {
                    let subject = Conclave::start(folder.path(), program.clone(), first).await?;
                    all_parts(subject, &arguments, folder.path(), arguments.trials).await
                }
                Who::SyncthingDefault => {
                    let subject = rival(Noticing::Watching { delay_s: 10 }).await?;
                    all_parts(subject, &arguments, folder.path(), arguments.syncthing_trials).await
                }
                Who::SyncthingTightest => {
                    let subject = rival(Noticing::Watching { delay_s: 1 }).await?;
                    all_parts(subject, &arguments, folder.path(), arguments.syncthing_trials).await
                }
                Who::SyncthingAsked => {
                    let subject = rival(Noticing::Asked).await?;
                    all_parts(subject, &arguments, folder.path(), arguments.syncthing_trials).await
                }
            }
        });
        outcome.with_context(|| format!("{who:?}"))?;
    }
    Ok(())
}

/// PostgreSQL's and RabbitMQ's accounts have to pass through.
fn open_to_servers(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).context("open the folder to the servers")
}

async fn all_parts<S: Subject>(mut subject: S, arguments: &Arguments, folder: &Path, small: usize) -> Result<()> {
    let outcome = async {
        let workshop = Workshop::new(&folder.join("workshop"), arguments.mib << 20)?;
        let name = subject.name().to_owned();
        if let Some(file) = &arguments.json {
            record(file, &[&name, "version"], json!(subject.version()))?;
        }
        for part in &arguments.parts {
            for way in subject.ways() {
                let count = if *part == Part::Small {
                    small
                } else {
                    arguments.large_trials
                };
                let mut trials = Trials::default();
                let outcome = part.run(&subject, &workshop, *way, count, &mut trials).await;
                // Also of a run that does not come to its end.
                if let Some(file) = &arguments.json {
                    record(file, &[&name, part.key(), way.key()], trials.json())?;
                }
                outcome.with_context(|| format!("{}, {}", part.key(), way.key()))?;
                trials.show(&name, part.what(), *way);
            }
        }
        eprintln!("{}", subject.version());
        Ok(())
    }
    .await;
    subject.stop().await?;
    outcome
}

/// Puts a value in the place of what the file has under these keys.
fn record(file: &Path, keys: &[&str], value: Value) -> Result<()> {
    let mut all: Value = match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))?,
        Err(_none_yet) => json!({}),
    };
    let mut place = &mut all;
    for key in keys {
        place = &mut place[*key];
    }
    *place = value;
    std::fs::write(file, serde_json::to_vec_pretty(&all)?).with_context(|| format!("write {}", file.display()))
}
