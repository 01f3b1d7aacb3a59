//! Writing to the record with patience.

use std::time::Duration;

use conclave_runtime::{Backoff, Shutdown};
use conclave_store::{Store, StoreError};
use conclave_types::{EventRecord, ExecutionId};

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_millis(500);

/// The end was asked for before it was done.
#[derive(Debug)]
pub(crate) struct Stopping;

/// Repeats what the database could not answer, until the end is asked for. A lost connection is an unknown outcome: what is
/// repeated must be such that a repetition changes nothing.
pub(crate) async fn patiently<T, F, Fut>(shutdown: &Shutdown, work: F) -> Result<Result<T, StoreError>, Stopping>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    loop {
        match shutdown.run_until(work()).await.ok_or(Stopping)? {
            Err(StoreError::Unavailable(_) | StoreError::UnknownOutcome) => {}
            done_or_refused => return Ok(done_or_refused),
        }
        if !shutdown.sleep(backoff.next_delay()).await {
            return Err(Stopping);
        }
    }
}

/// Which of these executions exist. An answer that is no answer must not be taken for "none": so every error is waited out.
pub(crate) async fn known(
    store: &Store,
    ids: &[ExecutionId],
    shutdown: &Shutdown,
) -> Result<Vec<ExecutionId>, Stopping> {
    loop {
        match patiently(shutdown, || store.executions_known(ids)).await? {
            Ok(known) => return Ok(known),
            Err(error) => tracing::warn!(%error, "executions cannot be looked up; their messages wait"),
        }
        if !shutdown.sleep(RETRY_MOST).await {
            return Err(Stopping);
        }
    }
}

/// Stores records. Those that the database refuses are found one by one; returns their places.
pub(crate) async fn insert(
    store: &Store,
    records: &[EventRecord],
    shutdown: &Shutdown,
) -> Result<Vec<usize>, Stopping> {
    let Err(error) = patiently(shutdown, || store.events_insert(records)).await? else {
        return Ok(Vec::new());
    };
    tracing::warn!(%error, records = records.len(), "a batch was refused; its records are stored one by one");
    let mut refused = Vec::new();
    for (place, record) in records.iter().enumerate() {
        let alone = std::slice::from_ref(record);
        if let Err(error) = patiently(shutdown, || store.events_insert(alone)).await? {
            tracing::error!(%error, message = %record.message_id, "a record cannot be stored and is dropped");
            refused.push(place);
        }
    }
    Ok(refused)
}
