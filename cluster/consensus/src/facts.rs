//! Raft's own figures, for status pages and metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use conclave_catalog::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ServerState};

use crate::Consensus;

/// What a node is in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It votes and follows.
    Follower,
    /// It stands for election.
    Candidate,
    /// It follows and does not vote.
    Learner,
    /// Its Raft has stopped.
    Stopped,
}

impl Role {
    /// In lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        }
    }
}

/// A member, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberFacts {
    /// Whether it votes.
    pub voter: bool,
    /// The leader alone knows: up to which entry the member's log is the same as its own.
    pub matched: Option<u64>,
    /// The leader alone knows: how long ago the member acknowledged anything.
    pub silence: Option<Duration>,
}

/// Raft's figures at one moment, as this node knows them. Entries are numbered from 0; [`None`] is "none yet".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftFacts {
    /// What this node is.
    pub role: Role,
    /// The term.
    pub term: u64,
    /// The last entry of its log.
    pub last_log_index: Option<u64>,
    /// The last entry that it knows to be committed.
    pub committed: Option<u64>,
    /// The last entry that its state holds.
    pub applied: Option<u64>,
    /// The last entry that its snapshot holds: index and term.
    pub snapshot: Option<(u64, u64)>,
    /// How long ago it heard the leader; zero on the leader itself.
    pub last_contact: Option<Duration>,
    /// The members.
    pub members: BTreeMap<NodeId, MemberFacts>,
    /// The entry that made the membership what it is.
    pub membership_index: u64,
}

impl Consensus {
    /// Raft's figures now.
    pub fn facts(&self) -> RaftFacts {
        let now = self.raft.metrics().borrow_watched().clone();
        let stopped = now.running_state.is_err();
        let role = match now.state {
            _ if stopped => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let (replication, heartbeat) = (now.replication.unwrap_or_default(), now.heartbeat.unwrap_or_default());
        let membership = now.membership_config.membership();
        let voters = membership.voter_ids().map(|id| (id, true));
        let learners = membership.learner_ids().map(|id| (id, false));
        let members = voters.chain(learners).map(|(id, voter)| {
            let facts = MemberFacts {
                voter,
                matched: replication
                    .get(&id)
                    .and_then(|matched| matched.as_ref().map(|log_id| log_id.index)),
                silence: heartbeat
                    .get(&id)
                    .and_then(|acked| acked.as_ref().map(|acked| acked.elapsed())),
            };
            (NodeId(id), facts)
        });
        let last_contact = match role {
            Role::Leader => Some(Duration::ZERO),
            _ => self.heard.elapsed(),
        };
        RaftFacts {
            role,
            term: now.current_term,
            last_log_index: now.last_log_index,
            committed: now.cluster_committed.map(|log_id| log_id.index),
            applied: now.last_applied.map(|log_id| log_id.index),
            snapshot: now.snapshot.map(|log_id| (log_id.index, log_id.leader_id.term)),
            last_contact,
            members: members.collect(),
            membership_index: now.membership_config.log_id().map_or(0, |log_id| log_id.index),
        }
    }
}
