//! What happened a short while ago.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// More is not remembered, so that nobody can fill the memory.
const KEYS_MAX: usize = 1000;

/// Keys that were put in within some time.
pub(crate) struct Recent {
    span: Duration,
    since: Mutex<HashMap<String, Instant>>,
}

impl Recent {
    pub(crate) fn new(span: Duration) -> Self {
        Self {
            span,
            since: Mutex::default(),
        }
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get(key).is_some_and(|at| at.elapsed() < self.span)
    }

    /// Puts a key in. False when it is there, or there is no room.
    pub(crate) fn insert(&self, key: String) -> bool {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.get(&key).is_some_and(|at| at.elapsed() < self.span) {
            return false;
        }
        if since.len() >= KEYS_MAX {
            since.retain(|_, at| at.elapsed() < self.span);
        }
        let room = since.len() < KEYS_MAX;
        if room {
            since.insert(key, Instant::now());
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_stays_for_its_time() {
        let recent = Recent::new(Duration::from_secs(60));
        assert!(!recent.contains("a"));
        assert!(recent.insert("a".into()));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(recent.contains("a") && !recent.insert("a".into()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!recent.contains("a") && recent.insert("a".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_room_for_so_many() {
        let recent = Recent::new(Duration::from_secs(60));
        assert!((0..KEYS_MAX).all(|key| recent.insert(key.to_string())));
        assert!(!recent.insert("another".into()));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(recent.insert("another".into()));
    }
}
