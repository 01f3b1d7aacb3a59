//! Log lines of operations on their way to the record.

use std::time::Duration;

use conclave_executor::LogOutlet;
use conclave_runtime::{Backoff, Shutdown, Tasks};
use conclave_store::{Store, StoreError};
use conclave_types::EventRecord;
use tokio::sync::mpsc;

/// Lines that may wait; a script that writes faster waits with them.
const QUEUE: usize = 4096;
const BATCH: usize = 500;

/// Stores log lines in batches. A line that was taken is stored once the database answers, or lost with this process.
pub(crate) struct StoreOutlet {
    queue: mpsc::Sender<EventRecord>,
}

impl StoreOutlet {
    pub(crate) fn start(store: Store, tasks: &Tasks) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        tasks.spawn("log writer", write(store, records, tasks.shutdown()));
        Self { queue }
    }
}

#[async_trait::async_trait]
impl LogOutlet for StoreOutlet {
    async fn send(&self, record: EventRecord) {
        if self.queue.send(record).await.is_err() {
            tracing::warn!("a log line came after the writer had stopped; it is lost");
        }
    }
}

async fn write(store: Store, mut records: mpsc::Receiver<EventRecord>, shutdown: Shutdown) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(count) = shutdown.run_until(records.recv_many(&mut batch, BATCH)).await {
        if count == 0 {
            return;
        }
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            // A repetition after an unknown outcome stores nothing twice: records carry ids.
            match store.events_insert(&batch).await {
                Ok(_) => break,
                Err(StoreError::Unavailable(_) | StoreError::UnknownOutcome) => {}
                Err(error) => {
                    tracing::error!(%error, lines = batch.len(), "log lines cannot be stored and are dropped");
                    break;
                }
            }
            if !shutdown.sleep(backoff.next_delay()).await {
                return;
            }
        }
        batch.clear();
    }
}
