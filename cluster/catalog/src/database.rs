//! The PostgreSQL rule: who is primary, in which epoch, on which timeline, and who acknowledges.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// A position in the write-ahead log, in bytes. Shown as PostgreSQL shows it: `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// Who is primary and what a commit needs. In force from the moment that it is committed in Raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Grows with each rule; an order that carries a lower one is refused everywhere.
    pub epoch: u64,
    /// The node whose PostgreSQL takes writes.
    pub primary: NodeId,
    /// The nodes that hold acknowledged commits, the primary among them.
    pub cohort: BTreeSet<NodeId>,
    /// How many standbys acknowledge a commit: `floor(cohort / 2)`.
    pub acks: u32,
    /// The primary's timeline. Allocated in Raft and never used twice.
    pub timeline: u32,
    /// Where this timeline left its parent; zero for the first.
    pub switch_lsn: Lsn,
}

/// The replicated facts about the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseState {
    /// The rule in force.
    pub rule: Option<Rule>,
}

/// A change of the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DatabaseCommand {
    /// Puts a rule in force.
    Commit(Rule),
}

/// Why a change of the rule was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DatabaseRefusal {
    /// A newer epoch has been claimed meanwhile.
    #[error("epoch {given} is not newer than {known}")]
    Superseded {
        /// What the command carried.
        given: u64,
        /// The highest known.
        known: u64,
    },
}

impl DatabaseState {
    /// Applies one change.
    ///
    /// # Errors
    /// When the change does not fit the state; nothing is changed then.
    pub fn apply(&mut self, command: DatabaseCommand) -> Result<(), DatabaseRefusal> {
        match command {
            DatabaseCommand::Commit(rule) => {
                self.rule = Some(rule);
                Ok(())
            }
        }
    }
}
