//! The replicated state.
//!
//! It lives in memory; a snapshot on disk and the log after it rebuild it. It is made of persistent maps: a snapshot is
//! written from a clone that shares them, away from the apply path, and readers get theirs without waiting.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use conclave_catalog::{ClusterState, Response};
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::offload::Offload;
use crate::snapshot::{SnapshotFile, SnapshotStore};
use crate::timings::Spent;
use crate::types::{Group, LogId, Snapshot, SnapshotMeta, StoredMembership};

/// What readers watch.
pub(crate) type Published = watch::Receiver<Arc<ClusterState>>;

pub(crate) struct StateMachine {
    state: ClusterState,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
    offload: Offload,
    published: watch::Sender<Arc<ClusterState>>,
    /// What applying took.
    spent: Spent,
}

impl StateMachine {
    /// The state as of the current snapshot; empty when there is none.
    pub(crate) fn new(
        snapshots: SnapshotStore,
        current: Option<(SnapshotMeta, ClusterState)>,
        offload: Offload,
        spent: Spent,
    ) -> (Self, Published) {
        let (published, watcher) = watch::channel(Arc::default());
        let mut machine = Self {
            state: ClusterState::default(),
            applied: None,
            membership: StoredMembership::default(),
            snapshots,
            offload,
            published,
            spent,
        };
        if let Some((meta, state)) = current {
            machine.become_snapshot(&meta, state);
        }
        (machine, watcher)
    }

    fn become_snapshot(&mut self, meta: &SnapshotMeta, state: ClusterState) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.state = state;
        self.publish();
    }

    fn publish(&self) {
        self.published.send_replace(Arc::new(self.state.clone()));
    }
}

impl RaftStateMachine<Group> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Group>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let mut begun = None;
        while let Some((entry, responder)) = entries.try_next().await? {
            // The stream may wait for its first entry.
            begun.get_or_insert_with(Instant::now);
            #[cfg(test)]
            crate::simulation::applied(&entry);
            let answer = match entry.payload {
                EntryPayload::Blank => Response::Done,
                // A proposal that cannot be opened stops this node: to skip it would make its state another one.
                EntryPayload::Normal(packed) => packed.apply(&mut self.state, entry.log_id)?,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Response::Done
                }
            };
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                answers.push((responder, answer));
            }
        }
        // Published before it is answered: whoever proposed finds the change in the state.
        self.publish();
        if let Some(begun) = begun {
            self.spent.add(begun.elapsed());
        }
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
            state: self.state.clone(),
            snapshots: self.snapshots.clone(),
            offload: self.offload,
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let (snapshots, about) = (self.snapshots.clone(), meta.clone());
        let state = self
            .offload
            .run("raft-install", move || snapshots.install(&about, snapshot))
            .await?;
        self.become_snapshot(meta, state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.current())
    }
}

/// Writes a state as it was at one moment, on a thread of its own.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    state: ClusterState,
    snapshots: SnapshotStore,
    offload: Offload,
}

impl RaftSnapshotBuilder<Group> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (snapshots, meta) = (self.snapshots.clone(), self.meta.clone());
        // Taken, so that the maps are let go of as soon as they are written.
        let state = std::mem::take(&mut self.state);
        self.offload
            .run("raft-snapshot", move || snapshots.build(&meta, &state))
            .await
    }
}
