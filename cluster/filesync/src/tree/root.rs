//! Whether the folder of the resources is the one that this node wrote to.
//!
//! A disk that is not mounted looks like a tree from which everything was deleted. So the folder carries a mark, which the node remembers
//! elsewhere: without it nothing is read from the folder and nothing written to it.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::FileSyncError;

const MARK: &str = ".conclave-root";

/// The folder, and where its mark is remembered.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
    remembered: PathBuf,
}

impl Root {
    /// `path` is the folder; what is remembered lies in `state`.
    pub(crate) fn new(path: PathBuf, state: &Path) -> Self {
        Self {
            path,
            remembered: state.join("root-mark"),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that it is the right one: a node that never had one makes it.
    ///
    /// # Errors
    /// [`FileSyncError::ForeignRoot`]
    pub(crate) fn check(&self) -> Result<(), FileSyncError> {
        let mark = self.path.join(MARK);
        let remembered = match std::fs::read(&self.remembered) {
            Ok(remembered) => remembered,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.make(&mark),
            Err(error) => return Err(FileSyncError::system("read", &self.remembered)(error)),
        };
        match std::fs::read(&mark) {
            Ok(found) if found == remembered => Ok(()),
            _ => Err(FileSyncError::ForeignRoot {
                path: self.path.clone(),
                marker: self.remembered.clone(),
            }),
        }
    }

    fn make(&self, mark: &Path) -> Result<(), FileSyncError> {
        std::fs::create_dir_all(&self.path).map_err(FileSyncError::system("create", &self.path))?;
        let name = uuid::Uuid::new_v4().to_string();
        let write = |path: &Path| {
            let mut file = std::fs::File::create(path)?;
            file.write_all(name.as_bytes())?;
            file.sync_all()
        };
        // Whatever a crash leaves between the two, the next start makes both anew.
        write(mark).map_err(FileSyncError::system("write", mark))?;
        write(&self.remembered).map_err(FileSyncError::system("write", &self.remembered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_folder_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path().join("resources"), dir.path());
        root.check().unwrap();
        root.check().unwrap();
        std::fs::remove_dir_all(root.path()).unwrap();
        assert!(matches!(root.check(), Err(FileSyncError::ForeignRoot { .. })));
        std::fs::create_dir(root.path()).unwrap();
        assert!(matches!(root.check(), Err(FileSyncError::ForeignRoot { .. })));
        std::fs::remove_file(dir.path().join("root-mark")).unwrap();
        root.check().unwrap();
    }
}
