//! The Raft group: one state ([`conclave_catalog::ClusterState`]) on every node.
//!
//! The only crate that names openraft. It keeps the log and the state on disk, carries Raft's messages over gRPC on
//! port 8300, lets nodes join, keeps the membership in order and declares nodes alive or dead. It knows nothing of
//! PostgreSQL, files or blueprints.
//!
//! Invariants: a vote or an entry is acknowledged after it is on disk; a proposal that was acknowledged survives the
//! loss of any minority; node ids are never used twice; every message but a join comes from a proven, present member.

mod active;
mod backup;
mod certificates;
mod compaction;
mod error;
mod facts;
mod founding;
mod group;
mod group_commit;
mod handle;
mod leader_watch;
mod log_store;
mod member;
mod membership;
mod network;
mod offload;
mod operator;
mod pacer;
mod packed;
mod peers;
mod propose_lane;
mod raft_service;
mod recovery;
mod server;
#[cfg(test)]
mod simulation;
mod snapshot;
mod state_machine;
mod timings;
mod types;
mod wire;

pub use backup::{Backup, BackupAbout, read_backup};
pub use error::ConsensusError;
pub use facts::{MemberFacts, RaftFacts, Role};
pub use founding::{FoundOptions, Founded, JoinOptions, found, identity_dir, join};
pub use group::{Profile, ReportSource, StartOptions, start};
pub use handle::{AdminClient, Consensus, Leadership};
pub use operator::Inspection;
pub use recovery::{Recovered, Restored, StoppedNode, recover_alone, restore};
pub use timings::{Spent, Timings};
