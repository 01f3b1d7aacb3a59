//! Which chunks may go. Pure.

use std::collections::HashSet;
use std::time::Duration;

use conclave_catalog::files::ContentHash;

/// What is known of a stored chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// How long nobody has written it or asked for it.
    pub(crate) idle: Duration,
    /// Uploads and readers that hold it.
    pub(crate) leases: u32,
}

impl Kept {
    pub(crate) fn is_idle(self, grace: Duration) -> bool {
        self.leases == 0 && self.idle > grace
    }
}

/// The chunks that nothing in `live` names, that nobody holds, and that were idle for longer than `grace`.
pub(crate) fn sweepable(
    stored: impl Iterator<Item = (ContentHash, Kept)>,
    live: &HashSet<ContentHash>,
    grace: Duration,
) -> Vec<ContentHash> {
    let may_go = |(hash, kept): &(ContentHash, Kept)| kept.is_idle(grace) && !live.contains(hash);
    stored.filter(may_go).map(|(hash, _)| hash).collect()
}
