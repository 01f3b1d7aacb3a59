//! What may be proposed to the directory, and what it answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::checks::{CheckSpec, CheckStatus};
use super::kv::KvEntry;
use super::services::{NodeSpec, ServiceSpec};
use super::sessions::{Behavior, SessionId, Ttl};
use super::value::Value;

/// One operation on keys; a transaction is a list of them (spec/consul-api.md, section 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvOp {
    /// Writes, whoever holds the key.
    Set(KvWrite),
    /// Writes if the key was last changed at `index`; at 0: if there is no such key.
    Cas {
        /// What.
        write: KvWrite,
        /// The expected ModifyIndex.
        index: u64,
    },
    /// Writes and holds, unless another session holds the key.
    Lock {
        /// What.
        write: KvWrite,
        /// For whom.
        session: SessionId,
    },
    /// Writes and lets go, if the session holds the key.
    Unlock {
        /// What.
        write: KvWrite,
        /// Who lets go.
        session: SessionId,
    },
    /// Deletes; nothing is also good.
    Delete {
        /// Which.
        key: Arc<str>,
    },
    /// Deletes if the key was last changed at `index`.
    DeleteCas {
        /// Which.
        key: Arc<str>,
        /// The expected ModifyIndex.
        index: u64,
    },
    /// Deletes all keys that begin so.
    DeleteTree {
        /// How.
        prefix: Arc<str>,
    },
    /// Reads; a missing key is a failure.
    Get {
        /// Which.
        key: Arc<str>,
    },
    /// Reads all keys that begin so.
    GetTree {
        /// How.
        prefix: Arc<str>,
    },
    /// Fails unless the key was last changed at `index`.
    CheckIndex {
        /// Which.
        key: Arc<str>,
        /// The expected ModifyIndex.
        index: u64,
    },
    /// Fails unless the session holds the key.
    CheckSession {
        /// Which.
        key: Arc<str>,
        /// Who must hold it.
        session: SessionId,
    },
    /// Fails if there is such a key.
    CheckNotExists {
        /// Which.
        key: Arc<str>,
    },
}

impl KvOp {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Self::Get { .. }
                | Self::GetTree { .. }
                | Self::CheckIndex { .. }
                | Self::CheckSession { .. }
                | Self::CheckNotExists { .. }
        )
    }
}

/// A key and what it is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvWrite {
    /// Which.
    pub key: Arc<str>,
    /// Its new value.
    pub value: Value,
    /// Its new flags.
    pub flags: u64,
}

/// A session on its way into the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// Chosen by the proposer.
    pub id: SessionId,
    /// For people.
    pub name: String,
    /// The node that it belongs to.
    pub node: String,
    /// In nanoseconds.
    pub lock_delay_ns: u64,
    /// What its end does to its keys.
    pub behavior: Behavior,
    /// How long it lives without a renewal.
    pub ttl: Option<Ttl>,
    /// Checks of the node that end it.
    pub node_checks: Vec<String>,
    /// Checks of services that end it.
    pub service_checks: Vec<String>,
}

/// Nodes, services and checks on their way into the catalog: all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The node's name.
    pub node: String,
    /// Its facts; it must be there already when absent.
    pub facts: Option<NodeSpec>,
    /// A service on it.
    pub service: Option<ServiceSpec>,
    /// Checks of the node or the service.
    pub checks: Vec<CheckSpec>,
    /// Whether other checks of the service go.
    pub replace_checks: bool,
}

/// A change of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryCommand {
    /// One operation; answered with [`DirectoryAnswer::Written`].
    Kv(KvOp),
    /// Several, all or none; answered with [`DirectoryAnswer::Txn`].
    Txn(Vec<KvOp>),
    /// Begins a session.
    CreateSession(NewSession),
    /// Ends sessions: a client's wish, or the leader's because nobody renewed them. Unknown ones are no fault.
    EndSessions(Vec<SessionId>),
    /// The leader: a member has been silent for so long that sessions which depend on its life end.
    EndSessionsOfDead {
        /// Its name.
        node: String,
    },
    /// The leader: these lock-delays are over.
    EndLockDelays(Vec<u64>),
    /// Adds to the catalog, or changes it.
    Register(Box<Registration>),
    /// Takes a check off the catalog, or a service with its checks, or a node with all.
    Deregister {
        /// The node.
        node: String,
        /// A service of it.
        service: Option<String>,
        /// A check of it.
        check: Option<String>,
    },
    /// The leader: a check has been critical for so long that its service goes, unless it has not been critical all the time.
    DeregisterCritical {
        /// The node.
        node: String,
        /// The check.
        check: String,
        /// Since when it was seen to be critical.
        since: u64,
    },
    /// A check's result.
    UpdateCheck {
        /// The node.
        node: String,
        /// The check.
        check: String,
        /// What it found.
        status: CheckStatus,
        /// What it said.
        output: String,
    },
    /// Puts back keys as they were saved: those that are there now go first.
    Restore(Vec<KvWrite>),
}

/// One row of a transaction's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnRow {
    /// The key as it is after the transaction's operation.
    pub entry: Arc<KvEntry>,
    /// Whether the value is part of the answer.
    pub with_value: bool,
}

/// Why one operation of a transaction failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnError {
    /// Its place in the list.
    pub operation: usize,
    /// Why.
    pub what: String,
}

/// What applying a command answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryAnswer {
    /// Done.
    Done,
    /// Whether the condition of the write held.
    Written(bool),
    /// What the transaction read and wrote, or why nothing was changed.
    Txn(Result<Vec<TxnRow>, Vec<TxnError>>),
}

/// Why the directory changed nothing. Clients match on how these texts begin (spec/consul-api.md, section 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DirectoryRefusal {
    /// The session has ended, or never was.
    #[error("invalid session {0:?}")]
    InvalidSession(String),
    /// A session or registration for a node that is not in the catalog.
    #[error("Missing node registration")]
    UnknownNode,
    /// A session that depends on a check that is not there.
    #[error("Missing check '{0}' registration")]
    UnknownCheck(String),
    /// A session that depends on a check that is critical.
    #[error("Check '{0}' is in critical state")]
    CriticalCheck(String),
    /// A check of a service that is not there.
    #[error("ServiceID {0:?} does not exist")]
    UnknownService(String),
    /// What every member has goes with the member alone.
    #[error("{0:?} belongs to a member of the cluster and stays as long as the member does")]
    OfMember(String),
}
