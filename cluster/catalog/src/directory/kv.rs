//! Keys and values, with the sessions that hold them (spec/consul-api.md, sections 2 and 3).
//!
//! Indexes are Raft log indexes. A write that changes nothing leaves them as they are. What was deleted leaves a
//! tombstone, so that the index of a prefix grows when something below it goes; of very many tombstones the oldest are
//! replaced by one index that holds for all keys.

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};

use super::sessions::{Behavior, SessionId};
use super::value::Value;

/// More tombstones than this are thinned out. A watcher that was away for as many deletions is woken once for nothing.
const TOMBSTONES_MAX: usize = 20_000;

/// A key and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    /// Its name: any text, compared byte by byte.
    pub key: Arc<str>,
    /// Its value.
    pub value: Value,
    /// A number that is the client's own.
    pub flags: u64,
    /// Who holds it.
    pub session: Option<SessionId>,
    /// How often it was acquired: with key and session a fencing token.
    pub lock_index: u64,
    /// When it was made.
    pub create_index: u64,
    /// When it was changed last.
    pub modify_index: u64,
}

/// What a write does to the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    Keep,
    Hold(SessionId),
    Free,
}

/// All keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kv {
    entries: OrdMap<Arc<str>, Arc<KvEntry>>,
    held: OrdMap<SessionId, OrdSet<Arc<str>>>,
    tombstones: OrdMap<Arc<str>, u64>,
    /// In the order of their making; some are outdated, because the key was made anew.
    buried: Vector<(u64, Arc<str>)>,
    floor: u64,
    index: u64,
}

impl Kv {
    /// The keys in byte order. The map is persistent: two versions of it are compared at the cost of what differs.
    pub fn entries(&self) -> &OrdMap<Arc<str>, Arc<KvEntry>> {
        &self.entries
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<&Arc<KvEntry>> {
        self.entries.get(key)
    }

    /// The keys that begin with `prefix`, in byte order.
    pub fn list<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<KvEntry>> {
        from(&self.entries, prefix).map(|(_, entry)| entry)
    }

    /// The names that begin with `prefix`, cut after the first `separator` behind it, each once.
    pub fn names(&self, prefix: &str, separator: Option<&str>) -> Vec<String> {
        let separator = separator.filter(|separator| !separator.is_empty());
        let mut names = Vec::new();
        let mut start = Some(prefix.to_owned());
        while let Some(first) = start.take() {
            for (key, _) in self
                .entries
                .range::<_, str>((Bound::Included(first.as_str()), Bound::Unbounded))
            {
                let Some(rest) = key.strip_prefix(prefix) else { break };
                let found = separator.and_then(|separator| Some(rest.find(separator)? + separator.len()));
                let Some(length) = found else {
                    names.push(key.to_string());
                    continue;
                };
                let folder = &key[..prefix.len() + length];
                names.push(folder.to_owned());
                // A folder's other keys are jumped over, not walked through.
                start = behind(folder);
                break;
            }
        }
        names
    }

    /// The keys that a session holds.
    pub fn held_by(&self, session: &SessionId) -> impl Iterator<Item = &Arc<str>> {
        self.held.get(session).into_iter().flatten()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The last change of any key.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The index of a query of one key: its own, or the whole table's while there is no such key.
    pub fn index_of_key(&self, key: &str) -> u64 {
        self.entries.get(key).map_or(self.index, |entry| entry.modify_index)
    }

    /// The index of a query of all keys that begin with `prefix`: the last change or deletion below it; the whole
    /// table's while there are none.
    pub fn index_of_prefix(&self, prefix: &str) -> u64 {
        if prefix.is_empty() {
            return self.index;
        }
        match self.list(prefix).map(|entry| entry.modify_index).max() {
            None => self.index,
            Some(changed) => {
                let deleted = from(&self.tombstones, prefix).map(|(_, index)| *index).max();
                changed.max(deleted.unwrap_or(0)).max(self.floor)
            }
        }
    }

    pub(super) fn store(&mut self, index: u64, key: &Arc<str>, value: Value, flags: u64, lock: Lock) {
        let old = self.entries.get(key);
        let (session, lock_index) = match (old, lock) {
            (None, Lock::Keep | Lock::Free) => (None, 0),
            (None, Lock::Hold(session)) => (Some(session), 1),
            (Some(old), Lock::Keep) => (old.session, old.lock_index),
            (Some(old), Lock::Free) => (None, old.lock_index),
            (Some(old), Lock::Hold(session)) if old.session == Some(session) => (Some(session), old.lock_index),
            (Some(old), Lock::Hold(session)) => (Some(session), old.lock_index + 1),
        };
        if old.is_some_and(|old| old.value == value && old.flags == flags && old.session == session) {
            return;
        }
        let create_index = old.map_or(index, |old| old.create_index);
        let before = old.and_then(|old| old.session);
        if before != session {
            self.unhold(before, key);
            if let Some(session) = session {
                self.held.entry(session).or_default().insert(Arc::clone(key));
            }
        }
        let entry = KvEntry {
            key: Arc::clone(key),
            value,
            flags,
            session,
            lock_index,
            create_index,
            modify_index: index,
        };
        self.entries.insert(Arc::clone(key), Arc::new(entry));
        self.tombstones.remove(key);
        self.index = index;
    }

    pub(super) fn delete(&mut self, index: u64, key: &str) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.unhold(entry.session, key);
        self.tombstones.insert(Arc::clone(&entry.key), index);
        self.buried.push_back((index, Arc::clone(&entry.key)));
        self.index = index;
        if self.buried.len() > TOMBSTONES_MAX {
            self.thin_out();
        }
    }

    pub(super) fn delete_tree(&mut self, index: u64, prefix: &str) {
        let keys: Vec<Arc<str>> = self.list(prefix).map(|entry| Arc::clone(&entry.key)).collect();
        for key in keys {
            self.delete(index, &key);
        }
    }

    /// Lets go of everything that a session holds, or deletes it; the keys that were held.
    pub(super) fn release_all(&mut self, index: u64, session: SessionId, behavior: Behavior) -> Vec<Arc<str>> {
        let keys: Vec<Arc<str>> = self.held_by(&session).cloned().collect();
        for key in &keys {
            match behavior {
                Behavior::Delete => self.delete(index, key),
                Behavior::Release => {
                    if let Some(entry) = self.entries.get(key).cloned() {
                        self.store(index, key, entry.value.clone(), entry.flags, Lock::Free);
                    }
                }
            }
        }
        keys
    }

    fn unhold(&mut self, session: Option<SessionId>, key: &str) {
        let Some(session) = session else { return };
        let Some(keys) = self.held.get_mut(&session) else {
            return;
        };
        keys.remove(key);
        if keys.is_empty() {
            self.held.remove(&session);
        }
    }

    fn thin_out(&mut self) {
        while self.buried.len() > TOMBSTONES_MAX / 2
            && let Some((index, key)) = self.buried.pop_front()
        {
            self.floor = self.floor.max(index);
            if self.tombstones.get(&key) == Some(&index) {
                self.tombstones.remove(&key);
            }
        }
    }
}

/// The first text behind all that begin with `prefix`; `None` when there is none. The order of bytes in UTF-8 is the order
/// of characters.
fn behind(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

fn from<'a, V: Clone>(map: &'a OrdMap<Arc<str>, V>, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a V)> {
    map.range::<_, str>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
}
