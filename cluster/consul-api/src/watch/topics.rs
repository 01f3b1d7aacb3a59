//! Who waits for what.

use std::collections::{BTreeMap, HashMap};

use conclave_catalog::directory::{Directory, SessionId};
use imbl::ordmap::DiffItem;
use tokio::sync::watch;

/// What a waiter looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// One key.
    Key(String),
    /// The keys that begin so.
    Prefix(String),
    /// One session.
    Session(SessionId),
    /// The list of sessions.
    Sessions,
    /// One service: its instances, their checks, their nodes.
    Service(String),
    /// One node and all on it.
    Node(String),
    /// The list of nodes.
    Nodes,
    /// The list of services.
    Services,
    /// All checks.
    Checks,
}

struct Line {
    sender: watch::Sender<()>,
    waiters: usize,
}

/// All lines.
#[derive(Default)]
pub(super) struct Topics {
    keys: HashMap<String, Line>,
    prefixes: HashMap<String, Line>,
    /// How many lines there are for prefixes of each length: only these lengths of a changed key are looked up.
    lengths: BTreeMap<usize, usize>,
    others: HashMap<Topic, Line>,
    waiters: usize,
}

fn join<K: std::hash::Hash + Eq>(lines: &mut HashMap<K, Line>, key: K) -> (watch::Receiver<()>, bool) {
    let mut is_new = false;
    let line = lines.entry(key).or_insert_with(|| {
        is_new = true;
        Line {
            sender: watch::Sender::new(()),
            waiters: 0,
        }
    });
    line.waiters += 1;
    (line.sender.subscribe(), is_new)
}

/// Whether the line is gone with its last waiter.
fn leave<K, Q>(lines: &mut HashMap<K, Line>, key: &Q) -> bool
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
{
    let Some(line) = lines.get_mut(key) else { return false };
    line.waiters -= 1;
    let empty = line.waiters == 0;
    if empty {
        lines.remove(key);
    }
    empty
}

fn call(line: Option<&Line>) {
    if let Some(line) = line {
        line.sender.send_replace(());
    }
}

impl Topics {
    pub(super) fn waiters(&self) -> usize {
        self.waiters
    }

    pub(super) fn join(&mut self, topic: &Topic) -> watch::Receiver<()> {
        self.waiters += 1;
        match topic {
            Topic::Key(key) => join(&mut self.keys, key.clone()).0,
            Topic::Prefix(prefix) => {
                let (receiver, is_new) = join(&mut self.prefixes, prefix.clone());
                if is_new {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                receiver
            }
            other => join(&mut self.others, other.clone()).0,
        }
    }

    pub(super) fn leave(&mut self, topic: &Topic) {
        self.waiters -= 1;
        match topic {
            Topic::Key(key) => {
                leave(&mut self.keys, key.as_str());
            }
            Topic::Prefix(prefix) => {
                if leave(&mut self.prefixes, prefix.as_str())
                    && let Some(lines) = self.lengths.get_mut(&prefix.len())
                {
                    *lines -= 1;
                    if *lines == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            other => {
                leave(&mut self.others, other);
            }
        }
    }

    /// Wakes the lines of what differs. The maps are persistent: comparing skips what they share.
    pub(super) fn wake(&self, old: &Directory, new: &Directory) {
        for change in old.kv().entries().diff(new.kv().entries()) {
            let key: &std::sync::Arc<str> = changed_key(&change);
            self.wake_key(key);
        }
        let (before, after) = (old.sessions(), new.sessions());
        for change in before.entries().diff(after.entries()) {
            self.wake_other(&Topic::Session(*changed_key(&change)));
        }
        if before.index() != after.index() {
            self.wake_other(&Topic::Sessions);
        }
        let (before, after) = (old.services(), new.services());
        for change in before.by_name().diff(after.by_name()) {
            self.wake_other(&Topic::Service(changed_key(&change).to_string()));
        }
        for change in before.nodes().diff(after.nodes()) {
            self.wake_other(&Topic::Node(changed_key(&change).to_string()));
        }
        let tables = [
            (Topic::Nodes, before.nodes_index() != after.nodes_index()),
            (Topic::Services, before.services_index() != after.services_index()),
            (Topic::Checks, before.checks_index() != after.checks_index()),
        ];
        for (topic, _) in tables.iter().filter(|(_, changed)| *changed) {
            self.wake_other(topic);
        }
    }

    fn wake_key(&self, key: &str) {
        call(self.keys.get(key));
        for length in self.lengths.range(..=key.len()).map(|(length, _)| *length) {
            call(key.get(..length).and_then(|prefix| self.prefixes.get(prefix)));
        }
    }

    fn wake_other(&self, topic: &Topic) {
        call(self.others.get(topic));
    }
}

fn changed_key<'a, K, V>(change: &DiffItem<'a, 'a, K, V>) -> &'a K {
    match change {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use conclave_catalog::directory::{DirectoryCommand, KvOp, KvWrite};

    use super::*;
    use crate::watch::Hub;

    fn set(state: &Directory, index: u64, key: &str) -> Directory {
        let mut changed = state.clone();
        let write = KvWrite {
            key: Arc::from(key),
            value: index.to_string().into_bytes().into(),
            flags: 0,
        };
        changed
            .apply(index, DirectoryCommand::Kv(KvOp::Set(write)))
            .expect("a write is never refused");
        changed
    }

    #[test]
    fn a_write_wakes_its_key_and_the_prefixes_before_it() {
        let hub = Hub::default();
        let topics = [
            Topic::Key("a/b".into()),
            Topic::Key("a".into()),
            Topic::Prefix(String::new()),
            Topic::Prefix("a/".into()),
            Topic::Prefix("a/b".into()),
            Topic::Prefix("a/bc".into()),
            Topic::Prefix("ü".into()),
            Topic::Sessions,
        ];
        let mut waiters: Vec<_> = topics.iter().map(|topic| hub.wait_for(topic.clone())).collect();
        let mut state = Directory::default();
        for index in 1..200 {
            state = set(&state, index, &format!("z{index}"));
        }
        let changed = set(&state, 200, "a/b");
        hub.wake(&state, &changed);
        let woken: Vec<_> = waiters
            .iter_mut()
            .map(|waiter| waiter.woken.has_changed().unwrap_or(false))
            .collect();
        assert_eq!(woken, [true, false, true, true, true, false, false, false]);
        drop(waiters);
        assert_eq!(hub.waiters(), 0);
        let topics = hub.lock();
        assert!(topics.keys.is_empty() && topics.prefixes.is_empty() && topics.others.is_empty());
        assert!(topics.lengths.is_empty());
    }
}
