//! Whoever keeps three PostgreSQLs available.

use std::time::Duration;

use anyhow::Result;
use tokio_postgres::Config;

/// The nodes.
pub const NODES: [u8; 3] = [1, 2, 3];
/// For what takes seconds or does not happen at all.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How a node came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Return {
    /// By receiving what it lacked.
    Plain,
    /// By undoing what it had too much.
    Rewind,
    /// As a copy of the primary.
    Copy,
}

/// What is measured. Nodes go by their numbers; each is a machine of its own.
pub trait Subject {
    /// Its name in the results.
    fn name(&self) -> &str;

    /// How a client on that node reaches the primary, wherever it is.
    fn way_to_primary(&self, node: u8) -> Config;

    /// How the node's own server is reached, whatever it is.
    fn way_to(&self, node: u8) -> Config;

    /// Waits until everything is as it should be: one primary and two standbys that receive, and nobody complains.
    async fn settled(&self) -> Result<()>;

    /// Kills all that runs on a node.
    async fn kill_node(&mut self, node: u8) -> Result<()>;

    /// Kills a node's PostgreSQL alone.
    fn kill_postgres(&self, node: u8) -> Result<()>;

    /// Starts what was killed with a node.
    async fn start_node(&mut self, node: u8) -> Result<()>;

    /// Makes another node primary as planned.
    async fn switch_over(&self, from: u8, to: u8) -> Result<()>;

    /// What a node has said so far, in bytes.
    fn said(&self, node: u8) -> u64;

    /// How a node came back, from what it said since.
    fn way_back(&self, node: u8, since: u64) -> Return;

    /// Ends everything.
    async fn stop(&mut self) -> Result<()>;
}

/// The length of a log.
pub fn length(log: &std::path::Path) -> u64 {
    std::fs::metadata(log).map_or(0, |facts| facts.len())
}

/// The part of a log after so many bytes.
pub fn since(log: &std::path::Path, bytes: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let from = usize::try_from(bytes).unwrap_or(usize::MAX).min(text.len());
    String::from_utf8_lossy(&text[from..]).into_owned()
}
