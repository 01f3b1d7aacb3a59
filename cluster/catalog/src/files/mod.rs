//! The manifest of the resource files: which paths exist, what they hold, and what they held before.
//!
//! Pure: it knows no disk. Its version is the index of the log entry that changed it last, so every node names every state by the
//! same number, and no clock takes part.

mod command;
mod entry;
mod manifest;
mod path;
#[cfg(test)]
mod tests;

pub use command::{Expected, FilesCommand, FilesRefusal, Found, SetId, Step};
pub use entry::{ContentHash, Entry, FileEntry, Layout, LinkTarget, Modified};
pub use manifest::{Live, Manifest, Origin, PAST_PER_PATH, Past};
pub use path::{COMPONENT_BYTES_MAX, FilePath, PATH_BYTES_MAX, PathFault, RESERVED_PREFIX};
