//! Three real nodes on free loopback ports: joining, proposing, losing the leader, coming back.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::{Command, NodeId, NodePorts};
use conclave_consensus::{
    AdminClient, Consensus, ConsensusError, FoundOptions, JoinOptions, Profile, StartOptions, found, identity_dir,
    join, start,
};
use conclave_net::{NodeIdentity, ServerTls, bind, serve};
use conclave_proto::consensus::ReportRequest;
use conclave_proto::consensus::membership_client::MembershipClient;
use conclave_runtime::{StopReport, Tasks};

const DEADLINE: Duration = Duration::from_secs(20);

/// A node on a runtime of its own: dropping the runtime drops its connections too, as the end of a process would.
struct Node {
    runtime: Option<tokio::runtime::Runtime>,
    tasks: Tasks,
    consensus: Consensus,
    dir: PathBuf,
    address: String,
    port: u16,
}

impl Node {
    fn start(dir: PathBuf, address: &str, port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let identity = NodeIdentity::load(&identity_dir(&dir)).unwrap();
        let (options_dir, text) = (dir.clone(), address.to_owned());
        let (consensus, tasks) = runtime.block_on(async move {
            let tasks = Tasks::new("node");
            let tls = ServerTls::for_peers_and_joiners(&identity).unwrap();
            let listener = bind(format!("{text}:{port}").parse().unwrap()).await.unwrap();
            let node_id = identity.node_id;
            let options = StartOptions {
                data_dir: options_dir,
                identity,
                peer_address: format!("{text}:{port}"),
                profile: Profile::Cautious,
                report: Arc::new(move || serde_json::json!({ "node": node_id })),
            };
            let (consensus, routes) = start(options, &tasks).await.unwrap();
            serve(&tasks, "peers", listener, tls, routes.into_router());
            (consensus, tasks)
        });
        Self {
            runtime: Some(runtime),
            tasks,
            consensus,
            dir,
            address: address.into(),
            port,
        }
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(work)
    }

    /// Ends the node as a killed process would end.
    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(1));
    }

    fn put(&self, key: &str) -> Result<(), ConsensusError> {
        let command = Command::PutSetting {
            key: key.into(),
            value: true.into(),
        };
        self.block_on(self.consensus.propose(command)).map(drop)
    }

    fn has(&self, key: &str) -> bool {
        self.consensus.state().borrow().settings().contains_key(key)
    }

    fn token(&self, lifetime: Duration) -> String {
        let identity = NodeIdentity::load(&identity_dir(&self.dir)).unwrap();
        let connecting = async {
            let admin = AdminClient::new(identity, &self.address, self.port)?;
            admin.create_join_token(lifetime).await
        };
        self.block_on(connecting).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn wait(what: &str, condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn ports(peer: u16) -> NodePorts {
    NodePorts {
        peer,
        ..NodePorts::default()
    }
}

fn founded(root: &std::path::Path) -> Node {
    let (dir, port) = (root.join("node1"), free_port());
    let options = FoundOptions {
        data_dir: dir.clone(),
        node_name: "node1".into(),
        address: "127.0.0.1".into(),
        ports: ports(port),
        settings: std::collections::BTreeMap::new(),
    };
    found(&options).unwrap();
    assert!(found(&options).is_err(), "a node founds one cluster");
    let node = Node::start(dir, "127.0.0.1", port);
    wait("the founding", || node.consensus.state().borrow().facts().is_some());
    node
}

fn joining(root: &std::path::Path, member: &Node, name: &str, token: &str) -> Result<Node, ConsensusError> {
    let (dir, port) = (root.join(format!("{name}-{}", free_port())), free_port());
    let options = JoinOptions {
        data_dir: dir.clone(),
        node_name: name.into(),
        address: "127.0.0.1".into(),
        ports: ports(port),
        token: token.into(),
        peer: format!("127.0.0.1:{}", member.port),
    };
    member.block_on(join(&options))?;
    Ok(Node::start(dir, "127.0.0.1", port))
}

#[test]
fn a_cluster_grows_survives_its_leader_and_takes_it_back() {
    let root = tempfile::tempdir().unwrap();
    let mut one = founded(root.path());
    let lifetime = Duration::from_secs(60);
    let two = joining(root.path(), &one, "node2", &one.token(lifetime)).unwrap();
    let three = joining(root.path(), &two, "node3", &one.token(lifetime)).unwrap();
    for (node, key) in [(&one, "a"), (&two, "b"), (&three, "c")] {
        wait("a first leader", || node.consensus.leadership().borrow().has_quorum);
        node.put(key).unwrap();
    }
    let settled_on_three = |node: &Node| node.consensus.voters().is_some_and(|voters| voters.len() == 3);
    wait("three voters", || {
        [&one, &two, &three].into_iter().all(settled_on_three)
    });
    let seen = two.block_on(two.consensus.linearizable()).unwrap();
    assert!(["a", "b", "c"].iter().all(|key| seen.settings().contains_key(*key)));
    assert_eq!(two.block_on(two.consensus.report_of(NodeId(1))).unwrap()["node"], 1);

    one.kill();
    let survivors = [&two, &three];
    wait("a new leader", || {
        survivors
            .iter()
            .any(|node| node.consensus.leadership().borrow().is_leader)
    });
    two.put("d").unwrap();
    three.put("e").unwrap();
    wait("the verdict on the lost node", || {
        let state = two.consensus.state().borrow().clone();
        state.nodes().get(&NodeId(1)).is_some_and(|node| !node.alive)
    });

    let (dir, port) = (one.dir.clone(), one.port);
    drop(one);
    let one = Node::start(dir, "127.0.0.1", port);
    wait("the lost node to catch up", || {
        ["a", "b", "c", "d", "e"].iter().all(|key| one.has(key))
    });
    wait("it to be declared alive", || {
        two.consensus
            .state()
            .borrow()
            .nodes()
            .get(&NodeId(1))
            .is_some_and(|node| node.alive)
    });
    let settled = || {
        let (first, second) = (
            one.consensus.state().borrow().clone(),
            three.consensus.state().borrow().clone(),
        );
        first == second
    };
    wait("equal states", settled);
}

/// The voters, once they are settled.
fn voters(node: &Node) -> Vec<u64> {
    let voters = node.consensus.voters().unwrap_or_default();
    voters.into_iter().map(|id| id.0).collect()
}

#[test]
fn five_voters_lose_two_and_go_on() {
    let root = tempfile::tempdir().unwrap();
    let mut nodes = vec![founded(root.path())];
    let lifetime = Duration::from_secs(60);
    for (number, expected) in [(2, 1), (3, 3), (4, 3), (5, 5)] {
        let token = nodes[0].token(lifetime);
        let node = joining(root.path(), &nodes[0], &format!("node{number}"), &token).unwrap();
        // Whoever has this has caught up: it votes now, or waits until its vote makes their number odd.
        let key = format!("with{number}");
        nodes[0].put(&key).unwrap();
        wait("the new member to catch up", || node.has(&key));
        nodes.push(node);
        let wanted: Vec<u64> = (1..=expected).collect();
        wait("the voters that there should be", || {
            nodes.iter().all(|node| voters(node) == wanted)
        });
        // The extra one stays a learner: the leader has looked again since, for it applied this.
        nodes[0].put(&format!("again{number}")).unwrap();
        assert_eq!(voters(&nodes[0]), wanted);
    }

    // The leader and one more.
    for mut lost in nodes.drain(..2) {
        lost.kill();
    }
    wait("a new leader", || {
        nodes.iter().any(|node| node.consensus.leadership().borrow().is_leader)
    });
    let keys = ["x", "y", "z"];
    for (node, key) in nodes.iter().zip(keys) {
        node.put(key).unwrap();
    }
    wait("every write on every survivor", || {
        nodes.iter().all(|node| keys.iter().all(|key| node.has(key)))
    });
    assert!(
        nodes.iter().all(|node| node.has("again5")),
        "what was acknowledged before"
    );
    for id in [1, 2] {
        wait("the verdict on the lost ones", || {
            let state = nodes[0].consensus.state().borrow().clone();
            state.nodes().get(&NodeId(id)).is_some_and(|node| !node.alive)
        });
    }
    // Of four that are left three vote, and all of them live.
    nodes[0]
        .block_on(nodes[0].consensus.propose(Command::RemoveNode(NodeId(2))))
        .unwrap();
    wait("three voters that live", || {
        nodes.iter().all(|node| voters(node) == [3, 4, 5])
    });
    nodes[1].put("three").unwrap();
}

#[test]
fn a_node_stops_at_once_though_its_proposals_cannot_be_committed() {
    let root = tempfile::tempdir().unwrap();
    let one = founded(root.path());
    let lifetime = Duration::from_secs(60);
    let mut others: Vec<Node> = ["node2", "node3"]
        .iter()
        .map(|name| joining(root.path(), &one, name, &one.token(lifetime)).unwrap())
        .collect();
    wait("three voters", || voters(&one) == [1, 2, 3]);
    one.put("before").unwrap();
    for other in &mut others {
        other.kill();
    }
    let consensus = one.consensus.clone();
    let stuck = one.runtime.as_ref().unwrap().spawn(async move {
        let command = Command::PutSetting {
            key: "after".into(),
            value: true.into(),
        };
        consensus.propose(command).await
    });
    // Whoever else holds the handle does not keep the node from stopping.
    assert_eq!(one.block_on(one.tasks.stop(DEADLINE)), StopReport::Clean);
    let outcome = one.block_on(stuck).unwrap();
    assert!(matches!(outcome, Err(ConsensusError::Unavailable(_))), "{outcome:?}");
}

#[test]
fn tokens_admit_once_and_only_in_their_cluster_and_time() {
    let root = tempfile::tempdir().unwrap();
    let one = founded(root.path());
    let other_root = tempfile::tempdir().unwrap();
    let other = founded(other_root.path());
    let refused = |name: &str, token: &str| match joining(root.path(), &one, name, token) {
        Ok(_) => panic!("{name} was admitted"),
        Err(error) => error.to_string(),
    };
    let token = one.token(Duration::from_secs(60));
    let node2 = joining(root.path(), &one, "node2", &token).unwrap();
    assert!(
        refused("node3", &token).contains("has been used"),
        "a token admits once"
    );
    assert!(refused("node4", &one.token(Duration::ZERO)).contains("expired"));
    assert!(refused("node5", &other.token(Duration::from_secs(60))).contains("certificate authority"));
    let mut parts: Vec<String> = one
        .token(Duration::from_secs(60))
        .split('.')
        .map(str::to_owned)
        .collect();
    parts[1] = "0".repeat(parts[1].len());
    assert!(refused("node6", &parts.join(".")).contains("wrong secret"));
    assert!(
        refused("node2", &one.token(Duration::from_secs(60))).contains("named"),
        "names are unique"
    );
    assert!(refused("node7", "nonsense").contains("three parts"));
    drop(node2);
}

#[test]
fn a_removed_node_and_a_stranger_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let one = founded(root.path());
    let token = one.token(Duration::from_secs(60));
    let two = joining(root.path(), &one, "node2", &token).unwrap();
    wait("the new member", || one.consensus.state().borrow().nodes().len() == 2);
    let ask = |dir: &std::path::Path| {
        let mut identity = NodeIdentity::load(&identity_dir(dir)).unwrap();
        // Calls node1 while proving to be whoever the folder belongs to.
        let target = NodeIdentity::load(&identity_dir(&one.dir)).unwrap();
        identity.ca_certificate_pem = target.ca_certificate_pem;
        let connector = conclave_net::PeerConnector::new(&identity).unwrap();
        one.block_on(async move {
            let channel = connector.channel(1, "127.0.0.1", one.port).unwrap();
            MembershipClient::new(channel).report(ReportRequest {}).await.map(drop)
        })
    };
    ask(&two.dir).expect("a member is answered");
    one.block_on(one.consensus.propose(Command::RemoveNode(NodeId(2))))
        .unwrap();
    let status = ask(&two.dir).unwrap_err();
    assert!(status.message().contains("no longer"), "{status}");

    let other_root = tempfile::tempdir().unwrap();
    let stranger = founded(other_root.path());
    assert!(
        ask(&stranger.dir).is_err(),
        "a certificate of another cluster is refused in the handshake"
    );
}
