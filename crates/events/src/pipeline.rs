//! From this node's broker into the record.
//!
//! Batches form by themselves: what arrives while one is being committed is the next. Nothing waits for a timer, so that a
//! line is visible as soon as its commit is acknowledged. Messages are acknowledged after the commit; when the database is
//! away, they wait in the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use conclave_messaging::{Access, BrokerAddress, Consumer, ConsumerOptions, Delivery, topology};
use conclave_runtime::{Shutdown, Tasks, clock};
use conclave_store::Store;
use conclave_types::{EventRecord, ExecutionId};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::identity::ContentIds;
use crate::outlet::EventOutlet;
use crate::parking::Parking;
use crate::recent::Recent;
use crate::record::{Stopping, insert, known};
use crate::tracker::Tracker;
use crate::wire::parse;

/// Records in one transaction.
const BATCH: usize = 500;
/// The next batch arrives while one is committed, and unknown ones may wait beside.
const PREFETCH: u16 = 1500;
/// Messages of unknown executions must not take the whole prefetch.
const PARKED_MAX: usize = 500;
/// Executions that are remembered to exist.
const KNOWN: usize = 10_000;

/// What the pipeline needs.
pub struct PipelineOptions {
    /// This node's broker.
    pub broker: BrokerAddress,
    /// How to log in.
    pub access: Access,
    /// The record.
    pub store: Store,
    /// Whether the record is as this program needs it; until then the messages wait in the broker.
    pub ready: watch::Receiver<bool>,
}

/// What the status API shows; numbers since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PipelineStatus {
    /// Whether it is connected to the broker.
    pub consuming: bool,
    /// Messages that are recorded.
    pub recorded: u64,
    /// Messages that could not be read or stored.
    pub rejected: u64,
    /// Messages of executions that do not exist.
    pub unknown: u64,
    /// Messages that wait for their execution to appear.
    pub parked: usize,
}

#[derive(Default)]
struct Counts {
    recorded: AtomicU64,
    rejected: AtomicU64,
    unknown: AtomicU64,
    parked: AtomicUsize,
}

/// Stores what comes out of this node's broker. Cheap to clone.
#[derive(Clone)]
pub struct EventPipeline {
    connected: watch::Receiver<bool>,
    counts: Arc<Counts>,
}

impl EventPipeline {
    /// Starts the tasks. The outlet is told which of its lines are recorded.
    pub fn start(options: PipelineOptions, outlet: &EventOutlet, tasks: &Tasks) -> Self {
        let consuming = ConsumerOptions {
            broker: options.broker,
            access: options.access,
            queue: topology::LOGS_EVENTS_QUEUE,
            prefetch: PREFETCH,
        };
        let (consumer, deliveries) = Consumer::start(consuming, tasks);
        let counts = Arc::<Counts>::default();
        let task = Task {
            store: options.store,
            tracker: outlet.tracker(),
            counts: Arc::clone(&counts),
            ids: ContentIds::new(),
            known: Recent::new(KNOWN),
            parking: Parking::new(PARKED_MAX),
            shutdown: tasks.shutdown(),
        };
        tasks.spawn("event pipeline", task.run(deliveries, options.ready));
        Self {
            connected: consumer.connected(),
            counts,
        }
    }

    /// How it is.
    pub fn status(&self) -> PipelineStatus {
        PipelineStatus {
            consuming: *self.connected.borrow(),
            recorded: self.counts.recorded.load(Ordering::Relaxed),
            rejected: self.counts.rejected.load(Ordering::Relaxed),
            unknown: self.counts.unknown.load(Ordering::Relaxed),
            parked: self.counts.parked.load(Ordering::Relaxed),
        }
    }
}

struct Arrived {
    record: EventRecord,
    delivery: Delivery,
}

struct Task {
    store: Store,
    tracker: Arc<Tracker>,
    counts: Arc<Counts>,
    ids: ContentIds,
    known: Recent<ExecutionId, ()>,
    parking: Parking<Arrived>,
    shutdown: Shutdown,
}

impl Task {
    async fn run(mut self, mut deliveries: mpsc::Receiver<Delivery>, mut ready: watch::Receiver<bool>) {
        let mut batch = Vec::with_capacity(BATCH);
        let shutdown = self.shutdown.clone();
        if !matches!(shutdown.run_until(ready.wait_for(|ready| *ready)).await, Some(Ok(_))) {
            return;
        }
        loop {
            let look = self.parking.next_look();
            let look_again = async {
                match look {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let count = tokio::select! {
                () = shutdown.requested() => return,
                count = deliveries.recv_many(&mut batch, BATCH) => Some(count),
                () = look_again => None,
            };
            if count == Some(0) || self.take(&mut batch).await.is_err() {
                // Nothing is lost: what is not acknowledged comes again.
                return;
            }
        }
    }

    async fn take(&mut self, batch: &mut Vec<Delivery>) -> Result<(), Stopping> {
        let mut arrived = Vec::with_capacity(batch.len());
        for delivery in batch.drain(..) {
            match self.read(&delivery) {
                Ok(record) => arrived.push(Arrived { record, delivery }),
                Err(error) => {
                    self.counts.rejected.fetch_add(1, Ordering::Relaxed);
                    let body = String::from_utf8_lossy(&delivery.body);
                    let body: String = body.chars().take(200).collect();
                    tracing::warn!(%error, body, "a malformed message was rejected");
                    delivery.reject().await;
                }
            }
        }
        let ready = self.sort_out(arrived).await?;
        self.store(ready).await
    }

    fn read(&mut self, delivery: &Delivery) -> Result<EventRecord, crate::wire::Malformed> {
        let named = delivery.message_id.as_deref().and_then(|id| id.parse().ok());
        let id = || named.unwrap_or_else(|| self.ids.next(delivery.session, &delivery.body));
        parse(&delivery.body, id, clock::now())
    }

    /// Those of known executions; the others are parked, or given up when they were for long.
    async fn sort_out(&mut self, arrived: Vec<Arrived>) -> Result<Vec<Arrived>, Stopping> {
        let now = Instant::now();
        let looks = self.parking.next_look().is_some_and(|at| at <= now);
        let mut asked = if looks { self.parking.executions() } else { Vec::new() };
        asked.extend(arrived.iter().map(|arrived| arrived.record.execution_id));
        asked.sort_unstable();
        asked.dedup();
        asked.retain(|id| !self.known.contains(id));
        if !asked.is_empty() {
            let known = known(&self.store, &asked, &self.shutdown).await?;
            known.iter().for_each(|id| *self.known.entry(id) = ());
        }
        let mut ready = Vec::with_capacity(arrived.len());
        if looks {
            let leaving = self.parking.look(now, |id| self.known.contains(&id));
            ready.extend(leaving.known);
            for (execution, unknown) in leaving.given_up {
                self.give_up(execution, unknown).await;
            }
        }
        for item in arrived {
            let execution = item.record.execution_id;
            if self.known.contains(&execution) {
                *self.known.entry(&execution) = ();
                ready.push(item);
            } else if let Some((execution, crowded_out)) = self.parking.park(now, execution, item) {
                self.give_up(execution, crowded_out).await;
            }
        }
        self.counts.parked.store(self.parking.len(), Ordering::Relaxed);
        Ok(ready)
    }

    async fn give_up(&self, execution: ExecutionId, unknown: Arrived) {
        self.counts.unknown.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%execution, text = unknown.record.message, "a message of an execution that does not exist was dropped");
        self.tracker.done([unknown.record.message_id]);
        unknown.delivery.ack().await;
    }

    async fn store(&self, ready: Vec<Arrived>) -> Result<(), Stopping> {
        if ready.is_empty() {
            return Ok(());
        }
        let (records, deliveries): (Vec<EventRecord>, Vec<Delivery>) =
            ready.into_iter().map(|item| (item.record, item.delivery)).unzip();
        let refused = insert(&self.store, &records, &self.shutdown).await?;
        let ids = records.iter().map(|record| record.message_id);
        self.tracker.recorded(ids, Instant::now());
        let stored = (records.len() - refused.len()) as u64;
        self.counts.recorded.fetch_add(stored, Ordering::Relaxed);
        self.counts.rejected.fetch_add(refused.len() as u64, Ordering::Relaxed);
        for delivery in &deliveries {
            delivery.ack().await;
        }
        Ok(())
    }
}
