//! Contents by hash, on this node's disk.

use std::io::Write;
use std::path::{Path, PathBuf};

use conclave_catalog::files::ContentHash;

use crate::FileSyncError;

/// The store of this node. Blocking: callers are on threads of their own.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    dir: PathBuf,
}

pub(crate) fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash(*blake3::hash(bytes).as_bytes())
}

impl Contents {
    pub(crate) fn open(dir: PathBuf) -> Result<Self, FileSyncError> {
        std::fs::create_dir_all(&dir).map_err(FileSyncError::system("create", &dir))?;
        Ok(Self { dir })
    }

    pub(crate) fn path(&self, hash: ContentHash) -> PathBuf {
        let name: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(&name[..2]).join(name)
    }

    pub(crate) fn has(&self, hash: ContentHash) -> bool {
        self.path(hash).exists()
    }

    /// Stores bytes; they are on disk when it returns. Storing what is there already changes nothing.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<ContentHash, FileSyncError> {
        let hash = hash_of(bytes);
        let path = self.path(hash);
        if !path.exists() {
            replace_file(&path, bytes, 0o444)?;
        }
        Ok(hash)
    }

    /// Reads and verifies. Damaged bytes are removed, as if they had never been here.
    pub(crate) fn get(&self, hash: ContentHash) -> Option<Vec<u8>> {
        let path = self.path(hash);
        let bytes = std::fs::read(&path).ok()?;
        if hash_of(&bytes) == hash {
            return Some(bytes);
        }
        tracing::warn!(path = %path.display(), "a stored content is damaged; it is fetched anew");
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "the damaged content could not be removed");
        }
        None
    }
}

/// Old content or new content, never a mix, whenever the power goes.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileSyncError> {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(FileSyncError::system("create", folder))?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!("{TEMPORARY}{}.{number}", std::process::id()));
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(FileSyncError::system("write", path))
}

/// Names of files in the making begin like this; no path of the manifest may.
pub(crate) const TEMPORARY: &str = ".conclave-new.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_come_back_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::open(dir.path().join("contents")).unwrap();
        let hash = contents.put(b"hello").unwrap();
        assert_eq!(contents.get(hash).as_deref(), Some(b"hello".as_slice()));
        let path = contents.path(hash);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"jello").unwrap();
        assert_eq!(contents.get(hash), None);
        assert!(!contents.has(hash));
        assert_eq!(contents.put(b"hello").unwrap(), hash);
    }
}
