//! PostgreSQL's own programs: making, copying, starting and stopping a data directory.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use conclave_runtime::account::Account;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use super::layout::{COPY_PORT, Layout};
use crate::DatabaseError;

const INITDB_TIMEOUT: Duration = Duration::from_secs(60);
const COPY_TIMEOUT: Duration = Duration::from_secs(3600);
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a killed process may take to end; one that waits for a broken disk does not.
const ORPHANS_LIMIT: Duration = Duration::from_secs(5);
/// What of a program's output is kept for the error.
const OUTPUT_TAIL_BYTES: usize = 1500;

pub(crate) struct Programs {
    pub(crate) layout: Layout,
    pub(crate) account: Account,
    pub(crate) segment_age: Option<Duration>,
    pub(crate) password: String,
    pub(crate) replication_password: String,
}

/// How to end a running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Ends sessions and writes a checkpoint.
    Fast,
    /// Ends at once; the next start recovers from the log.
    Immediate,
}

impl Programs {
    /// A new database cluster with the superuser `conclave`.
    pub(crate) async fn initdb(&self) -> Result<(), DatabaseError> {
        let side = self.side_directory("initdb")?;
        let password_file = self.layout.base.join("initdb.password");
        self.write_secret(&password_file, &self.password)?;
        let mut command = self.command("initdb");
        command
            .arg("--pgdata")
            .arg(&side)
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--username=conclave", "--auth=scram-sha-256", "--data-checksums"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8"]);
        let outcome = run("initdb", command, INITDB_TIMEOUT).await;
        std::fs::remove_file(&password_file).map_err(DatabaseError::file("remove", &password_file))?;
        outcome?;
        self.adopt(&side)
    }

    /// A copy of the current primary, through the way to the upstream, into a folder of its own: see [`Self::adopt`].
    pub(crate) async fn base_backup(&self) -> Result<std::path::PathBuf, DatabaseError> {
        let side = self.side_directory("basebackup")?;
        let mut command = self.command("pg_basebackup");
        command
            .arg("--pgdata")
            .arg(&side)
            .arg("--host")
            .arg(&self.layout.socket_dir)
            .args([
                "--port",
                &COPY_PORT.to_string(),
                "--username=conclave_replication",
                "--no-password",
            ])
            .args(["--wal-method=stream", "--checkpoint=fast"]);
        run("pg_basebackup", command, COPY_TIMEOUT).await?;
        let signal = side.join("standby.signal");
        std::fs::write(&signal, "").map_err(DatabaseError::file("write", &signal))?;
        self.account.own(&signal)?;
        Ok(side)
    }

    /// Undoes what the current primary's history does not hold.
    pub(crate) async fn rewind(&self) -> Result<(), DatabaseError> {
        self.clear_away().await?;
        let source = format!(
            "host={} port={COPY_PORT} user=conclave dbname=postgres passfile={} connect_timeout=5",
            self.layout.socket_dir.display(),
            self.layout.passfile().display(),
        );
        // Until it is done the directory is neither the old nor the new one: whoever finds the mark clones anew.
        let mark = self.layout.rewind_mark();
        std::fs::File::create(&mark)
            .and_then(|file| file.sync_all())
            .map_err(DatabaseError::file("write", &mark))?;
        let clean = self.is_shut_down().await?;
        let mut command = self.command("pg_rewind");
        command
            .arg("--target-pgdata")
            .arg(&self.layout.data)
            .arg("--source-server")
            .arg(source);
        run("pg_rewind", command, COPY_TIMEOUT).await?;
        // The recovery has written a record that no primary has, and nothing was undone: the source is on this timeline, other
        // than when it was asked.
        if !clean && self.is_shut_down().await? {
            return Err(DatabaseError::Unexpected(
                "pg_rewind found nothing to do in a directory that had to be recovered first".into(),
            ));
        }
        let signal = self.layout.standby_signal();
        std::fs::write(&signal, "").map_err(DatabaseError::file("write", &signal))?;
        self.account.own(&signal)?;
        self.forget_rewind()
    }

    /// Whether the server ended in an orderly way, so that it needs no recovery. A directory that was rewound does.
    async fn is_shut_down(&self) -> Result<bool, DatabaseError> {
        let state = self.control_data("Database cluster state").await?;
        Ok(matches!(state.as_deref(), Some("shut down" | "shut down in recovery")))
    }

    fn forget_rewind(&self) -> Result<(), DatabaseError> {
        let mark = self.layout.rewind_mark();
        match std::fs::remove_file(&mark) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(DatabaseError::file("remove", &mark)(error))
            }
            _ => Ok(()),
        }
    }

    /// A complete directory takes the place of the present one, which is kept aside until the next time.
    pub(crate) fn adopt(&self, side: &Path) -> Result<(), DatabaseError> {
        let (data, old) = (&self.layout.data, self.layout.base.join("data.old"));
        if old.exists() {
            std::fs::remove_dir_all(&old).map_err(DatabaseError::file("remove", &old))?;
        }
        if data.exists() {
            std::fs::rename(data, &old).map_err(DatabaseError::file("set aside", data))?;
        }
        std::fs::rename(side, data).map_err(DatabaseError::file("put in place", side))?;
        self.forget_rewind()?;
        let base = &self.layout.base;
        std::fs::File::open(base)
            .and_then(|dir| dir.sync_all())
            .map_err(DatabaseError::file("sync", base))
    }

    fn side_directory(&self, name: &str) -> Result<std::path::PathBuf, DatabaseError> {
        let side = self.layout.base.join(name);
        if side.exists() {
            std::fs::remove_dir_all(&side).map_err(DatabaseError::file("remove", &side))?;
        }
        Ok(side)
    }

    /// Passwords for the server's own connections, which must not stand on a command line.
    pub(crate) fn write_passfile(&self) -> Result<(), DatabaseError> {
        let text = format!(
            "*:*:*:conclave:{}\n*:*:*:conclave_replication:{}\n",
            self.password, self.replication_password
        );
        self.write_secret(&self.layout.passfile(), &text)
    }

    fn write_secret(&self, path: &Path, text: &str) -> Result<(), DatabaseError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(DatabaseError::file("write", path))?;
        Ok(self.account.own(path)?)
    }

    /// Starts the server in a session of its own, so that it outlives this process. It may not accept connections yet.
    pub(crate) async fn start(&self) -> Result<(), DatabaseError> {
        self.clear_away().await?;
        let mut command = self.command("pg_ctl");
        command
            .arg("--pgdata")
            .arg(&self.layout.data)
            .arg("--log")
            .arg(self.layout.log_file())
            .args(["--no-wait", "--silent", "start"]);
        run("pg_ctl start", command, START_TIMEOUT).await?;
        self.wait_appearance().await
    }

    /// The server says who it is some time after `pg_ctl` has left it, on a busy machine a long time. Until then whoever looks
    /// finds none, and would take it for one that does not start.
    async fn wait_appearance(&self) -> Result<(), DatabaseError> {
        let end = tokio::time::Instant::now() + START_TIMEOUT;
        while self.postmaster().is_none() && self.is_beginning() {
            if tokio::time::Instant::now() >= end {
                return Err(DatabaseError::Timeout("starting postgres"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Whether a process was started with this data directory, be it the shell that is to become the server.
    fn is_beginning(&self) -> bool {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let names_data = |command: Vec<u8>| {
            let data = self.layout.data.as_os_str().as_encoded_bytes();
            command.windows(data.len()).any(|part| part == data)
        };
        processes
            .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .any(names_data)
    }

    /// Ends the server and waits for it.
    pub(crate) async fn stop(&self, how: Stop, limit: Duration) -> Result<(), DatabaseError> {
        let Some(pid) = self.postmaster() else {
            return self.end_orphans().await;
        };
        let signal = match how {
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
        };
        send(pid, signal);
        if !self.wait_end(pid, limit).await {
            tracing::warn!(pid, ?how, "postgres did not stop in time and is killed");
            send(pid, Signal::SIGKILL);
            if !self.wait_end(pid, ORPHANS_LIMIT).await {
                return Err(DatabaseError::Timeout("stopping postgres"));
            }
        }
        self.end_orphans().await
    }

    /// Makes the directory free for a new server when none runs. A killed one leaves its lock files, whose number is still
    /// taken until somebody has reaped the process, or may be somebody else's by now.
    async fn clear_away(&self) -> Result<(), DatabaseError> {
        if self.postmaster().is_some() {
            return Ok(());
        }
        self.end_orphans().await?;
        // Both lie in folders that are this server's alone.
        let mut socket = self.layout.local_socket().into_os_string();
        socket.push(".lock");
        for lock in [self.layout.data.join("postmaster.pid"), socket.into()] {
            match std::fs::remove_file(&lock) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DatabaseError::file("remove", &lock)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends the processes of a server whose first one is gone. They end by themselves when they notice; one that is stopped, or
    /// waits for the disk, would go on writing later, into what has become another server's files.
    async fn end_orphans(&self) -> Result<(), DatabaseError> {
        let end = tokio::time::Instant::now() + ORPHANS_LIMIT;
        loop {
            let orphans = self.processes();
            if orphans.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                return Err(DatabaseError::Timeout("ending what a killed postgres has left"));
            }
            orphans.into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The processes of the server: all of them work in the data directory.
    fn processes(&self) -> Vec<i32> {
        let Ok(data) = self.layout.data.canonicalize() else {
            return Vec::new();
        };
        let is_ours = |pid: &i32| {
            let works_in = std::fs::read_link(format!("/proc/{pid}/cwd"));
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            works_in.is_ok_and(|cwd| cwd == data) && name.is_ok_and(|name| name.trim_end() == "postgres")
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).collect()
    }

    async fn wait_end(&self, pid: i32, limit: Duration) -> bool {
        let end = tokio::time::Instant::now() + limit;
        while self.postmaster() == Some(pid) {
            if tokio::time::Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// The process id of the running postmaster of this data directory.
    pub(crate) fn postmaster(&self) -> Option<i32> {
        self.layout.postmaster()
    }

    /// The value of a line of `pg_controldata`.
    pub(crate) async fn control_data(&self, key: &str) -> Result<Option<String>, DatabaseError> {
        let text = self.control_text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        Ok(value.map(|value| value.trim().to_owned()))
    }

    /// What `pg_controldata` says.
    pub(crate) async fn control_text(&self) -> Result<String, DatabaseError> {
        let mut command = self.command("pg_controldata");
        command.arg(&self.layout.data);
        let output = tokio::time::timeout(Duration::from_secs(5), command.output())
            .await
            .map_err(|_| DatabaseError::Timeout("pg_controldata"))?
            .map_err(DatabaseError::file("run", self.layout.bin.join("pg_controldata")))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, program: &'static str) -> Command {
        let mut command = Command::new(self.layout.bin.join(program));
        command
            .current_dir(&self.layout.base)
            .env("PGPASSFILE", self.layout.passfile())
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        self.account.apply(&mut command);
        command
    }
}

fn send(pid: i32, signal: Signal) {
    // It may end between the look and the signal; then there is nobody left to tell.
    let _ended_meanwhile = kill(Pid::from_raw(pid), signal);
}

async fn run(program: &'static str, mut command: Command, limit: Duration) -> Result<(), DatabaseError> {
    // pg_ctl's server would keep a pipe open for ever, so its output goes nowhere; the server logs to a file.
    let keeps_pipe = program == "pg_ctl start";
    let errors = if keeps_pipe { Stdio::null() } else { Stdio::piped() };
    command.stdout(Stdio::null()).stderr(errors);
    let failed = |output: String| DatabaseError::Program { program, output };
    let child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let output = tokio::time::timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| DatabaseError::Timeout(program))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let tail = text
        .char_indices()
        .rev()
        .nth(OUTPUT_TAIL_BYTES)
        .map_or(0, |(index, _)| index);
    Err(failed(format!("{}: {}", output.status, text[tail..].trim())))
}
