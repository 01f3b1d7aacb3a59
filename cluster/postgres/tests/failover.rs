//! Three real PostgreSQLs under a real Raft group: growing, losing the primary, taking it back.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conclave_catalog::{NodeId, NodePorts};
use conclave_consensus::{
    AdminClient, Consensus, FoundOptions, JoinOptions, Profile, StartOptions, found, identity_dir, join, start,
};
use conclave_net::{NodeIdentity, ServerTls, bind, serve};
use conclave_postgres::coordinator::Role;
use conclave_postgres::{Database, DatabaseOptions, password};
use conclave_runtime::Tasks;
use conclave_runtime::account::Account;
use tokio_postgres::NoTls;

const DEADLINE: Duration = Duration::from_secs(60);

struct Node {
    runtime: Option<tokio::runtime::Runtime>,
    consensus: Consensus,
    database: Database,
    dir: PathBuf,
    ports: Ports,
    password: String,
}

#[derive(Clone, Copy)]
struct Ports {
    peer: u16,
    relay: u16,
    proxy: u16,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Ports {
    fn free() -> Self {
        Self {
            peer: free_port(),
            relay: free_port(),
            proxy: free_port(),
        }
    }

    fn told(self) -> NodePorts {
        NodePorts {
            peer: self.peer,
            database: self.relay,
            ..NodePorts::default()
        }
    }
}

impl Node {
    fn start(dir: PathBuf, ports: Ports) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let identity = NodeIdentity::load(&identity_dir(&dir)).unwrap();
        let (data_dir, shown) = (dir.clone(), password(&identity));
        let (consensus, database) = runtime.block_on(async move {
            let tasks = Tasks::new("node");
            let tls = ServerTls::for_peers_and_joiners(&identity).unwrap();
            let on = |port: u16| format!("127.0.0.1:{port}").parse().unwrap();
            let listener = bind(on(ports.peer)).await.unwrap();
            let (proxy, relay) = (
                bind(on(ports.proxy)).await.unwrap(),
                bind(on(ports.relay)).await.unwrap(),
            );
            let options = StartOptions {
                data_dir: data_dir.clone(),
                identity: identity.clone(),
                peer_address: format!("127.0.0.1:{}", ports.peer),
                profile: Profile::Cautious,
                report: Arc::new(|| serde_json::Value::Null),
            };
            let (consensus, routes) = start(options, &tasks).await.unwrap();
            let account = Account::for_children("postgres").unwrap();
            let options = DatabaseOptions {
                data_dir,
                bin_dir: None,
                account,
                identity,
                segment_age: None,
                proxy,
                relay,
                client_wait: Duration::from_secs(15),
            };
            let (database, router) = Database::start(options, &consensus, &tasks).unwrap();
            serve(&tasks, "peers", listener, tls, routes.merge(router).into_router());
            std::mem::forget(tasks);
            (consensus, database)
        });
        Self {
            runtime: Some(runtime),
            consensus,
            database,
            dir,
            ports,
            password: shown,
        }
    }

    fn runtime(&self) -> &tokio::runtime::Runtime {
        self.runtime.as_ref().unwrap()
    }

    /// Ends manager and PostgreSQL without a word.
    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(1));
        self.kill_postgres();
    }

    fn kill_postgres(&self) {
        let file = self.dir.join("postgres/data/postmaster.pid");
        let Ok(text) = std::fs::read_to_string(file) else {
            return;
        };
        let pid: i32 = text.lines().next().unwrap().parse().unwrap();
        let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }

    /// Runs a statement through this node's proxy on a new connection; an error is an unknown outcome.
    fn execute(&self, statement: &str) -> Result<Vec<i64>, String> {
        self.execute_within(statement, Duration::from_secs(20))
    }

    fn execute_within(&self, statement: &str, limit: Duration) -> Result<Vec<i64>, String> {
        self.runtime().block_on(async {
            let mut config = tokio_postgres::Config::new();
            config
                .host("127.0.0.1")
                .port(self.ports.proxy)
                .user("conclave")
                .dbname("conclave");
            config.password(&self.password);
            let (client, connection) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
            let connection = tokio::task::unconstrained(connection);
            let work = async {
                let messages = client
                    .simple_query(statement)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(messages
                    .iter()
                    .filter_map(|message| match message {
                        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
                        _ => None,
                    })
                    .collect())
            };
            tokio::pin!(work);
            tokio::select! {
                result = &mut work => result,
                // The answer may have come with the end, and stands then: without one, this says so at once.
                _ = connection => work.await,
                () = tokio::time::sleep(limit) => Err("no answer".into()),
            }
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.kill_postgres();
    }
}

fn wait(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn name(number: usize) -> String {
    format!("node{number}")
}

fn founded(root: &Path) -> Node {
    let (dir, ports) = (root.join(name(1)), Ports::free());
    let options = FoundOptions {
        data_dir: dir.clone(),
        node_name: name(1),
        address: "127.0.0.1".into(),
        ports: ports.told(),
        settings: std::collections::BTreeMap::new(),
    };
    found(&options).unwrap();
    Node::start(dir, ports)
}

fn joined(root: &Path, member: &Node, number: usize) -> Node {
    let (dir, ports) = (root.join(name(number)), Ports::free());
    let identity = NodeIdentity::load(&identity_dir(&member.dir)).unwrap();
    let joining = async {
        let admin = AdminClient::new(identity, "127.0.0.1", member.ports.peer)?;
        let token = admin.create_join_token(Duration::from_secs(60)).await?;
        let options = JoinOptions {
            data_dir: dir.clone(),
            node_name: name(number),
            address: "127.0.0.1".into(),
            ports: ports.told(),
            token,
            peer: format!("127.0.0.1:{}", member.ports.peer),
        };
        join(&options).await
    };
    member.runtime().block_on(joining).unwrap();
    Node::start(dir, ports)
}

fn cohort_of(node: &Node) -> usize {
    node.consensus
        .state()
        .borrow()
        .database()
        .rule
        .as_ref()
        .map_or(0, |rule| rule.cohort.len())
}

fn primary_of(node: &Node) -> Option<NodeId> {
    node.consensus
        .state()
        .borrow()
        .database()
        .rule
        .as_ref()
        .map(|rule| rule.primary)
}

#[test]
fn lost_primaries_are_replaced_lose_nothing_and_come_back() {
    let log = std::env::var("CONCLAVE_LOG").unwrap_or_else(|_| "warn,openraft=off".into());
    tracing_subscriber::fmt()
        .with_env_filter(log)
        .with_writer(std::io::stderr)
        .init();
    let root = tempfile::Builder::new().prefix("cpg").tempdir().unwrap();
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut one = founded(root.path());
    wait("the first write", || {
        one.execute("CREATE TABLE IF NOT EXISTS t (n bigint PRIMARY KEY)")
            .is_ok()
    });
    let mut two = joined(root.path(), &one, 2);
    let mut three = joined(root.path(), &one, 3);
    wait("a cohort of three", || cohort_of(&one) == 3 && cohort_of(&two) == 3);

    let mut acknowledged = Vec::new();
    let put = |node: &Node, n: i64| node.execute(&format!("INSERT INTO t VALUES ({n}) RETURNING n")).is_ok();
    for n in 0..50 {
        let node = if n % 2 == 0 { &one } else { &two };
        assert!(put(node, n), "a healthy cluster takes writes through any node");
        acknowledged.push(n);
    }
    one.kill();
    let mut n = 1000;
    wait("writes through a survivor", || put(&two, 999));
    acknowledged.push(999);
    assert_ne!(primary_of(&two), Some(NodeId(1)));
    while n < 1020 {
        if put(&three, n) {
            acknowledged.push(n);
        }
        n += 1;
    }

    let (dir, ports) = (one.dir.clone(), one.ports);
    drop(one);
    let one = Node::start(dir, ports);
    wait("the old primary to stream", || {
        let observation = one.database.status().observation;
        observation.role == Role::Standby && observation.streaming
    });
    let rows = one.execute("SELECT n FROM t ORDER BY n").unwrap();
    let missing: Vec<_> = acknowledged.iter().filter(|n| !rows.contains(n)).collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");

    // A primary that is left alone writes what nobody acknowledges. It is undone when it comes back.
    let mut one = one;
    let old = primary_of(&one).unwrap();
    for node in [&mut one, &mut two, &mut three] {
        if node.consensus.me() != old {
            node.kill();
        }
    }
    let alone = [&one, &two, &three]
        .into_iter()
        .find(|node| node.consensus.me() == old)
        .unwrap();
    for n in 5000..5003 {
        let statement = format!("INSERT INTO t VALUES ({n})");
        assert!(
            alone.execute_within(&statement, Duration::from_millis(700)).is_err(),
            "nobody can acknowledge {n}"
        );
    }
    for node in [&mut one, &mut two, &mut three] {
        if node.consensus.me() == old {
            node.kill();
        }
    }
    let again = |node: &mut Node| {
        let (dir, ports) = (node.dir.clone(), node.ports);
        *node = Node::start(dir, ports);
    };
    for node in [&mut one, &mut two, &mut three] {
        if node.consensus.me() != old {
            again(node);
        }
    }
    let survivor = if old == NodeId(2) { &three } else { &two };
    wait("writes without the old primary", || put(survivor, 6000));
    acknowledged.push(6000);
    for node in [&mut one, &mut two, &mut three] {
        if node.consensus.me() == old {
            again(node);
        }
    }
    let returned = [&one, &two, &three]
        .into_iter()
        .find(|node| node.consensus.me() == old)
        .unwrap();
    wait("the second old primary to stream", || {
        let status = returned.database.status();
        status.observation.role == Role::Standby && status.observation.streaming && status.healthy
    });
    let rows = returned.execute("SELECT n FROM t ORDER BY n").unwrap();
    let missing: Vec<_> = acknowledged.iter().filter(|n| !rows.contains(n)).collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    assert!(
        rows.iter().all(|n| !(5000..6000).contains(n)),
        "what nobody acknowledged was undone"
    );
}
