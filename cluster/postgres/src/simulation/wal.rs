//! The write-ahead logs of all nodes: one tree of records, in which each log is the way from a record to the root.

use conclave_catalog::database::Lsn;

/// Bytes of a record, so that a torn one has a length as well.
const LENGTH: u64 = 10;

/// A record; the number of its place in the tree. A log is named by its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Record(u32);

struct Entry {
    before: Record,
    depth: u32,
    timeline: u32,
}

/// The tree.
pub(super) struct Wal(Vec<Entry>);

impl Wal {
    /// With the root, which every log starts at.
    pub(super) const ROOT: Record = Record(0);

    pub(super) fn new() -> Self {
        Self(vec![Entry {
            before: Self::ROOT,
            depth: 1,
            timeline: 1,
        }])
    }

    fn entry(&self, record: Record) -> &Entry {
        &self.0[record.0 as usize]
    }

    pub(super) fn append(&mut self, log: Record, timeline: u32) -> Record {
        let depth = self.entry(log).depth + 1;
        self.0.push(Entry {
            before: log,
            depth,
            timeline,
        });
        Record(self.0.len() as u32 - 1)
    }

    pub(super) fn lsn(&self, log: Record) -> Lsn {
        Lsn(u64::from(self.entry(log).depth) * LENGTH)
    }

    pub(super) fn timeline(&self, log: Record) -> u32 {
        self.entry(log).timeline
    }

    /// The log that ends at or before that position.
    pub(super) fn upto(&self, log: Record, depth: u32) -> Record {
        let mut at = log;
        while self.entry(at).depth > depth {
            at = self.entry(at).before;
        }
        at
    }

    /// Whether `log` holds the record.
    pub(super) fn holds(&self, log: Record, record: Record) -> bool {
        self.upto(log, self.entry(record).depth) == record
    }

    /// What `log` begins with and `other` as well.
    pub(super) fn common(&self, log: Record, other: Record) -> Record {
        let depth = self.entry(log).depth.min(self.entry(other).depth);
        let (mut a, mut b) = (self.upto(log, depth), self.upto(other, depth));
        while a != b {
            (a, b) = (self.entry(a).before, self.entry(b).before);
        }
        a
    }

    /// The record of `log` that comes `count` after the end of `prefix`, or the last.
    pub(super) fn after(&self, prefix: Record, log: Record, count: u32) -> Record {
        self.upto(log, self.entry(prefix).depth + count)
    }

    /// Where in `log` a timeline ends: the last record of it, if `log` knows the timeline.
    pub(super) fn end_of(&self, log: Record, timeline: u32) -> Option<Record> {
        let mut at = log;
        while self.entry(at).timeline > timeline && at != Self::ROOT {
            at = self.entry(at).before;
        }
        (self.entry(at).timeline == timeline).then_some(at)
    }
}
