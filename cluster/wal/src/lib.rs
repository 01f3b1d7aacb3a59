//! A write-ahead log: frames in append-only segments, durable in groups.
//!
//! It knows bytes and nothing of Raft. A frame has a kind and a payload; frames come back in the order of their writing.
//! Whoever uses it gives them meaning (`cluster/consensus` keeps Raft's votes and entries in one such log, so that
//! their order on disk is the order in which they were decided).
//!
//! Invariants:
//! - what was appended before a successful [`Wal::sync`] comes back after any crash;
//! - what comes back is a prefix of what was appended, never a selection;
//! - damage to anything that a later sync stands on is an error ([`WalError::Corrupt`]), never a shorter log. Only what
//!   was written since the last completed sync can be missing, and only from its end. (Damage to the very last group
//!   cannot be told from a torn write; see [`recovery`].)
//! - after a failed write or sync the log refuses everything: what the kernel dropped after a failed sync is unknown.
//!
//! All I/O goes through [`Disk`], so that the same code runs on a file system and on [`MemoryDisk`], which forgets
//! unsynced sectors when it is told to crash.

mod disk;
mod error;
mod frame;
mod memory;
pub mod recovery;
mod wal;

pub use disk::{Disk, DiskFile, OsDisk};
pub use error::WalError;
pub use frame::{FRAME_BYTES_MAX, Frame};
pub use memory::MemoryDisk;
pub use wal::{Options, Wal};
