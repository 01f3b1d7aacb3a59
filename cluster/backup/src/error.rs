//! What can go wrong.

use std::path::PathBuf;

use conclave_catalog::database::Lsn;

/// Why a backup was not made, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The place where backups are kept refuses or cannot be reached.
    #[error("{what} in {place}: {source}")]
    Depot {
        /// What was tried.
        what: String,
        /// Where.
        place: String,
        /// The answer.
        source: Box<object_store::Error>,
    },
    /// Something of that name and with other content is there: it is never overwritten.
    #[error(
        "{name} is in {place} already, with other content: two databases archive to one place, or what is there is damaged. \
         Give this cluster a backup.target of its own"
    )]
    Conflict {
        /// Its name.
        name: String,
        /// Where.
        place: String,
    },
    /// The target cannot be used.
    #[error("backup.target {target:?}: {reason}")]
    Target {
        /// As configured.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation on this node failed.
    #[error("{what} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// One of PostgreSQL's programs failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said last.
        output: String,
    },
    /// A query failed.
    #[error("{what}: {reason}")]
    Query {
        /// What it was for.
        what: &'static str,
        /// What the server said.
        reason: String,
    },
    /// What was read is not what was written.
    #[error("{what} is damaged: {reason}. Restore from another backup: `conclave backup list` shows them")]
    Damaged {
        /// Which object.
        what: String,
        /// How that is known.
        reason: String,
    },
    /// Nothing fits what was asked for.
    #[error("{0}")]
    Nothing(String),
    /// Log that is needed is not in the archive.
    #[error(
        "the archive has no log from {from} on (segment {segment}), which {wanted} needs; from this backup the database can be \
         restored up to {from}: `--to-lsn {from}`"
    )]
    MissingLog {
        /// The end of what is there.
        from: Lsn,
        /// The first segment that is not.
        segment: String,
        /// What for.
        wanted: String,
    },
    /// The recovery ended before the point that was asked for.
    #[error("the recovery did not reach the wanted point: {0}")]
    NotReached(String),
    /// It took too long.
    #[error("{0} took too long")]
    Timeout(&'static str),
    /// The account of the server cannot be used.
    #[error(transparent)]
    Account(#[from] conclave_runtime::account::AccountError),
}

impl BackupError {
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn query(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |error| {
            let reason = error
                .as_db_error()
                .map_or_else(|| error.to_string(), |db| db.message().to_owned());
            Self::Query { what, reason }
        }
    }
}
