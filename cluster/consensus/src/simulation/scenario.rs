//! A run: a group of three, clients, faults, healing, and the judgement.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::{ClusterState, Command, JoinToken, NodeId, NodePorts, Proposal, Response, TokenId};
use openraft::BasicNode;
use openraft::async_runtime::WatchReceiver;
use serde_json::Value;

use super::history::{Action, OPERATIONS_MAX, Operation, is_linearizable};
use super::world::{World, below, chance, count, millis, reset, results, violation, was_applied};
use super::{node, runtime};
use crate::member::Member;
use crate::packed::Packed;
use crate::server::Forwarded;

const KEYS: u64 = 3;
const CLIENTS: u64 = 4;
const FAULTY_PHASE: Duration = Duration::from_secs(12);
const HEALING_LIMIT: Duration = Duration::from_secs(60);
const NODES_EVER_MAX: usize = 5;

/// What came of a run.
pub(super) struct Outcome {
    pub(super) seed: u64,
    pub(super) violations: Vec<String>,
    pub(super) counters: BTreeMap<&'static str, u64>,
    /// A fingerprint of every message, election and applied entry, with their times.
    pub(super) trace: u64,
}

/// What clients have seen so far.
#[derive(Default)]
struct Ledger {
    sequence: u64,
    values: u64,
    keys: BTreeMap<u64, Vec<Operation>>,
    acknowledged: Vec<Vec<u8>>,
}

#[derive(Clone, Default)]
struct Book(Arc<Mutex<Ledger>>);

impl Book {
    fn with<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self) -> u64 {
        self.with(|ledger| {
            ledger.sequence += 1;
            ledger.sequence
        })
    }

    fn end(&self, key: u64, action: Action, began: u64, certain: bool) {
        self.with(|ledger| {
            ledger.sequence += 1;
            let ended = certain.then_some(ledger.sequence);
            ledger
                .keys
                .entry(key)
                .or_default()
                .push(Operation { action, began, ended });
        });
    }

    fn is_full(&self, key: u64) -> bool {
        self.with(|ledger| ledger.keys.entry(key).or_default().len() >= OPERATIONS_MAX - 10)
    }
}

pub(super) fn run_seed(seed: u64, loud: bool) -> Outcome {
    runtime::set_seed(seed);
    reset();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        // Time that passes while nothing can be done any more is a deadlock of the simulation itself.
        let world = World::new(loud);
        run(&world).await;
    });
    drop(runtime);
    let (counters, violations, trace) = results();
    Outcome {
        seed,
        violations,
        counters,
        trace,
    }
}

async fn run(world: &World) {
    world.weather(|weather| weather.delay_ms_max = 2);
    if let Err(why) = found(world).await {
        return violation(format!("the group was not founded: {why}"));
    }
    let book = Book::default();
    world.weather(|weather| {
        weather.loss_permille = below(30);
        weather.duplicate_permille = below(60);
        weather.delay_ms_max = 1 + below(15);
    });
    let end = world.elapsed() + FAULTY_PHASE;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(client(world.clone(), book.clone(), end)))
        .collect();
    while world.elapsed() < end {
        tokio::time::sleep(millis(50, 900)).await;
        fault(world).await;
    }
    heal(world).await;
    for client in clients {
        client.await.expect("a client does not panic");
    }
    converge(world, &book).await;
    judge(&book);
    for (node, _) in world.members() {
        node::crash(world, node);
    }
}

async fn propose(member: &Member, command: Command) -> Result<Response, String> {
    member
        .consensus
        .propose(command)
        .await
        .map_err(|error| error.to_string())
}

/// Registers one more node with the group; its number.
async fn register(member: &Member, name: &str) -> Result<u64, String> {
    let token = JoinToken {
        id: TokenId(name.into()),
        secret_hash: "hash".into(),
        expires_at: jiff::Timestamp::MAX,
    };
    propose(member, Command::CreateToken(token)).await?;
    let command = Command::RegisterNode {
        token: TokenId(name.into()),
        secret_hash: "hash".into(),
        node_name: name.into(),
        address: name.into(),
        ports: NodePorts::default(),
    };
    match propose(member, command).await? {
        Response::Registered(id) => Ok(id.0),
        other => Err(format!("{other:?}")),
    }
}

async fn found(world: &World) -> Result<(), String> {
    node::start(world, 1).await;
    let (member, _) = world.target(1).ok_or("node 1 runs")?;
    let members = BTreeMap::from([(1, BasicNode::new("node1:8300"))]);
    let initialized = member.raft.initialize(members).await;
    initialized.map_err(|error| error.to_string())?;
    let command = Command::Found {
        cluster_id: "simulation".into(),
        ca_certificate: String::new(),
        sealed_ca_key: Vec::new(),
        node_name: "node1".into(),
        address: "node1".into(),
        ports: NodePorts::default(),
        settings: BTreeMap::new(),
    };
    propose(&member, command).await?;
    for name in ["node2", "node3"] {
        let id = register(&member, name).await?;
        node::start(world, id).await;
    }
    let end = world.elapsed() + HEALING_LIMIT;
    while member.consensus.voters().is_none_or(|voters| voters.len() != 3) {
        if world.elapsed() > end {
            return Err("three voters in time".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A client: one operation after the other, at whichever node.
async fn client(world: World, book: Book, end: Duration) {
    while world.elapsed() < end {
        tokio::time::sleep(millis(5, 150)).await;
        let key = below(KEYS);
        let members = world.members();
        if members.is_empty() || book.is_full(key) {
            continue;
        }
        let (_, member) = &members[usize::try_from(below(members.len() as u64)).unwrap_or(0)];
        if chance(500) {
            write(&world, &book, member, key).await;
        } else {
            read(&world, &book, member, key).await;
        }
    }
}

/// Proposes under one request id, at one node and then others, until it is acknowledged or the client gives up.
async fn write(world: &World, book: &Book, first: &Member, key: u64) -> bool {
    let value = book.with(|ledger| {
        ledger.values += 1;
        ledger.values
    });
    let command = Command::PutSetting {
        key: format!("key-{key}"),
        value: Value::from(value),
    };
    let (request, at) = (first.consensus.stamps)();
    let proposal = Proposal {
        after: first.consensus.applied(),
        ..Proposal::new(request, at, command)
    };
    let packed = Packed::new(&proposal).expect("a proposal packs");
    let began = book.begin();
    let end = world.elapsed() + millis(200, 3000);
    let mut member = first.clone();
    let mut sent = false;
    while world.elapsed() < end {
        let left = end.saturating_sub(world.elapsed());
        sent = true;
        let leader = member.consensus.leadership().borrow().leader;
        match tokio::time::timeout(left, member.consensus.try_propose(leader, &packed)).await {
            Ok(Forwarded::Applied(Response::Done)) => {
                book.end(key, Action::Write(value), began, true);
                book.with(|ledger| ledger.acknowledged.push(packed.0.to_vec()));
                return true;
            }
            Ok(Forwarded::Applied(other)) => violation(format!("a write was answered with {other:?}")),
            Ok(Forwarded::NotLeader | Forwarded::Failed(_)) | Err(_) => {}
        }
        tokio::time::sleep(millis(5, 60)).await;
        let members = world.members();
        if let Some((_, other)) = members.get(usize::try_from(below(members.len() as u64)).unwrap_or(0)) {
            member = other.clone();
        }
    }
    if sent {
        count("write of unknown outcome");
        book.end(key, Action::Write(value), began, false);
    }
    false
}

async fn read(world: &World, book: &Book, member: &Member, key: u64) -> bool {
    let began = book.begin();
    let me = member.consensus.me().0;
    let incarnation = world.node(me, |slot| slot.incarnation);
    let Ok(state) = member.consensus.linearizable().await else {
        return false;
    };
    // An answer from a node that has ended meanwhile reached nobody.
    if world.node(me, |slot| slot.incarnation) != incarnation {
        return false;
    }
    let value = value_of(&state, key);
    book.end(key, Action::Read(value), began, true);
    true
}

fn value_of(state: &ClusterState, key: u64) -> u64 {
    let value = state.settings().get(&format!("key-{key}"));
    value.and_then(Value::as_u64).unwrap_or(0)
}

fn some_node(world: &World) -> u64 {
    let nodes = world.nodes();
    nodes[usize::try_from(below(nodes.len() as u64)).unwrap_or(0)]
}

/// Restarts a node after a while.
fn later_restart(world: &World, node: u64, after: Duration) {
    let world = world.clone();
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        if world.nodes().contains(&node) && world.target(node).is_none() {
            node::start(&world, node).await;
        }
    });
}

async fn fault(world: &World) {
    let (one, other) = (some_node(world), some_node(world));
    match below(13) {
        0..=2 => {
            node::crash(world, one);
            later_restart(world, one, millis(10, 3000));
        }
        3 => {
            for node in world.nodes() {
                node::crash(world, node);
                later_restart(world, node, millis(10, 1500));
            }
        }
        4 => {
            world.say(|| format!("node {one} alone"));
            let nodes = world.nodes();
            world.weather(|weather| {
                for node in nodes.into_iter().filter(|node| *node != one) {
                    weather.cut.extend([(one, node), (node, one)]);
                }
            });
        }
        5 if one != other => {
            count("one-way cut");
            world.say(|| format!("nothing from {one} to {other}"));
            world.weather(|weather| weather.cut.insert((one, other)));
        }
        6 => {
            count("one-way cut");
            world.say(|| format!("nothing from {one} to anyone"));
            let nodes = world.nodes();
            world.weather(|weather| weather.cut.extend(nodes.into_iter().map(|node| (one, node))));
        }
        7 => {
            world.say(|| format!("bridge: {one} and {other} apart"));
            world.weather(|weather| weather.cut.extend([(one, other), (other, one)]));
        }
        8 | 9 => {
            world.say(|| "links whole".into());
            world.weather(|weather| weather.cut.clear());
        }
        10 => {
            world.say(|| format!("node {one} is stopped for a while"));
            world.weather(|weather| weather.held.insert(one));
            let world = world.clone();
            tokio::spawn(async move {
                tokio::time::sleep(millis(100, 1500)).await;
                world.weather(|weather| weather.held.remove(&one));
            });
        }
        11 => {
            world.weather(|weather| {
                weather.loss_permille = below(80);
                weather.delay_ms_max = 1 + below(30);
            });
            let skew = i64::try_from(below(7_200_000)).unwrap_or(0) - 3_600_000;
            world.node(one, |slot| slot.skew_ms = skew);
        }
        _ => {
            if chance(700) {
                hand_over(world, one);
            } else {
                replace(world);
            }
        }
    }
}

/// The leader hands over, while everything else goes on.
fn hand_over(world: &World, to: u64) {
    for (node, member) in world.members() {
        if node != to && member.consensus.leadership().borrow().is_leader {
            world.say(|| format!("{node} hands over to {to}"));
            tokio::spawn(async move {
                if member.consensus.transfer_leader(NodeId(to)).await.is_ok() {
                    count("leadership handed over");
                }
            });
            return;
        }
    }
}

/// Takes a node out and lets another one join, under a new number.
fn replace(world: &World) {
    if world.nodes().len() >= NODES_EVER_MAX {
        return;
    }
    let Some((_, member)) = world.members().into_iter().next() else {
        return;
    };
    let (world, name) = (world.clone(), format!("later-{}", below(1_000_000)));
    tokio::spawn(async move {
        let Ok(id) = register(&member, &name).await else { return };
        world.say(|| format!("node {id} joins"));
        node::start(&world, id).await;
        tokio::time::sleep(millis(200, 1500)).await;
        let gone = some_node(&world);
        if gone != id && propose(&member, Command::RemoveNode(NodeId(gone))).await.is_ok() {
            world.say(|| format!("node {gone} was taken out"));
            count("node replaced");
        }
    });
}

async fn heal(world: &World) {
    world.say(|| "healing".into());
    world.weather(|weather| {
        weather.cut.clear();
        weather.loss_permille = 0;
        weather.duplicate_permille = 0;
        weather.delay_ms_max = 2;
    });
    // Restarts that are under way come first.
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.weather(|weather| weather.held.clear());
    for node in world.nodes() {
        if world.target(node).is_none() {
            node::start(world, node).await;
        }
    }
}

/// From now on the group must serve again, and agree.
async fn converge(world: &World, book: &Book) {
    let end = world.elapsed() + HEALING_LIMIT;
    loop {
        if world.elapsed() > end {
            for (node, member) in world.members() {
                world.say(|| {
                    format!(
                        "node {node} stands at {}",
                        member.raft.metrics().borrow_watched().clone()
                    )
                });
            }
            return violation(format!("no agreement within {} s of healing", HEALING_LIMIT.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Nodes that were taken out stay behind; the present ones are what the leader knows.
        let members = world.members();
        let leader = members
            .iter()
            .find(|(_, member)| member.consensus.leadership().borrow().is_leader);
        let Some((_, leader)) = leader else { continue };
        let Ok(state) = leader.consensus.linearizable().await else {
            continue;
        };
        let present: Vec<Member> = members
            .iter()
            .filter(|(node, _)| state.nodes().contains_key(&NodeId(*node)))
            .map(|(_, member)| member.clone())
            .collect();
        if present.is_empty() || !write(world, book, &present[0], 0).await {
            continue;
        }
        let mut read_all = true;
        for key in 0..KEYS {
            for member in &present {
                read_all &= read(world, book, member, key).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let states: Vec<_> = present
            .iter()
            .map(|member| member.consensus.state().borrow().clone())
            .collect();
        if read_all && states.windows(2).all(|pair| pair[0] == pair[1]) {
            for node in world.nodes() {
                if !state.nodes().contains_key(&NodeId(node)) {
                    node::crash(world, node);
                    world.forget(node);
                }
            }
            return;
        }
    }
}

fn judge(book: &Book) {
    book.with(|ledger| {
        for (key, history) in &ledger.keys {
            if history.len() <= OPERATIONS_MAX && !is_linearizable(history) {
                violation(format!("key {key} is not linearizable: {history:?}"));
            }
        }
        for bytes in &ledger.acknowledged {
            if !was_applied(bytes) {
                violation("an acknowledged proposal was applied nowhere".into());
            }
        }
    });
}
