//! The manifest of the resource files: which paths exist and what they hold.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

/// BLAKE3 hash of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentHash(pub [u8; 32]);

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A regular file.
    File {
        /// Names its content.
        content: ContentHash,
        /// In bytes.
        size: u64,
        /// Permission bits.
        mode: u32,
    },
    /// A directory, also an empty one.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link; its target stays inside the tree.
    Symlink {
        /// As written.
        target: String,
    },
}

/// All paths of the resource tree, relative to its root, `/`-separated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Grows with each change.
    pub version: u64,
    /// By path.
    pub entries: OrdMap<String, Entry>,
}

/// A change of the manifest: whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilesCommand {
    /// Replaces everything at and below `root` by `entries` (paths relative to the resource tree, all below `root`).
    ReplaceTree {
        /// The directory (or file) that is replaced; empty `entries` removes it.
        root: String,
        /// What it holds from now on.
        entries: Vec<(String, Entry)>,
    },
}

impl Manifest {
    /// Applies one change.
    ///
    /// # Errors
    /// When the change does not fit; nothing is changed then.
    pub fn apply(&mut self, command: FilesCommand) -> Result<(), String> {
        match command {
            FilesCommand::ReplaceTree { root, entries } => {
                let below = format!("{root}/");
                if let Some((path, _)) = entries
                    .iter()
                    .find(|(path, _)| *path != root && !path.starts_with(&below))
                {
                    return Err(format!("{path:?} is not below {root:?}"));
                }
                let old: Vec<String> = self
                    .entries
                    .range(root.clone()..)
                    .map(|(path, _)| path.clone())
                    .take_while(|path| path.starts_with(&root))
                    .filter(|path| *path == root || path.starts_with(&below))
                    .collect();
                for path in old {
                    self.entries.remove(&path);
                }
                self.entries.extend(entries);
                self.version += 1;
                Ok(())
            }
        }
    }
}
