//! The coordinator's shell in the simulation: its loop around the real core.

use std::collections::BTreeMap;

use conclave_catalog::NodeId;
use conclave_catalog::database::{DatabaseCommand, DatabaseState};

use super::world::{Message, World, note};
use crate::coordinator::{Action, Seen, View, decide};
use crate::tracking::{Silence, Tracking};

const OBSERVE_MS: u64 = 500;

impl World {
    /// One turn of the coordinator's loop, on whoever believes to lead.
    pub(super) fn coordinate(&mut self, id: NodeId) {
        let now = self.now;
        if !self.raft.believers.contains(&id) {
            self.node(id).coordinator.tracking = Tracking::default();
            self.node(id).coordinator.answers = None;
            return;
        }
        let members = self.members();
        let coordinator = &mut self.node(id).coordinator;
        match &coordinator.answers {
            None if now >= coordinator.at => {
                coordinator.round += 1;
                coordinator.at = now + OBSERVE_MS;
                coordinator.answers = Some(BTreeMap::new());
                let round = coordinator.round;
                for to in members {
                    if to == id {
                        let own = Ok(self.peek(id).observation.clone());
                        self.node(id)
                            .coordinator
                            .answers
                            .get_or_insert_default()
                            .insert(id, own);
                    } else {
                        self.send(Message::Observe { from: id, to, round });
                    }
                }
            }
            Some(answers) if now >= coordinator.at || members.iter().all(|id| answers.contains_key(id)) => {
                let mut answers = coordinator.answers.take().unwrap_or_default();
                let state = self.raft.state(self.peek(id).applied);
                let primary = state.rule.as_ref().map(|rule| rule.primary);
                let clock = self.clock();
                let tracking = &mut self.node(id).coordinator.tracking;
                tracking.retain(|id| members.contains(&id));
                for member in members {
                    let answer = answers.remove(&member).unwrap_or(Err(Silence::Unanswered));
                    tracking.answer(clock, primary, member, answer);
                }
                self.act(id, &state);
            }
            _ => {}
        }
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
