//! What can go wrong.

use tokio_postgres::error::SqlState;

/// Why the record was not read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing, or not in this tenant.
    #[error("{0} was not found")]
    NotFound(String),
    /// There is one already, or what is stored is newer.
    #[error("{0}")]
    Conflict(String),
    /// The database cannot be reached: a failover is under way, or this node is cut off from the majority.
    #[error("the database cannot be reached now: {0}; try again")]
    Unavailable(String),
    /// The connection was lost before the answer: the change may have been made or not.
    #[error("the connection to the database was lost while writing: the outcome is unknown; look before trying again")]
    UnknownOutcome,
    /// Another manager owns the execution by now; nothing was written.
    #[error("execution {0} has another owner by now")]
    Fenced(conclave_types::ExecutionId),
    /// A filter, sort key or range that the list does not offer, or a value that cannot be stored.
    #[error("{0}")]
    BadQuery(String),
    /// Anything else: a defect of this program or of the schema.
    #[error("database error: {0}")]
    Internal(String),
}

impl StoreError {
    /// Judges an error of a statement that changed nothing yet, or only reads.
    pub(crate) fn reading(error: tokio_postgres::Error) -> Self {
        Self::classify(error, false)
    }

    /// Judges an error of a statement or commit that may have changed something.
    pub(crate) fn writing(error: tokio_postgres::Error) -> Self {
        Self::classify(error, true)
    }

    fn classify(error: tokio_postgres::Error, writes: bool) -> Self {
        let Some(db) = error.as_db_error() else {
            let lost = error.is_closed()
                || std::error::Error::source(&error).is_some_and(|cause| cause.is::<std::io::Error>());
            return match (lost, writes) {
                (true, true) => Self::UnknownOutcome,
                (true, false) => Self::Unavailable(error.to_string()),
                (false, _) => Self::Internal(error.to_string()),
            };
        };
        let code = db.code();
        let going = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ];
        if going.contains(code) || code.code().starts_with("08") {
            return if writes && *code != SqlState::READ_ONLY_SQL_TRANSACTION {
                Self::UnknownOutcome
            } else {
                Self::Unavailable(db.message().to_owned())
            };
        }
        // A cluster that has just been founded: its first manager makes the schema right after the database.
        if *code == SqlState::UNDEFINED_TABLE {
            return Self::Unavailable("the schema is not there yet".into());
        }
        if *code == SqlState::UNIQUE_VIOLATION {
            return Self::Conflict(db.detail().unwrap_or(db.message()).to_owned());
        }
        if *code == SqlState::FOREIGN_KEY_VIOLATION {
            return Self::Conflict(format!("it is in use: {}", db.detail().unwrap_or(db.message())));
        }
        // A text may hold any character but the zero byte, which only a client can have sent.
        if *code == SqlState::CHARACTER_NOT_IN_REPERTOIRE {
            return Self::BadQuery(db.message().to_owned());
        }
        Self::Internal(format!("{} ({})", db.message(), code.code()))
    }

    /// Whether waiting and trying again may help, and cannot do harm.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
