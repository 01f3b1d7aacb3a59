//! Brings the record into being: schema and first administrator.

use std::time::Duration;

use conclave_consensus::Consensus;
use conclave_runtime::{Backoff, Shutdown, Tasks};
use conclave_store::{Store, StoreError};
use tokio::sync::watch;

/// The setting that holds the first administrator's password, hashed.
pub(crate) const ADMIN_SETTING: &str = "admin_password_hash";

/// Starts the task; the value turns true once the record is as this program needs it.
/// `by_rule`: there is a database only once the cluster has agreed on who is its primary.
pub(crate) fn start(store: Store, consensus: Consensus, by_rule: bool, tasks: &Tasks) -> watch::Receiver<bool> {
    let (done, ready) = watch::channel(false);
    let shutdown = tasks.shutdown();
    tasks.spawn("record bootstrap", async move {
        if run(&store, &consensus, by_rule, &shutdown).await {
            done.send_replace(true);
        }
    });
    ready
}

async fn run(store: &Store, consensus: &Consensus, by_rule: bool, shutdown: &Shutdown) -> bool {
    let mut state = consensus.state();
    let hash = {
        let founded = state.wait_for(|state| state.facts().is_some() && (!by_rule || state.database().rule.is_some()));
        let Some(Ok(state)) = shutdown.run_until(founded).await else {
            return false;
        };
        state
            .settings()
            .get(ADMIN_SETTING)
            .and_then(|value| value.as_str())
            .map(str::to_owned)
    };
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        let Some(outcome) = shutdown.run_until(prepare(store, hash.as_deref())).await else {
            return false;
        };
        match outcome {
            Ok(()) => return true,
            Err(StoreError::Unavailable(why)) => tracing::debug!(why, "the record is not there yet"),
            Err(error) => tracing::warn!(%error, "the record cannot be prepared; it is tried again"),
        }
        if !shutdown.sleep(backoff.next_delay()).await {
            return false;
        }
    }
}

async fn prepare(store: &Store, admin_hash: Option<&str>) -> Result<(), StoreError> {
    store.migrate().await?;
    match admin_hash {
        Some(hash) => store.admin_bootstrap(hash).await,
        None => Ok(()),
    }
}
