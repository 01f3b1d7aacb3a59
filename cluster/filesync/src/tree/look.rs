//! What is in the tree: at the start, when nothing is remembered, and later, compared with what is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::AsFd;

use conclave_catalog::files::{Entry, FilePath, Live, Manifest, Origin};
use rustix::fs::OFlags;

use super::disk::{Disk, Kind, Stamp, is_nothing, names, stamp_at};
use crate::FileSyncError;
use crate::chunk::cut;
use crate::core::plan::{Shown, incomplete_trees_are_not_shown};

/// What a node finds when it starts.
pub(crate) struct Look {
    pub(crate) shown: Shown,
    pub(crate) stamps: BTreeMap<FilePath, Stamp>,
    /// What is neither as the manifest has it nor as it ever had it.
    pub(crate) foreign: Vec<FilePath>,
    /// What was in doubt, and is none of these.
    pub(crate) spoiled: Vec<FilePath>,
}

/// What is different from what is remembered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// New, or changed.
    pub(crate) changed: Vec<FilePath>,
    /// Not there any more.
    pub(crate) vanished: Vec<FilePath>,
    /// How many paths were looked at.
    pub(crate) paths: usize,
}

fn walk(disk: &Disk, top: Option<&FilePath>, mut each: impl FnMut(&FilePath, Stamp)) -> Result<(), FileSyncError> {
    let mut open: Vec<Option<FilePath>> = vec![top.cloned()];
    while let Some(folder) = open.pop() {
        let failed = |error: std::io::Error| match &folder {
            Some(path) => disk.system("list", path)(error),
            None => FileSyncError::system("list", "the root of the tree")(error),
        };
        let opened = match disk.open_at(folder.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if is_nothing(&error) => continue,
            other => other.map_err(failed)?,
        };
        let names = names(opened.as_fd()).map_err(failed)?;
        for name in names {
            let path = match &folder {
                Some(folder) => folder.join(&name),
                None => FilePath::new(&name),
            };
            // Too deep for the cluster; it stays where it is, unseen.
            let Ok(path) = path else { continue };
            let stamp = stamp_at(opened.as_fd(), &name).map_err(disk.system("look at", &path))?;
            let Some(stamp) = stamp else { continue };
            each(&path, stamp);
            if stamp.kind == Kind::Directory {
                open.push(Some(path));
            }
        }
    }
    Ok(())
}

/// Compares the tree with the manifest. A file of the right size and time is taken for the right one, for the scrub reads it; one that is
/// in doubt is read now.
pub(crate) fn look(disk: &Disk, wanted: &Manifest, doubtful: &HashSet<FilePath>) -> Result<Look, FileSyncError> {
    let (mut shown, mut stamps) = (Shown::new(), BTreeMap::new());
    let (mut foreign, mut spoiled, mut strange_folders) = (Vec::new(), Vec::new(), Vec::new());
    let mut stale = BTreeSet::new();
    walk(disk, None, |path, stamp| {
        let live = wanted.get(path);
        if stamp.kind == Kind::Directory {
            match live {
                Some(live) if live.entry.is_directory() => {
                    let entry = Entry::Directory { mode: stamp.mode };
                    shown.insert(path.clone(), Live { entry, ..live.clone() });
                    stamps.insert(path.clone(), stamp);
                }
                _ => strange_folders.push((path.clone(), stamp)),
            }
            return;
        }
        let trusted = |entry: &Entry| !doubtful.contains(path) || has_content(disk, path, entry);
        if let Some(live) = live
            && let Some(entry) = as_found(disk, path, &live.entry, stamp)
            && trusted(&entry)
        {
            shown.insert(path.clone(), Live { entry, ..live.clone() });
            stamps.insert(path.clone(), stamp);
            return;
        }
        let is_past = |entry: &Entry| is_like(disk, path, entry, stamp) && trusted(entry);
        let past = wanted.past(path).find(|past| is_past(&past.entry));
        match past {
            Some(past) => {
                let live = Live {
                    entry: past.entry.clone(),
                    version: past.version,
                    origin: Origin::Put,
                };
                shown.insert(path.clone(), live);
                stamps.insert(path.clone(), stamp);
                stale.extend(path.ancestors());
            }
            None if doubtful.contains(path) => spoiled.push(path.clone()),
            None => foreign.push(path.clone()),
        }
    })?;
    let used: BTreeSet<FilePath> = foreign.iter().flat_map(FilePath::ancestors).collect();
    for (path, stamp) in strange_folders {
        // A folder in which somebody has put something is theirs; any other was the cluster's once, and goes.
        if used.contains(&path) && !stale.contains(&path) {
            continue;
        }
        let live = Live {
            entry: Entry::Directory { mode: stamp.mode },
            version: 0,
            origin: Origin::Put,
        };
        shown.insert(path.clone(), live);
        stamps.insert(path, stamp);
    }
    incomplete_trees_are_not_shown(&mut shown, wanted);
    Ok(Look {
        shown,
        stamps,
        foreign,
        spoiled,
    })
}

/// The entry as it is on disk, if its bytes are the ones that are wanted.
fn as_found(disk: &Disk, path: &FilePath, entry: &Entry, stamp: Stamp) -> Option<Entry> {
    match entry {
        Entry::File(file) if stamp.kind == Kind::File && stamp.size == file.size => {
            let same = stamp.modified == file.modified || has_content(disk, path, entry);
            let found = conclave_catalog::files::FileEntry {
                mode: stamp.mode,
                modified: stamp.modified,
                ..file.clone()
            };
            same.then_some(Entry::File(found))
        }
        Entry::Symlink { .. } => is_like(disk, path, entry, stamp).then(|| entry.clone()),
        _ => None,
    }
}

fn is_like(disk: &Disk, path: &FilePath, entry: &Entry, stamp: Stamp) -> bool {
    match entry {
        Entry::File(file) => stamp.kind == Kind::File && (stamp.size, stamp.modified) == (file.size, file.modified),
        Entry::Symlink { target } => {
            stamp.kind == Kind::Symlink && disk.read_link(path).is_ok_and(|found| found == target.as_bytes())
        }
        Entry::Directory { .. } => stamp.kind == Kind::Directory,
    }
}

/// Whether a file on disk has the bytes of an entry: reads it.
pub(crate) fn has_content(disk: &Disk, path: &FilePath, entry: &Entry) -> bool {
    let Some(wanted) = entry.file() else { return false };
    let found = disk.read(path).ok().and_then(|file| cut(file, |_| true).ok());
    found.is_some_and(|found| (found.content, found.layout) == (wanted.content, wanted.layout))
}

/// Compares the tree, or a part of it, with what is remembered of it.
pub(crate) fn scan(
    disk: &Disk,
    top: Option<&FilePath>,
    stamps: &BTreeMap<FilePath, Stamp>,
) -> Result<Scan, FileSyncError> {
    let (mut result, mut seen) = (Scan::default(), BTreeSet::new());
    walk(disk, top, |path, stamp| {
        result.paths += 1;
        seen.insert(path.clone());
        let known = stamps.get(path);
        if !known.is_some_and(|known| known.same_bytes(&stamp) && known.mode == stamp.mode) {
            result.changed.push(path.clone());
        }
    })?;
    let remembered: Box<dyn Iterator<Item = &FilePath>> = match top {
        Some(top) => {
            let (from, to) = top.below();
            Box::new(stamps.range(from..to).map(|(path, _)| path))
        }
        None => Box::new(stamps.keys()),
    };
    result.vanished = remembered.filter(|path| !seen.contains(path)).cloned().collect();
    Ok(result)
}
