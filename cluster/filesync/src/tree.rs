//! The tree on disk, made to look like the manifest.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use conclave_catalog::files::{ContentHash, Entry, Manifest};

use crate::FileSyncError;
use crate::contents::{Contents, replace_file};

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Paths to remove, children first.
    pub(crate) remove: Vec<String>,
    /// Paths to make, parents first.
    pub(crate) make: Vec<(String, Entry)>,
}

/// The difference between what was applied and what is to be. Pure.
pub(crate) fn plan(applied: &Manifest, wanted: &Manifest) -> Plan {
    let mut plan = Plan::default();
    for difference in applied.entries.diff(&wanted.entries) {
        use imbl::ordmap::DiffItem::{Add, Remove, Update};
        match difference {
            Add(path, entry) => plan.make.push((path.clone(), entry.clone())),
            Update {
                old: (path, old),
                new: (_, new),
            } => {
                if std::mem::discriminant(old) != std::mem::discriminant(new) {
                    plan.remove.push(path.clone());
                }
                plan.make.push((path.clone(), new.clone()));
            }
            Remove(path, _) => plan.remove.push(path.clone()),
        }
    }
    plan.remove.sort_unstable_by(|a, b| b.cmp(a));
    plan.make.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    plan
}

/// The resource tree of this node. Blocking.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
}

impl Tree {
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// What of the manifest is not there, or is not what it should be by size and kind: what a crash, or a hand, has left.
    pub(crate) fn standing(&self, manifest: &Manifest) -> Manifest {
        let entries = manifest.entries.iter().filter(|(path, entry)| self.stands(path, entry));
        Manifest {
            version: 0,
            entries: entries.map(|(path, entry)| (path.clone(), entry.clone())).collect(),
        }
    }

    fn stands(&self, path: &str, entry: &Entry) -> bool {
        let Ok(metadata) = self.path(path).symlink_metadata() else {
            return false;
        };
        match entry {
            Entry::File { size, .. } => metadata.is_file() && metadata.len() == *size,
            Entry::Directory { .. } => metadata.is_dir(),
            Entry::Symlink { .. } => metadata.is_symlink(),
        }
    }

    pub(crate) fn remove(&self, path: &str) -> Result<(), FileSyncError> {
        let path = self.path(path);
        let outcome = match path.symlink_metadata() {
            Err(_) => return Ok(()),
            Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(&path),
            Ok(_) => std::fs::remove_file(&path),
        };
        match outcome {
            // Files that were put there by hand stay, and keep their folder.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other.map_err(FileSyncError::system("remove", &path)),
        }
    }

    /// Makes a path; the hash of the content that it lacks, if it does.
    pub(crate) fn make(
        &self,
        contents: &Contents,
        path: &str,
        entry: &Entry,
    ) -> Result<Option<ContentHash>, FileSyncError> {
        let place = self.path(path);
        match entry {
            Entry::Directory { mode } => {
                let make = || {
                    std::fs::create_dir_all(&place)?;
                    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(*mode | 0o700))
                };
                make().map_err(FileSyncError::system("create", &place))?;
            }
            Entry::Symlink { target } => {
                self.remove(path)?;
                let folder = place.parent().unwrap_or(Path::new("/"));
                std::fs::create_dir_all(folder).map_err(FileSyncError::system("create", folder))?;
                std::os::unix::fs::symlink(target, &place).map_err(FileSyncError::system("link", &place))?;
            }
            Entry::File { content, mode, .. } => match contents.get(*content) {
                Some(bytes) => replace_file(&place, &bytes, *mode)?,
                None => return Ok(Some(*content)),
            },
        }
        Ok(None)
    }
}
