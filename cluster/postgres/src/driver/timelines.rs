//! The timelines of a data directory: their history files, and the segments that a new one shares with its parent.

use std::path::{Path, PathBuf};

use conclave_catalog::database::Lsn;
use conclave_runtime::account::Account;

use crate::DatabaseError;

/// The reason in a history that takes the number of a timeline that nobody began.
const DEAD_END: &str = "claimed by an abandoned promotion";
/// As `initdb` makes them.
const SEGMENT_BYTES: u64 = 16 << 20;
const PAGE_BYTES: usize = 8192;
/// Where a page of the log says which it is.
const PAGE_ADDRESS: std::ops::Range<usize> = 8..16;

/// The timelines in `pg_wal`.
pub(crate) struct Timelines<'a> {
    pub(crate) wal: PathBuf,
    pub(crate) account: &'a Account,
}

/// The last line of a history: the parent, and where it was left.
struct Origin {
    parent: u32,
    at: Lsn,
}

impl Timelines<'_> {
    fn history(&self, timeline: u32) -> PathBuf {
        self.wal.join(format!("{timeline:08X}.history"))
    }

    fn segment(&self, timeline: u32, at: Lsn) -> PathBuf {
        let number = at.0 / SEGMENT_BYTES;
        let per_file = (1 << 32) / SEGMENT_BYTES;
        let (high, low) = (number / per_file, number % per_file);
        self.wal.join(format!("{timeline:08X}{high:08X}{low:08X}"))
    }

    /// PostgreSQL takes the number after the highest timeline whose history it finds. The allocated number is higher when
    /// an earlier promotion was abandoned: its place is taken by a history that leads nowhere.
    pub(crate) fn reserve(&self, current: u32, wanted: u32) -> Result<(), DatabaseError> {
        let parent = std::fs::read_to_string(self.history(current)).unwrap_or_default();
        for timeline in current + 1..wanted {
            let path = self.history(timeline);
            if path.exists() {
                continue;
            }
            let text = format!("{parent}{current}\t0/1\t{DEAD_END}\n");
            std::fs::write(&path, text).map_err(DatabaseError::file("write", &path))?;
            self.account.own(&path)?;
        }
        Ok(())
    }

    /// Where the timeline left its parent.
    pub(crate) fn switch_point(&self, timeline: u32) -> Option<Lsn> {
        origin(&std::fs::read_to_string(self.history(timeline)).ok()?).map(|origin| origin.at)
    }

    /// Removes what would keep a standby from recovering all that it holds: what a crash left of a timeline that had barely begun.
    pub(crate) fn make_startable(&self) -> Result<(), DatabaseError> {
        for timeline in self.known()?.into_iter().rev() {
            let path = self.history(timeline);
            let text = std::fs::read_to_string(&path).map_err(DatabaseError::file("read", &path))?;
            if !text.trim_end().ends_with(DEAD_END) {
                return match origin(&text) {
                    Some(origin) => self.forget_half_segment(timeline, &origin),
                    None => Ok(()),
                };
            }
            // A promotion that died before it had begun its timeline: "not a child of this server's history".
            std::fs::remove_file(&path).map_err(DatabaseError::file("remove", &path))?;
        }
        Ok(())
    }

    /// The timelines with a history, the highest last.
    fn known(&self) -> Result<Vec<u32>, DatabaseError> {
        let list = || -> std::io::Result<Vec<u32>> {
            let mut timelines = Vec::new();
            for entry in std::fs::read_dir(&self.wal)? {
                let name = entry?.file_name();
                let number = name.to_str().and_then(|name| name.strip_suffix(".history"));
                timelines.extend(number.and_then(|number| u32::from_str_radix(number, 16).ok()));
            }
            timelines.sort_unstable();
            Ok(timelines)
        };
        list().map_err(DatabaseError::file("list", &self.wal))
    }

    /// A standby receives the first segment of a new timeline from its beginning, although it has most of it as its parent's.
    /// When that is interrupted, recovery reads the half segment of the new timeline and not the whole one of the old, and
    /// refuses to go on: log that was acknowledged would be lost to the cluster. The half is removed; it is received again.
    fn forget_half_segment(&self, timeline: u32, origin: &Origin) -> Result<(), DatabaseError> {
        let (new, old) = (
            self.segment(timeline, origin.at),
            self.segment(origin.parent, origin.at),
        );
        if !new.exists() || !old.exists() {
            return Ok(());
        }
        let read = |path: &Path| std::fs::read(path).map_err(DatabaseError::file("read", path));
        if is_half(&read(&new)?, &read(&old)?, origin.at) {
            tracing::info!(
                timeline,
                "removing the half of a segment that the parent timeline has whole"
            );
            std::fs::remove_file(&new).map_err(DatabaseError::file("remove", &new))?;
        }
        Ok(())
    }
}

/// The last line of a history that says where a timeline was left.
fn origin(text: &str) -> Option<Origin> {
    text.lines().rev().find_map(|line| {
        let mut fields = line.split('\t');
        let parent = fields.next()?.trim().parse().ok()?;
        let at = fields.next()?.parse().ok()?;
        Some(Origin { parent, at })
    })
}

/// Whether a new timeline's segment ends before the point where it left its parent, and the parent's goes on. In doubt it does
/// not: whatever was acknowledged on the new timeline is beyond that point.
fn is_half(new: &[u8], old: &[u8], switch: Lsn) -> bool {
    let within = usize::try_from(switch.0 % SEGMENT_BYTES).unwrap_or(0);
    let start = switch.0 - switch.0 % SEGMENT_BYTES;
    let pages = |segment: &[u8]| {
        let is_written = |(number, page): &(usize, &[u8])| {
            let address = (start + (number * PAGE_BYTES) as u64).to_le_bytes();
            page.get(PAGE_ADDRESS) == Some(address.as_slice())
        };
        segment.chunks(PAGE_BYTES).enumerate().take_while(is_written).count()
    };
    let (have, needed) = (pages(new), within.div_ceil(PAGE_BYTES));
    if have < needed {
        return pages(old) > have;
    }
    // All pages were begun; the last may be a part of its parent's.
    let from = (needed.max(1) - 1) * PAGE_BYTES;
    let (Some(new), Some(old)) = (new.get(from..within), old.get(from..within)) else {
        return false;
    };
    let written = new.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    have == needed && written < new.len() && new[..written] == old[..written] && new != old
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 3 * SEGMENT_BYTES;

    /// A segment whose log ends after so many bytes.
    fn segment(bytes: usize) -> Vec<u8> {
        let mut segment = vec![0; 4 * PAGE_BYTES];
        for (number, page) in segment.chunks_mut(PAGE_BYTES).enumerate() {
            page.fill(7);
            page[PAGE_ADDRESS].copy_from_slice(&(START + (number * PAGE_BYTES) as u64).to_le_bytes());
        }
        segment[bytes..].fill(0);
        segment
    }

    #[test]
    fn a_half_segment_is_told_from_a_whole_one() {
        let switch = 2 * PAGE_BYTES + 100;
        let half = |new: usize, old: usize| is_half(&segment(new), &segment(old), Lsn(START + switch as u64));
        assert!(half(PAGE_BYTES, switch), "a page is missing");
        assert!(half(2 * PAGE_BYTES + 50, switch), "a part of the last page is missing");
        assert!(half(0, switch), "nothing has come yet");
        assert!(!half(switch, switch), "it ends where the parent does");
        assert!(!half(switch + 40, switch), "it goes on");
        assert!(!half(3 * PAGE_BYTES + 40, switch), "it goes on beyond the page");
        assert!(!half(switch + 40, PAGE_BYTES), "the parent is the half");
    }

    #[test]
    fn histories_that_lead_nowhere_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let account = Account::for_children("postgres").unwrap();
        let timelines = Timelines {
            wal: dir.path().to_owned(),
            account: &account,
        };
        std::fs::write(timelines.history(2), "1\t0/3000060\tno recovery target specified\n").unwrap();
        timelines.reserve(2, 5).unwrap();
        assert_eq!(timelines.known().unwrap(), [2, 3, 4]);
        timelines.make_startable().unwrap();
        assert_eq!(timelines.known().unwrap(), [2]);
        assert_eq!(timelines.switch_point(2), Some(Lsn(0x300_0060)));
        // One that was followed is needed to find the one that follows it.
        timelines.reserve(2, 4).unwrap();
        let text = "1\t0/3000060\tx\n\n2\t0/5000028\tno recovery target specified\n";
        std::fs::write(timelines.history(4), text).unwrap();
        timelines.make_startable().unwrap();
        assert_eq!(timelines.known().unwrap(), [2, 3, 4]);
        assert_eq!(timelines.switch_point(4), Some(Lsn(0x500_0028)));
    }

    #[test]
    fn segments_are_named_as_postgres_names_them() {
        let account = Account::for_children("postgres").unwrap();
        let timelines = Timelines {
            wal: PathBuf::new(),
            account: &account,
        };
        let name = timelines.segment(2, Lsn(0x16_B374_D848));
        assert_eq!(name, Path::new("0000000200000016000000B3"));
    }
}
