//! The Raft log and vote, on disk.
//!
//! A thread of its own writes ([`writer`]): it drains its queue, writes everything in the order of arrival, syncs once and
//! then acknowledges all of it. A vote can therefore never overtake an entry. Entries since the last purge are kept in memory
//! as well ([`cache`]), which is where they are read from; what is on disk is read at the start alone.

mod cache;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use conclave_wal::{Disk, Options};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot};

use crate::timings::Spent;
use crate::types::{Entry, Group, LogId, Vote};

use cache::Cache;
pub(crate) use cache::LogSize;
pub(crate) use writer::Writer;
use writer::{Begun, Write};

/// Writes that may wait for the disk. openraft sends few at a time; more than this is a stalled disk.
const QUEUE: usize = 1024;
/// One append message carries about this much at most; a larger entry goes alone.
const APPEND_BYTES: usize = 1 << 20;

/// Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub(crate) struct LogStore {
    cache: Arc<RwLock<Cache>>,
    writer: mpsc::Sender<Write>,
    /// Whose log it is, and where the time goes that its writes as leader take.
    measured: Option<(u64, Spent)>,
}

impl LogStore {
    /// Opens or creates the log in `dir`. Blocks. The writer has to be run: by [`Writer::run_on_thread`], or by a simulator.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> io::Result<(Self, Writer)> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let (writer, cache) = Writer::open(disk, dir, options, queue)?;
        let store = Self {
            cache: Arc::new(RwLock::new(cache)),
            writer: sender,
            measured: None,
        };
        Ok((store, writer))
    }

    /// The same store, which measures what `node` writes through it as leader.
    pub(crate) fn measured(self, node: u64, spent: Spent) -> Self {
        Self {
            measured: Some((node, spent)),
            ..self
        }
    }

    /// Begins to measure a write, if this node leads: it has the vote then that its followers accept.
    fn begin(&self) -> Option<Begun> {
        let (node, spent) = self.measured.as_ref()?;
        let vote = self.vote()?;
        let leads = vote.committed && vote.leader_id.voted_for == *node;
        leads.then(|| Begun::now(spent))
    }

    /// How much the log holds.
    pub(crate) fn size(&self) -> LogSize {
        self.read(Cache::size)
    }

    /// The index up to which a purge leaves about `entries` entries and at most `bytes` bytes.
    pub(crate) fn purge_point(&self, entries: u64, bytes: u64) -> Option<u64> {
        self.read(|cache| cache.purge_point(entries, bytes))
    }

    /// Writes the committed index down if it has grown since. From time to time, so that an idle node knows it after a
    /// restart, and so that the last group on disk has something after it (see [`conclave_wal::recovery`]).
    pub(crate) async fn note_committed(&self) -> io::Result<()> {
        let (committed, noted) = self.read(|cache| (cache.committed, cache.noted));
        match committed {
            Some(committed) if noted < Some(committed) => {
                self.change(|cache| cache.noted = Some(committed));
                self.enqueue(Write::Committed(committed)).await
            }
            _ => Ok(()),
        }
    }

    /// Everything that has not been purged.
    pub(crate) fn all_entries(&self) -> Vec<Entry> {
        self.read(|cache| cache.entries(.., usize::MAX))
    }

    /// The last vote.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.read(|cache| cache.vote)
    }

    /// The end of the log.
    pub(crate) fn last_log_id(&self) -> Option<LogId> {
        self.read(Cache::last_log_id)
    }

    /// Whether the entry after `previous` is gone.
    pub(crate) fn has_purged_after(&self, previous: Option<LogId>) -> bool {
        let next = previous.map_or(0, |previous| previous.index + 1);
        self.read(|cache| cache.purged.is_some_and(|purged| purged.index >= next))
    }

    fn read<T>(&self, look: impl FnOnce(&Cache) -> T) -> T {
        look(&self.cache.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Cache) -> T) -> T {
        change(&mut self.cache.write().unwrap_or_else(PoisonError::into_inner))
    }

    async fn enqueue(&self, write: Write) -> io::Result<()> {
        self.writer
            .send(write)
            .await
            .map_err(|_| io::Error::other("the log's writer has ended"))
    }

    async fn write_and_wait(&self, make: impl FnOnce(writer::Done) -> Write) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        self.enqueue(make(done)).await?;
        outcome
            .await
            .map_err(|_| io::Error::other("the log's writer has ended"))?
            .map_err(io::Error::other)
    }
}

impl RaftLogReader<Group> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(|cache| cache.entries(range, usize::MAX)))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        // A replication that was under way when the log was purged still asks for what is gone. openraft sends what it gets
        // as the successors of `start - 1`: later entries would leave a hole in the member's log. Nothing makes it a
        // heartbeat, and `network::purged` ends what would send one after the other. An error would end Raft.
        Ok(self.read(|cache| {
            if start < cache.first() {
                Vec::new()
            } else {
                cache.entries(start..end, APPEND_BYTES)
            }
        }))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.read(|cache| cache.vote))
    }
}

impl RaftLogStorage<Group> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Group>, io::Error> {
        Ok(self.read(|cache| LogState {
            last_purged_log_id: cache.purged,
            last_log_id: cache.last_log_id(),
        }))
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write_and_wait(|done| Write::Vote(*vote, done)).await?;
        self.change(|cache| cache.vote = Some(*vote));
        Ok(())
    }

    /// Written with whatever is written next, or by [`LogStore::note_committed`]: a write of its own would wake the writer
    /// twice for each group, and what is lost in a crash only shortens the replay.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.change(|cache| cache.committed = committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.read(|cache| cache.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Group>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // Entries share their bytes: the writer's copy costs a reference.
        let begun = self.begin();
        let entries: Vec<Entry> = entries.into_iter().collect();
        let committed = self.change(|cache| {
            cache.append(entries.iter().cloned())?;
            cache.noted = cache.committed;
            io::Result::Ok(cache.committed)
        })?;
        self.enqueue(Write::Append(entries, committed, callback, begun)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.change(|cache| cache.truncate_after(last_log_id.map(|last| last.index)));
        #[cfg(test)]
        crate::simulation::count("log truncated");
        self.write_and_wait(|done| Write::Truncate(last_log_id, done)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.change(|cache| cache.purge(log_id));
        self.write_and_wait(|done| Write::Purge(log_id, done)).await
    }
}

#[cfg(test)]
mod tests;
