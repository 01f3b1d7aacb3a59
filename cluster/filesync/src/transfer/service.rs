//! What peers may ask for.

use std::pin::Pin;

use conclave_catalog::NodeId;
use conclave_consensus::Consensus;
use conclave_net::PeerIdentity;
use conclave_proto::files::contents_server::Contents;
use conclave_proto::files::{Chunks, FetchRequest, GiveReply, MissingReply, MissingRequest};
use conclave_runtime::Tasks;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{MESSAGE_BYTES, hash_from, hash_out, messages};
use crate::FileSyncError;
use crate::chunk::{Chunk, hash_of};
use crate::error::blocking;
use crate::store::ChunkStore;

/// Chunks that are read for a peer ahead of what it has taken.
const READ_AHEAD: usize = 2;
/// Names in one request.
const ASKED_MAX: usize = 100_000;
/// What is given at once is written at once, up to this.
const GIVEN_BYTES: usize = 16 << 20;

/// Who may ask: members of the cluster.
#[derive(Clone)]
pub(crate) struct Members(pub(crate) Consensus);

impl Members {
    /// TLS has proven the peer's identity; whether it is a member is the state's word.
    pub(crate) fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let peer = request.extensions().get::<PeerIdentity>();
        let state = self.0.state().borrow().clone();
        let known =
            peer.is_some_and(|peer| state.facts().is_none() || state.nodes().contains_key(&NodeId(peer.node_id)));
        if known {
            Ok(())
        } else {
            Err(Status::permission_denied("the caller is no member of this cluster"))
        }
    }
}

pub(crate) struct Service {
    pub(crate) members: Members,
    pub(crate) store: ChunkStore,
    pub(crate) tasks: Tasks,
}

fn refused(error: FileSyncError) -> Status {
    match error {
        FileSyncError::DiskFull { .. } => Status::resource_exhausted(error.to_string()),
        other => Status::internal(other.to_string()),
    }
}

async fn keep(store: &ChunkStore, chunks: Vec<Chunk>) -> Result<usize, Status> {
    let store = store.clone();
    let kept = blocking(move || {
        if let Some(wrong) = chunks.iter().find(|chunk| hash_of(&chunk.bytes) != chunk.hash) {
            return Ok(Err(wrong.hash));
        }
        store.put(&chunks).map(Ok)
    });
    kept.await
        .map_err(refused)?
        .map_err(|hash| Status::data_loss(format!("the bytes given for {hash} have another hash")))
}

#[tonic::async_trait]
impl Contents for Service {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<Chunks, Status>> + Send>>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        self.members.check(&request)?;
        let hashes = request.into_inner().hashes;
        let hashes = hashes
            .iter()
            .map(|hash| hash_from(hash))
            .collect::<Result<Vec<_>, _>>()?;
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        let store = self.store.clone();
        self.tasks.spawn("chunks for a peer", async move {
            let mut hashes = hashes.into_iter();
            loop {
                let (store, mut rest) = (store.clone(), hashes);
                let read = blocking(move || {
                    let (mut chunks, mut bytes) = (Vec::new(), 0);
                    while bytes < MESSAGE_BYTES
                        && let Some(hash) = rest.next()
                    {
                        if let Some(found) = store.get(hash) {
                            bytes += found.len();
                            chunks.push(Chunk { hash, bytes: found });
                        }
                    }
                    Ok((chunks, rest))
                });
                let Ok((chunks, rest)) = read.await else { return };
                hashes = rest;
                if chunks.is_empty() && hashes.len() == 0 {
                    return;
                }
                for message in messages(&chunks) {
                    if sender.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn give(&self, request: Request<Streaming<Chunks>>) -> Result<Response<GiveReply>, Status> {
        self.members.check(&request)?;
        let mut given = request.into_inner();
        let (mut waiting, mut bytes, mut stored) = (Vec::new(), 0, 0);
        while let Some(message) = given.message().await? {
            for chunk in message.chunks {
                bytes += chunk.data.len();
                waiting.push(Chunk {
                    hash: hash_from(&chunk.hash)?,
                    bytes: chunk.data,
                });
            }
            if bytes >= GIVEN_BYTES {
                stored += keep(&self.store, std::mem::take(&mut waiting)).await?;
                bytes = 0;
            }
        }
        stored += keep(&self.store, waiting).await?;
        let stored = u32::try_from(stored).unwrap_or(u32::MAX);
        Ok(Response::new(GiveReply { stored }))
    }

    async fn missing(&self, request: Request<MissingRequest>) -> Result<Response<MissingReply>, Status> {
        self.members.check(&request)?;
        let asked = request.into_inner().hashes;
        if asked.len() > ASKED_MAX {
            return Err(Status::invalid_argument("too many names in one request"));
        }
        let hashes = asked
            .iter()
            .map(|hash| hash_from(hash))
            .collect::<Result<Vec<_>, _>>()?;
        let missing = self.store.missing(hashes);
        Ok(Response::new(MissingReply {
            hashes: missing.iter().map(hash_out).collect(),
        }))
    }
}
