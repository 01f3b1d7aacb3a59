//! The replicated state and its snapshots.
//!
//! The state lives in memory; a snapshot on disk and the log after it rebuild it. Reading for a snapshot costs nothing:
//! the state is made of persistent maps, and a clone of it shares them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conclave_catalog::{ClusterState, Response};
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::types::{Group, LogId, Snapshot, SnapshotData, SnapshotMeta, StoredMembership, decode, encode};

pub(crate) struct StateMachine {
    state: ClusterState,
    applied: Option<LogId>,
    membership: StoredMembership,
    file: PathBuf,
    published: watch::Sender<Arc<ClusterState>>,
}

#[derive(Serialize, Deserialize)]
struct SnapshotFile {
    meta: SnapshotMeta,
    state: ClusterState,
}

impl StateMachine {
    /// The state as of the snapshot in `dir`; empty when there is none.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, watch::Receiver<Arc<ClusterState>>)> {
        let file = dir.join("snapshot.json");
        let (published, watcher) = watch::channel(Arc::default());
        let mut machine = Self {
            state: ClusterState::default(),
            applied: None,
            membership: StoredMembership::default(),
            file,
            published,
        };
        if let Some(snapshot) = machine.read_file()? {
            machine.become_snapshot(&snapshot.meta, snapshot.state);
        }
        Ok((machine, watcher))
    }

    fn read_file(&self) -> io::Result<Option<SnapshotFile>> {
        match std::fs::read(&self.file) {
            Ok(bytes) => decode(&bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Group>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            let answer = match entry.payload {
                EntryPayload::Blank => Response::Done,
                EntryPayload::Normal(proposal) => self.state.apply(entry.log_id.index, proposal),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Response::Done
                }
            };
            if let Some(responder) = responder {
                answers.push((responder, answer));
            }
        }
        // Published before it is answered: whoever proposed finds the change in the state.
        self.publish();
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        Builder {
            meta,
            state: self.state.clone(),
            file: self.file.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let state: ClusterState = decode(&snapshot)?;
        let builder = Builder {
            meta: meta.clone(),
            state: state.clone(),
            file: self.file.clone(),
        };
        builder.store().await?;
        self.become_snapshot(meta, state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.read_file()?
            .map(|file| {
                Ok(Snapshot {
                    snapshot: encode(&file.state)?,
                    meta: file.meta,
                })
            })
            .transpose()
    }
}

/// Serializes a state as it was at one moment, away from the apply path.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    state: ClusterState,
    file: PathBuf,
}

impl Builder {
    async fn store(&self) -> io::Result<()> {
        let bytes = encode(&SnapshotFile {
            meta: self.meta.clone(),
            state: self.state.clone(),
        })?;
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || replace_file(&file, &bytes))
            .await
            .map_err(io::Error::other)?
    }
}

impl RaftSnapshotBuilder<Group> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.store().await?;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: encode(&self.state)?,
        })
    }
}

/// Old content or new content, never a mix, whenever the power goes.
fn replace_file(file: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let temporary = file.with_extension("new");
    let mut handle = std::fs::File::create(&temporary)?;
    handle.write_all(bytes)?;
    handle.sync_all()?;
    std::fs::rename(&temporary, file)?;
    match file.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
