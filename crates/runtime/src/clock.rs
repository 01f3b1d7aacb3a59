//! The only place that reads the wall clock.
//!
//! Wall time is for people and for records; deadlines and leases use [`tokio::time::Instant`], which is monotonic.

/// The current time, UTC.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
