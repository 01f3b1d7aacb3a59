//! PostgreSQL's own programs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use conclave_runtime::account::Account;
use tokio::process::Command;

use crate::BackupError;

/// What of a program's output is kept for the error.
const OUTPUT_TAIL_BYTES: usize = 1500;

/// Where the programs are and who runs them.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The folder.
    pub bin: PathBuf,
    /// The server's account.
    pub account: Account,
}

impl Programs {
    /// A program under the server's account, working in `folder`.
    pub(crate) fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(folder)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        self.account.apply(&mut command);
        command
    }

    /// Gives a folder with all that is in it to the server's account.
    pub(crate) fn own_all(&self, path: &Path) -> Result<(), BackupError> {
        self.account.own(path)?;
        let is_folder = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if !is_folder {
            return Ok(());
        }
        for entry in std::fs::read_dir(path).map_err(BackupError::file("list", path))? {
            self.own_all(&entry.map_err(BackupError::file("list", path))?.path())?;
        }
        Ok(())
    }
}

/// Runs a program to its end; what it wrote to standard output.
pub(crate) async fn run(program: &'static str, mut command: Command, limit: Duration) -> Result<String, BackupError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |output: String| BackupError::Program { program, output };
    let child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let output = tokio::time::timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| BackupError::Timeout(program))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(format!("{}: {}", output.status, tail(&output.stderr))))
}

/// The end of what a program said.
pub(crate) fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let start = text.char_indices().rev().nth(OUTPUT_TAIL_BYTES);
    text[start.map_or(0, |(index, _)| index)..].trim().to_owned()
}

/// The value of a line of `pg_controldata`.
pub(crate) fn control_value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.map(str::trim)
}
