//! A folder on disk as entries of the manifest.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use conclave_catalog::files::{ContentHash, Entry};

use crate::FileSyncError;
use crate::contents::{Contents, TEMPORARY};

/// One change of the manifest travels as one Raft entry.
const ENTRIES_MAX: usize = 20_000;

/// Entries, and the hashes of their contents.
pub(crate) type Scanned = (Vec<(String, Entry)>, Vec<ContentHash>);

/// Entries for `folder` as `root`, with their contents stored, and the contents' hashes.
pub(crate) fn scan(contents: &Contents, folder: &Path, root: &str) -> Result<Scanned, FileSyncError> {
    let (mut entries, mut hashes) = (Vec::new(), Vec::new());
    visit(contents, folder, root, &mut entries, &mut hashes)?;
    Ok((entries, hashes))
}

fn visit(
    contents: &Contents,
    path: &Path,
    name: &str,
    entries: &mut Vec<(String, Entry)>,
    hashes: &mut Vec<ContentHash>,
) -> Result<(), FileSyncError> {
    if entries.len() >= ENTRIES_MAX {
        return Err(FileSyncError::Refused(
            name.to_owned(),
            "the folder holds more than 20,000 entries",
        ));
    }
    let metadata = path
        .symlink_metadata()
        .map_err(FileSyncError::system("look at", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_symlink() {
        let target = std::fs::read_link(path).map_err(FileSyncError::system("read the link", path))?;
        let target = target
            .to_str()
            .ok_or_else(|| FileSyncError::Refused(name.to_owned(), "its link is no UTF-8"))?;
        entries.push((
            name.to_owned(),
            Entry::Symlink {
                target: target.to_owned(),
            },
        ));
    } else if metadata.is_file() {
        let bytes = std::fs::read(path).map_err(FileSyncError::system("read", path))?;
        let content = contents.put(&bytes)?;
        hashes.push(content);
        entries.push((
            name.to_owned(),
            Entry::File {
                content,
                size: bytes.len() as u64,
                mode,
            },
        ));
    } else if metadata.is_dir() {
        entries.push((name.to_owned(), Entry::Directory { mode }));
        let mut children: Vec<_> = std::fs::read_dir(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(FileSyncError::system("list", path))?;
        children.sort_by_key(std::fs::DirEntry::file_name);
        for child in children {
            let own = child.file_name();
            let own = own
                .to_str()
                .ok_or_else(|| FileSyncError::Refused(name.to_owned(), "a name in it is no UTF-8"))?;
            if own.starts_with(TEMPORARY) {
                return Err(FileSyncError::Refused(own.to_owned(), "the name is reserved"));
            }
            visit(contents, &child.path(), &format!("{name}/{own}"), entries, hashes)?;
        }
    } else {
        return Err(FileSyncError::Refused(
            name.to_owned(),
            "it is no file, folder or symbolic link",
        ));
    }
    Ok(())
}
