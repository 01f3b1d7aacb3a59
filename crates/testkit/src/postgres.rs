//! A PostgreSQL of one test's own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use conclave_runtime::account::Account;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::{free_port, wait_until};

/// A running server that ends with this value.
pub struct TestPostgres {
    /// Removed after the server has ended.
    dir: tempfile::TempDir,
    child: Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl TestPostgres {
    /// The superuser.
    pub const USER: &'static str = "conclave";
    /// Its password.
    pub const PASSWORD: &'static str = "test";
    /// A database that is there.
    pub const DATABASE: &'static str = "postgres";

    /// Makes and starts a server; returns once it accepts connections.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("conclave-pg")
            .tempdir()
            .expect("a temporary folder");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("the server's account passes through");
        let account = Account::for_children("postgres").expect("the account of Debian's package");
        let (base, bin, port) = (dir.path().join("pg"), bin_dir(), free_port());
        std::fs::create_dir(&base).expect("a folder for the server");
        account.own(&base).expect("the folder can be given away");
        let data = base.join("data");
        let password_file = base.join("password");
        std::fs::write(&password_file, Self::PASSWORD).expect("the password can be written");
        account.own(&password_file).expect("the file can be given away");
        let mut initdb = Command::new(bin.join("initdb"));
        initdb
            .arg("--pgdata")
            .arg(&data)
            .arg("--pwfile")
            .arg(&password_file)
            .args([
                "--username=conclave",
                "--auth=scram-sha-256",
                "--no-sync",
                "--data-checksums",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ]);
        account.apply(&mut initdb);
        let made = initdb
            .current_dir(&base)
            .stdout(Stdio::null())
            .status()
            .await
            .expect("initdb runs");
        assert!(made.success(), "initdb failed: {made}");
        let child = launch(&base, port);
        Self { dir, child, port }
    }

    /// Ends the server as a crash does: at once, and its clients with it.
    pub fn crash(&mut self) {
        let Some(pid) = self.child.id() else { return };
        // Immediate shutdown; should it have ended by itself, there is nobody to tell.
        let _ended = kill(Pid::from_raw(pid as i32), Signal::SIGQUIT);
        let stat = PathBuf::from(format!("/proc/{pid}/stat"));
        wait_until("the end of postgres", || {
            std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "))
        });
    }

    /// Starts it again where it was; returns once it accepts connections.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        self.child = launch(&self.dir.path().join("pg"), self.port);
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("pg/data")
    }

    /// Where PostgreSQL's programs are.
    ///
    /// # Panics
    /// When PostgreSQL is not installed.
    #[must_use]
    pub fn bin_dir() -> PathBuf {
        bin_dir()
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Starts the server in `base`.
fn launch(base: &Path, port: u16) -> Child {
    let account = Account::for_children("postgres").expect("the account of Debian's package");
    let data = base.join("data");
    let mut server = Command::new(bin_dir().join("postgres"));
    server
        .arg("-D")
        .arg(&data)
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
    server.args([
        "-c",
        &format!("port={port}"),
        "-c",
        &format!("unix_socket_directories={}", base.display()),
    ]);
    account.apply(&mut server);
    let child = server
        .current_dir(base)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("postgres starts");
    let (status, pid) = (data.join("postmaster.pid"), child.id().unwrap_or_default().to_string());
    wait_until("postgres", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        text.lines().next() == Some(&pid) && text.contains("ready")
    });
    child
}

fn bin_dir() -> PathBuf {
    let root = Path::new("/usr/lib/postgresql");
    let versions = std::fs::read_dir(root).expect("PostgreSQL is installed (package postgresql)");
    let newest = versions
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max();
    root.join(newest.expect("a version of PostgreSQL").to_string())
        .join("bin")
}
