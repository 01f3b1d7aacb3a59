//! Real servers for tests: started on free ports in folders of their own, ended by process id when the guard is dropped.
//!
//! For tests only: what fails here fails the test, so it panics with what went wrong.

mod postgres;
mod wait;

pub use postgres::TestPostgres;
pub use wait::{free_port, wait_until};
