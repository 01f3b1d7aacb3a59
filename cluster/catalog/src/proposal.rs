//! What may be proposed, and what applying it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::database::{DatabaseCommand, DatabaseRefusal};
use crate::directory::{DirectoryAnswer, DirectoryCommand, DirectoryRefusal};
use crate::files::{FilesCommand, FilesRefusal};
use crate::{JoinToken, NodeId, NodePorts, TokenId};

/// Names one attempt to change the state. A proposal that is applied twice under one id changes the state once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub uuid::Uuid);

/// A command on its way through the Raft log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Chosen by the proposer, kept over its retries.
    pub request: RequestId,
    /// The proposer's wall clock.
    pub at: jiff::Timestamp,
    /// Log entries up to this one had been applied where it was first proposed: it cannot be among them, nor can an earlier
    /// attempt of it. Lets the state machine refuse a repetition that comes so late that the first answer has been forgotten.
    #[serde(default)]
    pub after: Option<u64>,
    /// What a leader decides by its own observation holds in its own term: as an entry of another term it changes nothing.
    /// Without this, a leader that was paused could have its successor carry out what it took for true before.
    #[serde(default)]
    pub only_in_term: Option<u64>,
    /// What to do.
    pub command: Command,
}

/// A change of the replicated state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster: its identity and its founding node. Refused when there is one already.
    Found {
        /// Identity of the cluster, part of every certificate.
        cluster_id: String,
        /// PEM.
        ca_certificate: String,
        /// The CA's private key, sealed with the cluster key.
        sealed_ca_key: Vec<u8>,
        /// Name of the founding node, which gets [`NodeId`] 1.
        node_name: String,
        /// Its address.
        address: String,
        /// Its ports.
        ports: NodePorts,
        /// The cluster's first settings.
        settings: BTreeMap<String, serde_json::Value>,
    },
    /// Lets a bearer of the token join, once.
    CreateToken(JoinToken),
    /// Makes a token useless.
    RevokeToken(TokenId),
    /// Consumes a token and allocates a node id. Answered with [`Response::Registered`].
    RegisterNode {
        /// The token's public half.
        token: TokenId,
        /// SHA-256 of the secret that the bearer showed, hex.
        secret_hash: String,
        /// Wanted name; refused when a node has it.
        node_name: String,
        /// Its address.
        address: String,
        /// Its ports.
        ports: NodePorts,
    },
    /// Takes a node out of the cluster; its certificate is refused from then on.
    RemoveNode(NodeId),
    /// Every node makes itself a new key and certificate.
    RotateCertificates,
    /// The leader's verdict on a node's life.
    DeclareNode {
        /// Which node.
        node: NodeId,
        /// Alive or not.
        alive: bool,
    },
    /// Changes the PostgreSQL rule.
    Database(DatabaseCommand),
    /// Changes the manifest of the resource files.
    Files(FilesCommand),
    /// Changes keys, sessions or the service catalog. Answered with [`Response::Directory`].
    Directory(DirectoryCommand),
    /// Stores a cluster setting.
    PutSetting {
        /// Its name.
        key: String,
        /// Its value.
        value: serde_json::Value,
    },
}

impl Proposal {
    /// A proposal of `command`.
    pub fn new(request: RequestId, at: jiff::Timestamp, command: Command) -> Self {
        Self {
            request,
            at,
            after: None,
            only_in_term: None,
            command,
        }
    }
}

/// Names the kind of command: what a log line may show. Contents can be large or secret.
impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.command {
            Command::Found { .. } => "found",
            Command::CreateToken(_) => "create token",
            Command::RevokeToken(_) => "revoke token",
            Command::RegisterNode { .. } => "register node",
            Command::RemoveNode(_) => "remove node",
            Command::RotateCertificates => "rotate certificates",
            Command::DeclareNode { .. } => "declare node",
            Command::Database(_) => "database",
            Command::Files(_) => "files",
            Command::Directory(_) => "directory",
            Command::PutSetting { .. } => "put setting",
        })
    }
}

/// What applying a command answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// Done.
    Done,
    /// The node has been registered under this id.
    Registered(NodeId),
    /// The manifest of the resource files is of this version now.
    FilesChanged(u64),
    /// The directory's answer.
    Directory(DirectoryAnswer),
    /// Nothing was changed, and why.
    Refused(Refusal),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The request was repeated after its first answer had been forgotten, if there was one: whether it was carried out is
    /// unknown.
    #[error("the request came so late that it is unknown whether it was carried out before; look, and ask again")]
    TooLate,
    /// The verdict of a leader that leads no longer.
    #[error("decided in term {decided}, and it is term {now} now")]
    OtherTerm {
        /// When it was decided.
        decided: u64,
        /// The entry's own.
        now: u64,
    },
    /// A second [`Command::Found`].
    #[error("the cluster has been founded already, as {0}")]
    AlreadyFounded(String),
    /// No such token: never made, consumed, or revoked.
    #[error("join token {0} is unknown: it was never made, has been used, or was revoked; make a new one")]
    UnknownToken(String),
    /// The secret half does not match.
    #[error("join token {0}: wrong secret")]
    WrongSecret(String),
    /// Too late.
    #[error("join token {0} expired at {1}; make a new one")]
    ExpiredToken(String, jiff::Timestamp),
    /// Another node has the name.
    #[error("a node named {0:?} is in the cluster already; choose another name, or remove that node first")]
    NameTaken(String),
    /// No such node.
    #[error("node {0} is not in the cluster")]
    UnknownNode(NodeId),
    /// The node's PostgreSQL is the primary of the rule in force.
    #[error(
        "node {0} holds the primary database: move it first with `conclave cluster set-active`, or wait for the failover if the node is lost"
    )]
    HoldsPrimary(NodeId),
    /// A cluster without nodes is none.
    #[error("node {0} is the only one of the cluster")]
    LastNode(NodeId),
    /// The change of the PostgreSQL rule came too late or does not fit.
    #[error("database rule: {0}")]
    Database(DatabaseRefusal),
    /// The change of the manifest does not fit.
    #[error("files: {0}")]
    Files(FilesRefusal),
    /// The change of the directory does not fit. Clients match on its text, so nothing is put before it.
    #[error("{0}")]
    Directory(DirectoryRefusal),
}
