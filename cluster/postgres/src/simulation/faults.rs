//! What goes wrong.

use std::collections::BTreeSet;

use conclave_catalog::NodeId;
use conclave_catalog::database::{ChangeKind, DatabaseCommand};

use super::node::{Manager, Node};
use super::world::{Blow, Mutant, World, note};

impl World {
    /// What was planned for now.
    pub(super) fn blow(&mut self) {
        let now = self.now;
        let Some(due) = self.planned.iter().position(|(at, _)| *at <= now) else {
            return;
        };
        let (_, blow) = self.planned.swap_remove(due);
        let Some(primary) = self.raft.latest().rule.as_ref().map(|rule| rule.primary) else {
            return;
        };
        match blow {
            Blow::PrimaryAlone => self.alone(primary),
            Blow::PrimaryInstead => {
                note!(self, "fault: the primary {primary} loses power, and all else is mended");
                self.cut.clear();
                for id in self.members() {
                    self.mend(id);
                }
                self.node(primary).cut_power();
                self.forget(primary);
            }
        }
    }

    pub(super) fn plan(&mut self, soonest: u64, latest: u64, blow: Blow) {
        let at = self.now + self.rng.between(soonest, latest);
        self.planned.push((at, blow));
    }

    /// Perhaps something goes wrong now, or is mended.
    pub(super) fn trouble(&mut self) {
        let members = self.members();
        let Some(id) = self.rng.pick(&members) else { return };
        match self.rng.below(40) {
            0..=3 => self.mend(id),
            26..=33 => {
                let broken: Vec<NodeId> = members.into_iter().filter(|id| !self.peek(*id).runs()).collect();
                if let Some(id) = self.rng.pick(&broken) {
                    self.mend(id);
                }
            }
            34..=37 => {
                note!(self, "mended: the network, and the disks");
                self.cut.clear();
                self.nodes
                    .iter_mut()
                    .for_each(|node| (node.disk_full, node.disk_slow) = (false, false));
            }
            4 => self.kill_server(id),
            5 => self.kill_manager(id),
            6 | 7 => {
                note!(self, "fault: {id} loses power");
                self.node(id).cut_power();
                self.forget(id);
            }
            8 | 9 => self.pause(id),
            10..=12 => self.partition(id),
            13 => {
                note!(self, "fault: the network is whole");
                self.cut.clear();
            }
            14 | 15 if self.has_majority(id) => self.elect(id),
            16 => {
                note!(self, "fault: the disk of {id} is full");
                self.node(id).disk_full = true;
            }
            17 => {
                let full = self.nodes.iter_mut().filter(|node| node.disk_full);
                full.for_each(|node| node.disk_full = false);
            }
            18 | 19 => {
                note!(self, "operator: switchover to {id}");
                self.count("switchover");
                self.command(DatabaseCommand::Switchover { to: id });
            }
            20 => self.change_members(),
            21 => {
                note!(self, "fault: all lose power");
                for id in members {
                    self.node(id).cut_power();
                    self.forget(id);
                }
            }
            38 => {
                note!(self, "fault: the disk of {id} is slow");
                self.node(id).disk_slow = true;
            }
            39 => {
                self.kill_server(id);
                self.plan(5, 400, Blow::PrimaryInstead);
            }
            // The primary, of all.
            22..=24 => {
                if let Some(primary) = self.raft.latest().rule.as_ref().map(|rule| rule.primary) {
                    match self.rng.below(5) {
                        0 => self.kill_server(primary),
                        1 => self.pause(primary),
                        2 => {
                            self.alone(primary);
                            self.plan(800, 4000, Blow::PrimaryInstead);
                        }
                        _ => {
                            note!(self, "fault: the primary {primary} loses power");
                            self.node(primary).cut_power();
                            self.forget(primary);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, id: NodeId) {
        if self.mutant == Some(Mutant::ForgetPledge) {
            self.node(id).pledge = crate::driver::pledge::Pledge::default();
        }
    }

    fn kill_server(&mut self, id: NodeId) {
        note!(self, "fault: the server of {id} is killed");
        self.node(id).end_server();
    }

    fn kill_manager(&mut self, id: NodeId) {
        note!(self, "fault: the manager of {id} is killed");
        self.node(id).end_manager();
        self.forget(id);
    }

    fn pause(&mut self, id: NodeId) {
        if self.peek(id).runs() {
            note!(self, "fault: the manager of {id} is stopped");
            self.node(id).manager = Manager::Paused;
        }
    }

    fn mend(&mut self, id: NodeId) {
        let now = self.now;
        match self.peek(id).manager {
            Manager::Down => {
                note!(self, "mended: {id} starts");
                self.node(id).start_manager(now);
            }
            Manager::Paused => {
                note!(self, "mended: {id} goes on");
                self.node(id).manager = Manager::Running;
            }
            Manager::Running => {}
        }
    }

    fn cut_between(&mut self, a: NodeId, b: NodeId, both: bool) {
        self.cut.insert((a, b));
        if both {
            self.cut.insert((b, a));
        }
    }

    fn alone(&mut self, id: NodeId) {
        note!(self, "fault: {id} is cut off");
        let both = !self.rng.once_in(3);
        for other in self.members() {
            if other != id {
                self.cut_between(id, other, both);
            }
        }
    }

    fn partition(&mut self, id: NodeId) {
        self.count("partition");
        let members = self.members();
        match self.rng.below(4) {
            0 => self.alone(id),
            1 => {
                // Halves, perhaps with one in the middle that sees both.
                let left: BTreeSet<NodeId> = members.iter().copied().filter(|_| self.rng.once_in(2)).collect();
                let bridge = self.rng.pick(&members).filter(|_| self.rng.once_in(3));
                note!(self, "fault: {left:?} are cut off, {bridge:?} sees both sides");
                for a in &members {
                    for b in &members {
                        if left.contains(a) != left.contains(b) && Some(*a) != bridge && Some(*b) != bridge {
                            self.cut.insert((*a, *b));
                        }
                    }
                }
            }
            2 => {
                if let Some(other) = self.rng.pick(&members).filter(|other| *other != id) {
                    note!(self, "fault: {id} does not reach {other}");
                    self.cut_between(id, other, false);
                }
            }
            // It flaps.
            _ => {
                let other = self.rng.pick(&members).filter(|other| *other != id);
                if let Some(other) = other.filter(|other| !self.cut.remove(&(id, *other))) {
                    self.cut_between(id, other, true);
                }
            }
        }
    }

    /// A node joins, or leaves, or takes the place of another: a step of one, as the group does it.
    fn change_members(&mut self) {
        let members = self.members();
        if !self.has_majority(self.raft.leader) || members.len() < 3 {
            return;
        }
        if members.len() > 3 || self.rng.once_in(2) {
            let leader = self.raft.leader;
            let Some(id) = self.rng.pick(&members).filter(|id| *id != leader) else {
                return;
            };
            if !self.may_leave(id) {
                return;
            }
            if members.len() == 3 {
                self.join();
            }
            note!(self, "operator: {id} is removed");
            self.raft.voters.remove(&id);
            self.leave(id);
        } else {
            self.join();
            if self.rng.once_in(2) {
                self.join();
            }
        }
        self.count("members changed");
        if self.rng.once_in(2) {
            self.plan(100, 2500, Blow::PrimaryAlone);
        }
        self.fit_voters();
    }

    /// An operator who removes nodes makes sure that the rest hold the data: more than half of each cohort, with whole disks.
    fn may_leave(&self, id: NodeId) -> bool {
        let state = self.raft.latest();
        let Some(rule) = &state.rule else { return false };
        let claimed = match state.change.as_ref().map(|change| &change.kind) {
            Some(ChangeKind::Cohort(cohort)) => cohort,
            _ => &rule.cohort,
        };
        let whole = |other: &&NodeId| {
            let node = self.peek(**other);
            **other != id && node.member && node.data.is_some() && !node.half_rewound
        };
        [&rule.cohort, claimed]
            .iter()
            .all(|cohort| cohort.iter().filter(whole).count() > cohort.len() / 2)
    }

    fn join(&mut self) {
        let id = NodeId(self.nodes.len() as u64 + 1);
        note!(self, "operator: {id} joins");
        let mut node = Node::new(id);
        node.start_manager(self.now);
        self.nodes.push(node);
    }

    /// An odd number of members votes; the leader stays.
    fn fit_voters(&mut self) {
        let mut voters: BTreeSet<NodeId> = self.members().into_iter().collect();
        if voters.len().is_multiple_of(2) {
            let leader = self.raft.leader;
            if let Some(extra) = voters.iter().rev().copied().find(|id| *id != leader) {
                voters.remove(&extra);
            }
        }
        self.raft.voters = voters;
    }

    /// All faults end.
    pub(super) fn heal_all(&mut self) {
        note!(self, "all faults end");
        self.hostile = false;
        self.cut.clear();
        for id in self.members() {
            (self.node(id).disk_full, self.node(id).disk_slow) = (false, false);
            self.mend(id);
        }
    }
}
