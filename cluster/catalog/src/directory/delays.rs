//! Lock-delays: keys that nobody may acquire yet (spec/consul-api.md, section 4).
//!
//! When a session is ended from outside, whoever held its keys may not know yet. The delay begins with the command that
//! ends the session and ends with another command, which the leader proposes when its monotonic clock says so. A new
//! leader measures the whole delay anew: it can become longer, never shorter, and no two nodes' clocks are compared.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

/// A delay below this is none: nobody learns of a lock's end and acquires it faster.
const DELAY_MIN_NS: u64 = 10_000_000;

/// The keys of one ended session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockDelay {
    /// How long, in nanoseconds.
    pub nanos: u64,
    /// Which.
    pub keys: Vec<Arc<str>>,
}

/// All delays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LockDelays {
    /// By number.
    entries: OrdMap<u64, Arc<LockDelay>>,
    /// The delay that holds for a key.
    by_key: OrdMap<Arc<str>, u64>,
    last: u64,
}

impl LockDelays {
    /// The delays that hold, by number.
    pub fn entries(&self) -> &OrdMap<u64, Arc<LockDelay>> {
        &self.entries
    }

    /// Whether nobody may acquire this key yet.
    pub fn holds_for(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    pub(super) fn begin(&mut self, nanos: u64, keys: Vec<Arc<str>>) {
        if nanos < DELAY_MIN_NS || keys.is_empty() {
            return;
        }
        self.last += 1;
        for key in &keys {
            self.by_key.insert(Arc::clone(key), self.last);
        }
        self.entries.insert(self.last, Arc::new(LockDelay { nanos, keys }));
    }

    pub(super) fn end(&mut self, number: u64) {
        let Some(delay) = self.entries.remove(&number) else {
            return;
        };
        for key in &delay.keys {
            // A later delay may hold for the key meanwhile.
            if self.by_key.get(key) == Some(&number) {
                self.by_key.remove(key);
            }
        }
    }
}
