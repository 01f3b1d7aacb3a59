//! Ids that are the same in every run.

use conclave_blueprint::topology::IdSource;

/// A sequence of suffixes that looks random and is not.
#[derive(Debug, Clone)]
pub(crate) struct Ids(u64);

impl Ids {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl IdSource for Ids {
    fn suffix(&mut self) -> String {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        // A linear congruential generator; its upper bits are good enough for ids of a test.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut bits = self.0 >> 24;
        let mut suffix = String::with_capacity(6);
        for _ in 0..6 {
            suffix.push(char::from(ALPHABET[(bits % 36) as usize]));
            bits /= 36;
        }
        suffix
    }
}
