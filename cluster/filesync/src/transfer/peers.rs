//! The other nodes, and the calls to them.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_catalog::files::ContentHash;
use conclave_consensus::Consensus;
use conclave_net::{NodeIdentity, PeerConnector};
use conclave_proto::files::contents_client::ContentsClient;
use conclave_proto::files::{FetchRequest, MissingRequest};
use futures::stream;
use tonic::transport::Channel;

use super::{MESSAGE_BYTES_MAX, hash_from, hash_out, messages};
use crate::chunk::{Chunk, hash_of};

const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest that a peer may take over one batch, or between two messages of one: 4 MiB at 1 Mbit/s, and then some.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Batches up to this are sent without asking first: the question takes as long as the answer saves.
const UNASKED_BYTES: usize = 256 << 10;

/// A peer sent bytes that do not have the hash that they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceivedWrong(pub(crate) ContentHash);

/// Two connections to a peer, so that what somebody waits for is not queued behind a large transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    Small,
    Bulk,
}

/// What was moved, and what went wrong, since the start.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) bytes_received: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) wrong: AtomicU64,
}

type ChannelKey = (NodeId, String, u16, Lane);

/// Asks the other nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    consensus: Consensus,
    connector: PeerConnector,
    channels: Arc<Mutex<HashMap<ChannelKey, Channel>>>,
    pub(crate) counters: Arc<Counters>,
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

impl Peers {
    pub(crate) fn new(consensus: Consensus, identity: &NodeIdentity) -> Result<Self, conclave_net::NetError> {
        Ok(Self {
            consensus,
            connector: PeerConnector::new(identity)?,
            channels: Arc::default(),
            counters: Arc::default(),
        })
    }

    /// The other nodes, those first that are held for alive.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        let state = self.consensus.state().borrow().clone();
        let me = self.consensus.me();
        let mut others: Vec<_> = state.nodes().values().filter(|node| node.id != me).collect();
        others.sort_by_key(|node| (!node.alive, node.id));
        others.into_iter().map(|node| node.id).collect()
    }

    /// Those that are held for alive; all, when none is.
    pub(crate) fn alive(&self) -> BTreeSet<NodeId> {
        let state = self.consensus.state().borrow().clone();
        let me = self.consensus.me();
        let others = || state.nodes().values().filter(|node| node.id != me);
        let alive: BTreeSet<NodeId> = others().filter(|node| node.alive).map(|node| node.id).collect();
        if alive.is_empty() {
            return others().map(|node| node.id).collect();
        }
        alive
    }

    /// How many nodes are a majority of the cluster.
    pub(crate) fn majority(&self) -> usize {
        self.consensus.state().borrow().nodes().len() / 2 + 1
    }

    fn client(&self, node: NodeId, lane: Lane) -> Result<ContentsClient<Channel>, String> {
        let state = self.consensus.state().borrow().clone();
        let record = state.nodes().get(&node).ok_or("it has left the cluster")?;
        let key = (node, record.address.clone(), record.ports.files, lane);
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|(id, ..), _| state.nodes().contains_key(id));
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.connector.channel(node.0, &record.address, record.ports.files);
                let channel = channel.map_err(|error| error.to_string())?;
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(ContentsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Gives a node what it lacks of these chunks. They are on its disk for good when it returns.
    pub(crate) async fn give(&self, node: NodeId, chunks: &[Chunk]) -> Result<(), String> {
        let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        let lane = if bytes <= UNASKED_BYTES {
            Lane::Small
        } else {
            Lane::Bulk
        };
        let mut client = self.client(node, lane)?;
        let given: Vec<_> = if bytes <= UNASKED_BYTES {
            messages(chunks)
        } else {
            let asked = MissingRequest {
                hashes: chunks.iter().map(|chunk| hash_out(&chunk.hash)).collect(),
            };
            let missing = tokio::time::timeout(CALL_TIMEOUT, client.missing(asked))
                .await
                .map_err(|_| "no answer in time".to_owned())?
                .map_err(|status| status.message().to_owned())?;
            let missing: Result<BTreeSet<_>, _> =
                missing.into_inner().hashes.iter().map(|hash| hash_from(hash)).collect();
            let missing = missing.map_err(|status| status.message().to_owned())?;
            if missing.is_empty() {
                return Ok(());
            }
            messages(chunks.iter().filter(|chunk| missing.contains(&chunk.hash)))
        };
        let sent = given
            .iter()
            .flat_map(|message| &message.chunks)
            .map(|chunk| chunk.data.len())
            .sum();
        tokio::time::timeout(BATCH_TIMEOUT, client.give(stream::iter(given)))
            .await
            .map_err(|_| "the transfer took too long".to_owned())?
            .map_err(|status| status.message().to_owned())?;
        count(&self.counters.bytes_sent, sent);
        Ok(())
    }

    /// Asks a node for chunks.
    pub(crate) async fn fetch(&self, node: NodeId, hashes: &[ContentHash]) -> Result<Answer, String> {
        let lane = if hashes.len() == 1 { Lane::Small } else { Lane::Bulk };
        let mut client = self.client(node, lane)?;
        let request = FetchRequest {
            hashes: hashes.iter().map(hash_out).collect(),
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, client.fetch(request));
        let messages = answer.await.map_err(late)?.map_err(said)?.into_inner();
        Ok(Answer {
            node,
            asked: hashes.iter().copied().collect(),
            messages,
            counters: Arc::clone(&self.counters),
        })
    }

    /// One chunk, now, from whoever has it.
    pub(crate) async fn fetch_one(&self, hash: ContentHash) -> Option<Chunk> {
        for node in self.others() {
            let fetched = async {
                let mut answer = self.fetch(node, &[hash]).await?;
                let some = answer.next().await?;
                Ok::<_, String>(some.and_then(|(right, _)| right.into_iter().next()))
            };
            match fetched.await {
                Ok(Some(chunk)) => return Some(chunk),
                Ok(None) => {}
                Err(reason) => tracing::debug!(%node, reason, "a peer did not give a chunk"),
            }
        }
        None
    }
}

fn late(_: tokio::time::error::Elapsed) -> String {
    "the transfer took too long".to_owned()
}

fn said(status: tonic::Status) -> String {
    status.message().to_owned()
}

/// Chunks on their way from a node.
pub(crate) struct Answer {
    node: NodeId,
    asked: BTreeSet<ContentHash>,
    messages: tonic::Streaming<conclave_proto::files::Chunks>,
    counters: Arc<Counters>,
}

impl Answer {
    /// The next chunks, verified, and which of them were wrong. `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<(Vec<Chunk>, Vec<ReceivedWrong>)>, String> {
        let message = tokio::time::timeout(BATCH_TIMEOUT, self.messages.message());
        let Some(message) = message.await.map_err(late)?.map_err(said)? else {
            return Ok(None);
        };
        let verified = tokio::task::spawn_blocking(move || {
            let named = message.chunks.into_iter();
            named
                .map(|chunk| (hash_from(&chunk.hash), hash_of(&chunk.data), chunk.data))
                .collect::<Vec<_>>()
        });
        let verified = verified.await.map_err(|error| error.to_string())?;
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        for (named, hash, bytes) in verified {
            let named = named.map_err(said)?;
            count(&self.counters.bytes_received, bytes.len());
            if named == hash && self.asked.contains(&hash) {
                right.push(Chunk { hash, bytes });
            } else {
                let node = self.node;
                tracing::warn!(%node, chunk = %named, "a peer sent wrong bytes for a chunk; it is asked of others");
                self.counters.wrong.fetch_add(1, Ordering::Relaxed);
                wrong.push(ReceivedWrong(named));
            }
        }
        Ok(Some((right, wrong)))
    }
}
