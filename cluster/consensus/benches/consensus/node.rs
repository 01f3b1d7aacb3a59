//! One node of the group as a process: it obeys lines on its standard input and answers each with a line of JSON.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conclave_catalog::files::{
    ContentHash, Entry, Expected, FileEntry, FilePath, FilesCommand, Layout, Modified, Step,
};
use conclave_catalog::{Command, NodeId};
use conclave_consensus::{Consensus, Profile, StartOptions, identity_dir, start};
use conclave_consul_api::{ConsulApi, ConsulApiOptions};
use conclave_net::{NodeIdentity, ServerTls, bind, serve};
use conclave_runtime::Tasks;
use serde_json::{Value, json};

use crate::load::{Client, Load, Target, put};

/// Entries of one proposal when the state is filled.
const FILES_A_PROPOSAL: usize = 1000;

/// `folder address port`.
pub(crate) fn main(arguments: &[String]) -> anyhow::Result<()> {
    let [folder, address, port] = arguments else {
        anyhow::bail!("a node needs folder, address and port");
    };
    let begin = Instant::now();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()?;
    let tasks = Tasks::new("node");
    let identity = NodeIdentity::load(&identity_dir(&PathBuf::from(folder)))?;
    let own = identity.clone();
    let (consensus, tasks) = runtime.block_on(async {
        let tls = ServerTls::for_peers_and_joiners(&identity)?;
        let listener = bind(format!("{address}:{port}").parse()?).await?;
        let options = StartOptions {
            data_dir: folder.into(),
            identity,
            peer_address: format!("{address}:{port}"),
            profile: Profile::Lan,
            report: Arc::new(|| json!({})),
        };
        let (consensus, routes) = start(options, &tasks).await?;
        serve(&tasks, "peers", listener, tls, routes.into_router());
        anyhow::Ok((consensus, tasks))
    })?;
    say(&json!({ "started_ms": begin.elapsed().as_secs_f64() * 1000.0 }));
    for line in std::io::stdin().lock().lines() {
        let words: Vec<String> = line?.split(' ').map(str::to_owned).collect();
        if words[0] == "stop" {
            break;
        }
        let obeyed = async {
            match words[0].as_str() {
                "api" => serve_api(&consensus, &own, address, &tasks).await,
                _ => obey(&consensus, &words).await,
            }
        };
        match runtime.block_on(obeyed) {
            Ok(answer) => say(&answer),
            Err(error) => say(&json!({ "error": error.to_string() })),
        }
    }
    runtime.block_on(async {
        consensus.stop().await;
        tasks.stop(Duration::from_secs(2)).await;
    });
    Ok(())
}

/// Serves the HTTP API from now on; the answer names the port.
async fn serve_api(
    consensus: &Consensus,
    identity: &NodeIdentity,
    address: &str,
    tasks: &Tasks,
) -> anyhow::Result<Value> {
    // Its calls to the leader are renewals, of which there are none here.
    let (api, _renewals) = ConsulApi::start(ConsulApiOptions::new(identity.clone()), consensus, tasks)?;
    let listener = bind(format!("{address}:0").parse()?).await?;
    let port = listener.local_addr()?.port();
    serve(tasks, "api", listener, ServerTls::for_users(identity)?, api.router());
    Ok(json!({ "port": port }))
}

/// The workers of a node's runtime.
fn workers() -> usize {
    let wanted = std::env::var("BENCH_NODE_WORKERS").ok();
    wanted.and_then(|wanted| wanted.parse().ok()).unwrap_or(2)
}

fn say(answer: &Value) {
    let mut out = std::io::stdout().lock();
    // The benchmark that reads has ended: so does the node, at its next line.
    let _ended = writeln!(out, "{answer}").and_then(|()| out.flush());
}

async fn obey(consensus: &Consensus, words: &[String]) -> anyhow::Result<Value> {
    match words[0].as_str() {
        "status" => {
            let leadership = consensus.leadership().borrow().clone();
            let state = consensus.state().borrow().clone();
            Ok(json!({
                "term": leadership.term,
                "leader": leadership.leader.map(|leader| leader.0),
                "leads": leadership.is_leader,
                "quorum": leadership.has_quorum,
                "voters": consensus.voters().map(|voters| voters.len()),
                "keys": state.directory().kv().entries().len(),
                "files": state.files().len(),
            }))
        }
        "load" => {
            let load: Load = serde_json::from_str(&words[1..].join(" "))?;
            Ok(serde_json::to_value(load.run(&Inside(consensus.clone())).await?)?)
        }
        "transfer" => {
            let begin = Instant::now();
            consensus.transfer_leader(NodeId(words[1].parse()?)).await?;
            Ok(json!({ "ms": begin.elapsed().as_secs_f64() * 1000.0 }))
        }
        "fill" => fill(consensus, words[1].parse()?, words[2].parse()?).await,
        other => anyhow::bail!("unknown word {other}"),
    }
}

/// Fills the manifest and the keys, many entries a proposal.
async fn fill(consensus: &Consensus, files: usize, keys: usize) -> anyhow::Result<Value> {
    let begin = Instant::now();
    for tree in 0..files / FILES_A_PROPOSAL {
        let root = format!("blueprints/tenant/blueprint-{tree:04}");
        let entries = (0..FILES_A_PROPOSAL)
            .map(|number| {
                let mut content = [0; 32];
                for (place, byte) in content.iter_mut().enumerate() {
                    *byte = ((tree * 31 + number * 7 + place * 13) % 256) as u8;
                }
                let entry = Entry::File(FileEntry {
                    content: ContentHash(content),
                    layout: Layout::Whole,
                    size: number as u64 * 1000,
                    mode: 0o644,
                    modified: Modified::default(),
                });
                let path = FilePath::new(format!("{root}/scripts/some-folder/file-{number:05}.py"))?;
                Ok((path, entry))
            })
            .collect::<anyhow::Result<_>>()?;
        let replace = Step::ReplaceTree {
            root: FilePath::new(&root)?,
            entries,
            expected: Expected::Anything,
        };
        let (set, steps) = (None, vec![replace]);
        consensus
            .propose(Command::Files(FilesCommand::Change { set, steps }))
            .await?;
    }
    let mut running = tokio::task::JoinSet::new();
    for number in 0..keys {
        let consensus = consensus.clone();
        let key = format!("service/some-application/config/key-{number:06}");
        let command = put(&key, "v".repeat(100));
        running.spawn(async move { consensus.propose(command).await });
        if running.len() >= 256 {
            running.join_next().await.expect("some run")??;
        }
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(json!({ "seconds": begin.elapsed().as_secs_f64() }))
}

/// Proposals from within the node's own process.
struct Inside(Consensus);

#[async_trait::async_trait]
impl Target for Inside {
    async fn client(&self) -> anyhow::Result<Arc<dyn Client>> {
        Ok(Arc::new(Self(self.0.clone())))
    }
}

#[async_trait::async_trait]
impl Client for Inside {
    async fn put(&self, key: String, value: String) -> anyhow::Result<()> {
        self.0.propose(put(&key, value)).await?;
        Ok(())
    }
}
