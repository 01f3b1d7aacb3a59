//! The driver's shell in the simulation: its task around the real core.

use std::collections::BTreeMap;

use conclave_catalog::NodeId;

use super::database::{copied, fresh};
use super::node::{Copy, Job, Node, Task};
use super::server::{Primary, Server, name};
use super::world::{Mutant, World, note};
use crate::coordinator::{Order, Role};
use crate::driver::decide::{Ended, Gates, Look, Step};
use crate::driver::pledge::Goal;
use crate::driver::settings::Acknowledgers;

const MARKER_MS: u64 = 5000;

impl World {
    /// The driver takes an order: on disk before it is answered, and the gates close with it.
    pub(super) fn take_order(&mut self, id: NodeId, order: &Order) {
        let state = self.raft.state(self.peek(id).applied);
        let feeds_pledged = self.mutant == Some(Mutant::FeedPledged);
        let node = self.node(id);
        let before = node.pledge.epoch;
        let mut next = node.pledge.clone();
        if node.disk_full || !next.accept(order) {
            return;
        }
        node.pledge = next;
        let after = node.pledge.epoch;
        let goal = node.pledge.goal(state.rule.as_ref(), id);
        if !(feeds_pledged && matches!(goal, Goal::Standby { upstream: None, .. })) {
            node.gates.close(&goal);
        }
        if let Task::Idle { at } = &mut node.task {
            *at = 0;
        }
        self.checks.pledged(id, before, after);
        note!(self, "{id}: takes {order:?}");
    }

    fn goal(&self, node: &Node) -> (Goal, u64) {
        let state = self.raft.state(node.applied);
        let goal = node.pledge.goal(state.rule.as_ref(), node.id);
        let stale = !node.confirmed && matches!(goal, Goal::Primary { .. } | Goal::Promote { .. } | Goal::Drain { .. });
        (if stale { Goal::Wait } else { goal }, node.pledge.epoch)
    }

    /// One turn of the driver's task.
    pub(super) fn drive(&mut self, id: NodeId) {
        let now = self.now;
        match self.peek(id).task.clone() {
            Task::Idle { at } if now >= at => {
                let (goal, pledged) = self.goal(self.peek(id));
                let feeds_pledged = self.mutant == Some(Mutant::FeedPledged);
                let delay = if self.hostile && self.rng.once_in(30) {
                    self.rng.between(50, 1500)
                } else {
                    self.rng.below(8)
                };
                let node = self.node(id);
                if !(feeds_pledged && matches!(goal, Goal::Standby { upstream: None, .. })) {
                    node.gates.close(&goal);
                    node.gates.open_upstream(&goal);
                }
                node.task = Task::Looking {
                    at: now + delay,
                    goal,
                    pledged,
                };
            }
            Task::Looking { at, goal, pledged } if now >= at => self.look(id, &goal, pledged),
            Task::Working { at, job } if now >= at => self.work(id, job),
            _ => {}
        }
    }

    fn look(&mut self, id: NodeId, goal: &Goal, pledged: u64) {
        let node = &self.nodes[id.0 as usize - 1];
        let state = self.raft.state(node.applied);
        let facts = node.server.facts(&self.wal, node.data.as_ref(), self.now);
        let mut look = Look {
            goal,
            server: facts.as_ref(),
            running: node.server.is_on(),
            has_data: node.data.is_some(),
            half_rewound: node.half_rewound,
            ended: None,
            source: None,
            database: &state,
            now: self.clock(),
        };
        let mut memory = node.memory.clone();
        let mut observation = memory.observe(&look, pledged, node.asked);
        let mut gates = node.gates;
        if self.mutant != Some(Mutant::OpenAfterCrash) {
            gates.close_unproven(&memory);
        }
        if self.mutant == Some(Mutant::IgnoreSettled) && observation.role == Role::Standby {
            observation.settled = true;
        }
        if memory.asks_how_it_ended(&look) {
            look.ended = node.data.as_ref().map(|data| Ended {
                as_primary: data.as_primary,
                timeline: data.control_timeline,
            });
        }
        if memory.asks_for_source(&look) {
            look.source = self.source_of(node);
        }
        let (epoch, acknowledgers) = match goal {
            Goal::Promote { epoch, cohort, .. } => (*epoch, self.acknowledgers(&look, id, cohort, None)),
            Goal::Primary { epoch, cohort, leaving } => {
                let leaving = leaving.as_ref().filter(|_| self.mutant != Some(Mutant::ForgetLeaving));
                (*epoch, self.acknowledgers(&look, id, cohort, leaving))
            }
            Goal::Drain { epoch } | Goal::Standby { epoch, .. } => (*epoch, Acknowledgers::default()),
            Goal::Wait | Goal::Initialize => (0, Acknowledgers::default()),
        };
        let step = memory.step(&look, &acknowledgers);
        let urgent = matches!(
            goal,
            Goal::Standby { upstream: None, .. } | Goal::Promote { .. } | Goal::Drain { .. }
        );
        let next = self.now + if urgent { 15 } else { 100 };
        let node = self.node(id);
        (node.memory, node.observation, node.gates) = (memory, observation, gates);
        node.task = Task::Idle { at: next };
        self.begin(id, step, epoch, acknowledgers);
    }

    /// The timeline of the upstream if that is a primary, whose control file is made to know it.
    fn source_of(&self, node: &Node) -> Option<u32> {
        let from = node.gates.upstream?;
        let life = self.peek(from).life;
        self.source(node.id, Copy { from, life })?;
        match &self.peek(from).server {
            Server::Primary(primary) => Some(primary.timeline),
            _ => None,
        }
    }

    fn acknowledgers(
        &self,
        look: &Look<'_>,
        me: NodeId,
        cohort: &std::collections::BTreeSet<NodeId>,
        leaving: Option<&std::collections::BTreeSet<NodeId>>,
    ) -> Acknowledgers {
        let known = |id: NodeId| self.peek(id).member.then(|| name(id));
        let nobody = std::collections::BTreeSet::new();
        let connected = look.server.map_or(&nobody, |facts| &facts.standbys);
        let mut all = Acknowledgers::of(me, cohort, leaving, connected, known);
        if self.mutant == Some(Mutant::FewerAcks) {
            all.count = all.count.saturating_sub(1);
        }
        all
    }

    fn begin(&mut self, id: NodeId, step: Step, epoch: u64, acknowledgers: Acknowledgers) {
        if !matches!(step, Step::Rest | Step::Open | Step::Drain | Step::Fail(_)) {
            note!(self, "{id}: {step:?} for epoch {epoch}");
        }
        let quick = self.rng.between(2, 40);
        let long = self.rng.between(100, 1500);
        let copy = self.peek(id).gates.upstream.map(|from| Copy {
            from,
            life: self.peek(from).life,
        });
        let (delay, job) = match step {
            Step::Rest | Step::Fail(_) => return,
            Step::Initialize => (quick, Job::Initialize),
            Step::Start => (quick, Job::Start { acknowledgers }),
            Step::StartStandby => (quick, Job::StartStandby),
            Step::Demote => (quick, Job::Demote),
            Step::Undo => (quick, Job::Stop),
            Step::Rewind => {
                let Some(copy) = copy else { return };
                self.checkpoint(copy.from);
                self.begin_rewind(id);
                (long, Job::Rewind(copy))
            }
            Step::Clone => {
                let Some(copy) = copy else { return };
                (long, Job::Clone(copy))
            }
            Step::Promote { timeline, .. } => {
                if self.peek(id).disk_full {
                    return;
                }
                self.reload(id, &acknowledgers);
                self.reserve(id, timeline);
                (
                    quick,
                    Job::Promote {
                        epoch,
                        timeline,
                        acknowledgers,
                    },
                )
            }
            Step::Prove => {
                self.feed(id, epoch);
                let until = self.now + MARKER_MS;
                (
                    0,
                    Job::Prove {
                        epoch,
                        acknowledgers,
                        marker: None,
                        until,
                    },
                )
            }
            Step::Open => {
                self.feed(id, epoch);
                return self.open(id, epoch);
            }
            Step::Drain => return self.drain(id, epoch),
        };
        let at = self.now + delay;
        self.node(id).task = Task::Working { at, job };
    }

    fn still(&self, id: NodeId, epoch: u64) -> bool {
        let node = self.peek(id);
        let state = self.raft.state(node.applied);
        match node.pledge.goal(state.rule.as_ref(), id) {
            Goal::Primary { epoch: now, .. } | Goal::Promote { epoch: now, .. } => now == epoch,
            _ => false,
        }
    }

    pub(super) fn open(&mut self, id: NodeId, epoch: u64) {
        if self.still(id, epoch) && self.peek(id).gates.serving != Some(epoch) {
            self.node(id).gates.serving = Some(epoch);
            note!(self, "{id}: is open in epoch {epoch}");
        }
    }

    fn feed(&mut self, id: NodeId, epoch: u64) {
        if self.still(id, epoch) {
            self.node(id).gates.replication = true;
        }
    }

    /// The recovery that comes first, of a log that was not ended cleanly, writes a record of its own.
    fn begin_rewind(&mut self, id: NodeId) {
        let Some((end, clean)) = self.peek(id).data.as_ref().map(|data| (data.end, data.clean)) else {
            return;
        };
        let timeline = self.wal.timeline(end);
        let recovered = (!clean).then(|| self.wal.append(end, timeline));
        let node = self.node(id);
        node.half_rewound = true;
        if let Some(data) = &mut node.data {
            data.signal = false;
            if let Some(end) = recovered {
                (data.end, data.flushed) = (end, end);
            }
        }
    }

    fn checkpoint(&mut self, id: NodeId) {
        let node = self.node(id);
        if let (Some(data), Some(primary)) = (&mut node.data, node.server.primary()) {
            data.control_timeline = primary.timeline;
        }
    }

    /// Histories that lead nowhere take the numbers of promotions that were abandoned.
    fn reserve(&mut self, id: NodeId, wanted: u32) {
        let Some(end) = self.peek(id).data.as_ref().map(|data| data.end) else {
            return;
        };
        let gap = self.wal.timeline(end) + 1 < wanted;
        if let Some(data) = &mut self.node(id).data {
            data.dead_end |= gap;
        }
    }

    /// Ends clients, those that wait for their quorum too: their commits become visible without it.
    fn drain(&mut self, id: NodeId, epoch: u64) {
        let node = &mut self.nodes[id.0 as usize - 1];
        let (Some(data), Server::Primary(primary)) = (&node.data, &mut node.server) else {
            return;
        };
        node.memory.closed();
        node.gates.serving = None;
        primary.waiting.clear();
        primary.visible = data.end;
        if node.memory.drained.is_none() {
            node.memory.drained = Some((epoch, self.wal.lsn(data.flushed)));
            note!(self, "{id}: drained for epoch {epoch}");
        }
    }

    /// A job has taken its time.
    fn work(&mut self, id: NodeId, job: Job) {
        let now = self.now;
        self.node(id).task = Task::Idle { at: now };
        match job {
            Job::Initialize => {
                let node = self.node(id);
                node.data.get_or_insert_with(fresh);
                node.memory.initialized = true;
                self.start(id, &Acknowledgers::default());
            }
            Job::Start { acknowledgers } => self.start(id, &acknowledgers),
            Job::StartStandby => self.start_standby(id),
            Job::Demote => {
                let node = self.node(id);
                if let Some(data) = &mut node.data {
                    data.signal = true;
                }
                node.memory.closed();
                node.end_server();
            }
            Job::Stop => {
                let node = self.node(id);
                if node.server.is_on()
                    && let Some(data) = &mut node.data
                {
                    data.clean = true;
                }
                node.end_server();
            }
            Job::Rewind(copy) => self.end_rewind(id, copy),
            Job::Clone(copy) => self.end_clone(id, copy),
            Job::Promote {
                epoch,
                timeline,
                acknowledgers,
            } => self.promoted(id, epoch, timeline, acknowledgers),
            Job::Prove {
                epoch,
                acknowledgers,
                marker,
                until,
            } => self.prove(id, epoch, acknowledgers, marker, until),
        }
    }

    fn start(&mut self, id: NodeId, acknowledgers: &Acknowledgers) {
        if self.peek(id).server.is_on() {
            // It runs and does not answer yet.
            return;
        }
        let asked = self.peek(id).asked;
        self.node(id).memory.asked_before = asked;
        self.node(id).memory.obeys(acknowledgers);
        self.start_server(id, acknowledgers);
    }

    fn start_standby(&mut self, id: NodeId) {
        if let Some(data) = &mut self.node(id).data {
            (data.signal, data.dead_end) = (true, false);
        }
        self.start(id, &Acknowledgers::nobody());
    }

    fn end_rewind(&mut self, id: NodeId, copy: Copy) {
        let (source, target) = (self.source(id, copy), self.peek(id).data.clone());
        let (Some(source), Some(target)) = (source, target) else {
            note!(self, "{id}: the rewind failed");
            self.count("rewind failed");
            self.node(id).memory.not_rewound();
            return;
        };
        let data = self.rewound(&target, &source);
        let node = self.node(id);
        (node.data, node.half_rewound) = (Some(data), false);
        node.memory.cured();
        self.start_standby(id);
    }

    fn end_clone(&mut self, id: NodeId, copy: Copy) {
        let Some(source) = self.source(id, copy) else {
            note!(self, "{id}: the clone failed");
            return;
        };
        self.count("clone");
        let node = self.node(id);
        node.end_server();
        (node.data, node.half_rewound) = (Some(copied(&source)), false);
        node.memory.cured();
        self.start_standby(id);
    }

    fn promoted(&mut self, id: NodeId, epoch: u64, timeline: u32, acknowledgers: Acknowledgers) {
        let now = self.now;
        let Some(data) = self.peek(id).data.clone() else { return };
        let Server::Recovery(recovery) = &self.peek(id).server else {
            return;
        };
        if self.peek(id).disk_full {
            return;
        }
        if recovery.replayed != data.end {
            // It replays what it holds first.
            let at = now + 5;
            self.node(id).task = Task::Working {
                at,
                job: Job::Promote {
                    epoch,
                    timeline,
                    acknowledgers,
                },
            };
            return;
        }
        let (configured, effective, effective_at) = (
            recovery.configured.clone(),
            recovery.effective.clone(),
            recovery.effective_at,
        );
        // PostgreSQL takes the number after the highest that it knows.
        let timeline = timeline.max(self.wal.timeline(data.end) + 1);
        let begun = self.wal.append(data.end, timeline);
        self.checks.began_timeline(timeline, begun);
        let checkpoint = (!self.rng.once_in(8)).then(|| now + self.rng.between(10, 2000));
        let dies = self.hostile && self.rng.once_in(12);
        let at = self.wal.lsn(data.end);
        let node = self.node(id);
        if let Some(data) = &mut node.data {
            (data.end, data.flushed, data.torn, data.dead_end) = (begun, begun, false, false);
            (data.signal, data.as_primary) = (dies, true);
        }
        if dies {
            note!(self, "{id}: dies in the middle of its promotion");
            self.count("promotion died");
            return self.node(id).end_server();
        }
        node.server = Server::Primary(Primary {
            ready: now,
            timeline,
            configured,
            effective,
            effective_at,
            visible: begun,
            waiting: Vec::new(),
            reported: BTreeMap::new(),
            checkpoint,
        });
        node.memory.switched = Some((timeline, at));
        note!(self, "{id}: promoted to timeline {timeline} at {at}");
        self.count("promotion");
        self.begin(id, Step::Prove, epoch, acknowledgers);
        if self.mutant == Some(Mutant::OpenUnproven) {
            self.open(id, epoch);
        }
        if self.mutant == Some(Mutant::CommitEarly) {
            self.node(id).observation.serving = Some(epoch);
            self.open(id, epoch);
        }
    }

    /// All gates of a node that leaves.
    pub(super) fn leave(&mut self, id: NodeId) {
        let node = self.node(id);
        node.member = false;
        node.gates = Gates::default();
        node.end_manager();
        node.end_server();
    }
}
