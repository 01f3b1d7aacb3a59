//! The resource files, on every node.
//!
//! The manifest in Raft ([`conclave_catalog::files`]) says which paths exist and names their contents by hash; contents are cut into
//! chunks, lie in every node's store and travel between nodes on port 22000. A write is acknowledged once its chunks are on a
//! majority of the nodes and its manifest change is committed. Each node then makes its tree look like the manifest, fetching what
//! it lacks, and takes up what persons change in the parts of the tree that are theirs.
//!
//! What decides lies in [`core`] and knows no disk, network or clock. This crate knows nothing of what the files mean.
//!
//! Invariants: a file is to be seen whole or not at all; every byte that is read was verified; the tree, the store and whatever a crash
//! leaves of them can be made anew from the manifest and the other nodes; nothing that this node does not know is ever deleted.

mod chunk;
mod core;
mod error;
mod handle;
mod ingest;
mod keeper;
mod operator;
mod publish;
mod reader;
mod recent;
mod status;
mod store;
mod transfer;
mod tree;
mod upkeep;
mod watch;

pub use conclave_catalog::files::{ContentHash, Entry, Expected, FileEntry, FilePath, Modified, Past};
pub use error::FileSyncError;
pub use handle::{FileSync, FileSyncOptions, Listing, RememberedTree};
pub use operator::{FilesClient, Shown};
pub use reader::FileReader;
pub use status::{FilesStatus, ScrubReport};
