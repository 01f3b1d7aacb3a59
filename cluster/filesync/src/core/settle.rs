//! When a change on disk is over.
//!
//! A file that somebody still writes is left alone until it is closed. What cannot be seen being closed (a link, a file that came by another
//! name) is taken when nothing has happened to it for a while.

use std::collections::BTreeMap;
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
}

impl Settling {
    /// Something was seen at `now`.
    pub(crate) fn saw(&mut self, now: Duration, path: FilePath, seen: Seen) {
        let quiet = match seen {
            Seen::Made => {
                // One that somebody writes was seen before; a look at its folder does not end that.
                let due = self.due.entry(path).or_default();
                *due = (now + QUIET_NEW).max(*due);
                return;
            }
            Seen::Written => QUIET_OPEN,
            Seen::Retitled => {
                self.due.entry(path).or_insert(now + QUIET);
                return;
            }
            Seen::Whole => QUIET,
        };
        self.due.insert(path, now + quiet);
    }

    /// Looks at it again after a while: it changed while it was read.
    pub(crate) fn again(&mut self, now: Duration, path: FilePath) {
        self.due.entry(path).or_insert(now + QUIET_NEW);
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.due.values().min().copied()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Takes what is due at `now`. Files that are about to be due come along: they belong to the same change, as a rule.
    pub(crate) fn take(&mut self, now: Duration) -> Vec<FilePath> {
        let is_due = |due: &Duration| *due <= now;
        if !self.due.values().any(is_due) {
            return Vec::new();
        }
        // Something that came just now is followed by more: better together, if it does not take for ever.
        let soon = self
            .due
            .values()
            .filter(|due| **due > now && **due <= now + QUIET)
            .count();
        if soon > 0 && self.due.len() < PARTS && self.due.values().all(|due| *due + QUIET * 4 > now) {
            return Vec::new();
        }
        let taken: Vec<FilePath> = self
            .due
            .iter()
            .filter(|(_, due)| is_due(due))
            .map(|(path, _)| path.clone())
            .collect();
        for path in &taken {
            self.due.remove(path);
        }
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
