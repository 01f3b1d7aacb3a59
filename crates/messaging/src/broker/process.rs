//! The server's process: started in a session of its own, so that it outlives this program, and known by more than its
//! number.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use conclave_runtime::account::Account;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::layout::{Layout, Programs, put};
use super::settings::Launch;
use crate::error::MessagingError;

/// How soon the end of a process is noticed that is no child of this one.
const END_POLL: Duration = Duration::from_millis(100);
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A server that was started, by this program or an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// In the kernel's clock ticks since boot.
    started: u64,
    /// What it was started with.
    pub(crate) fingerprint: String,
}

/// What to do about the server that should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The running one is as it should be.
    Adopt,
    /// The running one was started with other settings.
    Replace,
    /// None runs.
    Start,
}

impl Step {
    pub(crate) fn decide(running: Option<&Process>, wanted: &str) -> Self {
        match running {
            None => Self::Start,
            Some(process) if process.fingerprint == wanted => Self::Adopt,
            Some(_) => Self::Replace,
        }
    }
}

impl Process {
    /// The running server that the file names; `None` when it has ended.
    pub(crate) fn recall(layout: &Layout) -> Option<Self> {
        let process: Self = serde_json::from_slice(&std::fs::read(&layout.process_file).ok()?).ok()?;
        (process.is_running() && names(process.pid, &layout.base)).then_some(process)
    }

    /// Writes the files, starts a server, and remembers it. The second value tells how it ended, once it has.
    pub(crate) fn start(
        layout: &Layout,
        programs: &Programs,
        launch: &Launch,
        account: &Account,
    ) -> Result<(Self, Child), MessagingError> {
        put(
            &layout.config_stem().with_extension("config"),
            &launch.config,
            0o600,
            account,
        )?;
        put(&layout.definitions(), &launch.definitions, 0o600, account)?;
        let output = std::fs::File::create(layout.output()).map_err(MessagingError::file("write", layout.output()))?;
        let errors = output
            .try_clone()
            .map_err(MessagingError::file("share", layout.output()))?;
        let mut command = Command::new("setsid");
        command
            .arg(&programs.erl)
            .args(&launch.arguments)
            .env_clear()
            .envs(launch.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(&layout.base)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        account.apply(&mut command);
        let failed = |source| MessagingError::Spawn {
            program: programs.erl.clone(),
            source,
        };
        let child = command.spawn().map_err(failed)?;
        let ended = || MessagingError::Ended {
            how: String::new(),
            said: layout.last_words(),
            log: layout.output(),
        };
        // The programs that lead to the server replace each other in this very process.
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(ended)?;
        let (started, _) = start_and_state(pid).ok_or_else(ended)?;
        let process = Self {
            pid,
            started,
            fingerprint: launch.fingerprint(),
        };
        let text = serde_json::to_vec(&process).unwrap_or_default();
        std::fs::write(&layout.process_file, text).map_err(MessagingError::file("write", &layout.process_file))?;
        Ok((process, child))
    }

    pub(crate) fn is_running(&self) -> bool {
        start_and_state(self.pid).is_some_and(|(started, state)| started == self.started && state != 'Z')
    }

    /// Resolves when it has ended.
    pub(crate) async fn ended(&self) {
        while self.is_running() {
            tokio::time::sleep(END_POLL).await;
        }
        if start_and_state(self.pid).is_some_and(|(started, _)| started == self.started) {
            // A manager that has replaced itself has the children of the one before, and nobody else asks how they ended.
            let _not_ours = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        }
    }

    /// Asks it to end; kills it when it does not within `grace`.
    pub(crate) async fn stop(&self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(grace, self.ended()).await.is_ok() {
            return;
        }
        tracing::warn!(pid = self.pid, "rabbitmq-server did not stop in time and is killed");
        self.signal(Signal::SIGKILL);
        if tokio::time::timeout(KILL_LIMIT, self.ended()).await.is_err() {
            tracing::error!(pid = self.pid, "rabbitmq-server cannot be killed");
        }
    }

    fn signal(&self, signal: Signal) {
        if self.is_running() {
            // It may end between the look and the signal; then there is nobody left to tell.
            let _ended_meanwhile = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Whether a process names the folder on its command line: a number may be somebody else's after a reboot.
fn names(pid: i32, folder: &Path) -> bool {
    let command = std::fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).unwrap_or_default();
    String::from_utf8_lossy(&command).contains(&*folder.to_string_lossy())
}

/// Start time and state letter. The name in brackets may hold anything, so fields count from its closing bracket.
fn start_and_state(pid: i32) -> Option<(u64, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(19)?.parse().ok()?, fields.first()?.chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_with_the_same_settings_is_adopted() {
        let process = Process {
            pid: 1,
            started: 2,
            fingerprint: "a".into(),
        };
        assert_eq!(Step::decide(None, "a"), Step::Start);
        assert_eq!(Step::decide(Some(&process), "a"), Step::Adopt);
        assert_eq!(Step::decide(Some(&process), "b"), Step::Replace);
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (started, _) = start_and_state(own).unwrap();
        let process = |started| Process {
            pid: own,
            started,
            fingerprint: String::new(),
        };
        assert!(process(started).is_running());
        assert!(!process(started + 1).is_running());
    }
}
