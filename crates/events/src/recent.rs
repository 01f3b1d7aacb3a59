//! A map that forgets what was not used for long, so that it stays bounded. Pure.

use std::collections::HashMap;
use std::hash::Hash;

/// Holds at least the last `generation` entries that were used and at most twice as many.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    generation: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq + Clone, V: Default> Recent<K, V> {
    pub(crate) fn new(generation: usize) -> Self {
        Self {
            generation,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// The entry of a key, made if it is not there; it counts as used.
    pub(crate) fn entry(&mut self, key: &K) -> &mut V {
        if !self.young.contains_key(key) && self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young
            .entry(key.clone())
            .or_insert_with(|| old.remove(key).unwrap_or_default())
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.young.contains_key(key) || self.old.contains_key(key)
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut recent: Recent<u32, u32> = Recent::new(10);
        *recent.entry(&0) = 7;
        for key in 1..1000 {
            recent.entry(&key);
            assert_eq!(*recent.entry(&0), 7);
        }
        assert!(recent.contains(&999) && !recent.contains(&1));
        assert!(recent.young.len() <= 10 && recent.old.len() <= 10);
    }
}
