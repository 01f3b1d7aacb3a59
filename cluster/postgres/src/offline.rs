//! The database of a node that does not run: replaced as a whole, or not at all.

use std::path::{Path, PathBuf};

use conclave_runtime::account::Account;

use crate::DatabaseError;
use crate::driver::{Layout, Programs};

/// The place of a stopped node's database.
pub struct StoppedDatabase {
    programs: Programs,
}

impl StoppedDatabase {
    /// Finds it; its folders are made when they are not there.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, the folders cannot be made, or the server runs.
    pub fn open(data_dir: &Path, bin: Option<&Path>, account: Account) -> Result<Self, DatabaseError> {
        let programs = Programs {
            layout: Layout::prepare(data_dir, bin, &account)?,
            account,
            segment_age: None,
            password: String::new(),
            replication_password: String::new(),
        };
        if let Some(pid) = programs.postmaster() {
            return Err(DatabaseError::Unexpected(format!(
                "PostgreSQL runs on {} (process {pid}): stop this node's manager, which stops it",
                programs.layout.data.display()
            )));
        }
        Ok(Self { programs })
    }

    /// Whether there is a database.
    pub fn has_data(&self) -> bool {
        self.programs.layout.has_data()
    }

    /// PostgreSQL's programs.
    pub fn bin(&self) -> &Path {
        &self.programs.layout.bin
    }

    /// A folder for a socket, which only the server's account may enter.
    pub fn socket_dir(&self) -> &Path {
        &self.programs.layout.socket_dir
    }

    /// A folder on the same file system, for what is to take the database's place.
    pub fn work_dir(&self) -> PathBuf {
        self.programs.layout.base.join("restore")
    }

    /// Writes down that the database is being replaced: until [`Self::replace`] has done it, the node refuses to start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin_replacing(&self) -> Result<(), DatabaseError> {
        let mark = self.programs.layout.restore_mark();
        let write = || {
            std::fs::File::create(&mark)?.sync_all()?;
            std::fs::File::open(&self.programs.layout.base)?.sync_all()
        };
        write().map_err(DatabaseError::file("write", &mark))
    }

    /// Puts a whole data directory in place of the present one, which is kept aside as `data.old`. What the node had promised
    /// about the old one holds no more.
    ///
    /// # Errors
    /// When the file system refuses. The node does not start then; this can be repeated.
    pub fn replace(&self, data: &Path) -> Result<(), DatabaseError> {
        let layout = &self.programs.layout;
        self.programs.adopt(data)?;
        for path in [layout.pledge_file(), layout.restore_mark()] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DatabaseError::file("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
