//! The manifest, and how changes apply to it.

use std::ops::Bound;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};

use super::command::{Expected, FilesCommand, FilesRefusal, Found, STAGED_ENTRIES_MAX, STAGED_SETS_MAX, SetId, Step};
use super::entry::Entry;
use super::path::FilePath;

/// Previous versions that a path keeps.
pub const PAST_PER_PATH: usize = 10;
/// A previous version is forgotten this many log entries after it was replaced.
const PAST_ENTRIES_MAX: u64 = 200_000;
/// Previous versions that are kept in all; the oldest go first.
const PAST_MAX: usize = 400_000;
/// Folders that nobody gave a mode.
const FOLDER_MODE: u32 = 0o755;
const PERMISSIONS: u32 = 0o777;

/// What a path is, and since which version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// What it is.
    pub entry: Entry,
    /// The version that put it there.
    pub version: u64,
    /// How it came there.
    #[serde(default)]
    pub origin: Origin,
}

/// How an entry came to its path: what it tells is how to show it, not what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// By itself.
    #[default]
    Put,
    /// It is the root of a tree that was replaced as a whole, and has to appear as a whole.
    Replaced,
    /// It is the root of what had this name before.
    Moved(FilePath),
}

/// What a path was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// What it was.
    pub entry: Entry,
    /// The version that had put it there.
    pub version: u64,
    /// The version that replaced or removed it.
    pub until: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Staged {
    since: u64,
    parts: u32,
    steps: Vector<Step>,
}

/// All paths of the resource tree, and what they were. Cloning it is cheap, and clones share what they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u64,
    live: OrdMap<FilePath, Live>,
    /// Few for each path: an [`imbl::Vector`] takes kilobytes for the first.
    past: OrdMap<FilePath, Vec<Past>>,
    /// When which path got a past, oldest first.
    aging: Vector<(u64, FilePath)>,
    staged: OrdMap<SetId, Staged>,
}

impl Manifest {
    /// The log index of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every path, in the order of bytes.
    pub fn live(&self) -> &OrdMap<FilePath, Live> {
        &self.live
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// What a path is.
    pub fn get(&self, path: &FilePath) -> Option<&Live> {
        self.live.get(path)
    }

    /// What a path was, oldest first, as far as it is kept.
    pub fn past(&self, path: &FilePath) -> impl DoubleEndedIterator<Item = &Past> {
        self.past.get(path).into_iter().flatten()
    }

    /// Every path with what it was.
    pub fn all_past(&self) -> impl Iterator<Item = (&FilePath, &Past)> {
        self.past
            .iter()
            .flat_map(|(path, versions)| versions.iter().map(move |past| (path, past)))
    }

    /// Entries of sets that have been brought in and are not committed yet: their contents are needed, too.
    pub fn staged(&self) -> impl Iterator<Item = &Entry> {
        self.staged
            .values()
            .flat_map(|staged| staged.steps.iter())
            .flat_map(entries_of)
    }

    /// Everything at and below `root`.
    pub fn tree(&self, root: &FilePath) -> impl Iterator<Item = (&FilePath, &Live)> {
        self.live.get_key_value(root).into_iter().chain(self.below(root))
    }

    fn below(&self, root: &FilePath) -> impl Iterator<Item = (&FilePath, &Live)> {
        let (from, to) = root.below();
        self.live.range(from..to)
    }

    /// What is directly in a folder, in the order of bytes; `None` for the root of the tree. Costs as much as it answers,
    /// however much is below.
    pub fn children<'a>(&'a self, folder: Option<&FilePath>) -> Vec<(&'a FilePath, &'a Live)> {
        let start = folder.map(FilePath::below);
        let prefix = folder.map_or(0, |folder| folder.as_bytes().len() + 1);
        let mut children: Vec<(&FilePath, &Live)> = Vec::new();
        let mut from: Bound<FilePath> = start
            .as_ref()
            .map_or(Bound::Unbounded, |(from, _)| Bound::Included(from.clone()));
        let to = start.map_or(Bound::Unbounded, |(_, to)| Bound::Excluded(to));
        loop {
            let mut next = None;
            for (path, live) in self.live.range((from.clone(), to.clone())) {
                match path.as_bytes()[prefix..].iter().position(|byte| *byte == b'/') {
                    None => children.push((path, live)),
                    // Something in a child that has been passed: on behind all of that child.
                    Some(slash) => {
                        next = FilePath::new(&path.as_bytes()[..prefix + slash]).ok();
                        break;
                    }
                }
            }
            match next {
                Some(child) => from = Bound::Included(child.below().1),
                None => return children,
            }
        }
    }

    /// Applies one change, which is the log's entry `index`. The version that it made.
    ///
    /// # Errors
    /// [`FilesRefusal`] when the change does not fit; nothing is changed then.
    pub fn apply(&mut self, index: u64, command: FilesCommand) -> Result<u64, FilesRefusal> {
        self.forget_staged(index);
        match command {
            FilesCommand::Stage { set, part, steps } => {
                self.stage(index, set, part, steps)?;
                Ok(self.version)
            }
            FilesCommand::Change { set, steps } => {
                // A clone costs nothing, and a refused step leaves no trace of the ones before it.
                let mut next = self.clone();
                if let Some(set) = set {
                    let staged = next.staged.remove(&set).ok_or(FilesRefusal::UnknownSet)?;
                    for step in staged.steps {
                        next.step(index, step)?;
                    }
                }
                for step in steps {
                    next.step(index, step)?;
                }
                next.version = index;
                next.forget_past(index);
                *self = next;
                Ok(index)
            }
        }
    }

    fn stage(&mut self, index: u64, set: SetId, part: u32, steps: Vec<Step>) -> Result<(), FilesRefusal> {
        if part == 0 {
            if self.staged.len() >= STAGED_SETS_MAX {
                return Err(FilesRefusal::TooManySets);
            }
            let staged = Staged {
                since: index,
                parts: 1,
                steps: steps.into(),
            };
            self.staged.insert(set, staged);
            return Ok(());
        }
        let staged = self.staged.get_mut(&set).filter(|staged| staged.parts == part);
        let staged = staged.ok_or(FilesRefusal::UnknownSet)?;
        staged.parts += 1;
        staged.steps.extend(steps);
        Ok(())
    }

    fn forget_staged(&mut self, index: u64) {
        let old: Vec<SetId> = self
            .staged
            .iter()
            .filter(|(_, staged)| index.saturating_sub(staged.since) > STAGED_ENTRIES_MAX)
            .map(|(set, _)| *set)
            .collect();
        for set in old {
            self.staged.remove(&set);
        }
    }

    fn step(&mut self, index: u64, step: Step) -> Result<(), FilesRefusal> {
        match step {
            Step::ReplaceTree {
                root,
                entries,
                expected,
            } => {
                self.check(&root, expected)?;
                let begins = entries.iter().any(|(path, _)| *path == root);
                self.remove_tree(index, &root);
                self.insert_all(index, &root, entries)?;
                if begins {
                    self.mark(index, &root, Origin::Replaced);
                }
                Ok(())
            }
            Step::ExtendTree { root, entries } => {
                if self.live.get(&root).is_none_or(|live| live.version != index) {
                    return Err(FilesRefusal::Missing(root));
                }
                self.insert_all(index, &root, entries)
            }
            Step::Put { path, entry, expected } => {
                self.check(&path, expected)?;
                if !entry.is_directory() {
                    let below: Vec<FilePath> = self.below(&path).map(|(path, _)| path.clone()).collect();
                    self.retire_all(index, &below);
                }
                self.insert(index, path, entry)
            }
            Step::Remove { root, expected } => {
                self.check(&root, expected)?;
                self.remove_tree(index, &root);
                Ok(())
            }
            Step::Rename { from, to, expected } => self.rename(index, &from, &to, expected),
        }
    }

    fn check(&self, path: &FilePath, expected: Expected) -> Result<(), FilesRefusal> {
        let version = self.live.get(path).map(|live| live.version);
        let fits = match expected {
            Expected::Anything => true,
            Expected::Nothing => version.is_none(),
            Expected::Version(wanted) => version == Some(wanted),
            Expected::Childless if self.below(path).next().is_some() => {
                return Err(FilesRefusal::Unexpected {
                    path: path.clone(),
                    found: Found::Children,
                });
            }
            Expected::Childless => true,
        };
        if fits {
            return Ok(());
        }
        Err(FilesRefusal::Unexpected {
            path: path.clone(),
            found: version.map_or(Found::Nothing, Found::Version),
        })
    }

    fn insert_all(&mut self, index: u64, root: &FilePath, entries: Vec<(FilePath, Entry)>) -> Result<(), FilesRefusal> {
        for (path, entry) in entries {
            if !path.is_within(root) {
                let root = root.clone();
                return Err(FilesRefusal::Outside { path, root });
            }
            self.insert(index, path, entry)?;
        }
        Ok(())
    }

    /// Puts one entry, and the folders that it lacks.
    fn insert(&mut self, index: u64, path: FilePath, entry: Entry) -> Result<(), FilesRefusal> {
        match &entry {
            Entry::Symlink { target } if !target.stays_inside(&path) => {
                return Err(FilesRefusal::LinkEscapes(path));
            }
            Entry::File(file) if file.mode & !PERMISSIONS != 0 => return Err(FilesRefusal::Mode(path)),
            Entry::Directory { mode } if mode & !PERMISSIONS != 0 => return Err(FilesRefusal::Mode(path)),
            _ => {}
        }
        // Of a tree whose entries contradict each other; a single entry that is put takes the place of all that was below it before.
        let below = self.below(&path).next().map(|(below, _)| below.clone());
        if let Some(below) = below.filter(|_| !entry.is_directory()) {
            return Err(FilesRefusal::NoDirectory {
                path: below,
                parent: path,
            });
        }
        let mut missing = Vec::new();
        let mut above = path.parent();
        // From the inside out: as a rule the next folder is there, and with it all others.
        while let Some(folder) = above {
            match self.live.get(&folder) {
                Some(live) if live.entry.is_directory() => break,
                Some(_) => return Err(FilesRefusal::NoDirectory { path, parent: folder }),
                None => {
                    above = folder.parent();
                    missing.push(folder);
                }
            }
        }
        let folder = Live {
            entry: Entry::Directory { mode: FOLDER_MODE },
            version: index,
            origin: Origin::Put,
        };
        for path in missing {
            self.live.insert(path, folder.clone());
        }
        let old = self.live.get(&path);
        // What is as it was keeps its version: nothing has to be done about it anywhere.
        if old.is_some_and(|old| old.entry == entry) {
            return Ok(());
        }
        self.retire(index, &path);
        // The same for what an earlier step of this change took out.
        if let Some(versions) = self.past.get_mut(&path)
            && versions
                .last()
                .is_some_and(|past| past.until == index && past.entry == entry)
            && let Some(same) = versions.pop()
        {
            let live = Live {
                entry,
                version: same.version,
                origin: Origin::Put,
            };
            self.live.insert(path, live);
            return Ok(());
        }
        let live = Live {
            entry,
            version: index,
            origin: Origin::Put,
        };
        self.live.insert(path, live);
        Ok(())
    }

    fn remove_tree(&mut self, index: u64, root: &FilePath) {
        let paths: Vec<FilePath> = self.tree(root).map(|(path, _)| path.clone()).collect();
        self.retire_all(index, &paths);
    }

    fn retire_all(&mut self, index: u64, paths: &[FilePath]) {
        for path in paths {
            self.retire(index, path);
        }
    }

    /// Takes a path out and remembers what it was. Folders have no past: there is nothing in it that could be lost.
    fn retire(&mut self, index: u64, path: &FilePath) {
        let Some(old) = self.live.remove(path) else { return };
        // What came and went within one change was never to be seen.
        if old.entry.is_directory() || old.version == index {
            return;
        }
        let past = Past {
            entry: old.entry,
            version: old.version,
            until: index,
        };
        let versions = self.past.entry(path.clone()).or_default();
        versions.push(past);
        if versions.len() > PAST_PER_PATH {
            versions.remove(0);
        }
        self.aging.push_back((index, path.clone()));
    }

    fn forget_past(&mut self, index: u64) {
        while let Some((since, _)) = self.aging.front() {
            let too_old = index.saturating_sub(*since) > PAST_ENTRIES_MAX;
            if !too_old && self.aging.len() <= PAST_MAX {
                return;
            }
            let Some((since, path)) = self.aging.pop_front() else {
                return;
            };
            let Some(versions) = self.past.get_mut(&path) else {
                continue;
            };
            versions.retain(|past| past.until > since);
            if versions.is_empty() {
                self.past.remove(&path);
            }
        }
    }

    fn rename(&mut self, index: u64, from: &FilePath, to: &FilePath, expected: Expected) -> Result<(), FilesRefusal> {
        self.check(from, expected)?;
        if !self.live.contains_key(from) {
            return Err(FilesRefusal::Missing(from.clone()));
        }
        if from == to {
            return Ok(());
        }
        let into_itself = || FilesRefusal::IntoItself {
            from: from.clone(),
            to: to.clone(),
        };
        if to.is_within(from) {
            return Err(into_itself());
        }
        let moved: Vec<(FilePath, FilePath, Entry)> = self
            .tree(from)
            .map(|(path, live)| {
                let place = path.moved(from, to).ok_or_else(into_itself)?;
                Ok((path.clone(), place, live.entry.clone()))
            })
            .collect::<Result<_, FilesRefusal>>()?;
        // All of it is taken out before any of it is put: its old and its new place may overlap.
        for (path, ..) in &moved {
            self.retire(index, path);
        }
        self.remove_tree(index, to);
        for (_, place, entry) in moved {
            self.insert(index, place, entry)?;
        }
        self.mark(index, to, Origin::Moved(from.clone()));
        Ok(())
    }

    /// Tells how what is now at `root` came there. What is no folder and stayed as it was keeps its version: with this change's, a later step
    /// would take it for something that was never to be seen, and forget it.
    fn mark(&mut self, index: u64, root: &FilePath, origin: Origin) {
        if let Some(live) = self.live.get_mut(root)
            && (live.version == index || live.entry.is_directory())
        {
            (live.version, live.origin) = (index, origin);
        }
    }
}

fn entries_of(step: &Step) -> Box<dyn Iterator<Item = &Entry> + '_> {
    match step {
        Step::ReplaceTree { entries, .. } | Step::ExtendTree { entries, .. } => {
            Box::new(entries.iter().map(|(_, entry)| entry))
        }
        Step::Put { entry, .. } => Box::new(std::iter::once(entry)),
        Step::Remove { .. } | Step::Rename { .. } => Box::new(std::iter::empty()),
    }
}
