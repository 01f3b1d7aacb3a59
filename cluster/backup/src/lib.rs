//! Backups of the database: base backups, a continuous archive of the log, and the way back to any point in time.
//!
//! Knows nothing of what the database holds. [`create`] makes a backup, [`start_archiver`] archives the primary's log, [`Depot`] is
//! where both are kept, [`plan`] says what to restore from and [`restore`] does it, in a folder of its own: nothing here replaces
//! a database that is in use. `docs/operations.md` explains it to operators, `docs/decisions/0020` why it is as it is.

mod archiver;
mod create;
mod depot;
mod error;
mod manifest;
mod pack;
pub mod plan;
mod programs;
mod restore;
mod retention;
mod s3;
pub mod wal;

pub use archiver::{ArchiveStatus, start_archiver};
pub use create::{CreateOptions, create};
pub use depot::{Contents, Depot};
pub use error::BackupError;
pub use manifest::{Manifest, Part, Verified};
pub use programs::Programs;
pub use restore::{RestoreOptions, Restored, clear, restore};
pub use retention::{Pruned, prune};
