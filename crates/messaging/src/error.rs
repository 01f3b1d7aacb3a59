//! What can go wrong.

use std::path::PathBuf;

/// Why a broker is not running or not answering.
#[derive(Debug, thiserror::Error)]
pub enum MessagingError {
    /// RabbitMQ or Erlang is missing.
    #[error("{what} was not found in {}: install the package rabbitmq-server, or name its folder in `rabbitmq_dir`", folder.display())]
    NotInstalled {
        /// What was looked for.
        what: &'static str,
        /// Where.
        folder: PathBuf,
    },
    /// The account cannot be used.
    #[error(transparent)]
    Account(#[from] conclave_runtime::account::AccountError),
    /// A file cannot be read or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The server's process cannot be started.
    #[error("start {}: {source}", program.display())]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The server ended.
    #[error("rabbitmq-server ended{how}{said}; see {}", log.display())]
    Ended {
        /// By which signal or with which code, if this program started it.
        how: String,
        /// What its log says of the cause, or nothing.
        said: String,
        /// Where the rest is.
        log: PathBuf,
    },
    /// It runs and did not answer.
    #[error("{what} took more than {seconds} s")]
    Timeout {
        /// What was tried.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The broker refused, or the connection was lost.
    #[error("{what}: {source}")]
    Amqp {
        /// What was tried.
        what: &'static str,
        /// The broker's or the library's answer.
        source: Box<lapin::Error>,
    },
}

impl MessagingError {
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn amqp(what: &'static str) -> impl FnOnce(lapin::Error) -> Self {
        move |source| Self::Amqp {
            what,
            source: Box::new(source),
        }
    }
}
