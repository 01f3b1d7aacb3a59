//! The disk below the root of the tree: every path is resolved beneath it, and no symbolic link is ever followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use conclave_catalog::files::{FilePath, Modified};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps, mkdirat,
    openat2, renameat, renameat_with, statat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::FileSyncError;

/// Beside the areas, on the same file system: what is in the making. Its name is one that no path may have.
const STAGING: &str = ".conclave-staging";
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    /// A pipe, a socket, a device.
    Other,
}

/// What the disk says about a path. Two that are equal are of the same file, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) kind: Kind,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// The nine permissions.
    pub(crate) mode: u32,
    pub(crate) modified: Modified,
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            _ => Kind::Other,
        };
        Self {
            kind,
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mode: stat.st_mode & 0o777,
            modified: Modified {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            },
        }
    }

    /// Whether it is the same file with the same bytes, as far as can be seen without reading it. A directory's time says nothing.
    pub(crate) fn same_bytes(&self, other: &Self) -> bool {
        let same = (self.kind, self.device, self.inode) == (other.kind, other.device, other.inode);
        same && (self.kind == Kind::Directory || (self.size, self.modified) == (other.size, other.modified))
    }
}

/// An open tree.
pub(crate) struct Disk {
    path: PathBuf,
    root: OwnedFd,
    staging: OwnedFd,
    quarantine: PathBuf,
    next: AtomicU64,
}

/// A place: its folder, and its name there.
pub(crate) struct Place {
    pub(crate) folder: OwnedFd,
    pub(crate) name: Vec<u8>,
}

fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

impl Disk {
    /// Opens the tree; what was in the making when the node stopped is removed.
    pub(crate) fn open(path: &Path, quarantine: PathBuf) -> Result<Self, FileSyncError> {
        let staging = path.join(STAGING);
        match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileSyncError::system("empty", &staging)(error));
            }
            _ => {}
        }
        for folder in [&staging, &quarantine] {
            std::fs::create_dir_all(folder).map_err(FileSyncError::system("create", folder))?;
        }
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(CWD, path, flags, Mode::empty());
            opened.map_err(|error| FileSyncError::system("open", path)(error.into()))
        };
        Ok(Self {
            root: open(path)?,
            staging: open(&staging)?,
            path: path.to_owned(),
            quarantine,
            next: AtomicU64::new(0),
        })
    }

    pub(crate) fn system(&self, what: &'static str, path: &FilePath) -> impl FnOnce(io::Error) -> FileSyncError {
        FileSyncError::system(what, self.full(path))
    }

    pub(crate) fn full(&self, path: &FilePath) -> PathBuf {
        self.path.join(os(path.as_bytes()))
    }

    pub(crate) fn staging(&self) -> BorrowedFd<'_> {
        self.staging.as_fd()
    }

    pub(crate) fn new_name(&self) -> Vec<u8> {
        self.next.fetch_add(1, Ordering::Relaxed).to_string().into_bytes()
    }

    /// Opens something beneath the root.
    pub(crate) fn open_at(&self, path: Option<&FilePath>, flags: OFlags) -> io::Result<OwnedFd> {
        let bytes = path.map_or(b".".as_slice(), |path| path.as_bytes());
        open_beneath(self.root.as_fd(), bytes, flags)
    }

    /// Where a path lies; an error when its folder is not there, or is none.
    pub(crate) fn place(&self, path: &FilePath) -> io::Result<Place> {
        let folder = self.open_at(path.parent().as_ref(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let name = path.name().to_vec();
        Ok(Place { folder, name })
    }

    /// What is at a path; `None` for nothing.
    pub(crate) fn stamp(&self, path: &FilePath) -> io::Result<Option<Stamp>> {
        match self.place(path) {
            Ok(place) => stamp_at(place.folder.as_fd(), &place.name),
            Err(error) if is_nothing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file, for reading.
    pub(crate) fn read(&self, path: &FilePath) -> io::Result<File> {
        self.open_at(Some(path), OFlags::RDONLY | OFlags::NONBLOCK)
            .map(File::from)
    }

    /// Makes a file's bytes durable, if there still is a file.
    pub(crate) fn sync_file(&self, path: &FilePath) -> io::Result<()> {
        match self.stamp(path)? {
            Some(stamp) if stamp.kind == Kind::File => match self.read(path) {
                Err(error) if is_nothing(&error) => Ok(()),
                other => other?.sync_data(),
            },
            _ => Ok(()),
        }
    }

    /// Makes everything durable that has been written to the tree's file system.
    pub(crate) fn sync_all(&self) -> Result<(), FileSyncError> {
        rustix::fs::syncfs(&self.root).map_err(|error| FileSyncError::system("sync", &self.path)(error.into()))
    }

    pub(crate) fn read_link(&self, path: &FilePath) -> io::Result<Vec<u8>> {
        let place = self.place(path)?;
        let target = rustix::fs::readlinkat(&place.folder, os(&place.name), Vec::new())?;
        Ok(target.into_bytes())
    }

    /// The names in a folder of the tree, without the manager's own.
    pub(crate) fn names(&self, folder: Option<&FilePath>) -> io::Result<Vec<Vec<u8>>> {
        let folder = self.open_at(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        names(folder.as_fd())
    }

    /// Puts what is staged under `staged` to a place. What was there, if anything, is staged under that name then: `true`.
    /// At no moment is there nothing at the place.
    pub(crate) fn put(&self, staged: &[u8], place: &Place) -> io::Result<bool> {
        let (from, to) = (os(staged), os(&place.name));
        // Somebody may make or remove something there all the while.
        for _ in 0..16 {
            match renameat_with(&self.staging, from, &place.folder, to, RenameFlags::EXCHANGE) {
                Ok(()) => return Ok(true),
                Err(Errno::NOENT) => {}
                // A file system that cannot do this, as some network ones: there is a moment without either then.
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => return self.put_in_turn(staged, place),
                Err(error) => return Err(error.into()),
            }
            match renameat_with(&self.staging, from, &place.folder, to, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(false),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("it is made and removed all the time"))
    }

    fn put_in_turn(&self, staged: &[u8], place: &Place) -> io::Result<bool> {
        let aside = self.new_name();
        let was_there = match renameat(&place.folder, os(&place.name), &self.staging, os(&aside)) {
            Ok(()) => true,
            Err(Errno::NOENT) => false,
            Err(error) => return Err(error.into()),
        };
        renameat(&self.staging, os(staged), &place.folder, os(&place.name))?;
        if was_there {
            renameat(&self.staging, os(&aside), &self.staging, os(staged))?;
        }
        Ok(was_there)
    }

    /// Takes what is at a place into the staging folder; its name there, or `None` when there is nothing.
    pub(crate) fn take(&self, place: &Place) -> io::Result<Option<Vec<u8>>> {
        let name = self.new_name();
        match renameat(&place.folder, os(&place.name), &self.staging, os(&name)) {
            Ok(()) => Ok(Some(name)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps something of which this node does not know what it is: out of the tree, for a person to look at.
    pub(crate) fn quarantine(&self, folder: BorrowedFd<'_>, name: &[u8], path: &FilePath) -> io::Result<PathBuf> {
        let flat: Vec<u8> = path
            .as_bytes()
            .iter()
            .map(|byte| if *byte == b'/' { b'%' } else { *byte })
            .collect();
        let tail = &flat[flat.len().saturating_sub(200)..];
        let number = rustix::fs::fstat(&self.staging)?.st_mtime_nsec as u64 ^ self.next.fetch_add(1, Ordering::Relaxed);
        let mut kept = format!("{number:x}-").into_bytes();
        kept.extend_from_slice(tail);
        let to = self.quarantine.join(os(&kept));
        match renameat(folder, os(name), CWD, &to) {
            Ok(()) => {}
            Err(Errno::XDEV) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(folder, os(name), flags, Mode::empty())?;
                io::copy(&mut File::from(source), &mut File::create(&to)?)?;
                unlinkat(folder, os(name), AtFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
        tracing::warn!(
            %path, kept = %to.display(),
            "something was found in the resource tree that the cluster does not know; it is kept outside of the tree"
        );
        Ok(to)
    }
}

/// Opens something beneath `folder`.
pub(crate) fn open_beneath(folder: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    loop {
        match openat2(folder, os(path), flags | OFlags::CLOEXEC, Mode::empty(), BENEATH) {
            // Something was renamed meanwhile, and the kernel could not be sure.
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// Whether an error says that nothing is there.
pub(crate) fn is_nothing(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

pub(crate) fn stamp_at(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stamp>> {
    match statat(folder, os(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Stamp::of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    Ok(children(folder)?.into_iter().map(|(name, _)| name).collect())
}

/// The names in a folder, and whether they are folders as far as the file system says so: that takes no look at each of them.
pub(crate) fn children(folder: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Option<bool>)>> {
    let own = conclave_catalog::files::RESERVED_PREFIX;
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
    let mut children = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." && !name.starts_with(own) {
            let is_folder = match entry.file_type() {
                FileType::Unknown => None,
                known => Some(known == FileType::Directory),
            };
            children.push((name, is_folder));
        }
    }
    children.sort_unstable();
    Ok(children)
}

/// Gives something its mode. Never through a symbolic link: the name is opened first, and the mode is given to what was opened.
pub(crate) fn set_mode(folder: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(folder, os(name), flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode) == FileType::Symlink {
        return Ok(());
    }
    let itself = format!("/proc/self/fd/{}", opened.as_raw_fd());
    Ok(rustix::fs::chmod(itself, Mode::from_raw_mode(mode))?)
}

pub(crate) fn set_modified(folder: BorrowedFd<'_>, name: &[u8], modified: Modified) -> io::Result<()> {
    Ok(utimensat(
        folder,
        os(name),
        &times(modified),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

pub(crate) fn times(modified: Modified) -> Timestamps {
    let time = Timespec {
        tv_sec: modified.seconds,
        tv_nsec: modified.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

pub(crate) fn make_folder(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(mkdirat(folder, os(name), Mode::from_raw_mode(0o700))?)
}

pub(crate) fn unlink(folder: BorrowedFd<'_>, name: &[u8], is_folder: bool) -> io::Result<()> {
    let flags = if is_folder {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    match unlinkat(folder, os(name), flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
