//! When a change on disk is over.
//!
//! A file that somebody still writes is left alone until it is closed. What cannot be seen being closed (a link, a file that came by another
//! name) is taken when nothing has happened to it for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use conclave_catalog::files::FilePath;

/// After a close, a rename or a removal: what belongs together comes together.
const QUIET: Duration = Duration::from_millis(30);
/// After it was made, when no write was seen.
const QUIET_NEW: Duration = Duration::from_millis(400);
/// After a write that no close has followed.
const QUIET_OPEN: Duration = Duration::from_secs(60);
/// A set that never is quiet as a whole is taken in parts.
const PARTS: usize = 4096;

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A name appeared, and nobody knows whether it is whole.
    Made,
    /// Bytes were written.
    Written,
    /// Its mode or its time changed: somebody may still write it.
    Retitled,
    /// Whoever wrote has closed it, or it came or went as a whole.
    Whole,
}

/// Paths that wait.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    due: BTreeMap<FilePath, Duration>,
    /// The same by time: a hundred thousand may wait, and after each event somebody asks for the next one.
    order: BTreeMap<Duration, BTreeSet<FilePath>>,
}

impl Settling {
    /// Something was seen at `now`.
    pub(crate) fn saw(&mut self, now: Duration, path: FilePath, seen: Seen) {
        let due = match seen {
            // One that somebody writes was seen before; a look at its folder does not end that.
            Seen::Made => (now + QUIET_NEW).max(self.due.get(&path).copied().unwrap_or_default()),
            Seen::Written => now + QUIET_OPEN,
            Seen::Retitled => return self.unless_due(now + QUIET, path),
            Seen::Whole => now + QUIET,
        };
        self.set(path, due);
    }

    /// Looks at it again after a while: it changed while it was read.
    pub(crate) fn again(&mut self, now: Duration, path: FilePath) {
        self.unless_due(now + QUIET_NEW, path);
    }

    fn unless_due(&mut self, due: Duration, path: FilePath) {
        if !self.due.contains_key(&path) {
            self.set(path, due);
        }
    }

    fn set(&mut self, path: FilePath, due: Duration) {
        if let Some(before) = self.due.insert(path.clone(), due)
            && let Some(same) = self.order.get_mut(&before)
        {
            same.remove(&path);
            if same.is_empty() {
                self.order.remove(&before);
            }
        }
        self.order.entry(due).or_default().insert(path);
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.order.first_key_value().map(|(due, _)| *due)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Takes what is due at `now`, in the order of paths. Files that are about to be due come along: they belong to the same change, as
    /// a rule.
    pub(crate) fn take(&mut self, now: Duration) -> Vec<FilePath> {
        let Some(first) = self.next().filter(|first| *first <= now) else {
            return Vec::new();
        };
        // Something that came just now is followed by more: better together, if it does not take for ever.
        let soon = (Bound::Excluded(now), Bound::Included(now + QUIET));
        if self.order.range(soon).next().is_some() && self.due.len() < PARTS && first + QUIET * 4 > now {
            return Vec::new();
        }
        let mut taken = Vec::new();
        while let Some(due) = self.order.first_entry().filter(|due| *due.key() <= now) {
            taken.extend(due.remove());
        }
        for path in &taken {
            self.due.remove(path);
        }
        taken.sort_unstable();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FilePath {
        FilePath::new(text).unwrap()
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_file_that_is_written_slowly_is_taken_once() {
        let mut settling = Settling::default();
        settling.saw(ms(0), path("a"), Seen::Made);
        for second in 0..30 {
            settling.saw(ms(second * 1000), path("a"), Seen::Written);
            assert_eq!(settling.take(ms(second * 1000 + 999)), []);
        }
        settling.saw(ms(30_000), path("a"), Seen::Whole);
        assert_eq!(settling.take(ms(30_010)), []);
        assert_eq!(settling.take(ms(30_030)), [path("a")]);
        assert_eq!(settling.len(), 0);
    }

    #[test]
    fn what_comes_together_is_taken_together() {
        let mut settling = Settling::default();
        for number in 0..50 {
            settling.saw(ms(number), path(&format!("f{number}")), Seen::Whole);
        }
        assert_eq!(settling.take(ms(35)).len(), 0, "more is on its way");
        assert_eq!(settling.take(ms(80)).len(), 50);
    }
}
