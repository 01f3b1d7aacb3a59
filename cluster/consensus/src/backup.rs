//! The replicated state as a file: for the case that all nodes are lost.
//!
//! A backup is a snapshot file (its layout and checksums are those of [`crate::snapshot`]) that says of itself which cluster it is of,
//! and carries the cluster's key: with it the CA's own key opens, and certificates for new nodes can be signed. Whoever has
//! a backup has the cluster; files are written for their owner alone.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::ClusterState;
use conclave_net::{ClusterKey, NodeIdentity};
use conclave_proto::operator::operator_client::OperatorClient;
use conclave_proto::operator::{BackupPiece, BackupRequest};
use conclave_runtime::clock;
use conclave_wal::{Disk, OsDisk};
use futures::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tonic::Status;

use crate::offload::Offload;
use crate::snapshot::{self, SnapshotStore};
use crate::{AdminClient, ConsensusError};

/// Of the backup's description.
const VERSION: u32 = 1;
const PIECE_BYTES: usize = 256 << 10;
/// For the first piece the node writes all of it down.
const FIRST_PIECE_TIMEOUT: Duration = Duration::from_secs(60);
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupAbout {
    version: u32,
    /// Identity of the cluster.
    pub cluster_id: String,
    /// The node that wrote it.
    pub made_by: String,
    /// When, by that node's clock.
    pub made_at: jiff::Timestamp,
    /// The Raft term at that time.
    pub term: u64,
    /// The last log entry that the state holds, or a later one.
    pub index: u64,
    cluster_key: Vec<u8>,
}

/// A backup that has been read and checked.
#[derive(Debug, Clone)]
pub struct Backup {
    /// What it says of itself.
    pub about: BackupAbout,
    /// The state.
    pub state: ClusterState,
}

impl Backup {
    pub(crate) fn cluster_key(&self) -> Result<ClusterKey, ConsensusError> {
        Ok(ClusterKey::from_bytes(&self.about.cluster_key)?)
    }
}

/// Reads a whole backup and checks it. Blocks.
///
/// # Errors
/// [`ConsensusError::Storage`] when it is damaged, incomplete, or no backup.
pub fn read_backup(file: &Path) -> Result<Backup, ConsensusError> {
    let read = || {
        let file = OsDisk.open(file)?;
        let (about, state): (BackupAbout, ClusterState) = snapshot::read(&*file)?;
        if about.version != VERSION {
            let why = format!("it is of version {}, this program reads {VERSION}", about.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Backup { about, state })
    };
    read().map_err(ConsensusError::storage("read the backup"))
}

/// Pieces of a backup, on their way to whoever asked.
pub(crate) type BackupStream = Pin<Box<dyn Stream<Item = Result<BackupPiece, Status>> + Send>>;

/// Writes backups of this node.
#[derive(Clone)]
pub(crate) struct BackupSource {
    pub(crate) identity: NodeIdentity,
    pub(crate) snapshots: SnapshotStore,
}

impl BackupSource {
    pub(crate) async fn write(
        &self,
        state: Arc<ClusterState>,
        term: u64,
        index: Option<u64>,
    ) -> io::Result<BackupStream> {
        let about = BackupAbout {
            version: VERSION,
            cluster_id: self.identity.cluster_id.clone(),
            made_by: self.identity.name.clone(),
            made_at: clock::now(),
            term,
            index: index.unwrap_or(0),
            cluster_key: self.identity.cluster_key.as_bytes().to_vec(),
        };
        let snapshots = self.snapshots.clone();
        let part = Offload::Threads
            .run("raft-backup", move || snapshots.write(&about, &state))
            .await?;
        let pieces = stream::try_unfold((Arc::new(part), 0), |(part, offset)| async move {
            let reading = Arc::clone(&part);
            let piece = Offload::Threads
                .run("raft-backup", move || reading.piece(offset, PIECE_BYTES))
                .await
                .map_err(|error| Status::internal(error.to_string()))?;
            if piece.is_empty() {
                return Ok(None);
            }
            let next = offset + piece.len() as u64;
            Ok(Some((BackupPiece { data: piece.into() }, (part, next))))
        });
        Ok(Box::pin(pieces))
    }
}

impl AdminClient {
    /// Writes a backup of the cluster to `out`; how many bytes it has.
    ///
    /// # Errors
    /// When the node does not run, is cut off from the majority, or stops sending; what has been written then is no backup.
    pub async fn backup(&self, out: &mut (impl AsyncWrite + Unpin)) -> Result<u64, ConsensusError> {
        let unavailable = |status: Status| ConsensusError::Unavailable(status.message().to_owned());
        let silent = |_| ConsensusError::Unavailable("the node has stopped sending".into());
        let mut client = OperatorClient::new(self.channel.clone());
        let answer = tokio::time::timeout(FIRST_PIECE_TIMEOUT, client.backup(BackupRequest {})).await;
        let mut pieces = answer.map_err(silent)?.map_err(unavailable)?.into_inner();
        let mut bytes = 0;
        loop {
            let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.message()).await;
            let Some(piece) = piece.map_err(silent)?.map_err(unavailable)? else {
                break;
            };
            let writing = out.write_all(&piece.data).await;
            writing.map_err(ConsensusError::storage("write the backup"))?;
            bytes += piece.data.len() as u64;
        }
        out.flush().await.map_err(ConsensusError::storage("write the backup"))?;
        Ok(bytes)
    }
}
