//! Archiving of the database's log, if the configuration names a place.

use std::time::Duration;

use anyhow::{Context, Result};
use conclave_backup::{ArchiveStatus, Depot, start_archiver};
use conclave_config::NodeConfig;
use conclave_postgres::Database;
use conclave_runtime::Tasks;
use serde_json::Value;
use tokio::sync::watch;

/// After how long a segment is ended so that it can be archived; never when nothing is archived.
pub(crate) fn segment_age(config: &NodeConfig) -> Option<Duration> {
    let backup = config.backup.as_ref()?;
    Some(Duration::from_secs(backup.segment_seconds))
}

/// The archiver, if there is one.
pub(crate) struct Archive {
    status: Option<watch::Receiver<ArchiveStatus>>,
}

impl Archive {
    pub(crate) fn start(config: &NodeConfig, database: Option<&Database>, tasks: &Tasks) -> Result<Self> {
        let (Some(backup), Some(database)) = (&config.backup, database) else {
            return Ok(Self { status: None });
        };
        let depot = Depot::open(&backup.target, &backup.s3).context("open the place for backups")?;
        let status = start_archiver(depot, database.clone(), tasks);
        Ok(Self { status: Some(status) })
    }

    /// Why it is not well, and what it says of itself.
    pub(crate) fn health(&self) -> (Option<String>, Value) {
        let Some(status) = &self.status else {
            return (None, Value::Null);
        };
        let status = status.borrow().clone();
        let details = serde_json::to_value(&status).unwrap_or(Value::Null);
        let cause = status.trouble.or_else(|| {
            let gap = status.gaps.last()?;
            Some(format!(
                "log was removed before it was archived ({gap}), and no backup from after it is kept: make one by `conclave backup \
                 create`"
            ))
        });
        (cause, details)
    }
}
