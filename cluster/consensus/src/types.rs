//! openraft's types as this group uses them.

use conclave_catalog::{Proposal, Response};
use openraft::impls::leader_id_std;
use serde::de::DeserializeOwned;

openraft::declare_raft_types!(
    /// One leader a term (the standard Raft mode), so that a term alone names a leader.
    pub(crate) Group:
        D = Proposal,
        R = Response,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

pub(crate) type Raft = openraft::Raft<Group, crate::state_machine::StateMachine>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Group>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Group>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Group>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Group>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Group>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<Group, SnapshotData>;
/// The serialized state.
pub(crate) type SnapshotData = Vec<u8>;

/// Serializes what is known to serialize: our own types and openraft's, all plain data with string keys.
pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, std::io::Error> {
    serde_json::to_vec(value).map_err(std::io::Error::other)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, std::io::Error> {
    serde_json::from_slice(bytes).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}
