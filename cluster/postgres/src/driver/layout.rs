//! Where this node's PostgreSQL lies.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use conclave_runtime::account::Account;

use crate::DatabaseError;

/// Unix socket paths are limited to 107 bytes; the longest name in the folder takes 22.
const SOCKET_DIR_BYTES_MAX: usize = 80;
/// The server's own socket is named after this port.
pub(crate) const LOCAL_PORT: u16 = 5432;
/// The relay towards the current primary listens on a socket named after this port. Only the local server comes here: that it
/// comes says that it has replayed all that it holds.
pub(crate) const UPSTREAM_PORT: u16 = 5433;
/// The same way, for all others: copies, rewinds and questions of the driver's.
pub(crate) const COPY_PORT: u16 = 5434;

/// The paths of one node's PostgreSQL.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) base: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) socket_dir: PathBuf,
    pub(crate) bin: PathBuf,
}

impl Layout {
    /// Makes the folders and gives them to the account. Sockets and secrets stay outside the data directory: pg_rewind
    /// and base backups overwrite what is inside.
    pub(crate) fn prepare(data_dir: &Path, bin: Option<&Path>, account: &Account) -> Result<Self, DatabaseError> {
        let base = data_dir.join("postgres");
        let mut socket_dir = base.join("run");
        if socket_dir.as_os_str().len() > SOCKET_DIR_BYTES_MAX {
            let name: u64 = base
                .as_os_str()
                .as_encoded_bytes()
                .iter()
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                    (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
                });
            socket_dir = PathBuf::from(format!("/tmp/conclave-{name:016x}"));
        }
        for dir in [&base, &socket_dir] {
            std::fs::create_dir_all(dir).map_err(DatabaseError::file("create", dir))?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
                .map_err(DatabaseError::file("protect", dir))?;
            account.own(dir)?;
        }
        let bin = programs_dir(bin)?;
        Ok(Self {
            data: base.join("data"),
            base,
            socket_dir,
            bin,
        })
    }

    /// The process id of the running postmaster of this data directory.
    pub(crate) fn postmaster(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let pid: i32 = text.lines().next()?.trim().parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        // A stale file may name a process that is somebody else's by now.
        let ours = String::from_utf8_lossy(&command).contains(self.data.to_str()?);
        ours.then_some(pid)
    }

    pub(crate) fn local_socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{LOCAL_PORT}"))
    }

    pub(crate) fn upstream_socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{UPSTREAM_PORT}"))
    }

    pub(crate) fn copy_socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{COPY_PORT}"))
    }

    pub(crate) fn passfile(&self) -> PathBuf {
        self.base.join("passfile")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.base.join("postgres.log")
    }

    pub(crate) fn pledge_file(&self) -> PathBuf {
        self.base.join("pledge.json")
    }

    pub(crate) fn standby_signal(&self) -> PathBuf {
        self.data.join("standby.signal")
    }

    /// There while the data directory is being rewound, and after a rewind that was interrupted.
    pub(crate) fn rewind_mark(&self) -> PathBuf {
        self.base.join("rewinding")
    }

    /// There while a restored database takes the place of the present one: the replicated state may be of the one already, and
    /// the data directory of the other.
    pub(crate) fn restore_mark(&self) -> PathBuf {
        self.base.join("restoring")
    }

    /// Whether there is a data directory that was made or copied completely.
    pub(crate) fn has_data(&self) -> bool {
        self.data.join("PG_VERSION").exists()
    }
}

/// The folder of PostgreSQL's programs: the configured one, or that of the newest installed version.
///
/// # Errors
/// When none is configured and none is installed.
pub fn programs_dir(configured: Option<&Path>) -> Result<PathBuf, DatabaseError> {
    match configured {
        Some(bin) => Ok(bin.to_owned()),
        None => newest_bin(Path::new("/usr/lib/postgresql")),
    }
}

/// The programs of the newest installed version.
fn newest_bin(root: &Path) -> Result<PathBuf, DatabaseError> {
    let not_found = || DatabaseError::NotInstalled(root.to_owned());
    let versions = std::fs::read_dir(root).map_err(|_| not_found())?;
    let newest = versions
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| root.join(version.to_string()).join("bin/postgres").exists())
        .max();
    newest
        .map(|version| root.join(version.to_string()).join("bin"))
        .ok_or_else(not_found)
}
