//! The model of Raft: one log, committed only by a leader that reaches a majority, applied on each node with its own lag.

use std::collections::BTreeSet;
use std::rc::Rc;

use conclave_catalog::NodeId;
use conclave_catalog::database::{DatabaseCommand, DatabaseState};

/// The group.
pub(super) struct Raft {
    /// The state after each committed entry that changed it.
    states: Vec<Rc<DatabaseState>>,
    pub(super) leader: NodeId,
    /// Who believes to lead: the leader, and deposed ones that have not heard of it.
    pub(super) believers: BTreeSet<NodeId>,
    pub(super) voters: BTreeSet<NodeId>,
}

impl Raft {
    pub(super) fn new(founder: NodeId) -> Self {
        Self {
            states: vec![Rc::new(DatabaseState::default())],
            leader: founder,
            believers: BTreeSet::from([founder]),
            voters: BTreeSet::from([founder]),
        }
    }

    /// How many entries there are.
    pub(super) fn end(&self) -> usize {
        self.states.len() - 1
    }

    /// The state after so many entries.
    pub(super) fn state(&self, applied: usize) -> Rc<DatabaseState> {
        Rc::clone(&self.states[applied])
    }

    pub(super) fn latest(&self) -> &DatabaseState {
        &self.states[self.states.len() - 1]
    }

    /// Commits an entry: `true` when it was not refused.
    pub(super) fn commit(&mut self, command: DatabaseCommand) -> bool {
        let mut next = self.latest().clone();
        let taken = next.apply(command).is_ok();
        if taken {
            self.states.push(Rc::new(next));
        }
        taken
    }
}
