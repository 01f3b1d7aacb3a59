//! The Raft log and vote, on disk.
//!
//! One thread writes: it drains its queue, puts everything into one transaction in the order of arrival, syncs once and
//! then acknowledges all of it. A vote can therefore never overtake an entry. Entries since the last purge are kept in
//! memory as well, which is where they are read from.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use crate::types::{Entry, Group, LogId, Vote, decode, encode};

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
/// Writes that may wait for the disk. openraft sends few at a time; more than this is a stalled disk.
const QUEUE: usize = 1024;

/// Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub(crate) struct LogStore {
    cache: Arc<RwLock<Cache>>,
    writer: mpsc::Sender<Write>,
}

#[derive(Default)]
struct Cache {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

enum Write {
    Append(Vec<(u64, Vec<u8>)>, IOFlushed<Group>),
    Meta(&'static str, Vec<u8>, Option<oneshot::Sender<Result<(), String>>>),
    /// Removes entries in the range, and remembers a purge.
    Remove(
        Bound<u64>,
        Bound<u64>,
        Option<Vec<u8>>,
        oneshot::Sender<Result<(), String>>,
    ),
}

impl LogStore {
    /// Opens or creates the store in `file`.
    pub(crate) fn open(file: &Path) -> io::Result<Self> {
        let database = Database::create(file).map_err(io::Error::other)?;
        let cache = load(&database).map_err(io::Error::other)?;
        let (writer, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || write_loop(&database, queue))?;
        Ok(Self {
            cache: Arc::new(RwLock::new(cache)),
            writer,
        })
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

    async fn write_and_wait(&self, make: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Write) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        self.enqueue(make(done)).await?;
        outcome
            .await
            .map_err(|_| io::Error::other("the log's writer has ended"))?
            .map_err(io::Error::other)
    }
}

fn load(database: &Database) -> Result<Cache, redb::Error> {
    // Tables exist only once they have been opened for writing.
    let setup = database.begin_write()?;
    setup.open_table(LOG)?;
    setup.open_table(META)?;
    setup.commit()?;
    let transaction = database.begin_read()?;
    let damaged = |error: io::Error| redb::Error::Corrupted(error.to_string());
    let mut cache = Cache::default();
    for item in transaction.open_table(LOG)?.iter()? {
        let (index, entry) = item?;
        cache
            .entries
            .insert(index.value(), decode(entry.value()).map_err(damaged)?);
    }
    let meta = transaction.open_table(META)?;
    if let Some(vote) = meta.get(VOTE)? {
        cache.vote = Some(decode(vote.value()).map_err(damaged)?);
    }
    if let Some(committed) = meta.get(COMMITTED)? {
        cache.committed = decode(committed.value()).map_err(damaged)?;
    }
    if let Some(purged) = meta.get(PURGED)? {
        cache.purged = Some(decode(purged.value()).map_err(damaged)?);
    }
    Ok(cache)
}

fn write_loop(database: &Database, mut queue: mpsc::Receiver<Write>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while let Ok(next) = queue.try_recv() {
            batch.push(next);
        }
        let outcome = write_batch(database, &batch).map_err(|error| error.to_string());
        if let Err(error) = &outcome {
            tracing::error!(%error, "the raft log cannot be written; this node cannot vote or acknowledge");
        }
        for write in batch {
            match write {
                Write::Append(_, flushed) => flushed.io_completed(outcome.clone().map_err(io::Error::other)),
                Write::Meta(_, _, Some(done)) | Write::Remove(_, _, _, done) => {
                    // Nobody waits any more when the node is stopping.
                    let _stopping = done.send(outcome.clone());
                }
                Write::Meta(_, _, None) => {}
            }
        }
    }
}

fn write_batch(database: &Database, batch: &[Write]) -> Result<(), redb::Error> {
    // The committed index alone may be lost: it only shortens the replay after a restart.
    let needs_sync = batch.iter().any(|write| !matches!(write, Write::Meta(COMMITTED, ..)));
    let mut transaction = database.begin_write()?;
    transaction.set_durability(if needs_sync {
        Durability::Immediate
    } else {
        Durability::None
    })?;
    {
        let mut log = transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        for write in batch {
            match write {
                Write::Append(entries, _) => {
                    for (index, entry) in entries {
                        log.insert(index, entry.as_slice())?;
                    }
                }
                Write::Meta(key, value, _) => {
                    meta.insert(*key, value.as_slice())?;
                }
                Write::Remove(from, to, purged, _) => {
                    log.retain_in((*from, *to), |_, _| false)?;
                    if let Some(purged) = purged {
                        meta.insert(PURGED, purged.as_slice())?;
                    }
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

impl RaftLogReader<Group> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(|cache| cache.entries.range(range).map(|(_, entry)| entry.clone()).collect()))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.read(|cache| cache.vote))
    }
}

impl RaftLogStorage<Group> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Group>, io::Error> {
        Ok(self.read(|cache| {
            let last = cache.entries.values().next_back().map(|entry| entry.log_id);
            LogState {
                last_purged_log_id: cache.purged,
                last_log_id: last.or(cache.purged),
            }
        }))
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = encode(vote)?;
        self.write_and_wait(|done| Write::Meta(VOTE, bytes, Some(done))).await?;
        self.change(|cache| cache.vote = Some(*vote));
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let bytes = encode(&committed)?;
        self.change(|cache| cache.committed = committed);
        self.enqueue(Write::Meta(COMMITTED, bytes, None)).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.read(|cache| cache.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Group>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let encoded = entries
            .iter()
            .map(|entry| Ok((entry.log_id.index, encode(entry)?)))
            .collect::<Result<Vec<_>, io::Error>>()?;
        self.change(|cache| {
            cache
                .entries
                .extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)))
        });
        self.enqueue(Write::Append(encoded, callback)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |last| last.index + 1);
        self.change(|cache| cache.entries.split_off(&from));
        self.write_and_wait(|done| Write::Remove(Bound::Included(from), Bound::Unbounded, None, done))
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let bytes = encode(&log_id)?;
        self.change(|cache| {
            cache.entries = cache.entries.split_off(&(log_id.index + 1));
            cache.purged = Some(log_id);
        });
        let to = Bound::Included(log_id.index);
        self.write_and_wait(|done| Write::Remove(Bound::Unbounded, to, Some(bytes), done))
            .await
    }
}
