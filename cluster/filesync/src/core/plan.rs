//! From what the tree shows to what the manifest says: which steps, in which order.
//!
//! What one change of the manifest brought is one unit: it waits until all of its contents are here, and then appears together. Units
//! are carried out in the order of the log, but none waits for another one's contents. A path appears once in a plan, with its present
//! entry: what came and went in between is never shown.

use std::collections::{BTreeMap, BTreeSet};

use conclave_catalog::files::{Entry, FileEntry, FilePath, LinkTarget, Live, Manifest, Origin};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

/// What the tree on disk is known to hold.
pub(crate) type Shown = OrdMap<FilePath, Live>;

/// One step on the disk. Each can be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    /// A folder takes the place of the one (or of what else) is there, at once.
    Tree {
        root: FilePath,
        /// All that it holds; the root first.
        entries: Vec<(FilePath, Entry)>,
        /// Files of it that the present folder holds already.
        keep: BTreeSet<FilePath>,
    },
    /// What is at one place is to be at another, as it is.
    Move { from: FilePath, to: FilePath },
    /// A folder with this mode.
    Folder { path: FilePath, mode: u32 },
    /// A file.
    File {
        path: FilePath,
        file: FileEntry,
        /// Its bytes are there already; its mode or its time changes.
        bytes_stand: bool,
    },
    /// A symbolic link.
    Link { path: FilePath, target: LinkTarget },
    /// Nothing at and below the path.
    Remove { root: FilePath },
}

impl Job {
    /// What is different about the tree once the job is done.
    pub(crate) fn done(&self, shown: &mut Shown, wanted: &Manifest) {
        let (gone, come) = match self {
            Self::Tree { root, .. } => (Some(root), Some(root)),
            Self::Move { from, to } => (Some(from), Some(to)),
            Self::Remove { root } => (Some(root), None),
            Self::Folder { path, .. } => {
                if let Some(live) = wanted.get(path) {
                    shown.insert(path.clone(), live.clone());
                }
                return;
            }
            Self::File { path, .. } | Self::Link { path, .. } => (Some(path), Some(path)),
        };
        if let Some(root) = gone {
            for path in within(shown, root) {
                shown.remove(&path);
            }
        }
        if let Some(root) = come {
            for (path, live) in wanted.tree(root) {
                shown.insert(path.clone(), live.clone());
            }
        }
    }

    /// The files whose bytes it needs.
    pub(crate) fn needs(&self) -> Vec<&FileEntry> {
        match self {
            Self::Tree { entries, keep, .. } => {
                let lacking = entries.iter().filter(|(path, _)| !keep.contains(path));
                lacking.filter_map(|(_, entry)| entry.file()).collect()
            }
            Self::File {
                file,
                bytes_stand: false,
                ..
            } => vec![file],
            _ => Vec::new(),
        }
    }
}

/// What one change of the manifest asks for, still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) version: u64,
    /// In this order.
    pub(crate) jobs: Vec<Job>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Paths that are as they should be, but for the version.
    pub(crate) same: Vec<(FilePath, Live)>,
    /// In the order of the log.
    pub(crate) units: Vec<Unit>,
}

fn within(shown: &Shown, root: &FilePath) -> Vec<FilePath> {
    let (from, to) = root.below();
    let below = shown.range(from..to).map(|(path, _)| path.clone());
    shown
        .contains_key(root)
        .then(|| root.clone())
        .into_iter()
        .chain(below)
        .collect()
}

fn stands(shown: &Shown, path: &FilePath, entry: &Entry) -> bool {
    shown.get(path).is_some_and(|live| live.entry == *entry)
}

/// The difference between what is shown and what is wanted.
pub(crate) fn plan(shown: &Shown, wanted: &Manifest) -> Plan {
    let mut builder = Builder {
        shown,
        wanted,
        same: Vec::new(),
        roots: BTreeSet::new(),
        moved: BTreeSet::new(),
        puts: BTreeMap::new(),
        removals: BTreeMap::new(),
    };
    for difference in shown.diff(wanted.live()) {
        match difference {
            DiffItem::Add(path, new) => builder.put(path, None, new),
            DiffItem::Update {
                old: (path, old),
                new: (_, new),
            } => builder.put(path, Some(old), new),
            DiffItem::Remove(path, _) => builder.remove(path),
        }
    }
    builder.build()
}

/// A tree that was to appear as a whole and is not complete appears as a whole still.
pub(crate) fn incomplete_trees_are_not_shown(shown: &mut Shown, wanted: &Manifest) {
    let mut incomplete = Vec::new();
    for difference in shown.diff(wanted.live()) {
        let path = match difference {
            DiffItem::Add(path, _) | DiffItem::Remove(path, _) => path,
            DiffItem::Update { new: (path, _), .. } => path,
        };
        let around = path.ancestors().chain([path.clone()]);
        let whole = |root: &FilePath| wanted.get(root).is_some_and(|live| live.origin != Origin::Put);
        incomplete.extend(around.into_iter().find(whole));
    }
    for root in incomplete {
        if let Some(live) = shown.get_mut(&root) {
            live.version = 0;
        }
    }
}

struct Builder<'a> {
    shown: &'a Shown,
    wanted: &'a Manifest,
    same: Vec<(FilePath, Live)>,
    /// Trees that appear as a whole.
    roots: BTreeSet<FilePath>,
    /// Where something is taken from whole.
    moved: BTreeSet<FilePath>,
    puts: BTreeMap<u64, Vec<Job>>,
    /// With the version that removed them.
    removals: BTreeMap<FilePath, u64>,
}

impl Builder<'_> {
    /// The outermost tree around the path that has been replaced and is not shown like that yet.
    fn fresh_root(&self, path: &FilePath) -> Option<FilePath> {
        let around = path.ancestors().chain([path.clone()]);
        around.into_iter().find(|root| {
            let Some(live) = self.wanted.get(root) else {
                return false;
            };
            let shown = self.shown.get(root).map(|shown| shown.version);
            live.entry.is_directory() && live.origin != Origin::Put && shown != Some(live.version)
        })
    }

    fn put(&mut self, path: &FilePath, old: Option<&Live>, new: &Live) {
        if let Some(root) = self.fresh_root(path) {
            self.roots.insert(root);
            return;
        }
        if old.is_some_and(|old| old.entry == new.entry) {
            self.same.push((path.clone(), new.clone()));
            return;
        }
        let job = match (&new.entry, &new.origin) {
            (Entry::Directory { mode }, _) => Job::Folder {
                path: path.clone(),
                mode: *mode,
            },
            (_, Origin::Moved(from)) if self.can_move(from, path) => {
                self.moved.insert(from.clone());
                Job::Move {
                    from: from.clone(),
                    to: path.clone(),
                }
            }
            (Entry::File(file), _) => Job::File {
                path: path.clone(),
                file: file.clone(),
                bytes_stand: old
                    .and_then(|old| old.entry.file())
                    .is_some_and(|old| (old.content, old.layout, old.size) == (file.content, file.layout, file.size)),
            },
            (Entry::Symlink { target }, _) => Job::Link {
                path: path.clone(),
                target: target.clone(),
            },
        };
        self.puts.entry(new.version).or_default().push(job);
    }

    fn remove(&mut self, path: &FilePath) {
        if self.fresh_root(path).is_some() {
            return;
        }
        let until = self.wanted.past(path).next_back().map_or(0, |past| past.until);
        // All of it goes with the outermost folder that goes.
        let mut top = path.clone();
        while let Some(above) = top.parent() {
            match self.wanted.get(&above) {
                Some(live) if live.entry.is_directory() => break,
                // What takes the folder's place takes all of it away.
                Some(_) => return,
                None => top = above,
            }
        }
        let version = self.removals.entry(top).or_default();
        *version = until.max(*version);
    }

    /// Whether what is shown at `from` is, as it is, what is wanted at `to`.
    fn can_move(&self, from: &FilePath, to: &FilePath) -> bool {
        // What is below the place is there in a folder that was made for it, before the folder itself was to be shown.
        let is_taken = !within(self.shown, to).is_empty();
        if self.wanted.get(from).is_some() || is_taken || to.is_within(from) {
            return false;
        }
        let parent_stands = to.parent().is_none_or(|parent| {
            let shown = self.shown.get(&parent);
            shown.is_some_and(|live| live.entry.is_directory())
        });
        let there = within(self.shown, from);
        let mut count = 0;
        let all_wanted = self.wanted.tree(to).all(|(path, live)| {
            count += 1;
            let before = path.moved(to, from);
            before.is_some_and(|before| stands(self.shown, &before, &live.entry))
        });
        parent_stands && all_wanted && count == there.len() && count > 0
    }

    fn tree(&self, root: &FilePath) -> Job {
        let all = self.wanted.tree(root);
        let entries: Vec<(FilePath, Entry)> = all.map(|(path, live)| (path.clone(), live.entry.clone())).collect();
        let kept = entries
            .iter()
            .filter(|(path, entry)| entry.file().is_some() && stands(self.shown, path, entry));
        Job::Tree {
            root: root.clone(),
            keep: kept.map(|(path, _)| path.clone()).collect(),
            entries,
        }
    }

    fn build(mut self) -> Plan {
        let mut units: BTreeMap<u64, Vec<Job>> = BTreeMap::new();
        for root in &self.roots {
            let Some(live) = self.wanted.get(root) else { continue };
            let job = match &live.origin {
                Origin::Moved(from) if self.can_move(from, root) => {
                    self.moved.insert(from.clone());
                    Job::Move {
                        from: from.clone(),
                        to: root.clone(),
                    }
                }
                _ => self.tree(root),
            };
            units.entry(live.version).or_default().push(job);
        }
        for (version, mut jobs) in std::mem::take(&mut self.puts) {
            // Folders first, and parents before children.
            jobs.sort_by_key(|job| !matches!(job, Job::Folder { .. }));
            units.entry(version).or_default().extend(jobs);
        }
        for (root, version) in std::mem::take(&mut self.removals) {
            if self.moved.contains(&root) {
                continue;
            }
            units.entry(version).or_default().push(Job::Remove { root });
        }
        self.move_only_what_stands(&mut units);
        Plan {
            same: self.same,
            units: units
                .into_iter()
                .map(|(version, jobs)| Unit { version, jobs })
                .collect(),
        }
    }

    /// What an earlier job takes away, or has moved already, cannot be moved, nor can anything to where an earlier job makes something:
    /// it is made from its contents, and what was to be moved goes.
    fn move_only_what_stands(&self, units: &mut BTreeMap<u64, Vec<Job>>) {
        let (mut gone, mut made) = (BTreeSet::new(), BTreeSet::new());
        let has_within = |set: &BTreeSet<FilePath>, path: &FilePath| {
            let (after, before) = path.below();
            set.contains(path) || set.range(after..before).next().is_some()
        };
        for jobs in units.values_mut() {
            let mut left_over = Vec::new();
            for job in jobs.iter_mut() {
                if let Job::Move { from, to } = job {
                    let is_gone = from.ancestors().any(|path| gone.contains(&path)) || has_within(&gone, from);
                    if is_gone || has_within(&made, to) {
                        left_over.push(Job::Remove { root: from.clone() });
                        *job = self.made(to);
                    }
                }
                let (going, coming) = match &*job {
                    Job::Remove { root } => (Some(root), None),
                    Job::Move { from, to } => (Some(from), Some(to)),
                    Job::Tree { root: path, .. } | Job::File { path, .. } | Job::Link { path, .. } => {
                        (Some(path), Some(path))
                    }
                    Job::Folder { path, .. } => (None, Some(path)),
                };
                gone.extend(going.cloned());
                made.extend(coming.cloned());
            }
            gone.extend(left_over.iter().filter_map(|job| match job {
                Job::Remove { root } => Some(root.clone()),
                _ => None,
            }));
            jobs.extend(left_over);
        }
    }

    /// The job that makes what is wanted at a path where nothing is.
    fn made(&self, path: &FilePath) -> Job {
        match self.wanted.get(path).map(|live| &live.entry) {
            Some(Entry::File(file)) => Job::File {
                path: path.clone(),
                file: file.clone(),
                bytes_stand: false,
            },
            Some(Entry::Symlink { target }) => Job::Link {
                path: path.clone(),
                target: target.clone(),
            },
            _ => self.tree(path),
        }
    }
}
