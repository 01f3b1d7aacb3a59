//! Large files that everybody sees while the disk does not have them for good yet.
//!
//! To sync one takes as long as to write it. Nothing that was acknowledged depends on it: its chunks are on the disks of a majority, and of
//! this node. But when the machine fails in between, the disk may have the name, the size and the time of a file, and not its bytes. So
//! its path is noted on disk before anybody sees it, and what is noted is read through when a node starts that the machine's failure has
//! stopped. A manager that was killed alone has lost nothing: the system still holds the bytes, and they are synced at the start.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use conclave_catalog::files::FilePath;

use crate::FileSyncError;

/// A new one each time that the machine starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Between the boot id and the path of a note. Neither has it.
const BETWEEN: u8 = 0;
/// Ends a note, also one that follows the half of one which a full disk refused.
const END: [u8; 2] = [0, 0];

/// What is noted, and what waits to be synced.
pub(crate) struct Unsynced {
    notes: File,
    path: PathBuf,
    boot: Vec<u8>,
    files: Vec<(FilePath, File)>,
    noted: bool,
}

/// What was not synced when this node stopped.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// The machine runs since: the system has the bytes.
    pub(crate) here: Vec<FilePath>,
    /// It was started since: the disk has them, or has not.
    pub(crate) doubtful: Vec<FilePath>,
}

impl Unsynced {
    /// Opens the notes, and reads what is in them. It stays there until [`Self::forget`].
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Left), FileSyncError> {
        let boot = std::fs::read(BOOT_ID).map_err(FileSyncError::system("read", BOOT_ID))?;
        Self::open_after(path, boot.trim_ascii().to_vec())
    }

    fn open_after(path: PathBuf, boot: Vec<u8>) -> Result<(Self, Left), FileSyncError> {
        let open = || {
            let notes = File::options().append(true).create(true).open(&path)?;
            if let Some(folder) = path.parent() {
                File::open(folder)?.sync_all()?;
            }
            Ok((notes, std::fs::read(&path)?))
        };
        let (notes, text) = open().map_err(FileSyncError::system("open", &path))?;
        let unsynced = Self {
            notes,
            path,
            files: Vec::new(),
            noted: !text.is_empty(),
            boot,
        };
        let left = read(&text, &unsynced.boot);
        Ok((unsynced, left))
    }

    pub(crate) fn is_noted(&self) -> bool {
        self.noted
    }

    /// Before anybody sees what is at the path.
    pub(crate) fn note(&mut self, path: &FilePath) -> io::Result<()> {
        let note = [&self.boot, [BETWEEN].as_slice(), path.as_bytes(), &END].concat();
        self.noted = true;
        self.notes.write_all(&note)?;
        self.notes.sync_data()
    }

    /// This has been written, and is shown or will be.
    pub(crate) fn add(&mut self, path: FilePath, file: File) {
        self.files.push((path, file));
    }

    /// Syncs what waits. What could not be synced is to be written again: a second try would succeed without having done it.
    pub(crate) fn sync(&mut self) -> Result<Vec<(FilePath, io::Error)>, FileSyncError> {
        let mut failed = Vec::new();
        for (path, file) in std::mem::take(&mut self.files) {
            if let Err(error) = file.sync_data() {
                failed.push((path, error));
            }
        }
        if self.noted && failed.is_empty() {
            self.forget()?;
        }
        Ok(failed)
    }

    /// Everything that is noted is on disk, or will be written anew.
    pub(crate) fn forget(&mut self) -> Result<(), FileSyncError> {
        self.notes
            .set_len(0)
            .map_err(FileSyncError::system("empty", &self.path))?;
        self.noted = false;
        Ok(())
    }
}

/// Of half a note nothing comes: nobody has seen what it is about. What is left of one before a whole note makes that one doubtful at the worst.
fn read(text: &[u8], boot: &[u8]) -> Left {
    let mut left = Left::default();
    let mut rest = text;
    while let Some(end) = rest.windows(END.len()).position(|bytes| bytes == END) {
        let (note, after) = (&rest[..end], &rest[end + END.len()..]);
        rest = after;
        let mut parts = note.rsplit(|byte| *byte == BETWEEN);
        let (Some(path), Some(of)) = (parts.next(), parts.next()) else {
            continue;
        };
        let Ok(path) = FilePath::new(path) else { continue };
        let list = if of == boot { &mut left.here } else { &mut left.doubtful };
        if !list.contains(&path) {
            list.push(path);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open(path: &Path, boot: &str) -> (Unsynced, Left) {
        Unsynced::open_after(path.to_owned(), boot.into()).unwrap()
    }

    fn paths(texts: &[&str]) -> Vec<FilePath> {
        texts.iter().map(|text| FilePath::new(text).unwrap()).collect()
    }

    #[test]
    fn what_is_noted_is_left_until_it_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unsynced");
        let [one, two] = [0, 1].map(|number| paths(&["plugins/one", "plugins/two\n"])[number].clone());
        let (mut unsynced, left) = open(&path, "first");
        assert_eq!(left, Left::default());
        unsynced.note(&one).unwrap();
        unsynced.note(&one).unwrap();
        let (mut unsynced, left) = open(&path, "first");
        assert_eq!((left.here, left.doubtful), (vec![one.clone()], vec![]));
        unsynced.note(&two).unwrap();
        let (_, left) = open(&path, "second");
        assert_eq!((left.here, left.doubtful), (vec![], vec![one, two.clone()]));
        unsynced.add(two, tempfile::tempfile().unwrap());
        assert!(unsynced.sync().unwrap().is_empty());
        assert_eq!(open(&path, "first").1, Left::default());
    }

    #[test]
    fn half_a_note_is_none() {
        let (one, two) = (b"boot\0plugins/one\0\0", b"boot\0plugins/two\0\0");
        for length in 0..two.len() {
            let cut_off = [one.as_slice(), &two[..length]].concat();
            assert_eq!(read(&cut_off, b"boot").here, paths(&["plugins/one"]), "{length} bytes");
            // A full disk took half of it, and more later.
            let gone_on = read(&[&two[..length], one.as_slice()].concat(), b"boot");
            let all = [gone_on.here, gone_on.doubtful].concat();
            assert_eq!(all, paths(&["plugins/one"]), "after {length} bytes");
        }
        let both = read(&[one.as_slice(), two].concat(), b"boot");
        assert_eq!(both.here, paths(&["plugins/one", "plugins/two"]));
    }

    #[test]
    fn what_cannot_be_synced_is_named_and_stays_noted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unsynced");
        let (mut unsynced, _) = open(&path, "boot");
        let one = paths(&["plugins/one"]);
        unsynced.note(&one[0]).unwrap();
        // The system syncs no socket.
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        unsynced.add(one[0].clone(), File::from(std::os::fd::OwnedFd::from(socket)));
        let failed = unsynced.sync().unwrap();
        assert_eq!(failed.into_iter().map(|(path, _)| path).collect::<Vec<_>>(), one);
        assert_eq!(open(&path, "boot").1.here, one);
    }
}
