//! The coordinator's shell in the simulation: its loop around the real core.

use std::collections::BTreeMap;

use conclave_catalog::NodeId;
use conclave_catalog::database::{DatabaseCommand, DatabaseState};

use super::world::{Message, World, note};
use crate::coordinator::{Action, Observation, Seen, View, decide};
use crate::tracking::{Silence, Tracking};

const OBSERVE_MS: u64 = 500;

impl World {
    /// One turn of the coordinator's loop, on whoever believes to lead.
    pub(super) fn coordinate(&mut self, id: NodeId) {
        let now = self.now;
        if !self.raft.believers.contains(&id) {
            self.node(id).coordinator.tracking = Tracking::default();
            self.node(id).coordinator.asked.clear();
            self.node(id).coordinator.observing = false;
            return;
        }
        let members = self.members();
        let coordinator = &mut self.node(id).coordinator;
        if !coordinator.observing {
            if now < coordinator.at {
                return;
            }
            coordinator.observing = true;
            for to in members.iter().copied() {
                if self.node(id).coordinator.asked.contains_key(&to) {
                    continue;
                }
                let coordinator = &mut self.node(id).coordinator;
                coordinator.round += 1;
                let round = coordinator.round;
                coordinator.asked.insert(to, (round, now));
                if to == id {
                    let own = Ok(self.peek(id).observation.clone());
                    self.answered(id, id, round, own);
                } else {
                    self.send(Message::Observe { from: id, to, round });
                }
            }
        }
        let coordinator = &self.peek(id).coordinator;
        let late = coordinator.asked.iter().filter(|(_, (_, at))| now >= at + OBSERVE_MS);
        for (from, round) in late.map(|(from, (round, _))| (*from, *round)).collect::<Vec<_>>() {
            self.answered(id, from, round, Err(Silence::Unanswered));
        }
        let coordinator = &mut self.node(id).coordinator;
        coordinator.tracking.retain(|id| members.contains(&id));
        coordinator.asked.retain(|id, _| members.contains(id));
        if coordinator.asked.keys().all(|id| coordinator.tracking.is_silent(*id)) {
            coordinator.observing = false;
            let state = self.raft.state(self.peek(id).applied);
            self.act(id, &state);
        }
    }

    /// An answer has come, or is waited for no more.
    pub(super) fn answered(&mut self, to: NodeId, from: NodeId, round: u64, answer: Result<Observation, Silence>) {
        let clock = self.clock();
        let state = self.raft.state(self.peek(to).applied);
        let primary = state.rule.as_ref().map(|rule| rule.primary);
        let coordinator = &mut self.node(to).coordinator;
        let Some((_, at)) = coordinator.asked.get(&from).filter(|(asked, _)| *asked == round) else {
            return;
        };
        let asked = std::time::Duration::from_millis(*at);
        coordinator.asked.remove(&from);
        coordinator.tracking.answer(clock, asked, primary, from, answer);
    }

    fn act(&mut self, id: NodeId, state: &DatabaseState) {
        let (now, clock) = (self.now, self.clock());
        let changing = self.hostile && self.rng.once_in(30);
        let tracking = &mut self.node(id).coordinator.tracking;
        let age = tracking.change_age_ms(clock, state.change.as_ref());
        let seen = tracking.seen(clock);
        let view = View {
            me: id,
            facts: state,
            voters: Some(&self.raft.voters).filter(|_| !changing),
            nodes: &seen,
            change_age_ms: age,
        };
        let mut actions = decide(&view);
        super::mutants::corrupt(self.mutant, &view, &mut actions);
        let settling = state.rule.is_none() || state.change.is_some() || !actions.is_empty();
        let mut pause = if settling { 15 } else { 100 };
        for action in actions {
            match action {
                Action::Order(to, order) => {
                    if to == id {
                        self.take_order(id, &order);
                    } else {
                        self.send(Message::Order { from: id, to, order });
                    }
                }
                Action::Propose(command) => {
                    if matches!(command, DatabaseCommand::Choose { .. }) {
                        note!(self, "{id}: chooses by {}", positions(&seen));
                    }
                    let late = self.hostile && self.rng.once_in(20);
                    let delay = if late {
                        self.rng.between(50, 2000)
                    } else {
                        self.rng.between(1, 20)
                    };
                    pause = pause.max(delay.min(300));
                    self.note_rare(&command);
                    self.post(delay, Message::Propose { from: id, command });
                }
            }
        }
        self.node(id).coordinator.at = now + pause;
    }

    fn note_rare(&mut self, command: &DatabaseCommand) {
        match command {
            DatabaseCommand::Choose { .. } => self.count("choice"),
            DatabaseCommand::Claim { .. } | DatabaseCommand::Switchover { .. } => self.count("claim"),
            DatabaseCommand::Commit { .. } => self.count("rule"),
            DatabaseCommand::Bootstrap { .. } => {}
        }
    }
}

/// What the nodes that answer have shown, for the trace.
fn positions(seen: &BTreeMap<NodeId, Seen>) -> String {
    let answering = seen.iter().filter(|(_, seen)| seen.silent_ms == 0);
    let shown = answering.filter_map(|(id, seen)| seen.last.as_ref().map(|last| (id, last)));
    let lines: Vec<String> = shown
        .map(|(id, last)| {
            let settled = if last.settled { "settled" } else { "moving" };
            format!("{id} pledge {} {settled} {}:{}", last.pledge, last.timeline, last.lsn)
        })
        .collect();
    lines.join(", ")
}
