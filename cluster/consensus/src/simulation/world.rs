//! What all simulated nodes share: the network's state, the nodes, what was seen.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_wal::MemoryDisk;
use openraft::EntryPayload;

use super::runtime::next_number;
use crate::member::Member;
use crate::types::Entry;

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// What the code under test reports. One simulation a thread.
#[derive(Default)]
struct Seen {
    /// The entry that was applied at each index, on whichever node first.
    applied: BTreeMap<u64, (u64, u64)>,
    requests: BTreeSet<u64>,
    leaders: BTreeMap<u64, u64>,
    counters: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
    trace: DefaultHasher,
}

/// Called by the state machine for each entry.
pub(crate) fn applied(entry: &Entry) {
    let mut hasher = DefaultHasher::new();
    match &entry.payload {
        EntryPayload::Blank => 0_u8.hash(&mut hasher),
        EntryPayload::Normal(packed) => packed.0.hash(&mut hasher),
        EntryPayload::Membership(membership) => format!("{membership:?}").hash(&mut hasher),
    }
    let (index, term, content) = (entry.log_id.index, entry.log_id.leader_id.term, hasher.finish());
    SEEN.with_borrow_mut(|seen| {
        (index, term, content).hash(&mut seen.trace);
        if let EntryPayload::Normal(_) = entry.payload {
            seen.requests.insert(content);
        }
        let first = *seen.applied.entry(index).or_insert((term, content));
        if first != (term, content) {
            seen.violations.push(format!(
                "index {index} was applied as entry of term {} and as another of term {term}",
                first.0
            ));
        }
    });
}

/// Called where something happens that some run has to reach.
pub(crate) fn count(what: &'static str) {
    SEEN.with_borrow_mut(|seen| *seen.counters.entry(what).or_insert(0) += 1);
}

pub(super) fn reset() {
    SEEN.set(Seen::default());
}

pub(super) fn violation(what: String) {
    SEEN.with_borrow_mut(|seen| seen.violations.push(what));
}

/// A node says that it leads.
pub(super) fn leads(node: u64, term: u64) {
    let before = SEEN.with_borrow_mut(|seen| {
        (node, term).hash(&mut seen.trace);
        seen.leaders.insert(term, node)
    });
    match before {
        None => count("leader elected"),
        Some(other) if other != node => violation(format!("nodes {other} and {node} led in term {term}")),
        Some(_) => {}
    }
}

pub(super) fn trace(event: &impl Hash) {
    SEEN.with_borrow_mut(|seen| event.hash(&mut seen.trace));
}

/// Whether a proposal with these bytes has been applied somewhere.
pub(super) fn was_applied(bytes: &[u8]) -> bool {
    let mut hasher = DefaultHasher::new();
    bytes::Bytes::copy_from_slice(bytes).hash(&mut hasher);
    SEEN.with_borrow(|seen| seen.requests.contains(&hasher.finish()))
}

/// The counters, the violations and the trace's fingerprint.
pub(super) fn results() -> (BTreeMap<&'static str, u64>, Vec<String>, u64) {
    SEEN.with_borrow(|seen| (seen.counters.clone(), seen.violations.clone(), seen.trace.finish()))
}

/// A number below `limit`.
pub(super) fn below(limit: u64) -> u64 {
    next_number() % limit.max(1)
}

/// True in so many of a thousand cases.
pub(super) fn chance(permille: u64) -> bool {
    below(1000) < permille
}

pub(super) fn millis(from: u64, to: u64) -> Duration {
    Duration::from_millis(from + below(to - from + 1))
}

/// One node's place.
pub(super) struct Slot {
    pub(super) disk: MemoryDisk,
    pub(super) member: Option<Member>,
    pub(super) tasks: Option<conclave_runtime::Tasks>,
    /// Grows with each start and each end: what an earlier one says or hears counts for nothing.
    pub(super) incarnation: u64,
    /// How far its wall clock is off.
    pub(super) skew_ms: i64,
}

/// The links.
#[derive(Default)]
pub(super) struct Weather {
    /// Directed links that carry nothing.
    pub(super) cut: BTreeSet<(u64, u64)>,
    /// Nodes whose messages wait, in and out, as a stopped process's do.
    pub(super) held: BTreeSet<u64>,
    pub(super) loss_permille: u64,
    pub(super) duplicate_permille: u64,
    pub(super) delay_ms_max: u64,
}

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<u64, Slot>,
    weather: Weather,
}

#[derive(Clone)]
pub(super) struct World {
    inner: Arc<Mutex<Inner>>,
    began: tokio::time::Instant,
    pub(super) loud: bool,
}

/// Who sends: a node, in one of its incarnations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) node: u64,
    pub(super) incarnation: u64,
}

impl World {
    pub(super) fn new(loud: bool) -> Self {
        Self {
            inner: Arc::default(),
            began: tokio::time::Instant::now(),
            loud,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.loud {
            eprintln!("{:>9.3} {}", self.elapsed().as_secs_f64(), what());
        }
    }

    pub(super) fn node<T>(&self, node: u64, look: impl FnOnce(&mut Slot) -> T) -> T {
        let mut inner = self.lock();
        let slot = inner.nodes.entry(node).or_insert_with(|| Slot {
            disk: MemoryDisk::default(),
            member: None,
            tasks: None,
            incarnation: 0,
            skew_ms: 0,
        });
        look(slot)
    }

    pub(super) fn nodes(&self) -> Vec<u64> {
        self.lock().nodes.keys().copied().collect()
    }

    pub(super) fn forget(&self, node: u64) {
        self.lock().nodes.remove(&node);
    }

    /// The nodes that run.
    pub(super) fn members(&self) -> Vec<(u64, Member)> {
        let inner = self.lock();
        let running = inner.nodes.iter();
        running
            .filter_map(|(node, slot)| Some((*node, slot.member.clone()?)))
            .collect()
    }

    pub(super) fn weather<T>(&self, change: impl FnOnce(&mut Weather) -> T) -> T {
        change(&mut self.lock().weather)
    }

    /// Whether the sender is still there.
    pub(super) fn is_current(&self, origin: Origin) -> bool {
        self.lock()
            .nodes
            .get(&origin.node)
            .is_some_and(|slot| slot.incarnation == origin.incarnation)
    }

    /// The member that a message reaches, if the node runs.
    pub(super) fn target(&self, node: u64) -> Option<(Member, Origin)> {
        let inner = self.lock();
        let slot = inner.nodes.get(&node)?;
        let origin = Origin {
            node,
            incarnation: slot.incarnation,
        };
        Some((slot.member.clone()?, origin))
    }

    pub(super) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.lock().weather.cut.contains(&(from, to))
    }
}
