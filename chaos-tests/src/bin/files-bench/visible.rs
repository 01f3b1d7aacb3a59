//! Waits until files are to be seen.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often is looked: what is measured takes some milliseconds at the least.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A file that is to be seen.
pub struct Wanted {
    /// Where.
    pub path: PathBuf,
    /// With what.
    pub content: Content,
}

/// What is to be seen of a file.
pub enum Content {
    /// All of its bytes.
    Bytes(Vec<u8>),
    /// So many of them. Which they are is looked at later: reading them would take from whoever is measured.
    Length(u64),
}

impl Wanted {
    fn is_there(&self) -> bool {
        match &self.content {
            Content::Bytes(bytes) => std::fs::read(&self.path).is_ok_and(|found| found == *bytes),
            Content::Length(length) => std::fs::metadata(&self.path).is_ok_and(|about| about.len() == *length),
        }
    }
}

/// How long after `since` all of them were seen; never before everything of it was looked at once. Blocks.
pub fn wait(mut wanted: Vec<Wanted>, since: Instant, limit: Duration) -> Result<Duration> {
    loop {
        // From the end: what came first does not have to be moved.
        while wanted.last().is_some_and(Wanted::is_there) {
            wanted.pop();
        }
        let Some(next) = wanted.last() else {
            return Ok(since.elapsed());
        };
        if since.elapsed() > limit {
            bail!("{} and {} more are not there", next.path.display(), wanted.len() - 1);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
