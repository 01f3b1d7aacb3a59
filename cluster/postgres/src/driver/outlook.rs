//! What works still and will not for long: shown in the status, so that somebody can do something before another node has to take
//! over, or none can.

use std::path::Path;

use super::task::Task;
use crate::DatabaseError;

/// Four segments of the log. A server that finds no room for the next one stops.
const ROOM_MIN_BYTES: u64 = 64 << 20;
/// A standby that is further behind would keep the cluster waiting if it had to take over.
const LAG_MAX_BYTES: i64 = 64 << 20;

impl Task {
    /// Looks at the disk, and as primary at how far the standbys are.
    pub(super) async fn look_ahead(&self, in_recovery: bool) -> Result<(), DatabaseError> {
        let lags = match &self.session {
            Some(session) if !in_recovery => session.lags().await?,
            _ => Vec::new(),
        };
        let members: Vec<String> = {
            let state = self.shared.state.borrow();
            state.nodes().values().map(|node| node.name.clone()).collect()
        };
        let concern = concern(room(&self.programs.layout.data), &lags, &members);
        self.shared.concern.send_if_modified(|old| {
            let changed = *old != concern;
            *old = concern;
            changed
        });
        Ok(())
    }
}

/// Bytes that are left on the disk of a folder; `None` when it does not say.
fn room(folder: &Path) -> Option<u64> {
    let facts = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(facts.blocks_available().saturating_mul(facts.fragment_size()))
}

fn concern(room: Option<u64>, lags: &[(String, i64)], members: &[String]) -> Option<String> {
    let full = room.filter(|room| *room < ROOM_MIN_BYTES).map(|room| {
        format!(
            "only {} MB are left on the disk of PostgreSQL's data: make room, for without any it stops",
            room >> 20
        )
    });
    let late = lags
        .iter()
        .filter(|(name, lag)| *lag > LAG_MAX_BYTES && members.contains(name))
        .map(|(name, lag)| format!("{name} is {} MB of log behind the primary", lag >> 20));
    let all: Vec<String> = full.into_iter().chain(late).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_and_late_members_are_told() {
        let members = ["node2".to_owned(), "node3".to_owned()];
        let lag = |name: &str, mebibytes: i64| (name.to_owned(), mebibytes << 20);
        assert_eq!(concern(Some(1 << 30), &[lag("node2", 3)], &members), None);
        assert_eq!(concern(None, &[lag("a backup", 300)], &members), None);
        let told = concern(Some(7 << 20), &[lag("node2", 300), lag("node3", 1)], &members).unwrap();
        assert!(told.starts_with("only 7 MB are left"), "{told}");
        assert!(told.ends_with("node2 is 300 MB of log behind the primary"), "{told}");
    }
}
