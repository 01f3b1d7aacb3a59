//! Which chunk is asked of which peer, and when.
//!
//! A hash ring spreads the chunks over the peers, so that a node that needs much gets it from all of them at once, and several nodes that
//! need the same do not all ask the same peer. A peer with nothing to do takes over what waits for a busy one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_catalog::files::ContentHash;
use hashring::HashRing;

/// Points on the ring for each peer: enough for even shares.
const POINTS: u32 = 64;
/// Requests that a peer works on at once.
const ASKS_PER_PEER: usize = 2;
/// One request's share of the way.
const ASK_BYTES: u64 = 4 << 20;
const ASK_CHUNKS: usize = 512;
/// What waits is looked through as far as this for one round.
const LOOKED_AT: usize = 4096;
/// A peer that failed rests; what nobody had is asked for again.
const REST: Duration = Duration::from_millis(500);

/// Names a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AskId(pub(crate) u64);

/// A request that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) id: AskId,
    pub(crate) peer: NodeId,
    pub(crate) hashes: Vec<ContentHash>,
    /// What all of them take, as far as is known.
    pub(crate) bytes: u64,
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// These are needed, with their sizes as far as they are known.
    Want(Vec<(ContentHash, u64)>),
    /// These peers can be asked.
    Peers(BTreeSet<NodeId>),
    /// A verified chunk came, from wherever.
    Got(ContentHash),
    /// The peer sent other bytes under this name: it is not asked for it again.
    Wrong(NodeId, ContentHash),
    /// The request is over: the peer has sent what it had.
    Answered(AskId),
    /// The request failed.
    Failed(AskId),
    /// Time has passed.
    Tick,
}

#[derive(Debug)]
struct Want {
    bytes: u64,
    order: u64,
    /// Peers that did not have it, in this round.
    lacked: BTreeSet<NodeId>,
    /// Peers that sent wrong bytes for it.
    wrong: BTreeSet<NodeId>,
    asked: bool,
}

#[derive(Debug, Default)]
struct Peer {
    asks: usize,
    rests_until: Duration,
}

/// The state of fetching.
#[derive(Default)]
pub(crate) struct Fetcher {
    wants: HashMap<ContentHash, Want>,
    /// Of all that is needed: asked for after each chunk that comes.
    wanted_bytes: u64,
    queue: BTreeMap<u64, ContentHash>,
    /// Nobody has these at present.
    exhausted: BTreeSet<ContentHash>,
    retry_at: Option<Duration>,
    peers: BTreeMap<NodeId, Peer>,
    ring: HashRing<(NodeId, u32)>,
    running: BTreeMap<AskId, (NodeId, Vec<ContentHash>)>,
    next_ask: u64,
    next_order: u64,
}

impl Fetcher {
    /// How many chunks are needed, and how many bytes that are, as far as is known.
    pub(crate) fn backlog(&self) -> (usize, u64) {
        (self.wants.len(), self.wanted_bytes)
    }

    /// When something is to be done though nothing happens.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        let rested = self.peers.values().map(|peer| peer.rests_until).max();
        match (self.retry_at, rested) {
            _ if self.wants.is_empty() => None,
            (Some(retry), Some(rested)) => Some(retry.max(rested)),
            (retry, rested) => retry.or(rested),
        }
    }

    /// Takes note of what happened at `now`, and says what to ask.
    pub(crate) fn step(&mut self, now: Duration, input: Input) -> Vec<Ask> {
        match input {
            Input::Want(hashes) => self.want(hashes),
            Input::Peers(peers) => self.set_peers(peers),
            Input::Got(hash) => {
                if let Some(want) = self.wants.remove(&hash) {
                    self.wanted_bytes = self.wanted_bytes.saturating_sub(want.bytes);
                    self.queue.remove(&want.order);
                    self.exhausted.remove(&hash);
                }
            }
            Input::Wrong(peer, hash) => {
                if let Some(want) = self.wants.get_mut(&hash) {
                    want.wrong.insert(peer);
                }
            }
            Input::Answered(id) => self.end(id, None),
            Input::Failed(id) => self.end(id, Some(now + REST)),
            Input::Tick => {}
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            for hash in std::mem::take(&mut self.exhausted) {
                if let Some(want) = self.wants.get_mut(&hash) {
                    // Whoever sent wrong bytes has healed them perhaps, and nobody else has it.
                    want.lacked.clear();
                    want.wrong.clear();
                    self.queue.insert(want.order, hash);
                }
            }
        }
        self.assign(now)
    }

    fn want(&mut self, hashes: Vec<(ContentHash, u64)>) {
        for (hash, bytes) in hashes {
            if self.wants.contains_key(&hash) {
                continue;
            }
            self.next_order += 1;
            self.wanted_bytes = self.wanted_bytes.saturating_add(bytes);
            let want = Want {
                bytes,
                order: self.next_order,
                lacked: BTreeSet::new(),
                wrong: BTreeSet::new(),
                asked: false,
            };
            self.wants.insert(hash, want);
            self.queue.insert(self.next_order, hash);
        }
    }

    fn set_peers(&mut self, peers: BTreeSet<NodeId>) {
        if self.peers.keys().eq(peers.iter()) {
            return;
        }
        self.peers.retain(|id, _| peers.contains(id));
        for id in peers {
            self.peers.entry(id).or_default();
        }
        self.ring = HashRing::new();
        let points = self.peers.keys().flat_map(|id| (0..POINTS).map(|point| (*id, point)));
        self.ring.batch_add(points.collect());
    }

    fn end(&mut self, id: AskId, rests_until: Option<Duration>) {
        let Some((peer, hashes)) = self.running.remove(&id) else {
            return;
        };
        if let Some(state) = self.peers.get_mut(&peer) {
            state.asks = state.asks.saturating_sub(1);
            state.rests_until = rests_until.unwrap_or(state.rests_until);
        }
        for hash in hashes {
            // What came is not wanted any more.
            let Some(want) = self.wants.get_mut(&hash) else {
                continue;
            };
            want.asked = false;
            if rests_until.is_none() {
                want.lacked.insert(peer);
            }
            self.queue.insert(want.order, hash);
        }
    }

    fn assign(&mut self, now: Duration) -> Vec<Ask> {
        let free = |peer: &Peer| peer.asks < ASKS_PER_PEER && peer.rests_until <= now;
        let mut open: BTreeMap<NodeId, (u64, Vec<ContentHash>)> = self
            .peers
            .iter()
            .filter(|(_, peer)| free(peer))
            .map(|(id, _)| (*id, (0, Vec::new())))
            .collect();
        if open.is_empty() {
            return Vec::new();
        }
        let has_room = |(bytes, hashes): &(u64, Vec<ContentHash>), more: u64| {
            hashes.is_empty() || (hashes.len() < ASK_CHUNKS && bytes + more <= ASK_BYTES)
        };
        let (mut left, mut given) = (Vec::new(), Vec::new());
        for (order, hash) in self.queue.iter().take(LOOKED_AT) {
            let Some(want) = self.wants.get(hash) else { continue };
            let may = |id: &NodeId| !want.lacked.contains(id) && !want.wrong.contains(id);
            if !self.peers.keys().any(may) {
                self.exhausted.insert(*hash);
                given.push(*order);
                continue;
            }
            let own = self.ring.get(hash).map(|(id, _)| *id).filter(may);
            match own.and_then(|id| Some((id, open.get_mut(&id)?))) {
                Some((_, batch)) if has_room(batch, want.bytes) => {
                    batch.0 += want.bytes;
                    batch.1.push(*hash);
                    given.push(*order);
                }
                _ => left.push((*order, *hash)),
            }
        }
        for (order, hash) in left {
            let Some(want) = self.wants.get(&hash) else { continue };
            // Only a peer that has nothing of its own to do: the others' turn comes.
            let idle = open.iter_mut().find(|(id, batch)| {
                !want.lacked.contains(id) && !want.wrong.contains(id) && has_room(batch, want.bytes)
            });
            if let Some((_, batch)) = idle {
                batch.0 += want.bytes;
                batch.1.push(hash);
                given.push(order);
            }
        }
        for order in given {
            self.queue.remove(&order);
        }
        if !self.exhausted.is_empty() && self.retry_at.is_none() {
            self.retry_at = Some(now + REST);
        }
        let mut asks = Vec::new();
        for (peer, (bytes, hashes)) in open {
            if hashes.is_empty() {
                continue;
            }
            for hash in &hashes {
                if let Some(want) = self.wants.get_mut(hash) {
                    want.asked = true;
                }
            }
            self.next_ask += 1;
            let id = AskId(self.next_ask);
            if let Some(state) = self.peers.get_mut(&peer) {
                state.asks += 1;
            }
            self.running.insert(id, (peer, hashes.clone()));
            asks.push(Ask {
                id,
                peer,
                hashes,
                bytes,
            });
        }
        asks
    }
}
