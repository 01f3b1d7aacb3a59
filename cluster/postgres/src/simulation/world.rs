//! The simulated cluster: nodes, network, Raft group and clients under one virtual clock and one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_catalog::database::{DatabaseCommand, Lsn};

use super::checks::Checks;
use super::node::{Manager, Node};
use super::raft::Raft;
use super::rng::Rng;
use super::wal::Wal;
use crate::coordinator::{Observation, Order};
use crate::tracking::Silence;

/// A fault in the code under test, to prove that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    /// The least advanced of the pledged is chosen.
    LeastAdvanced,
    /// One pledge is taken for a majority.
    PledgesOfMinority,
    /// A position counts before it stands still.
    IgnoreSettled,
    /// A commit is acknowledged by one standby too few.
    FewerAcks,
    /// A pledge is lost by a restart.
    ForgetPledge,
    /// A pledged standby goes on receiving.
    FeedPledged,
    /// Clients are let in before the marker is acknowledged.
    OpenUnproven,
    /// A change of the cohort forgets the cohort that it replaces.
    ForgetLeaving,
    /// The rule is committed when the candidate has been promoted, before it serves.
    CommitEarly,
    /// Positions are compared without the timeline.
    IgnoreTimeline,
    /// The marker is written before the server is seen to obey its quorum.
    TrustReload,
    /// Clients stay connected to a server that crashed and was started again.
    OpenAfterCrash,
}

/// A fault that follows another.
#[derive(Debug, Clone, Copy)]
pub(super) enum Blow {
    /// The primary loses power, and all others are there again.
    PrimaryInstead,
    /// The primary is cut off.
    PrimaryAlone,
}

/// A message on its way.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Observe {
        from: NodeId,
        to: NodeId,
        round: u64,
    },
    Observed {
        from: NodeId,
        to: NodeId,
        round: u64,
        answer: Result<Observation, Silence>,
    },
    Order {
        from: NodeId,
        to: NodeId,
        order: Order,
    },
    Propose {
        from: NodeId,
        command: DatabaseCommand,
    },
    /// A standby tells its primary what it has flushed.
    Flushed {
        from: NodeId,
        to: NodeId,
        life: u64,
        at: Lsn,
    },
}

pub(super) struct World {
    pub(super) rng: Rng,
    /// Milliseconds.
    pub(super) now: u64,
    pub(super) wal: Wal,
    pub(super) nodes: Vec<Node>,
    pub(super) raft: Raft,
    /// Directions that are cut.
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    messages: BTreeMap<(u64, u64), Message>,
    sent: u64,
    pub(super) checks: Checks,
    pub(super) mutant: Option<Mutant>,
    /// Whether anything goes wrong by chance.
    pub(super) hostile: bool,
    pub(super) writing: bool,
    /// What goes wrong later: when, and whether all else is mended then.
    pub(super) planned: Vec<(u64, Blow)>,
    /// What happened, when it is wanted.
    pub(super) trace: Option<Vec<String>>,
    /// How often the rare has happened: a simulation in which it never does proves nothing.
    pub(super) reached: BTreeMap<&'static str, u64>,
}

/// Writes a line of the trace, when there is one.
macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if $world.trace.is_some() {
            let line = format!("{:>6} {}", $world.now, format_args!($($text)*));
            $world.trace.get_or_insert_default().push(line);
        }
    };
}
pub(super) use note;

impl World {
    pub(super) fn new(seed: u64, mutant: Option<Mutant>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let size = rng.pick(&[1, 3, 3, 3, 3, 5]).unwrap_or(3);
        let nodes: Vec<Node> = (1..=size).map(|id| Node::new(NodeId(id))).collect();
        let mut raft = Raft::new(NodeId(1));
        raft.voters = nodes.iter().map(|node| node.id).collect();
        Self {
            rng,
            now: 0,
            wal: Wal::new(),
            nodes,
            raft,
            cut: BTreeSet::new(),
            messages: BTreeMap::new(),
            sent: 0,
            checks: Checks::new(),
            mutant,
            hostile: false,
            writing: true,
            planned: Vec::new(),
            trace: traced.then(Vec::new),
            reached: BTreeMap::new(),
        }
    }

    pub(super) fn clock(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize - 1]
    }

    pub(super) fn peek(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize - 1]
    }

    pub(super) fn members(&self) -> Vec<NodeId> {
        self.nodes
            .iter()
            .filter(|node| node.member)
            .map(|node| node.id)
            .collect()
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    /// Whether a message of one gets to the other now.
    pub(super) fn passes(&self, from: NodeId, to: NodeId) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }

    /// Whether two processes can talk.
    pub(super) fn connected(&self, a: NodeId, b: NodeId) -> bool {
        self.peek(a).runs() && self.peek(b).runs() && self.passes(a, b) && self.passes(b, a)
    }

    pub(super) fn has_majority(&self, node: NodeId) -> bool {
        let voters = &self.raft.voters;
        let reached = voters.iter().filter(|id| self.connected(node, **id)).count();
        voters.contains(&node) && reached > voters.len() / 2
    }

    pub(super) fn send(&mut self, message: Message) {
        let late = self.hostile && self.rng.once_in(20);
        let delay = if late {
            self.rng.between(50, 2500)
        } else {
            self.rng.between(1, 8)
        };
        if self.hostile && self.rng.once_in(40) {
            return;
        }
        if self.hostile && self.rng.once_in(40) {
            let again = self.rng.between(1, 1500);
            self.post(again, message.clone());
        }
        self.post(delay, message);
    }

    pub(super) fn post(&mut self, delay: u64, message: Message) {
        self.sent += 1;
        self.messages.insert((self.now + delay, self.sent), message);
    }

    /// A while passes.
    pub(super) fn step(&mut self) {
        self.now += self.rng.between(1, 12);
        while let Some(entry) = self.messages.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let message = entry.remove();
            self.deliver(message);
        }
        self.vote();
        for index in 0..self.nodes.len() {
            let id = self.nodes[index].id;
            self.serve(id);
            if self.nodes[index].runs() && self.nodes[index].member {
                self.learn(id);
                self.drive(id);
                self.coordinate(id);
            }
        }
        self.replicate();
        if self.writing {
            self.use_database();
        }
    }

    fn deliver(&mut self, message: Message) {
        let (from, to) = match &message {
            Message::Observe { from, to, .. }
            | Message::Observed { from, to, .. }
            | Message::Order { from, to, .. }
            | Message::Flushed { from, to, .. } => (*from, *to),
            Message::Propose { from, .. } => (*from, *from),
        };
        if !self.passes(from, to) {
            return;
        }
        match self.peek(to).manager {
            // The system keeps it until the process goes on.
            Manager::Paused => return self.post(40, message),
            Manager::Down => {
                if let Message::Observe { round, .. } = message {
                    let answer = Err(Silence::Gone);
                    self.send(Message::Observed {
                        from: to,
                        to: from,
                        round,
                        answer,
                    });
                }
                return;
            }
            Manager::Running => {}
        }
        match message {
            Message::Observe { round, .. } => {
                let answer = Ok(self.peek(to).observation.clone());
                self.send(Message::Observed {
                    from: to,
                    to: from,
                    round,
                    answer,
                });
            }
            Message::Observed { round, answer, .. } => self.answered(to, from, round, answer),
            Message::Order { order, .. } => self.take_order(to, &order),
            Message::Propose { command, .. } => self.propose(from, command),
            Message::Flushed { life, at, .. } => {
                let node = self.node(to);
                if node.life == life
                    && let Some(primary) = node.server.primary()
                {
                    let known = primary.reported.entry(from).or_default();
                    *known = at.max(*known);
                }
            }
        }
    }

    fn propose(&mut self, from: NodeId, command: DatabaseCommand) {
        if self.raft.leader != from || !self.has_majority(from) {
            note!(self, "raft: {from} cannot commit {command:?}");
            return;
        }
        let before = self.raft.state(self.raft.end());
        if !self.raft.commit(command.clone()) {
            note!(self, "raft: refused {command:?}");
            return;
        }
        note!(self, "raft: {from} commits {command:?}");
        if self.hostile && matches!(command, DatabaseCommand::Commit { .. }) && self.rng.once_in(4) {
            self.plan(20, 1500, Blow::PrimaryInstead);
        }
        let after = self.raft.state(self.raft.end());
        self.checks.committed(&before, &after);
        let end = self.raft.end();
        self.node(from).applied = end;
    }

    /// An operator's wish, through any node.
    pub(super) fn command(&mut self, command: DatabaseCommand) {
        let leader = self.raft.leader;
        self.propose(leader, command);
    }

    /// Elects a leader when there is none that reaches a majority.
    fn vote(&mut self) {
        let leader = self.raft.leader;
        if !self.has_majority(leader) && self.rng.once_in(20) {
            let able: Vec<NodeId> = self.members().into_iter().filter(|id| self.has_majority(*id)).collect();
            if let Some(next) = self.rng.pick(&able) {
                self.elect(next);
            }
        }
        let stale: Vec<NodeId> = self
            .raft
            .believers
            .iter()
            .copied()
            .filter(|id| *id != self.raft.leader)
            .collect();
        for id in stale {
            let hears = self.connected(id, self.raft.leader);
            let odds = if hears { 3 } else { 60 };
            let ends = self.peek(id).manager == Manager::Down || (self.peek(id).runs() && self.rng.once_in(odds));
            if ends {
                self.raft.believers.remove(&id);
            }
        }
    }

    pub(super) fn elect(&mut self, next: NodeId) {
        note!(self, "raft: {next} leads");
        self.count("election");
        self.raft.leader = next;
        self.raft.believers.insert(next);
        let end = self.raft.end();
        self.node(next).applied = end;
    }

    /// Committed entries come to a node.
    fn learn(&mut self, id: NodeId) {
        let leader = self.raft.leader;
        if !self.has_majority(leader) || !self.connected(id, leader) {
            return;
        }
        let (applied, end) = (self.peek(id).applied, self.raft.end());
        let odds = if self.hostile { 8 } else { 2 };
        if applied < end && self.rng.once_in(odds) {
            let more = self.rng.between(1, (end - applied) as u64) as usize;
            self.node(id).applied = applied + more;
        }
        if !self.peek(id).confirmed && self.peek(id).applied == end && self.rng.once_in(4) {
            self.node(id).confirmed = true;
        }
    }
}
