//! openraft's types as this group uses them.

use conclave_catalog::Response;
use openraft::impls::leader_id_std;

#[cfg(not(test))]
type Runtime = openraft::TokioRuntime;
/// In tests chance has a seed.
#[cfg(test)]
type Runtime = crate::simulation::SimRuntime;

openraft::declare_raft_types!(
    /// One leader a term (the standard Raft mode), so that a term alone names a leader.
    pub(crate) Group:
        D = crate::packed::Packed,
        R = Response,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<Group, crate::state_machine::StateMachine>;
pub(crate) type LeaderId = openraft::type_config::alias::LeaderIdOf<Group>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Group>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Group>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Group>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Group>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Group>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<Group, crate::snapshot::SnapshotFile>;
/// What changes with a node's role and its leader, and not with each entry.
pub(crate) type ServerMetrics =
    openraft::type_config::alias::WatchReceiverOf<Group, openraft::metrics::RaftServerMetrics<Group>>;
