//! Contents on their way between nodes, on port 22000.

use std::time::Duration;

use bytes::Bytes;
use conclave_catalog::NodeId;
use conclave_catalog::files::ContentHash;
use conclave_consensus::Consensus;
use conclave_net::{NodeIdentity, PeerConnector, PeerIdentity};
use conclave_proto::files::contents_client::ContentsClient;
use conclave_proto::files::contents_server::{Contents as ContentsService, ContentsServer};
use conclave_proto::files::{FetchRequest, MissingRequest, MissingResponse, Piece, StoreResponse};
use futures::Stream;
use futures::stream;
use tonic::{Request, Response, Status, Streaming};

use crate::contents::{Contents, hash_of};

const PIECE_BYTES: usize = 256 << 10;
/// Largest content that is taken from a peer.
const CONTENT_BYTES_MAX: usize = 4 << 30;
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) struct Service {
    pub(crate) contents: Contents,
    pub(crate) consensus: Consensus,
}

/// The service, for members alone.
pub(crate) fn router(service: Service) -> axum::Router {
    tonic::service::Routes::new(ContentsServer::new(service)).into_axum_router()
}

fn hash_from(bytes: &[u8]) -> Result<ContentHash, Status> {
    bytes
        .try_into()
        .map(ContentHash)
        .map_err(|_| Status::invalid_argument("a hash has 32 bytes"))
}

impl Service {
    /// TLS has proven the peer's identity; whether it is a member is the state's word.
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let peer = request.extensions().get::<PeerIdentity>();
        let state = self.consensus.state().borrow().clone();
        let known =
            peer.is_some_and(|peer| state.facts().is_none() || state.nodes().contains_key(&NodeId(peer.node_id)));
        if known {
            Ok(())
        } else {
            Err(Status::permission_denied("the caller is no member of this cluster"))
        }
    }
}

#[tonic::async_trait]
impl ContentsService for Service {
    type FetchStream = std::pin::Pin<Box<dyn Stream<Item = Result<Piece, Status>> + Send>>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        self.check(&request)?;
        let hash = hash_from(&request.get_ref().hash)?;
        let contents = self.contents.clone();
        let bytes = tokio::task::spawn_blocking(move || contents.get(hash))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .ok_or_else(|| Status::not_found("this node does not have it"))?;
        Ok(Response::new(Box::pin(stream::iter(pieces(hash, bytes).map(Ok)))))
    }

    async fn store(&self, request: Request<Streaming<Piece>>) -> Result<Response<StoreResponse>, Status> {
        self.check(&request)?;
        let (hash, bytes) = collect(request.into_inner()).await?;
        let size = bytes.len() as u64;
        let contents = self.contents.clone();
        let stored = tokio::task::spawn_blocking(move || contents.put(&bytes))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(error.to_string()))?;
        if stored != hash {
            return Err(Status::data_loss("the bytes do not have the hash that was announced"));
        }
        Ok(Response::new(StoreResponse { size }))
    }

    async fn missing(&self, request: Request<MissingRequest>) -> Result<Response<MissingResponse>, Status> {
        self.check(&request)?;
        let hashes = request.into_inner().hashes;
        let missing = hashes
            .into_iter()
            .filter(|hash| hash_from(hash).is_ok_and(|hash| !self.contents.has(hash)));
        Ok(Response::new(MissingResponse {
            hashes: missing.collect(),
        }))
    }
}

fn pieces(hash: ContentHash, bytes: Vec<u8>) -> impl Iterator<Item = Piece> {
    let bytes = Bytes::from(bytes);
    let starts: Vec<usize> = if bytes.is_empty() {
        vec![0]
    } else {
        (0..bytes.len()).step_by(PIECE_BYTES).collect()
    };
    starts.into_iter().map(move |start| Piece {
        hash: if start == 0 {
            hash.0.to_vec().into()
        } else {
            Bytes::new()
        },
        data: bytes.slice(start..bytes.len().min(start + PIECE_BYTES)),
    })
}

async fn collect(mut pieces: Streaming<Piece>) -> Result<(ContentHash, Vec<u8>), Status> {
    let first = pieces
        .message()
        .await?
        .ok_or_else(|| Status::invalid_argument("an empty stream"))?;
    let hash = hash_from(&first.hash)?;
    let mut bytes = first.data.to_vec();
    while let Some(piece) = pieces.message().await? {
        if bytes.len() + piece.data.len() > CONTENT_BYTES_MAX {
            return Err(Status::resource_exhausted("the content is larger than this node takes"));
        }
        bytes.extend_from_slice(&piece.data);
    }
    Ok((hash, bytes))
}

/// Calls the other nodes.
#[derive(Clone)]
pub(crate) struct Peers {
    consensus: Consensus,
    connector: PeerConnector,
}

impl Peers {
    pub(crate) fn new(consensus: Consensus, identity: &NodeIdentity) -> Result<Self, conclave_net::NetError> {
        Ok(Self {
            consensus,
            connector: PeerConnector::new(identity)?,
        })
    }

    /// Every other node; those that are alive first.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        let state = self.consensus.state().borrow().clone();
        let me = self.consensus.me();
        let mut others: Vec<_> = state.nodes().values().filter(|node| node.id != me).collect();
        others.sort_by_key(|node| (!node.alive, node.id));
        others.into_iter().map(|node| node.id).collect()
    }

    /// How many nodes are a majority of the cluster.
    pub(crate) fn majority(&self) -> usize {
        self.consensus.state().borrow().nodes().len() / 2 + 1
    }

    fn client(&self, node: NodeId) -> Result<ContentsClient<tonic::transport::Channel>, String> {
        let state = self.consensus.state().borrow().clone();
        let record = state.nodes().get(&node).ok_or("it has left the cluster")?;
        let channel = self.connector.channel(node.0, &record.address, record.ports.files);
        channel.map(ContentsClient::new).map_err(|error| error.to_string())
    }

    /// Gives a node what it lacks of these contents.
    pub(crate) async fn give(&self, node: NodeId, contents: &Contents, hashes: &[ContentHash]) -> Result<(), String> {
        let mut client = self.client(node)?;
        let asked = MissingRequest {
            hashes: hashes.iter().map(|hash| hash.0.to_vec().into()).collect(),
        };
        let missing = tokio::time::timeout(CALL_TIMEOUT, client.missing(asked))
            .await
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|status| status.message().to_owned())?;
        for hash in missing.into_inner().hashes {
            let hash = hash_from(&hash).map_err(|status| status.message().to_owned())?;
            let own = contents.clone();
            let bytes = tokio::task::spawn_blocking(move || own.get(hash))
                .await
                .map_err(|error| error.to_string())?
                .ok_or("this node has lost a content that it was about to send")?;
            let sending = client.store(stream::iter(pieces(hash, bytes).collect::<Vec<_>>()));
            tokio::time::timeout(TRANSFER_TIMEOUT, sending)
                .await
                .map_err(|_| "the transfer took too long".to_owned())?
                .map_err(|status| status.message().to_owned())?;
        }
        Ok(())
    }

    /// Fetches a content from whoever has it; the bytes are verified.
    pub(crate) async fn fetch(&self, hash: ContentHash) -> Option<Vec<u8>> {
        for node in self.others() {
            let Ok(mut client) = self.client(node) else { continue };
            let request = FetchRequest {
                hash: hash.0.to_vec().into(),
                offset: 0,
            };
            let fetching = async {
                let pieces = client.fetch(request).await?.into_inner();
                collect(pieces).await
            };
            match tokio::time::timeout(TRANSFER_TIMEOUT, fetching).await {
                Ok(Ok((_, bytes))) if hash_of(&bytes) == hash => return Some(bytes),
                Ok(Ok(_)) => tracing::warn!(%node, "a peer sent wrong bytes for a content"),
                Ok(Err(status)) => tracing::debug!(%node, reason = status.message(), "a peer did not give a content"),
                Err(_) => tracing::debug!(%node, "a peer took too long over a content"),
            }
        }
        None
    }
}
