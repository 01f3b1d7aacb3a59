//! Carries out a plan's jobs. Each can be repeated, and a crash in the middle of one leaves the old or the new.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use conclave_catalog::files::{ContentHash, Entry, FileEntry, FilePath, Layout, Manifest};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::disk::{
    Disk, Kind, Place, Stamp, is_nothing, make_folder, names, open_beneath, set_mode, set_modified, stamp_at, times,
    unlink,
};
use super::unsynced::Unsynced;
use super::{SYNC_EACH_MAX, is_editable};
use crate::FileSyncError;
use crate::chunk::Listed;
use crate::core::plan::Job;
use crate::store::{ChunkStore, Contents};

/// What is written of a large file goes to the disk in pieces of this, while the next is read and verified: little is left to the sync.
const WRITE_OUT_BYTES: u64 = 8 << 20;
/// A file of so much is shown before it is synced.
const SYNCED_LATER_BYTES: u64 = 8 << 20;
/// For whom the process's rights do not hold.
const OWNER_MAY_ALL: u32 = 0o700;

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// The tree shows it.
    Yes,
    /// Somebody has changed these on disk, and where they are that counts: they are taken up first.
    Edited(Vec<FilePath>),
    /// These chunks are not here.
    Lacking(Vec<(ContentHash, u64)>),
}

/// Works on the tree, and knows what it has put there.
pub(crate) struct Hands {
    pub(crate) disk: Arc<Disk>,
    pub(crate) store: ChunkStore,
    /// What this node has put to a path, or has taken up from there.
    pub(crate) stamps: BTreeMap<FilePath, Stamp>,
    /// Files of the present unit that are written and wait to be shown together.
    staged: HashMap<FilePath, Vec<u8>>,
    /// Folders whose names changed: they are synced when everything is to be seen.
    touched: HashSet<Option<FilePath>>,
    /// Folders that get their mode when nothing is to be done in them any more.
    modes: Vec<(FilePath, u32)>,
    unsynced: Unsynced,
    /// What was found and kept aside.
    pub(crate) quarantined: u64,
}

enum Fault {
    Lacks(Vec<(ContentHash, u64)>),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(bytes)
}

/// Has the system begin to write a part of a file to the disk. It is told that nobody will read it, which has this effect; what is being
/// written stays in memory all the same.
fn begin_to_write_out(file: &File, from: u64, bytes: u64) {
    let told = rustix::fs::fadvise(
        file,
        from,
        std::num::NonZeroU64::new(bytes),
        rustix::fs::Advice::DontNeed,
    );
    // The sync that follows writes all of it anyway, and says when that fails.
    if let Err(error) = told {
        tracing::trace!(%error, "the system takes no advice");
    }
}

impl Hands {
    pub(crate) fn new(
        disk: Arc<Disk>,
        store: ChunkStore,
        stamps: BTreeMap<FilePath, Stamp>,
        unsynced: Unsynced,
    ) -> Self {
        Self {
            disk,
            store,
            stamps,
            staged: HashMap::new(),
            touched: HashSet::new(),
            modes: Vec::new(),
            unsynced,
            quarantined: 0,
        }
    }

    /// Writes the files of a unit, so that showing them takes no more than as many renames.
    pub(crate) fn stage(&mut self, jobs: &[Job]) -> Result<(), FileSyncError> {
        let disk = Arc::clone(&self.disk);
        for name in std::mem::take(&mut self.staged).into_values() {
            clear(disk.staging(), &name).map_err(FileSyncError::system("clear", "the staging folder"))?;
        }
        let files: Vec<(&FilePath, &FileEntry)> = jobs
            .iter()
            .filter_map(|job| match job {
                Job::File {
                    path,
                    file,
                    bytes_stand: false,
                } => Some((path, file)),
                _ => None,
            })
            .collect();
        if files.len() < 2 {
            return Ok(());
        }
        let each = files.len() <= SYNC_EACH_MAX;
        for (path, file) in files {
            let name = disk.new_name();
            let written = self
                .write(disk.staging(), &name, file)
                .and_then(|out| if each { Ok(out.sync_data()?) } else { Ok(()) });
            match written {
                Ok(()) => {
                    self.staged.insert(path.clone(), name);
                }
                // The job itself will say what is lacking.
                Err(Fault::Lacks(_)) => {}
                Err(Fault::Io(error)) => return Err(disk.system("write", path)(error)),
            }
        }
        if !each {
            disk.sync_all()?;
        }
        Ok(())
    }

    /// Does one job.
    pub(crate) fn work(&mut self, job: &Job, wanted: &Manifest) -> Result<Done, FileSyncError> {
        let at = match job {
            Job::Tree { root, .. } | Job::Remove { root } => root,
            Job::Move { from, .. } => from,
            Job::Folder { path, .. } | Job::File { path, .. } | Job::Link { path, .. } => path,
        };
        let edited = self.edits(at).map_err(self.disk.system("look at", at))?;
        if !edited.is_empty() && is_editable(at) && !matches!(job, Job::Folder { .. }) {
            return Ok(Done::Edited(edited));
        }
        let outcome = match job {
            Job::Tree { root, entries, .. } => self.tree(root, entries, job, wanted),
            Job::Move { from, to } => self.shift(from, to, wanted),
            Job::Folder { path, mode } => self.folder(path, *mode, wanted),
            Job::File {
                path,
                file,
                bytes_stand: true,
            } if edited.is_empty() => self.retitle(path, file),
            Job::File { path, file, .. } => self.file(path, file, wanted),
            Job::Link { path, target } => self.link(path, target.as_bytes(), wanted),
            Job::Remove { root } => self.remove(root),
        };
        match outcome {
            Ok(()) => Ok(Done::Yes),
            Err(Fault::Lacks(hashes)) => Ok(Done::Lacking(hashes)),
            Err(Fault::Io(error)) => Err(self.disk.system("write", at)(error)),
        }
    }

    /// What at and below a path is not what this node has put there.
    fn edits(&self, root: &FilePath) -> io::Result<Vec<FilePath>> {
        let (mut edits, mut open) = (Vec::new(), vec![root.clone()]);
        while let Some(path) = open.pop() {
            let Some(stamp) = self.disk.stamp(&path)? else { continue };
            if stamp.kind == Kind::Directory {
                let names = match self.disk.names(Some(&path)) {
                    Err(error) if is_nothing(&error) => continue,
                    other => other?,
                };
                open.extend(names.into_iter().filter_map(|name| path.join(name).ok()));
            } else if !self.stamps.get(&path).is_some_and(|known| known.same_bytes(&stamp)) {
                edits.push(path);
            }
        }
        Ok(edits)
    }

    /// Whether a file's bytes are here: which chunks are not.
    pub(crate) fn lacking(store: &ChunkStore, file: &FileEntry) -> Vec<(ContentHash, u64)> {
        if !store.has(file.content) {
            // Of a list, the size is a guess.
            let bytes = match file.layout {
                Layout::Whole => file.size,
                Layout::Listed => file.size / 4096,
            };
            return vec![(file.content, bytes)];
        }
        if file.layout == Layout::Whole {
            return Vec::new();
        }
        let Some(contents) = Contents::of(store, file.content) else {
            return vec![(file.content, file.size / 4096)];
        };
        let list = contents.lacking.into_iter().chain(contents.chunks);
        let list: Vec<Listed> = list.collect();
        let missing: HashSet<ContentHash> = store
            .missing(list.iter().map(|listed| listed.hash))
            .into_iter()
            .collect();
        let mut named = HashSet::new();
        let lacks = list
            .into_iter()
            .filter(|listed| missing.contains(&listed.hash) && named.insert(listed.hash));
        lacks.map(|listed| (listed.hash, u64::from(listed.bytes))).collect()
    }

    fn pour(&self, file: &FileEntry, out: &mut File) -> Result<(), Fault> {
        let lacks = |hash: ContentHash, bytes: u64| Fault::Lacks(vec![(hash, bytes)]);
        let first = self
            .store
            .get(file.content)
            .ok_or_else(|| lacks(file.content, file.size))?;
        if file.layout == Layout::Whole {
            return Ok(out.write_all(&first)?);
        }
        let contents = Contents::of(&self.store, file.content);
        let contents = contents.ok_or_else(|| io::Error::other("the list of its chunks is none"))?;
        if !contents.lacking.is_empty() {
            let lists = contents.lacking.into_iter();
            return Err(Fault::Lacks(lists.map(|list| (list.hash, list.bytes.into())).collect()));
        }
        let (mut written, mut begun) = (0, 0);
        for listed in contents.chunks {
            let bytes = self
                .store
                .get(listed.hash)
                .ok_or_else(|| lacks(listed.hash, listed.bytes.into()))?;
            out.write_all(&bytes)?;
            written += bytes.len() as u64;
            if written - begun >= WRITE_OUT_BYTES {
                begin_to_write_out(out, begun, written - begun);
                begun = written;
            }
        }
        Ok(())
    }

    /// Writes a file into a folder that nobody sees yet. Not synced.
    fn write(&self, folder: BorrowedFd<'_>, name: &[u8], file: &FileEntry) -> Result<File, Fault> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(folder, os(name), flags, Mode::from_raw_mode(0o600))?;
        let mut out = File::from(opened);
        let poured = self.pour(file, &mut out).and_then(|()| {
            rustix::fs::fchmod(&out, Mode::from_raw_mode(file.mode))?;
            Ok(rustix::fs::futimens(&out, &times(file.modified))?)
        });
        if let Err(fault) = poured {
            unlink(folder, name, false)?;
            return Err(fault);
        }
        Ok(out)
    }

    /// The place of a path. Folders that are missing are made as they are wanted; what is in the way of one goes.
    fn place(&mut self, path: &FilePath, wanted: &Manifest) -> Result<Place, Fault> {
        match self.disk.place(path) {
            Err(error) if is_nothing(&error) => {}
            other => return Ok(other?),
        }
        for above in path.ancestors() {
            let there = self.disk.stamp(&above)?;
            if there.is_none_or(|stamp| stamp.kind != Kind::Directory) {
                let mode = match wanted.get(&above).map(|live| &live.entry) {
                    Some(Entry::Directory { mode }) => *mode,
                    _ => 0o755,
                };
                self.folder(&above, mode, wanted)?;
            }
        }
        Ok(self.disk.place(path)?)
    }

    /// Puts what is staged to its path, and does away with what was there.
    fn show(&mut self, staged: &[u8], path: &FilePath, wanted: &Manifest) -> Result<(), Fault> {
        let place = self.place(path, wanted)?;
        if self.disk.put(staged, &place)? {
            self.discard(staged, path)?;
        }
        self.touched.insert(path.parent());
        Ok(())
    }

    fn file(&mut self, path: &FilePath, file: &FileEntry, wanted: &Manifest) -> Result<(), Fault> {
        let disk = Arc::clone(&self.disk);
        let name = match self.staged.remove(path) {
            Some(name) => name,
            None => {
                let name = disk.new_name();
                let later = file.size >= SYNCED_LATER_BYTES;
                if later {
                    self.unsynced.note(path)?;
                }
                let out = self.write(disk.staging(), &name, file)?;
                if later {
                    self.unsynced.add(path.clone(), out);
                } else {
                    out.sync_data()?;
                }
                name
            }
        };
        let stamp = stamp_at(disk.staging(), &name)?;
        self.show(&name, path, wanted)?;
        self.know(path, stamp);
        Ok(())
    }

    fn link(&mut self, path: &FilePath, target: &[u8], wanted: &Manifest) -> Result<(), Fault> {
        let name = self.disk.new_name();
        let disk = Arc::clone(&self.disk);
        rustix::fs::symlinkat(os(target), disk.staging(), os(&name))?;
        let stamp = stamp_at(disk.staging(), &name)?;
        self.show(&name, path, wanted)?;
        self.know(path, stamp);
        Ok(())
    }

    fn folder(&mut self, path: &FilePath, mode: u32, wanted: &Manifest) -> Result<(), Fault> {
        let stamp = self.disk.stamp(path)?;
        if stamp.is_none_or(|stamp| stamp.kind != Kind::Directory) {
            let name = self.disk.new_name();
            make_folder(self.disk.staging(), &name)?;
            set_mode(self.disk.staging(), &name, mode | OWNER_MAY_ALL)?;
            self.show(&name, path, wanted)?;
        } else {
            // Work in it may come; its mode comes last.
            let place = self.place(path, wanted)?;
            set_mode(place.folder.as_fd(), &place.name, mode | OWNER_MAY_ALL)?;
        }
        self.modes.push((path.clone(), mode));
        let stamp = self.disk.stamp(path)?.map(|stamp| Stamp { mode, ..stamp });
        self.know(path, stamp);
        Ok(())
    }

    fn retitle(&mut self, path: &FilePath, file: &FileEntry) -> Result<(), Fault> {
        let place = self.disk.place(path)?;
        set_mode(place.folder.as_fd(), &place.name, file.mode)?;
        set_modified(place.folder.as_fd(), &place.name, file.modified)?;
        let stamp = self.disk.stamp(path)?;
        self.know(path, stamp);
        Ok(())
    }

    fn shift(&mut self, from: &FilePath, to: &FilePath, wanted: &Manifest) -> Result<(), Fault> {
        let there = self.disk.place(from)?;
        let place = self.place(to, wanted)?;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&there.folder, os(&there.name), &place.folder, os(&place.name), flags)?;
        self.touched.extend([from.parent(), to.parent()]);
        for path in self.known_within(from) {
            if let (Some(stamp), Some(place)) = (self.stamps.remove(&path), path.moved(from, to)) {
                self.stamps.insert(place, stamp);
            }
        }
        Ok(())
    }

    fn remove(&mut self, root: &FilePath) -> Result<(), Fault> {
        let place = match self.disk.place(root) {
            Err(error) if is_nothing(&error) => return Ok(()),
            other => other?,
        };
        if let Some(name) = self.disk.take(&place)? {
            self.discard(&name, root)?;
        }
        self.forget(root);
        self.touched.insert(root.parent());
        Ok(())
    }

    fn tree(
        &mut self,
        root: &FilePath,
        entries: &[(FilePath, Entry)],
        job: &Job,
        wanted: &Manifest,
    ) -> Result<(), Fault> {
        let name = self.disk.new_name();
        let disk = Arc::clone(&self.disk);
        make_folder(disk.staging(), &name)?;
        let built = self.build(&name, root, entries, job);
        let stamps = match built {
            Ok(stamps) => stamps,
            Err(fault) => {
                clear(disk.staging(), &name)?;
                return Err(fault);
            }
        };
        self.show(&name, root, wanted)?;
        self.forget(root);
        self.stamps.extend(stamps);
        let own = disk.stamp(root)?;
        self.know(root, own);
        Ok(())
    }

    /// Builds a whole tree where nobody sees it. On disk for good when it returns.
    fn build(
        &self,
        staged: &[u8],
        root: &FilePath,
        entries: &[(FilePath, Entry)],
        job: &Job,
    ) -> Result<Vec<(FilePath, Stamp)>, Fault> {
        let top = open_beneath(self.disk.staging(), staged, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let keep = match job {
            Job::Tree { keep, .. } => Some(keep),
            _ => None,
        };
        let each = entries.len() <= SYNC_EACH_MAX;
        let (mut stamps, mut modes) = (Vec::new(), Vec::new());
        let mut folder: (Vec<u8>, OwnedFd) = (Vec::new(), open_beneath(top.as_fd(), b".", OFlags::RDONLY)?);
        for (path, entry) in entries {
            let Some(below) = path.as_bytes().get(root.as_bytes().len() + 1..) else {
                if let Entry::Directory { mode } = entry {
                    modes.push((b".".to_vec(), *mode));
                }
                continue;
            };
            let slash = below.iter().rposition(|byte| *byte == b'/');
            let above = slash.map_or(b"".as_slice(), |slash| &below[..slash]);
            let name = path.name();
            if folder.0 != above {
                let opened = open_beneath(top.as_fd(), above, OFlags::RDONLY | OFlags::DIRECTORY);
                let opened = match opened {
                    Err(_) if above.is_empty() => open_beneath(top.as_fd(), b".", OFlags::RDONLY),
                    other => other,
                };
                folder = (above.to_vec(), opened?);
            }
            match entry {
                Entry::Directory { mode } => {
                    make_folder(folder.1.as_fd(), name)?;
                    modes.push((below.to_vec(), *mode));
                    continue;
                }
                Entry::Symlink { target } => {
                    rustix::fs::symlinkat(os(target.as_bytes()), &folder.1, os(name))?;
                }
                Entry::File(file) => {
                    let kept = keep.is_some_and(|keep| keep.contains(path)) && self.keep(path, &folder.1, name);
                    if !kept {
                        let out = self.write(folder.1.as_fd(), name, file)?;
                        if each {
                            out.sync_data()?;
                        }
                    }
                }
            }
            if let Some(stamp) = stamp_at(folder.1.as_fd(), name)? {
                stamps.push((path.clone(), stamp));
            }
        }
        if each {
            rustix::fs::fsync(&top)?;
        } else {
            rustix::fs::syncfs(&top)?;
        }
        // Children first: a folder without rights for its owner is not entered again.
        for (below, mode) in modes.into_iter().rev() {
            set_mode(top.as_fd(), &below, mode)?;
        }
        Ok(stamps)
    }

    /// Takes a file that stands over by a link, if it is still what this node has put there.
    fn keep(&self, path: &FilePath, folder: &OwnedFd, name: &[u8]) -> bool {
        let Some(known) = self.stamps.get(path) else {
            return false;
        };
        let Ok(there) = self.disk.place(path) else { return false };
        let linked = rustix::fs::linkat(&there.folder, os(&there.name), folder, os(name), AtFlags::empty());
        if linked.is_err() {
            return false;
        }
        let same = stamp_at(folder.as_fd(), name).is_ok_and(|stamp| stamp.is_some_and(|stamp| stamp == *known));
        if !same {
            // What could not be removed makes the write that follows fail, and the job is repeated.
            let _removed = unlink(folder.as_fd(), name, false);
        }
        same
    }

    /// Does away with what was taken out of the tree; what this node does not know is kept outside.
    fn discard(&mut self, staged: &[u8], path: &FilePath) -> Result<(), Fault> {
        let disk = Arc::clone(&self.disk);
        self.discard_at(disk.staging(), staged, path)
    }

    fn discard_at(&mut self, folder: BorrowedFd<'_>, name: &[u8], path: &FilePath) -> Result<(), Fault> {
        let Some(stamp) = stamp_at(folder, name)? else {
            return Ok(());
        };
        if stamp.kind == Kind::Directory {
            set_mode(folder, name, stamp.mode | OWNER_MAY_ALL)?;
            let inner = open_beneath(folder, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            for child in names(inner.as_fd())? {
                match path.join(&child) {
                    Ok(path) => self.discard_at(inner.as_fd(), &child, &path)?,
                    Err(_) => self.set_aside(inner.as_fd(), &child, path)?,
                }
            }
            return Ok(unlink(folder, name, true)?);
        }
        if self.stamps.get(path).is_some_and(|known| known.same_bytes(&stamp)) {
            return Ok(unlink(folder, name, false)?);
        }
        self.set_aside(folder, name, path)
    }

    fn set_aside(&mut self, folder: BorrowedFd<'_>, name: &[u8], path: &FilePath) -> Result<(), Fault> {
        self.disk.quarantine(folder, name, path)?;
        self.quarantined += 1;
        Ok(())
    }

    /// Takes out of the tree what this node does not know.
    pub(crate) fn expel(&mut self, path: &FilePath) -> Result<(), FileSyncError> {
        let refused = |error| self.disk.system("set aside", path)(error);
        let place = match self.disk.place(path) {
            Err(error) if is_nothing(&error) => return Ok(()),
            other => other.map_err(refused)?,
        };
        let disk = Arc::clone(&self.disk);
        let Some(name) = disk.take(&place).map_err(disk.system("set aside", path))? else {
            return Ok(());
        };
        self.stamps.remove(path);
        match self.discard(&name, path) {
            Ok(()) | Err(Fault::Lacks(_)) => Ok(()),
            Err(Fault::Io(error)) => Err(disk.system("set aside", path)(error)),
        }
    }

    /// The same for files that a failure of the machine has left half written, so that it has not to be found out again.
    pub(crate) fn expel_for_good(&mut self, spoiled: &[FilePath]) -> Result<(), FileSyncError> {
        for path in spoiled {
            self.expel(path)?;
        }
        rustix::fs::syncfs(self.disk.staging())
            .map_err(|error| FileSyncError::system("sync", "the tree")(error.into()))?;
        self.unsynced.forget()
    }

    fn know(&mut self, path: &FilePath, stamp: Option<Stamp>) {
        match stamp {
            Some(stamp) => self.stamps.insert(path.clone(), stamp),
            None => self.stamps.remove(path),
        };
    }

    fn forget(&mut self, root: &FilePath) {
        for path in self.known_within(root) {
            self.stamps.remove(&path);
        }
    }

    fn known_within(&self, root: &FilePath) -> Vec<FilePath> {
        let (from, to) = root.below();
        let below = self.stamps.range(from..to).map(|(path, _)| path.clone());
        self.stamps
            .contains_key(root)
            .then(|| root.clone())
            .into_iter()
            .chain(below)
            .collect()
    }

    /// Ends a pass: folders get their modes, innermost first.
    pub(crate) fn settle(&mut self) -> Result<(), FileSyncError> {
        let mut modes = std::mem::take(&mut self.modes);
        modes.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (path, mode) in modes {
            let set = self
                .disk
                .place(&path)
                .and_then(|place| set_mode(place.folder.as_fd(), &place.name, mode));
            match set {
                Err(error) if !is_nothing(&error) => return Err(self.disk.system("set the mode of", &path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes durable what a pass has shown. Files that could not be synced, which are to be made anew, and why.
    pub(crate) fn sync(&mut self) -> Result<Vec<(FilePath, FileSyncError)>, FileSyncError> {
        self.sync_folders()?;
        let failed = self.unsynced.sync()?.into_iter().map(|(path, error)| {
            let error = self.disk.system("sync", &path)(error);
            (path, error)
        });
        Ok(failed.collect())
    }

    fn sync_folders(&mut self) -> Result<(), FileSyncError> {
        let touched = std::mem::take(&mut self.touched);
        if touched.len() > SYNC_EACH_MAX {
            return self.disk.sync_all();
        }
        for folder in touched {
            let synced = self
                .disk
                .open_at(folder.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|opened| Ok(rustix::fs::fsync(&opened)?));
            match synced {
                Err(error) if !is_nothing(&error) => return Err(FileSyncError::system("sync", "a folder")(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Removes something that was never seen.
fn clear(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let Some(stamp) = stamp_at(folder, name)? else {
        return Ok(());
    };
    if stamp.kind == Kind::Directory {
        set_mode(folder, name, OWNER_MAY_ALL)?;
        let inner = open_beneath(folder, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for child in names(inner.as_fd())? {
            clear(inner.as_fd(), &child)?;
        }
    }
    unlink(folder, name, stamp.kind == Kind::Directory)
}
