//! Logging: what the process writes about itself, and how.
//!
//! One line an event, to standard error: for people on a terminal, JSON elsewhere. Levels: *error* needs an operator,
//! *warn* may need one, *info* is a change of state worth a line, *debug* is for whoever looks for a cause.
//!
//! Knows nothing of what is logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text, coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log filter cannot be read, or logging has been set up already.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// See the syntax of `tracing-subscriber`'s filters.
    #[error("log filter {filter:?}: {reason}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A second call.
    #[error("logging has been set up already")]
    AlreadySetUp,
}

/// Sends log lines to standard error, filtered by `CONCLAVE_LOG`, else by `filter` (such as `info,openraft=warn`).
///
/// # Errors
/// When the filter cannot be read or logging has been set up already.
pub fn init(filter: &str, format: Format) -> Result<(), TelemetryError> {
    let wanted = std::env::var("CONCLAVE_LOG").unwrap_or_else(|_| filter.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| TelemetryError::Filter {
        filter: wanted,
        reason: error.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SystemTime)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let outcome = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
    outcome.map_err(|_| TelemetryError::AlreadySetUp)
}
