//! Ids for messages that carry none: by content, so that one that comes again is recognised. Pure.
//!
//! A foreign producer's line has a time in milliseconds, and two equal lines in one millisecond are two lines. So an id names
//! the content and how many equal ones came before it in the same connection. When the connection is lost, what was not
//! acknowledged comes again and is counted from the start: a line that was stored is not stored again. Of equal lines in one
//! millisecond, some acknowledged and some not, those that come again are taken for the ones that were stored; that rarest of
//! cases can lose a repetition of a line that is there.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::recent::Recent;

/// Contents that are remembered within a connection: many times what is delivered in a millisecond.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
pub(crate) struct ContentIds {
    session: u64,
    seen: Recent<[u8; 16], u32>,
}

impl ContentIds {
    pub(crate) fn new() -> Self {
        Self {
            session: 0,
            seen: Recent::new(REMEMBERED),
        }
    }

    /// The id of the next message with this content in a connection.
    pub(crate) fn next(&mut self, session: u64, content: &[u8]) -> Uuid {
        if session != self.session {
            self.session = session;
            self.seen.clear();
        }
        let hash = short(Sha256::digest(content).as_slice());
        let before = self.seen.entry(&hash);
        let number = *before;
        *before += 1;
        let named = Sha256::new()
            .chain_update(hash)
            .chain_update(number.to_be_bytes())
            .finalize();
        // Version 8: made by a rule of one's own.
        uuid::Builder::from_custom_bytes(short(named.as_slice())).into_uuid()
    }
}

fn short(hash: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_are_two_and_repetitions_are_one() {
        let mut ids = ContentIds::new();
        let first = [ids.next(1, b"a"), ids.next(1, b"a"), ids.next(1, b"b")];
        assert!(first[0] != first[1] && first[0] != first[2] && first[1] != first[2]);
        let again = [ids.next(2, b"a"), ids.next(2, b"a"), ids.next(2, b"b")];
        assert_eq!(
            first, again,
            "what comes again after a lost connection has the same ids"
        );
        assert_eq!(first[0].get_version_num(), 8);
    }
}
