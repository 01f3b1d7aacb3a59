//! This node's report of its own health: cheap, from memory, true.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use conclave_config::NodeConfig;
use conclave_consensus::Consensus;
use conclave_consul_api::{NodeReport, Part};
use conclave_executor::Executor;
use conclave_filesync::FileSync;
use conclave_gossip::Gossip;
use conclave_gossip::detector::PeerView;
use conclave_net::{Credentials, NodeIdentity};
use conclave_runtime::{Tasks, clock};
use conclave_store::Store;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::archive::Archive;
use crate::database::Base;
use crate::links;
use crate::messages::Messages;

/// How often the record is asked whether it answers.
const PROBE_PERIOD: Duration = Duration::from_millis(500);

/// Puts the report together.
pub(crate) struct Reporter {
    name: String,
    started_at: jiff::Timestamp,
    credentials: Credentials,
    consensus: Consensus,
    database: Base,
    archive: Archive,
    files: FileSync,
    gossip: Gossip,
    messages: Messages,
    executor: Executor,
    schema: watch::Receiver<bool>,
    store_answers: watch::Receiver<bool>,
    /// Health and cause of each part, and since when they are so.
    since: Mutex<BTreeMap<&'static str, (Option<String>, jiff::Timestamp)>>,
}

impl Reporter {
    #[expect(
        clippy::too_many_arguments,
        reason = "it looks at every part, and is made in one place"
    )]
    pub(crate) fn start(
        config: &NodeConfig,
        identity: &NodeIdentity,
        consensus: &Consensus,
        database: &Base,
        archive: Archive,
        files: &FileSync,
        gossip: &Gossip,
        messages: &Messages,
        executor: &Executor,
        schema: watch::Receiver<bool>,
        store: &Store,
        tasks: &Tasks,
    ) -> Self {
        debug_assert_eq!(
            config.node.name, identity.name,
            "configuration and identity name the same node"
        );
        let (publish, store_answers) = watch::channel(false);
        let (store, shutdown) = (store.clone(), tasks.shutdown());
        tasks.spawn("store probe", async move {
            while !shutdown.is_requested() {
                publish.send_replace(store.is_ready().await);
                shutdown.sleep(PROBE_PERIOD).await;
            }
        });
        Self {
            name: identity.name.clone(),
            started_at: clock::now(),
            credentials: identity.credentials.clone(),
            consensus: consensus.clone(),
            database: database.clone(),
            archive,
            files: files.clone(),
            gossip: gossip.clone(),
            messages: messages.clone(),
            executor: executor.clone(),
            schema,
            store_answers,
            since: Mutex::default(),
        }
    }

    /// How many parts are not healthy.
    pub(crate) fn faults(&self) -> u64 {
        let unwell = self.parts().into_values().filter(|part| !part.healthy);
        u64::try_from(unwell.count()).unwrap_or(u64::MAX)
    }

    fn parts(&self) -> BTreeMap<String, Part> {
        BTreeMap::from([
            ("raft".to_owned(), self.raft()),
            ("postgres".to_owned(), self.postgres()),
            ("archive".to_owned(), self.archive()),
            ("files".to_owned(), self.file_tree()),
            ("links".to_owned(), self.links()),
            ("broker".to_owned(), self.broker()),
            ("store".to_owned(), self.store()),
            ("certificate".to_owned(), self.certificate()),
            (
                "executor".to_owned(),
                self.part("executor", None, json!({"running": self.executor.running()})),
            ),
        ])
    }

    pub(crate) fn report(&self) -> Value {
        let parts = self.parts();
        let report = NodeReport {
            node: self.consensus.me(),
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: Some(self.started_at),
            clock: clock::now(),
            ready: parts["store"].healthy,
            parts,
        };
        serde_json::to_value(report).unwrap_or(Value::Null)
    }

    fn part(&self, name: &'static str, cause: Option<String>, details: Value) -> Part {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = since.entry(name).or_insert_with(|| (cause.clone(), clock::now()));
        if entry.0 != cause {
            *entry = (cause.clone(), clock::now());
        }
        Part {
            healthy: cause.is_none(),
            cause,
            since: entry.1,
            details,
        }
    }

    fn raft(&self) -> Part {
        let leadership = self.consensus.leadership().borrow().clone();
        let voters = self.consensus.voters();
        let role = match &voters {
            _ if leadership.is_leader => "leader",
            Some(voters) if voters.contains(&self.consensus.me()) => "follower",
            Some(_) => "learner",
            None => "changing",
        };
        let cause = if !leadership.has_quorum {
            Some("it hears no majority".to_owned())
        } else if voters.is_none() {
            Some("the voters are being changed".to_owned())
        } else {
            None
        };
        self.part(
            "raft",
            cause,
            json!({"role": role, "term": leadership.term, "leader": leadership.leader, "voters": voters}),
        )
    }

    fn postgres(&self) -> Part {
        let (cause, details) = self.database.health();
        self.part("postgres", cause, details)
    }

    fn archive(&self) -> Part {
        let (cause, details) = self.archive.health();
        self.part("archive", cause, details)
    }

    fn file_tree(&self) -> Part {
        let status = self.files.status();
        let version = self.consensus.state().borrow().files().version();
        let cause = match &status.error {
            Some(error) => Some(error.clone()),
            None if status.missing > 0 => Some(format!("{} files are on their way", status.missing)),
            None if status.watch_failure.is_some() => status.watch_failure.clone(),
            None if status.applied < version => Some("the tree follows the manifest".to_owned()),
            None => None,
        };
        self.part("files", cause, serde_json::to_value(&status).unwrap_or(Value::Null))
    }

    fn links(&self) -> Part {
        let view = self.gossip.view();
        let state = self.consensus.state().borrow().clone();
        let name = |id| {
            let node = state.nodes().get(&id);
            node.map_or_else(|| format!("node {id}"), |node| node.name.clone())
        };
        let cause = links::cause(&view, name);
        let details: BTreeMap<String, &PeerView> = view.iter().map(|(id, peer)| (name(*id), peer)).collect();
        self.part("links", cause, serde_json::to_value(details).unwrap_or(Value::Null))
    }

    /// It is renewed long before it expires; that it is overdue by half of what was left then means that this fails.
    fn certificate(&self) -> Part {
        let validity = self.credentials.validity();
        let overdue = validity.renewal() + (validity.until.duration_since(validity.renewal())) / 2;
        let cause = (clock::now() > overdue).then(|| {
            format!(
                "it expires at {} and has not been renewed; the log says why",
                validity.until
            )
        });
        self.part(
            "certificate",
            cause,
            json!({"from": validity.from, "until": validity.until}),
        )
    }

    fn broker(&self) -> Part {
        let (cause, details) = self.messages.health();
        self.part("broker", cause, details)
    }

    fn store(&self) -> Part {
        let cause = if !*self.schema.borrow() {
            Some("the record is being prepared".to_owned())
        } else if !*self.store_answers.borrow() {
            Some("the database does not answer through this node".to_owned())
        } else {
            None
        };
        self.part("store", cause, Value::Null)
    }
}
