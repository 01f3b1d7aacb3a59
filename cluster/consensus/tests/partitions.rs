//! Real members in network namespaces of their own, whose links fail in one direction, or come and go.
//!
//! A link fails as a bad switch port lets it fail: frames go out and reach nobody, and neither side is told. Needs root, for the
//! namespaces; they are nameless and go with the threads that are in them.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use conclave_catalog::{Command, NodePorts};
use conclave_consensus::{
    AdminClient, Consensus, FoundOptions, JoinOptions, Leadership, Profile, StartOptions, found, identity_dir, join,
    start,
};
use conclave_net::{NodeIdentity, ServerTls, bind, serve};
use conclave_runtime::Tasks;
use nix::sched::{CloneFlags, unshare};

const DEADLINE: Duration = Duration::from_secs(30);
const PORT: u16 = 8300;
/// The longest election timeout of [`Profile::Lan`].
const ELECTION: Duration = Duration::from_millis(300);
/// How long a link stays as it is while the leader has to stay: enough for many elections.
const LONG: Duration = Duration::from_millis(20 * 300);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace: a thread that is in it. The threads that it starts are in it too.
struct Namespace {
    jobs: mpsc::Sender<Job>,
    /// Names the namespace to the kernel.
    thread: i32,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET);
            tell.send((made, nix::unistd::gettid().as_raw())).unwrap();
            while let Ok(job) = waiting.recv() {
                job();
            }
        });
        let (made, thread) = told.recv().unwrap();
        made.expect("network namespaces can be made: run this as root, or under `unshare --map-root-user`");
        let namespace = Self { jobs, thread };
        namespace.ip("link set lo up");
        namespace
    }

    /// Does something on the namespace's thread.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = move || tell.send(job()).unwrap();
        self.jobs.send(Box::new(job)).unwrap();
        told.recv().expect("the job does not panic")
    }

    fn ip(&self, arguments: &str) {
        let words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || Process::new("ip").args(words).output().unwrap());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip {arguments}: {said}");
    }
}

/// A switch, with a cable to each member.
struct Switch {
    namespace: Namespace,
}

impl Switch {
    fn new() -> Self {
        let namespace = Namespace::new();
        namespace.ip("link add switch type bridge");
        namespace.ip("link set switch up");
        Self { namespace }
    }

    /// The namespace of member `number`.
    fn plug(&self, number: u8) -> Namespace {
        let member = Namespace::new();
        let (port, thread) = (format!("port{number}"), member.thread);
        let switch = &self.namespace;
        switch.ip(&format!("link add {port} type veth peer name net netns {thread}"));
        switch.ip(&format!("link set {port} master switch up"));
        member.ip(&format!("link set net address {}", hardware_address(number)));
        member.ip(&format!("address add {}/24 dev net", address(number)));
        member.ip("link set net up");
        member
    }
}

fn address(number: u8) -> String {
    format!("10.99.0.{number}")
}

fn hardware_address(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

/// Nobody's.
fn nowhere() -> String {
    hardware_address(0xfe)
}

/// A member. Everything of it runs in its namespace.
struct Member {
    number: u8,
    namespace: Namespace,
    runtime: Option<tokio::runtime::Runtime>,
    consensus: Consensus,
    dir: PathBuf,
}

impl Member {
    fn start(number: u8, namespace: Namespace, dir: PathBuf) -> Self {
        let folder = dir.clone();
        let (runtime, consensus) = namespace.run(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let consensus = runtime.block_on(async move {
                let identity = NodeIdentity::load(&identity_dir(&folder)).unwrap();
                let tasks = Tasks::new("member");
                let tls = ServerTls::for_peers_and_joiners(&identity).unwrap();
                let own = format!("{}:{PORT}", address(number));
                let listener = bind(own.parse().unwrap()).await.unwrap();
                let options = StartOptions {
                    data_dir: folder,
                    identity,
                    peer_address: own,
                    profile: Profile::Lan,
                    report: Arc::new(|| serde_json::Value::Null),
                };
                let (consensus, routes) = start(options, &tasks).await.unwrap();
                serve(&tasks, "peers", listener, tls, routes.into_router());
                std::mem::forget(tasks);
                consensus
            });
            (runtime, consensus)
        });
        Self {
            number,
            namespace,
            runtime: Some(runtime),
            consensus,
            dir,
        }
    }

    /// Does something on a thread of the member.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let handle = self.runtime.as_ref().unwrap().handle().clone();
        self.namespace.run(move || handle.block_on(work))
    }

    fn put(&self, key: &str) {
        let (consensus, key) = (self.consensus.clone(), key.to_owned());
        let command = Command::PutSetting {
            key,
            value: true.into(),
        };
        self.run(async move { consensus.propose(command).await }).unwrap();
    }

    fn has(&self, key: &str) -> bool {
        self.consensus.state().borrow().settings().contains_key(key)
    }

    fn leadership(&self) -> Leadership {
        self.consensus.leadership().borrow().clone()
    }

    /// Lets what it sends to `other` get lost, or no longer.
    fn cut(&self, other: &Self, lost: bool) {
        let to = if lost {
            nowhere()
        } else {
            hardware_address(other.number)
        };
        let (target, ip) = (address(other.number), &self.namespace);
        ip.ip(&format!("neighbour replace {target} lladdr {to} dev net nud permanent"));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Three voters on a switch; the first of them leads.
struct Group {
    members: Vec<Member>,
    term: u64,
    written: u64,
    _switch: Switch,
    _dir: tempfile::TempDir,
}

impl Group {
    fn of_three() -> Self {
        conclave_net::install_crypto_provider();
        let (switch, dir) = (Switch::new(), tempfile::tempdir().unwrap());
        let mut members = vec![founded(&switch, dir.path())];
        let first_knows = |members: &[Member]| members[0].consensus.state().borrow().facts().is_some();
        wait("the founding", || first_knows(&members));
        for number in [2, 3] {
            let member = joined(&switch, dir.path(), &members[0], number);
            members.push(member);
        }
        let ready = |member: &Member| {
            let voters = member.consensus.voters().map_or(0, |voters| voters.len());
            voters == 3 && member.leadership().has_quorum
        };
        wait("three voters", || members.iter().all(ready));
        let leader = members[0].leadership().leader.unwrap();
        let place = members
            .iter()
            .position(|member| member.consensus.me() == leader)
            .unwrap();
        members.swap(0, place);
        let term = members[0].leadership().term;
        Self {
            members,
            term,
            written: 0,
            _switch: switch,
            _dir: dir,
        }
    }

    fn write(&mut self) -> String {
        self.written += 1;
        let key = format!("key{}", self.written);
        self.members[0].put(&key);
        key
    }

    /// The leader leads on, in the term in which it began. Nobody who stood for election meanwhile has come far with it.
    fn undisturbed(&self, when: &str) {
        let leader = self.members[0].leadership();
        assert!(
            leader.is_leader && leader.term == self.term,
            "{when}: {leader:?}, not the leader of term {}",
            self.term
        );
        for member in &self.members {
            let term = member.leadership().term;
            assert_eq!(term, self.term, "{when}: member {} is in another term", member.number);
        }
    }

    /// Writes for so long, with the leader that there is.
    fn write_on(&mut self, time: Duration, when: &str) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.write();
            self.undisturbed(when);
        }
    }

    /// Waits until everybody has everything, and finds the leader undisturbed.
    fn recovered(&mut self, when: &str) {
        let key = self.write();
        wait("everybody to have caught up", || {
            let caught_up = |member: &Member| member.has(&key) && member.leadership().has_quorum;
            self.members.iter().all(caught_up)
        });
        self.undisturbed(when);
    }
}

fn ports() -> NodePorts {
    NodePorts {
        peer: PORT,
        ..NodePorts::default()
    }
}

fn founded(switch: &Switch, root: &Path) -> Member {
    let dir = root.join("node1");
    found(&FoundOptions {
        data_dir: dir.clone(),
        node_name: "node1".into(),
        address: address(1),
        ports: ports(),
        settings: std::collections::BTreeMap::new(),
    })
    .unwrap();
    Member::start(1, switch.plug(1), dir)
}

fn joined(switch: &Switch, root: &Path, first: &Member, number: u8) -> Member {
    let (dir, namespace) = (root.join(format!("node{number}")), switch.plug(number));
    let identity = NodeIdentity::load(&identity_dir(&first.dir)).unwrap();
    let token = first.run(async move {
        let admin = AdminClient::new(identity, &address(1), PORT).unwrap();
        admin.create_join_token(Duration::from_secs(60)).await.unwrap()
    });
    let options = JoinOptions {
        data_dir: dir.clone(),
        node_name: format!("node{number}"),
        address: address(number),
        ports: ports(),
        token,
        peer: format!("{}:{PORT}", address(1)),
    };
    namespace.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(join(&options)).unwrap();
    });
    Member::start(number, namespace, dir)
}

fn wait(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_one_way_partition_does_not_unseat_a_healthy_leader() {
    let mut group = Group::of_three();
    // Nobody who is not cut off notices; whoever is says so, and does not say it by electing.
    let alone = |group: &Group, place: usize| {
        wait("the member that is cut off to know it", || {
            !group.members[place].leadership().has_quorum
        });
    };
    for place in [1, 2] {
        let when = format!(
            "member {} does not hear the leader, and is heard",
            group.members[place].number
        );
        group.members[0].cut(&group.members[place], true);
        alone(&group, place);
        group.write_on(LONG, &when);
        group.members[0].cut(&group.members[place], false);
        group.recovered(&format!("{when} no longer"));
    }
    for place in [1, 2] {
        let when = format!(
            "member {} hears the leader, and is not heard",
            group.members[place].number
        );
        group.members[place].cut(&group.members[0], true);
        group.write_on(LONG, &when);
        group.members[place].cut(&group.members[0], false);
        group.recovered(&format!("{when} no longer"));
    }
    // The followers do not need each other.
    for (from, to) in [(1, 2), (2, 1)] {
        group.members[from].cut(&group.members[to], true);
    }
    group.write_on(LONG, "the followers do not hear each other");
    for (from, to) in [(1, 2), (2, 1)] {
        group.members[from].cut(&group.members[to], false);
    }
    group.recovered("all links are well");
}

#[test]
fn flapping_links_do_not_cause_elections() {
    let mut group = Group::of_three();
    // One follower after the other: its link to the leader goes in either direction or in both, for shorter and longer than an
    // election takes, and comes back for as little.
    for place in [1, 2] {
        for round in 1..=12_u32 {
            let directions: &[(usize, usize)] = match round % 3 {
                0 => &[(0, place), (place, 0)],
                1 => &[(0, place)],
                _ => &[(place, 0)],
            };
            let when = format!("round {round}, the link of member {}", group.members[place].number);
            for (lost, time) in [(true, ELECTION * round / 4), (false, ELECTION * (13 - round) / 6)] {
                for (from, to) in directions {
                    group.members[*from].cut(&group.members[*to], lost);
                }
                group.write_on(time, &when);
            }
        }
        group.recovered("the link is well");
    }
}
