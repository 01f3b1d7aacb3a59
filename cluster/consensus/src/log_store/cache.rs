//! The log in memory: what has not been purged, without a hole.

use std::collections::VecDeque;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::EntryPayload;

use crate::types::{Entry, LogId, Vote};

/// What an entry takes besides its payload, about.
const ENTRY_BYTES: usize = 96;

pub(super) struct Cache {
    entries: VecDeque<Entry>,
    bytes: u64,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// The committed index that is written down, or on its way.
    pub(super) noted: Option<LogId>,
    pub(super) purged: Option<LogId>,
}

/// How much a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSize {
    /// Entries.
    pub(crate) entries: u64,
    /// Their bytes in memory, about.
    pub(crate) bytes: u64,
}

fn bytes_of(entry: &Entry) -> u64 {
    let payload = match &entry.payload {
        EntryPayload::Normal(packed) => packed.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    (payload + ENTRY_BYTES) as u64
}

impl Cache {
    pub(super) fn new(vote: Option<Vote>, committed: Option<LogId>, purged: Option<LogId>) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            vote,
            committed,
            noted: committed,
            purged,
        }
    }

    /// The index of the first entry, or where it would be.
    pub(super) fn first(&self) -> u64 {
        match (self.entries.front(), self.purged) {
            (Some(entry), _) => entry.log_id.index,
            (None, Some(purged)) => purged.index + 1,
            (None, None) => 0,
        }
    }

    pub(super) fn last_log_id(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    pub(super) fn size(&self) -> LogSize {
        LogSize {
            entries: self.entries.len() as u64,
            bytes: self.bytes,
        }
    }

    /// Entries in `range`, until they have `bytes_max` bytes; at least one if there is one.
    pub(super) fn entries(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> Vec<Entry> {
        let first = self.first();
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => first,
        };
        let until = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        self.entries
            .iter()
            .skip(skipped)
            .take_while(|entry| {
                let fits = bytes == 0 || bytes < bytes_max;
                bytes += usize::try_from(bytes_of(entry)).unwrap_or(usize::MAX);
                fits && entry.log_id.index < until
            })
            .cloned()
            .collect()
    }

    /// Entries that follow the last one.
    pub(super) fn append(&mut self, entries: impl Iterator<Item = Entry>) -> io::Result<()> {
        for entry in entries {
            if let Some(last) = self.last_log_id()
                && entry.log_id.index != last.index + 1
            {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("entry {} does not follow entry {}", entry.log_id.index, last.index),
                ));
            }
            self.bytes += bytes_of(&entry);
            self.entries.push_back(entry);
        }
        Ok(())
    }

    pub(super) fn truncate_after(&mut self, last: Option<u64>) {
        while let Some(entry) = self.entries.back() {
            if last.is_some_and(|last| entry.log_id.index <= last) {
                break;
            }
            self.bytes -= bytes_of(entry);
            self.entries.pop_back();
        }
    }

    pub(super) fn purge(&mut self, log_id: LogId) {
        while let Some(entry) = self.entries.front() {
            if entry.log_id.index > log_id.index {
                break;
            }
            self.bytes -= bytes_of(entry);
            self.entries.pop_front();
        }
        self.purged = self.purged.max(Some(log_id));
        if self.entries.is_empty() {
            self.entries.shrink_to(1024);
        }
    }

    pub(super) fn purge_point(&self, entries: u64, bytes: u64) -> Option<u64> {
        let mut surplus_bytes = self.bytes.saturating_sub(bytes);
        let mut surplus = (self.entries.len() as u64).saturating_sub(entries);
        let mut point = None;
        for entry in &self.entries {
            if surplus == 0 && surplus_bytes == 0 {
                break;
            }
            surplus = surplus.saturating_sub(1);
            surplus_bytes = surplus_bytes.saturating_sub(bytes_of(entry));
            point = Some(entry.log_id.index);
        }
        point
    }
}
