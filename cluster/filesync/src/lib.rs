//! The resource files, on every node.
//!
//! The manifest in Raft ([`conclave_catalog::files`]) says which paths exist and names their contents by hash; contents lie
//! in every node's store and travel between nodes on port 22000. A write is acknowledged once its contents are on a majority
//! of the nodes and its manifest change is committed. Each node then makes its tree look like the manifest, fetching what it
//! lacks.
//!
//! Contents are whole files here. This crate knows nothing of what the files mean.

mod contents;
mod error;
mod handle;
mod peers;
mod scan;
mod tree;

pub use error::FileSyncError;
pub use handle::{FileSync, FileSyncOptions, FilesStatus};
