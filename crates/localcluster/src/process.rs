//! Processes that outlive the program that started them.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub use nix::sys::signal::Signal;

/// A process by id and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedProcess {
    /// Its id.
    pub pid: i32,
    /// When it started, in the kernel's clock ticks since boot.
    started: u64,
}

impl TrackedProcess {
    /// The running process with this id; `None` when there is none.
    pub fn running(pid: i32) -> Option<Self> {
        let (started, state, threads) = facts_of(pid)?;
        // A process is a zombie once its first thread has ended; the others keep its ports and files as long as they live.
        (state != 'Z' || threads > 1).then_some(Self { pid, started })
    }

    /// Reads what [`Self::remember`] wrote; `None` when nothing is there or it cannot be read.
    pub fn recall(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    /// Writes it down for a later program.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remember(&self, file: &Path) -> std::io::Result<()> {
        std::fs::write(file, serde_json::to_vec(self)?)
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        Self::running(self.pid) == Some(*self)
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            // It may end between the check and the signal; then there is nobody left to tell.
            let _ended_meanwhile = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits until it has ended; `false` when it still runs after `deadline`.
    pub async fn wait_end(&self, deadline: Duration) -> bool {
        let end = tokio::time::Instant::now() + deadline;
        while self.is_running() {
            if tokio::time::Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Asks it to end, and ends it when it does not within `grace`.
    pub async fn stop(&self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if !self.wait_end(grace).await {
            self.signal(Signal::SIGKILL);
            self.wait_end(Duration::from_secs(5)).await;
        }
    }
}

/// Start time, state letter and number of threads from `/proc/<pid>/stat`. The name in brackets may hold anything, so fields
/// count from its closing bracket.
fn facts_of(pid: i32) -> Option<(u64, char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    Some((fields.get(19)?.parse().ok()?, state, fields.get(17)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_by_more_than_its_number() {
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tracked = TrackedProcess::running(child.id().unwrap() as i32).unwrap();
        assert!(tracked.is_running());
        let other = TrackedProcess {
            started: tracked.started + 1,
            ..tracked
        };
        other.signal(Signal::SIGKILL);
        assert!(tracked.is_running(), "a reused number must not be signalled");
        tracked.signal(Signal::SIGKILL);
        child.wait().await.unwrap();
        assert!(!tracked.is_running());
    }
}
