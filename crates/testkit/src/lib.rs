//! Real servers for tests: started on free ports in folders of their own, ended by process id when the guard is dropped.
//!
//! For tests only: what fails here fails the test, so it panics with what went wrong.

#[cfg(feature = "broker")]
mod broker;
mod postgres;
mod wait;

#[cfg(feature = "broker")]
pub use broker::TestBroker;
pub use postgres::TestPostgres;
pub use wait::{free_port, wait_until};
