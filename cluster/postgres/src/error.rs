//! What can go wrong.

use std::path::PathBuf;

/// Why something about this node's PostgreSQL failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The programs are not installed.
    #[error(
        "PostgreSQL's programs were not found below {0}: install the package `postgresql`, or set postgres_bin_dir"
    )]
    NotInstalled(PathBuf),
    /// A file operation failed.
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
    /// A query on the local server failed.
    #[error("local query ({what}): {reason}")]
    Query {
        /// What it was for.
        what: &'static str,
        /// What the server said.
        reason: String,
    },
    /// It took too long.
    #[error("{0} took too long")]
    Timeout(&'static str),
    /// The server is not what the rule says it should be.
    #[error("{0}")]
    Unexpected(String),
    /// The account of the server cannot be used.
    #[error(transparent)]
    Account(#[from] conclave_runtime::account::AccountError),
    /// A port cannot be listened on, or an identity not used.
    #[error(transparent)]
    Net(#[from] conclave_net::NetError),
}

impl DatabaseError {
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
