//! Whoever brings files to three nodes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

/// The nodes.
pub const NODES: [u8; 3] = [1, 2, 3];
/// For what takes seconds or does not happen at all.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Where nodes speak of files; both subjects have the same.
pub const FILES_PORT: u16 = 22000;

/// How something comes to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Through its API.
    Api,
    /// On its disk.
    Disk,
}

impl Way {
    /// Its name in the results.
    pub fn key(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Disk => "disk",
        }
    }
}

/// What is measured. Nodes go by their numbers.
pub trait Subject {
    /// Its name in the results.
    fn name(&self) -> &str;

    /// The version of the program.
    fn version(&self) -> &str;

    /// How things come to it.
    fn ways(&self) -> &'static [Way];

    /// A folder that is replicated and that everybody may write to.
    fn folder(&self, node: u8) -> PathBuf;

    /// The folder where a set that comes through the API is seen.
    fn folder_of_sets(&self, node: u8, way: Way) -> PathBuf;

    /// Puts a file into the folder through the API of a node.
    async fn put(&self, node: u8, name: &str, source: &Path) -> Result<()>;

    /// Puts an archive of files, all in a folder, through the API of a node.
    async fn put_set(&self, node: u8, archive: Vec<u8>) -> Result<()>;

    /// Something has changed on a node's disk, and here the node is told, if it is not to find it itself.
    async fn changed(&self, node: u8) -> Result<()>;

    /// Has a node look at its disk at once, where it would take its time: for what is not measured.
    async fn look_now(&self, node: u8) -> Result<()>;

    /// Bytes that nodes have brought to each other so far, as they count them.
    async fn moved(&self) -> Result<u64>;

    /// The nodes' addresses.
    fn addresses(&self) -> Vec<String>;

    /// Ends everything.
    async fn stop(&mut self) -> Result<()>;
}
