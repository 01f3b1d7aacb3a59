//! The coordinator and the driver's core against a model of PostgreSQL, Raft and the network, with everything going wrong.
//!
//! The real pure code runs here: `coordinator::decide`, `tracking`, `DatabaseState::apply` and `lineage`, `Pledge`,
//! `Memory::observe` and `step`, `Acknowledgers::of`. One seed gives everything. A run has two parts: faults, with the invariants
//! of `checks` after every step; then none, in which the cluster must come to one primary that serves, all others streaming, and
//! equal logs that hold all that was acknowledged.
//!
//! `CONCLAVE_SIM_SEED=7` replays a seed and prints its trace; `CONCLAVE_SIM_SEEDS=100000` sets how many are run.

mod checks;
mod coordinating;
mod database;
mod driving;
mod faults;
mod mutants;
mod node;
mod proving;
mod raft;
mod rng;
mod server;
mod tests;
mod wal;
mod world;

use std::collections::BTreeMap;

use server::Server;
use wal::Record;
use world::{Mutant, World};

/// How long everything goes wrong, in simulated milliseconds.
const HOSTILE_MS: u64 = 16_000;
/// How long the cluster may take to be well again.
const RECOVERY_MS: u64 = 120_000;
/// How long it may take to be founded.
const FOUNDING_MS: u64 = 60_000;

/// What came of a run.
struct Outcome {
    broken: Option<String>,
    trace: Vec<String>,
    reached: BTreeMap<&'static str, u64>,
    acknowledged: u64,
}

fn run(seed: u64, mutant: Option<Mutant>, traced: bool) -> Outcome {
    let mut world = World::new(seed, mutant, traced);
    // It is founded by one node, and grows while all is well or while things go wrong already.
    while world.raft.latest().rule.is_none() {
        world.step();
    }
    let calm = !world.rng.once_in(5);
    if calm && !world.until_well(FOUNDING_MS) {
        world
            .checks
            .fail(format!("the cluster was not founded: {}", world.summary()));
    }
    world.hostile = true;
    let (end, pace) = (world.now + HOSTILE_MS, world.rng.between(8, 60));
    while world.now < end && world.checks.broken.is_none() {
        world.blow();
        if world.rng.once_in(pace) {
            world.trouble();
        }
        world.step();
    }
    world.heal_all();
    let well = world.until_well(RECOVERY_MS);
    if !well && world.has_lost_majority() {
        world.count("majority lost");
        return world.outcome();
    }
    if !well {
        world
            .checks
            .fail(format!("the cluster does not recover: {}", world.summary()));
    }
    let acknowledged = world.checks.acknowledged;
    if world.checks.broken.is_none() && !world.takes_writes(acknowledged) {
        world
            .checks
            .fail(format!("the cluster takes no writes: {}", world.summary()));
    }
    world.outcome()
}

impl World {
    fn outcome(self) -> Outcome {
        Outcome {
            broken: self.checks.broken,
            trace: self.trace.unwrap_or_default(),
            reached: self.reached,
            acknowledged: self.checks.acknowledged,
        }
    }

    /// Whether an operator has removed a node and a rewind was interrupted on another, so that no majority of the cohort is left
    /// that holds data. Nothing can be done then but to say so.
    fn has_lost_majority(&self) -> bool {
        let Some(rule) = &self.raft.latest().rule else {
            return false;
        };
        let nodes = || rule.cohort.iter().map(|id| self.peek(*id));
        let whole = nodes()
            .filter(|node| node.member && node.data.is_some() && !node.half_rewound)
            .count();
        whole < rule.majority() && nodes().any(|node| !node.member)
    }

    /// Steps until all is well; `false` when it does not become so in time. Something broken ends it as well.
    fn until_well(&mut self, limit: u64) -> bool {
        let end = self.now + limit;
        self.writing = false;
        while self.now < end && self.checks.broken.is_none() {
            self.step();
            if self.is_well() {
                self.writing = true;
                return true;
            }
        }
        self.writing = true;
        self.checks.broken.is_some()
    }

    fn takes_writes(&mut self, before: u64) -> bool {
        let end = self.now + 20_000;
        while self.now < end && self.checks.broken.is_none() {
            self.step();
            if self.checks.acknowledged > before + 3 {
                return true;
            }
        }
        self.checks.broken.is_some()
    }

    /// One primary serves in the rule in force, all others stream from it, and all logs are equal.
    fn is_well(&self) -> bool {
        let state = self.raft.latest();
        let (Some(rule), None) = (&state.rule, &state.change) else {
            return false;
        };
        if self.raft.voters.contains(&rule.primary) && rule.cohort != self.raft.voters {
            return false;
        }
        let primary = self.peek(rule.primary);
        if primary.gates.serving != Some(rule.epoch) || !matches!(primary.server, Server::Primary(_)) {
            return false;
        }
        let log = |node: &node::Node| -> Option<Record> { node.data.as_ref().map(|data| data.flushed) };
        let end = log(primary);
        let follows = |node: &node::Node| match &node.server {
            Server::Recovery(recovery) => recovery
                .receiver
                .as_ref()
                .is_some_and(|receiver| receiver.from == rule.primary && !receiver.cut),
            _ => false,
        };
        let holds = end.is_some_and(|end| self.wal.holds(end, self.checks.must));
        let others = self.nodes.iter().filter(|node| node.member && node.id != rule.primary);
        holds && others.into_iter().all(|node| follows(node) && log(node) == end)
    }

    /// What the cluster looks like, for a failure.
    fn summary(&self) -> String {
        let state = self.raft.latest();
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .filter(|node| node.member)
            .map(|node| {
                let log = node
                    .data
                    .as_ref()
                    .map(|data| (self.wal.timeline(data.end), self.wal.lsn(data.end)));
                let server = match &node.server {
                    Server::Off => "off",
                    Server::Recovery(_) => "standby",
                    Server::Primary(_) => "primary",
                };
                format!(
                    "{} {:?} {server} log {log:?} gates {:?} pledge {:?} task {:?} half {}",
                    node.id, node.manager, node.gates, node.pledge, node.task, node.half_rewound
                )
            })
            .collect();
        format!(
            "rule {:?} change {:?}\n  {}",
            state.rule,
            state.change,
            nodes.join("\n  ")
        )
    }
}
