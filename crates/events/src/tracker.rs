//! Which of this manager's lines are not known to be recorded yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_types::{EventRecord, ExecutionId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use uuid::Uuid;

/// Lines that may be under way; a script that writes faster waits with them.
const LINES_MAX: usize = 8192;
/// What a broker has taken and nobody has told to be recorded by then is stored without it.
const OVERDUE: Duration = Duration::from_secs(3);
/// Lines that somebody waits for are overdue when this node's pipeline has recorded nothing for this long.
const OVERDUE_AWAITED: Duration = Duration::from_millis(250);
/// A workflow's end does not hang on its logs for longer.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Tracker {
    lines: Mutex<Lines>,
    places: Arc<Semaphore>,
    /// Somebody waits for lines.
    pub(crate) awaited: Notify,
    /// Lines have been recorded.
    recorded: watch::Sender<()>,
}

#[derive(Default)]
struct Lines {
    under_way: HashMap<Uuid, UnderWay>,
    /// How many waiters an execution has.
    awaited: HashMap<ExecutionId, usize>,
    /// When this node's pipeline last recorded some.
    progress: Option<Instant>,
}

struct UnderWay {
    record: EventRecord,
    stage: Stage,
    _place: OwnedSemaphorePermit,
}

/// How far a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On its way to a broker.
    Queued,
    /// This node's broker has it; its pipeline is this manager's and will tell.
    InOwnBroker(Instant),
    /// Another node's broker has it, and nobody tells.
    InOtherBroker(Instant),
}

impl Stage {
    fn is_overdue(self, now: Instant, is_awaited: bool, progress: Option<Instant>) -> bool {
        match (self, is_awaited) {
            (Self::Queued, _) => false,
            (Self::InOtherBroker(_), true) => true,
            (Self::InOwnBroker(since), true) => {
                let stands_since = progress.map_or(since, |progress| progress.max(since));
                now >= stands_since + OVERDUE_AWAITED || now >= since + OVERDUE
            }
            (Self::InOwnBroker(since) | Self::InOtherBroker(since), false) => now >= since + OVERDUE,
        }
    }
}

impl Tracker {
    pub(crate) fn new() -> Self {
        Self {
            lines: Mutex::default(),
            places: Arc::new(Semaphore::new(LINES_MAX)),
            awaited: Notify::new(),
            recorded: watch::channel(()).0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many lines are under way.
    pub(crate) fn len(&self) -> usize {
        self.lock().under_way.len()
    }

    /// Follows a line from now on; waits while there are too many.
    pub(crate) async fn follow(&self, record: &EventRecord) {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return;
        };
        let line = UnderWay {
            record: record.clone(),
            stage: Stage::Queued,
            _place: place,
        };
        self.lock().under_way.insert(record.message_id, line);
    }

    /// A broker has taken a line. It may be recorded already.
    pub(crate) fn taken(&self, id: Uuid, by_own_broker: bool, now: Instant) {
        if let Some(line) = self.lock().under_way.get_mut(&id) {
            line.stage = if by_own_broker {
                Stage::InOwnBroker(now)
            } else {
                Stage::InOtherBroker(now)
            };
        }
    }

    /// These lines are recorded, or never will be; others among them are somebody else's.
    pub(crate) fn done(&self, ids: impl IntoIterator<Item = Uuid>) {
        let mut lines = self.lock();
        let before = lines.under_way.len();
        for id in ids {
            lines.under_way.remove(&id);
        }
        let changed = lines.under_way.len() != before;
        drop(lines);
        if changed {
            self.recorded.send_replace(());
        }
    }

    /// This node's pipeline has recorded these.
    pub(crate) fn recorded(&self, ids: impl IntoIterator<Item = Uuid>, now: Instant) {
        self.lock().progress = Some(now);
        self.done(ids);
    }

    /// Lines that a broker has taken and that have to be recorded without it.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<EventRecord> {
        let lines = self.lock();
        let is_overdue = |line: &&UnderWay| {
            let is_awaited = lines.awaited.contains_key(&line.record.execution_id);
            line.stage.is_overdue(now, is_awaited, lines.progress)
        };
        let mut records: Vec<EventRecord> = lines
            .under_way
            .values()
            .filter(is_overdue)
            .map(|line| line.record.clone())
            .collect();
        // Ids of version 7 grow with time: so the lines are in their order.
        records.sort_unstable_by_key(|record| record.message_id);
        records
    }

    /// Whether somebody waits for lines.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.lock().awaited.is_empty()
    }

    /// Everything that is under way.
    pub(crate) fn all(&self) -> Vec<EventRecord> {
        let mut records: Vec<EventRecord> = self.lock().under_way.values().map(|line| line.record.clone()).collect();
        records.sort_unstable_by_key(|record| record.message_id);
        records
    }

    /// Waits until the lines of an execution that are under way now are recorded.
    pub(crate) async fn flush(&self, execution: ExecutionId) {
        let mut recorded = self.recorded.subscribe();
        let mut left: HashSet<Uuid> = {
            let mut lines = self.lock();
            let of_execution = lines
                .under_way
                .values()
                .filter(|line| line.record.execution_id == execution);
            let ids: HashSet<Uuid> = of_execution.map(|line| line.record.message_id).collect();
            if ids.is_empty() {
                return;
            }
            *lines.awaited.entry(execution).or_default() += 1;
            ids
        };
        self.awaited.notify_one();
        let _waiter = Waiter {
            tracker: self,
            execution,
        };
        let waiting = async {
            loop {
                {
                    let lines = self.lock();
                    left.retain(|id| lines.under_way.contains_key(id));
                }
                if left.is_empty() || recorded.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(FLUSH_PATIENCE, waiting).await.is_err() {
            tracing::warn!(%execution, "log lines are not recorded yet; they will follow");
        }
    }
}

/// Takes the waiter off the list also when nobody waits any more.
struct Waiter<'a> {
    tracker: &'a Tracker,
    execution: ExecutionId,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut lines = self.tracker.lock();
        if let Some(waiters) = lines.awaited.get_mut(&self.execution) {
            *waiters -= 1;
            if *waiters == 0 {
                lines.awaited.remove(&self.execution);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use conclave_types::EventKind;

    use super::*;

    fn record(execution: ExecutionId) -> EventRecord {
        let kind = EventKind::Event { event_type: "e".into() };
        EventRecord::new(Uuid::now_v7(), execution, kind, jiff::Timestamp::UNIX_EPOCH)
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_overdue_sooner_when_somebody_waits() {
        let (tracker, execution) = (Tracker::new(), ExecutionId(Uuid::new_v4()));
        let (own, other, queued) = (record(execution), record(execution), record(execution));
        for record in [&own, &other, &queued] {
            tracker.follow(record).await;
        }
        let now = Instant::now();
        tracker.taken(own.message_id, true, now);
        tracker.taken(other.message_id, false, now);
        assert_eq!(tracker.overdue(now), []);
        assert_eq!(tracker.overdue(now + OVERDUE), [own.clone(), other.clone()]);
        let mut flush = std::pin::pin!(tracker.flush(execution));
        assert!(
            tokio::time::timeout(Duration::from_millis(1), &mut flush)
                .await
                .is_err()
        );
        assert_eq!(tracker.overdue(now), std::slice::from_ref(&other));
        assert_eq!(tracker.overdue(now + OVERDUE_AWAITED), [own.clone(), other.clone()]);
        let later = now + OVERDUE_AWAITED - Duration::from_millis(1);
        tracker.recorded([other.message_id], later);
        assert_eq!(
            tracker.overdue(later + Duration::from_millis(2)),
            [],
            "the pipeline is at work"
        );
        assert_eq!(tracker.overdue(later + OVERDUE_AWAITED), std::slice::from_ref(&own));
        tracker.done([own.message_id]);
        assert!(
            tokio::time::timeout(Duration::from_millis(1), &mut flush)
                .await
                .is_err(),
            "one is still queued"
        );
        tracker.done([queued.message_id]);
        flush.await;
        assert_eq!((tracker.len(), tracker.lock().awaited.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_waits_for_nobody_elses_lines_and_not_for_ever() {
        let (tracker, execution) = (Tracker::new(), ExecutionId(Uuid::new_v4()));
        tracker.follow(&record(ExecutionId(Uuid::new_v4()))).await;
        tracker.flush(execution).await;
        tracker.follow(&record(execution)).await;
        let begun = Instant::now();
        tracker.flush(execution).await;
        assert_eq!(begun.elapsed(), FLUSH_PATIENCE);
    }
}
