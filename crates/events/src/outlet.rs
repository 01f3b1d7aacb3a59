//! Where this manager's own operations send their lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conclave_executor::{LogLine, LogOutlet};
use conclave_messaging::{Message, Publisher, topology};
use conclave_runtime::{Shutdown, Tasks};
use conclave_store::Store;
use conclave_types::{EventKind, EventRecord, ExecutionId};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::record::{Stopping, insert};
use crate::tracker::Tracker;
use crate::wire::encode;

/// Lines that are published together.
const BATCH: usize = 500;
/// The tracker bounds what is under way; this only decouples the writers from the task.
const QUEUE: usize = 1024;
/// How often lines are looked for that nobody has told to be recorded.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// The same while somebody waits for them.
const SWEEP_PERIOD_AWAITED: Duration = Duration::from_millis(50);
/// At the stop, what is still under way is stored; longer than this nobody waits for the database.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Publishes lines, and sees to it that they are recorded. Cheap to clone.
#[derive(Clone)]
pub struct EventOutlet {
    inner: Arc<Inner>,
    queue: mpsc::Sender<LogLine>,
}

struct Inner {
    /// This node's name.
    me: String,
    store: Store,
    publisher: Publisher,
    tracker: Arc<Tracker>,
    published: AtomicU64,
    direct: AtomicU64,
}

/// What the status API shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutletStatus {
    /// Whether a broker takes lines; otherwise they go straight to the record.
    pub connected: bool,
    /// Lines that are not known to be recorded yet.
    pub under_way: usize,
    /// Lines that a broker has taken since the start.
    pub published: u64,
    /// Lines that were stored without a broker since the start, or to be sure.
    pub direct: u64,
}

impl EventOutlet {
    /// Starts the tasks. `me` is the name of this node, which its broker has, too.
    pub fn start(me: String, store: Store, publisher: Publisher, tasks: &Tasks) -> Self {
        let (queue, lines) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            me,
            store,
            publisher,
            tracker: Arc::new(Tracker::new()),
            published: AtomicU64::new(0),
            direct: AtomicU64::new(0),
        });
        tasks.spawn("log outlet", Arc::clone(&inner).publish(lines, tasks.shutdown()));
        tasks.spawn("log outlet sweeper", Arc::clone(&inner).sweep(tasks.shutdown()));
        Self { inner, queue }
    }

    /// What the pipeline of this node tells of.
    pub(crate) fn tracker(&self) -> Arc<Tracker> {
        Arc::clone(&self.inner.tracker)
    }

    /// How it is.
    pub fn status(&self) -> OutletStatus {
        OutletStatus {
            connected: self.inner.publisher.is_connected(),
            under_way: self.inner.tracker.len(),
            published: self.inner.published.load(Ordering::Relaxed),
            direct: self.inner.direct.load(Ordering::Relaxed),
        }
    }
}

#[async_trait::async_trait]
impl LogOutlet for EventOutlet {
    async fn send(&self, line: LogLine) {
        self.inner.tracker.follow(&line.record).await;
        let id = line.record.message_id;
        if self.queue.send(line).await.is_err() {
            tracing::warn!("a log line came after the outlet had stopped; it is lost");
            self.inner.tracker.done([id]);
        }
    }

    async fn flush(&self, execution: ExecutionId) {
        self.inner.tracker.flush(execution).await;
    }
}

impl Inner {
    async fn publish(self: Arc<Self>, mut lines: mpsc::Receiver<LogLine>, shutdown: Shutdown) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(count) = shutdown.run_until(lines.recv_many(&mut batch, BATCH)).await {
            if count == 0 || self.pass_on(&batch, &shutdown).await.is_err() {
                break;
            }
            batch.clear();
        }
        // Writers that still run are told that it is over; what they have sent is stored.
        lines.close();
        let left = self.tracker.all();
        let never = Shutdown::never();
        let storing = insert(&self.store, &left, &never);
        if !left.is_empty() && !matches!(tokio::time::timeout(STOP_PATIENCE, storing).await, Ok(Ok(_))) {
            tracing::warn!(lines = left.len(), "log lines could not be stored before the stop");
        }
    }

    /// Publishes a batch; what no broker takes goes straight to the record.
    async fn pass_on(&self, batch: &[LogLine], shutdown: &Shutdown) -> Result<(), Stopping> {
        let messages: Vec<Message> = batch.iter().map(message).collect();
        let taken = shutdown
            .run_until(self.publisher.publish(&messages))
            .await
            .ok_or(Stopping)?;
        let now = Instant::now();
        let mut left = Vec::new();
        for (line, by) in batch.iter().zip(taken) {
            match by {
                Some(node) => {
                    self.published.fetch_add(1, Ordering::Relaxed);
                    self.tracker.taken(line.record.message_id, node == self.me, now);
                }
                None => left.push(line.record.clone()),
            }
        }
        self.store_directly(&left, shutdown).await
    }

    async fn store_directly(&self, records: &[EventRecord], shutdown: &Shutdown) -> Result<(), Stopping> {
        for records in records.chunks(BATCH) {
            let refused = insert(&self.store, records, shutdown).await?;
            let stored = (records.len() - refused.len()) as u64;
            self.direct.fetch_add(stored, Ordering::Relaxed);
            self.tracker.done(records.iter().map(|record| record.message_id));
        }
        Ok(())
    }

    /// Stores lines that a broker has taken and that are not recorded in time: its node is gone, or its pipeline hangs.
    async fn sweep(self: Arc<Self>, shutdown: Shutdown) {
        let mut period = SWEEP_PERIOD;
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.tracker.awaited.notified() => {}
                () = tokio::time::sleep(period) => {}
            }
            let overdue = self.tracker.overdue(Instant::now());
            if !overdue.is_empty() && self.store_directly(&overdue, &shutdown).await.is_err() {
                return;
            }
            period = if self.tracker.is_awaited() {
                SWEEP_PERIOD_AWAITED
            } else {
                SWEEP_PERIOD
            };
        }
    }
}

fn message(line: &LogLine) -> Message {
    let (exchange, routing_key) = match line.record.kind {
        EventKind::Log { .. } => (topology::LOGS, ""),
        EventKind::Event { .. } => (topology::EVENTS, topology::EVENT_KEY),
    };
    Message {
        exchange,
        routing_key,
        id: line.record.message_id.to_string(),
        body: encode(line).to_string().into_bytes(),
    }
}
