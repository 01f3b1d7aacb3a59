//! The one writer of the log: its frames, what they mean, and how they are read back.
//!
//! Every segment begins with the vote, the purge point and the committed index that hold at its beginning, so that older
//! segments can go as soon as all of their entries have been purged.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use conclave_proto::consensus as proto;
use conclave_wal::{Disk, Frame, Options, Wal};
use openraft::storage::IOFlushed;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::cache::Cache;
use crate::timings::Spent;
use crate::types::{Entry, Group, LogId, Vote};
use crate::wire::{entry_in, entry_out, log_id_in, log_id_out, vote_in, vote_out};

/// Each kept segment with the highest index in it, oldest first, the current one last.
type Segments = VecDeque<(u64, Option<u64>)>;

/// Kinds of frames. Numbers are never given a second meaning.
mod kind {
    /// [`super::proto::LogEntry`]. It replaces what was at its index and after it.
    pub(super) const ENTRY: u8 = 1;
    /// [`super::proto::VoteId`].
    pub(super) const VOTE: u8 = 2;
    /// [`super::proto::LogId`], or nothing at all.
    pub(super) const COMMITTED: u8 = 3;
    /// [`super::proto::Matched`]: entries after it are gone.
    pub(super) const TRUNCATED: u8 = 4;
    /// [`super::proto::LogId`]: entries up to it are gone.
    pub(super) const PURGED: u8 = 5;
}

/// Tells whoever waits that a write is on disk, or is not.
pub(super) type Done = oneshot::Sender<Result<(), String>>;

/// A write whose time is measured until it is on disk.
pub(super) struct Begun {
    at: Instant,
    spent: Spent,
}

impl Begun {
    pub(super) fn now(spent: &Spent) -> Self {
        Self {
            at: Instant::now(),
            spent: spent.clone(),
        }
    }

    fn end(self) {
        self.spent.add(self.at.elapsed());
    }
}

/// A change of the log.
pub(super) enum Write {
    /// With the committed index as it was then.
    Append(Vec<Entry>, Option<LogId>, IOFlushed<Group>, Option<Begun>),
    Vote(Vote, Done),
    /// May be lost: it only shortens the replay after a restart.
    Committed(LogId),
    Truncate(Option<LogId>, Done),
    Purge(LogId, Done),
}

/// What every segment begins with.
#[derive(Default, Clone, Copy)]
struct Head {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

pub(crate) struct Writer {
    wal: Wal,
    queue: mpsc::Receiver<Write>,
    head: Head,
    segments: Segments,
    scratch: Vec<u8>,
}

/// Writes that are in the file and not yet acknowledged.
pub(crate) struct Batch {
    writes: Vec<Write>,
    outcome: Result<(), String>,
    needs_sync: bool,
}

impl Writer {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        queue: mpsc::Receiver<Write>,
    ) -> io::Result<(Self, Cache)> {
        let mut replay = Replay::default();
        let (wal, recovery) = Wal::open(disk, dir, options, &mut |frame| replay.frame(frame))?;
        if recovery.torn_bytes > 0 {
            #[cfg(test)]
            crate::simulation::count("torn tail cut off");
            tracing::info!(
                bytes = recovery.torn_bytes,
                "the end of the raft log was torn by a crash and has been cut off"
            );
        }
        let (cache, head, mut segments) = replay.finish()?;
        if segments.back().is_none_or(|(number, _)| *number != wal.segment()) {
            segments.push_back((wal.segment(), None));
        }
        let writer = Self {
            wal,
            queue,
            head,
            segments,
            scratch: Vec::new(),
        };
        Ok((writer, cache))
    }

    /// Runs until every handle on the store is gone.
    pub(crate) fn run_on_thread(mut self) -> io::Result<()> {
        std::thread::Builder::new().name("raft-log".into()).spawn(move || {
            while let Some(first) = self.queue.blocking_recv() {
                let mut group = self.write(first);
                self.sync(&mut group);
                self.acknowledge(group);
                self.rotate_if_full();
            }
        })?;
        Ok(())
    }

    /// The next write to come; `None` when every handle is gone. For a simulator's writer.
    #[cfg(test)]
    pub(crate) async fn next(&mut self) -> Option<Pending> {
        self.queue.recv().await.map(Pending)
    }

    /// Writes `first` and all that waits behind it to the file.
    fn write(&mut self, first: Write) -> Batch {
        let mut writes = vec![first];
        while let Ok(next) = self.queue.try_recv() {
            writes.push(next);
        }
        let mut needs_sync = false;
        let mut outcome = Ok(());
        for write in &writes {
            needs_sync |= !matches!(write, Write::Committed(_));
            outcome = self.append(write);
            if outcome.is_err() {
                break;
            }
        }
        let outcome = outcome.and_then(|()| Ok(self.wal.write()?));
        Batch {
            writes,
            outcome: outcome.map_err(|error| describe(&error)),
            needs_sync,
        }
    }

    /// Makes the group durable, if anything in it has to be.
    fn sync(&mut self, group: &mut Batch) {
        if group.outcome.is_ok() && group.needs_sync {
            group.outcome = self.wal.sync().map_err(|error| describe(&io::Error::from(error)));
        }
    }

    fn acknowledge(&mut self, group: Batch) {
        let outcome = group.outcome;
        if let Err(error) = &outcome {
            tracing::error!(%error, "the raft log cannot be written; this node cannot vote or acknowledge");
        }
        for write in group.writes {
            match write {
                Write::Append(_, _, flushed, begun) => {
                    if let (Some(begun), Ok(())) = (begun, &outcome) {
                        begun.end();
                    }
                    flushed.io_completed(outcome.clone().map_err(io::Error::other));
                }
                Write::Vote(_, done) | Write::Truncate(_, done) => {
                    // Nobody waits any more when the node is stopping.
                    let _stopping = done.send(outcome.clone());
                }
                Write::Purge(_, done) => {
                    self.release();
                    let _stopping = done.send(outcome.clone());
                }
                Write::Committed(_) => {}
            }
        }
    }

    fn append(&mut self, write: &Write) -> io::Result<()> {
        match write {
            Write::Append(entries, committed, ..) => {
                if let Some(committed) = committed.filter(|committed| self.head.committed < Some(*committed)) {
                    self.head.committed = Some(committed);
                    self.put(kind::COMMITTED, &log_id_out(committed))?;
                }
                for entry in entries {
                    self.put(kind::ENTRY, &entry_out(entry.clone())?)?;
                    if let Some((_, highest)) = self.segments.back_mut() {
                        *highest = (*highest).max(Some(entry.log_id.index));
                    }
                }
            }
            Write::Vote(vote, _) => {
                self.head.vote = Some(*vote);
                self.put(kind::VOTE, &vote_out(vote))?;
            }
            Write::Committed(committed) => {
                self.head.committed = Some(*committed);
                self.put(kind::COMMITTED, &log_id_out(*committed))?;
            }
            Write::Truncate(last, _) => {
                let last = last.map(log_id_out);
                self.put(kind::TRUNCATED, &proto::Matched { last })?;
            }
            Write::Purge(log_id, _) => {
                self.head.purged = self.head.purged.max(Some(*log_id));
                self.put(kind::PURGED, &log_id_out(*log_id))?;
            }
        }
        Ok(())
    }

    fn put(&mut self, kind: u8, message: &impl Message) -> io::Result<()> {
        self.scratch.clear();
        message.encode(&mut self.scratch).map_err(io::Error::other)?;
        Ok(self.wal.append(kind, &self.scratch)?)
    }

    fn rotate_if_full(&mut self) {
        if !self.wal.is_full() {
            return;
        }
        if let Err(error) = self.rotate() {
            // The log has poisoned itself: the next write is refused, and Raft hears of it there.
            tracing::error!(error = describe(&error), "the raft log could not begin a new segment");
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.wal.rotate()?;
        self.segments.push_back((self.wal.segment(), None));
        let head = self.head;
        if let Some(vote) = head.vote {
            self.put(kind::VOTE, &vote_out(&vote))?;
        }
        if let Some(purged) = head.purged {
            self.put(kind::PURGED, &log_id_out(purged))?;
        }
        if let Some(committed) = head.committed {
            self.put(kind::COMMITTED, &log_id_out(committed))?;
        }
        self.wal.sync()?;
        Ok(())
    }

    /// Gives back the segments whose entries have all been purged.
    fn release(&mut self) {
        let Some(purged) = self.head.purged else { return };
        while self.segments.len() > 1
            && self
                .segments
                .front()
                .is_some_and(|(_, highest)| highest.is_none_or(|highest| highest <= purged.index))
        {
            self.segments.pop_front();
        }
        if let Some((first, _)) = self.segments.front()
            && let Err(error) = self.wal.release_before(*first)
        {
            tracing::warn!(
                error = describe(&io::Error::from(error)),
                "old segments of the raft log could not be removed; they are removed later"
            );
        }
    }
}

/// A write that has been taken out of the queue.
#[cfg(test)]
pub(crate) struct Pending(Write);

#[cfg(test)]
impl Writer {
    pub(crate) fn write_pending(&mut self, first: Pending) -> Batch {
        self.write(first.0)
    }

    pub(crate) fn sync_pending(&mut self, group: &mut Batch) {
        self.sync(group);
    }

    pub(crate) fn acknowledge_pending(&mut self, group: Batch) {
        self.acknowledge(group);
        self.rotate_if_full();
    }
}

/// An error with its causes.
fn describe(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.get_ref().and_then(|inner| inner.source());
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The frames of a log, put together again.
#[derive(Default)]
struct Replay {
    entries: BTreeMap<u64, Entry>,
    head: Head,
    segments: Segments,
}

impl Replay {
    fn frame(&mut self, frame: Frame) -> io::Result<()> {
        if self.segments.back().is_none_or(|(number, _)| *number != frame.segment) {
            self.segments.push_back((frame.segment, None));
        }
        let payload = Bytes::from(frame.payload);
        match frame.kind {
            kind::ENTRY => {
                let entry = entry_in(proto::LogEntry::decode(payload).map_err(damaged)?)?;
                let index = entry.log_id.index;
                self.entries.split_off(&index);
                self.entries.insert(index, entry);
                if let Some((_, highest)) = self.segments.back_mut() {
                    *highest = (*highest).max(Some(index));
                }
            }
            kind::VOTE => self.head.vote = Some(vote_in(&proto::VoteId::decode(payload).map_err(damaged)?)),
            kind::COMMITTED => {
                self.head.committed = Some(log_id_in(proto::LogId::decode(payload).map_err(damaged)?));
            }
            kind::TRUNCATED => {
                let last = proto::Matched::decode(payload).map_err(damaged)?.last;
                self.entries.split_off(&last.map_or(0, |last| last.index + 1));
            }
            kind::PURGED => {
                let purged = log_id_in(proto::LogId::decode(payload).map_err(damaged)?);
                self.head.purged = self.head.purged.max(Some(purged));
            }
            unknown => return Err(damaged(format!("a frame of unknown kind {unknown}"))),
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<(Cache, Head, Segments)> {
        if let Some(purged) = self.head.purged {
            self.entries = self.entries.split_off(&(purged.index + 1));
        }
        let mut cache = Cache::new(self.head.vote, self.head.committed, self.head.purged);
        // Refuses a hole: an entry that is missing in the middle must never look like the end of the log.
        cache.append(self.entries.into_values()).map_err(damaged)?;
        if let (Some(first), None) = (cache.entries(.., 1).first(), cache.purged)
            && first.log_id.index > 0
        {
            return Err(damaged(format!("the log begins at entry {}", first.log_id.index)));
        }
        Ok((cache, self.head, self.segments))
    }
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
