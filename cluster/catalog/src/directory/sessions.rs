//! Sessions: who may hold keys, and what ends that (spec/consul-api.md, section 4).
//!
//! No clock is asked here. That a session's time is over is a command ([`super::DirectoryCommand::EndSessions`]), which
//! the leader proposes.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

/// A session's id. Chosen at random by the node that proposes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub uuid::Uuid);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for SessionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What the end of a session does to the keys that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behavior {
    /// They stay, held by nobody.
    Release,
    /// They go.
    Delete,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// For people.
    pub name: String,
    /// The node that it belongs to: it ends when the node is removed.
    pub node: Arc<str>,
    /// For how long nobody may acquire its keys after it has been ended, in nanoseconds.
    pub lock_delay_ns: u64,
    /// What its end does to its keys.
    pub behavior: Behavior,
    /// How long it lives without a renewal; for ever when absent.
    pub ttl: Option<Ttl>,
    /// Checks of the node; it ends when one turns critical.
    pub node_checks: Vec<String>,
    /// Checks of services on the node, likewise.
    pub service_checks: Vec<String>,
    /// When it was made.
    pub create_index: u64,
    /// The same: sessions do not change.
    pub modify_index: u64,
}

impl Session {
    /// Whether it ends when this check turns critical.
    pub fn depends_on(&self, check: &str) -> bool {
        self.node_checks
            .iter()
            .chain(&self.service_checks)
            .any(|own| own == check)
    }
}

/// A time to live, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl {
    /// `15s`.
    pub text: String,
    /// In milliseconds.
    pub millis: u64,
}

/// All sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    entries: OrdMap<SessionId, Arc<Session>>,
    index: u64,
}

impl Sessions {
    /// By id.
    pub fn entries(&self) -> &OrdMap<SessionId, Arc<Session>> {
        &self.entries
    }

    /// One of them.
    pub fn get(&self, id: &SessionId) -> Option<&Arc<Session>> {
        self.entries.get(id)
    }

    /// The last beginning or end of a session.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The index of a query of one session.
    pub fn index_of(&self, id: &SessionId) -> u64 {
        self.entries.get(id).map_or(self.index, |session| session.modify_index)
    }

    pub(super) fn insert(&mut self, index: u64, session: Session) {
        self.entries.insert(session.id, Arc::new(session));
        self.index = index;
    }

    pub(super) fn remove(&mut self, index: u64, id: &SessionId) -> Option<Arc<Session>> {
        let session = self.entries.remove(id)?;
        self.index = index;
        Some(session)
    }

    /// The sessions of `node` that a critical check ends; all of the node's when no check is named.
    pub(super) fn ended_by(&self, node: &str, check: Option<&str>) -> Vec<SessionId> {
        let of_node = self.entries.values().filter(|session| &*session.node == node);
        let ended = of_node.filter(|session| check.is_none_or(|check| session.depends_on(check)));
        ended.map(|session| session.id).collect()
    }
}
