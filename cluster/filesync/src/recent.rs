//! Chunks that were read from the disk a moment ago, verified: what many fetch at the same time is read and hashed once.
//!
//! New agents fetch the same package, workers the same plugin. What lies here was compared with its hash when it was read, and is the
//! right bytes also when those on the disk rot meanwhile; such rot is found by the scrub, which reads the disk, and by the first read
//! after the chunk has left. A chunk leaves when nobody has asked for it for a while, so that a manager at rest holds none.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use conclave_catalog::files::ContentHash;
use conclave_runtime::Shutdown;
use tokio::sync::Notify;
use tokio::time::Instant;

/// All of them together.
const BYTES_MAX: usize = 32 << 20;
/// How long one stays that nobody asks for.
const IDLE: Duration = Duration::from_secs(10);
/// What one takes besides its bytes.
const ENTRY_BYTES: usize = 256;

/// The chunks. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct RecentChunks {
    kept: Arc<Mutex<Kept>>,
    filled: Arc<Notify>,
}

#[derive(Default)]
struct Kept {
    chunks: HashMap<ContentHash, Chunk>,
    /// Those that were asked for longest ago come first.
    turns: BTreeMap<u64, ContentHash>,
    turn: u64,
    bytes: usize,
}

struct Chunk {
    bytes: Bytes,
    turn: u64,
    used: Instant,
}

impl RecentChunks {
    pub(crate) fn get(&self, hash: ContentHash) -> Option<Bytes> {
        self.lock().get(hash, Instant::now())
    }

    /// Keeps what has been read and verified.
    pub(crate) fn keep(&self, hash: ContentHash, bytes: Bytes) {
        self.lock().keep(hash, bytes, Instant::now());
        self.filled.notify_one();
    }

    /// Lets go of what nobody asks for, until the node stops. While there is nothing, it sleeps.
    pub(crate) async fn let_go(self, shutdown: Shutdown) {
        while shutdown.run_until(self.filled.notified()).await.is_some() {
            while !self.lock().chunks.is_empty() {
                if !shutdown.sleep(IDLE).await {
                    return;
                }
                self.lock().drop_idle(Instant::now());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn get(&mut self, hash: ContentHash, now: Instant) -> Option<Bytes> {
        let chunk = self.chunks.get_mut(&hash)?;
        self.turns.remove(&chunk.turn);
        self.turn += 1;
        self.turns.insert(self.turn, hash);
        (chunk.turn, chunk.used) = (self.turn, now);
        Some(chunk.bytes.clone())
    }

    fn keep(&mut self, hash: ContentHash, bytes: Bytes, now: Instant) {
        if self.get(hash, now).is_some() {
            return;
        }
        self.bytes += bytes.len() + ENTRY_BYTES;
        self.turn += 1;
        self.turns.insert(self.turn, hash);
        let (turn, used) = (self.turn, now);
        self.chunks.insert(hash, Chunk { bytes, turn, used });
        while self.bytes > BYTES_MAX && self.drop_oldest() {}
    }

    fn drop_idle(&mut self, now: Instant) {
        let is_idle = |chunk: &Chunk| now.saturating_duration_since(chunk.used) >= IDLE;
        while let Some((_, oldest)) = self.turns.first_key_value()
            && self.chunks.get(oldest).is_none_or(is_idle)
        {
            self.drop_oldest();
        }
        if self.chunks.is_empty() {
            // Their tables too.
            *self = Self::default();
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some((_, oldest)) = self.turns.pop_first() else {
            return false;
        };
        if let Some(chunk) = self.chunks.remove(&oldest) {
            self.bytes -= chunk.bytes.len() + ENTRY_BYTES;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(number: u8) -> ContentHash {
        ContentHash([number; 32])
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_keeps_what_was_asked_for_last(asked in proptest::collection::vec((0u8..20, 1usize..(4 << 20)), 1..100)) {
            let (mut kept, now) = (Kept::default(), Instant::now());
            for (number, bytes) in asked {
                kept.keep(hash(number), Bytes::from(vec![number; bytes]), now);
                prop_assert!(kept.get(hash(number), now).is_some_and(|bytes| bytes[0] == number));
                let all: usize = kept.chunks.values().map(|chunk| chunk.bytes.len() + ENTRY_BYTES).sum();
                prop_assert_eq!((all, kept.turns.len()), (kept.bytes, kept.chunks.len()));
                prop_assert!(all <= BYTES_MAX);
            }
        }
    }

    #[test]
    fn what_is_asked_for_again_outlives_what_is_not() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        let half = || Bytes::from(vec![0; BYTES_MAX / 2 - ENTRY_BYTES]);
        kept.keep(hash(1), half(), now);
        kept.keep(hash(2), half(), now);
        assert!(kept.get(hash(1), now).is_some());
        kept.keep(hash(3), half(), now);
        assert!(kept.get(hash(2), now).is_none());
        assert!(kept.get(hash(1), now).is_some() && kept.get(hash(3), now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_at_rest_holds_nothing() {
        let recent = RecentChunks::default();
        let tasks = conclave_runtime::Tasks::new("test");
        let letting_go = tasks.spawn("recent chunks", recent.clone().let_go(tasks.shutdown()));
        for _ in 0..2 {
            recent.keep(hash(1), Bytes::from_static(b"one"));
            tokio::time::sleep(IDLE / 2).await;
            assert!(recent.get(hash(1)).is_some());
            tokio::time::sleep(IDLE * 2).await;
            assert_eq!(recent.lock().chunks.len(), 0);
        }
        tasks.stop(IDLE).await;
        letting_go.join().await.unwrap();
    }
}
