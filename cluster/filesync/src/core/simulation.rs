//! Nodes that follow a manifest while they crash, and chunks that are lost, late or wrong on their way.
//!
//! Every run is made of one seed: `CONCLAVE_SIM_SEED=N` repeats one, `CONCLAVE_SIM_SEEDS=N` runs as many.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_catalog::files::{
    ContentHash, Entry, Expected, FileEntry, FilePath, FilesCommand, Layout, Live, Manifest, Modified, Origin, Step,
};

use super::fetch::{Ask, Fetcher, Input};
use super::plan::{Job, Shown, incomplete_trees_are_not_shown, plan};

const NODES: u64 = 3;
const CHANGES: u64 = 40;
/// Steps after which a world without new changes and faults must have come to rest.
const REST_STEPS: usize = 4000;

/// SplitMix64: a few lines, and the same on every machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

type Disk = BTreeMap<FilePath, Entry>;

/// An answer on its way.
struct Answer {
    due: u64,
    to: usize,
    ask: Ask,
}

struct Node {
    known: Manifest,
    disk: Disk,
    shown: Shown,
    chunks: BTreeSet<ContentHash>,
    fetcher: Fetcher,
}

struct World {
    chance: Chance,
    now: u64,
    history: Vec<Manifest>,
    /// Every state that each whole tree ever had; the absence of it is one.
    trees: HashMap<FilePath, Vec<Disk>>,
    nodes: Vec<Node>,
    answers: Vec<Answer>,
    faults: bool,
}

fn path(text: &str) -> FilePath {
    FilePath::new(text).unwrap()
}

fn within(disk: &Disk, root: &FilePath) -> Vec<FilePath> {
    disk.keys().filter(|at| at.is_within(root)).cloned().collect()
}

fn subtree(disk: &Disk, root: &FilePath) -> Disk {
    let all = disk.iter().filter(|(at, _)| at.is_within(root));
    all.map(|(at, entry)| (at.clone(), entry.clone())).collect()
}

fn manifest_disk(manifest: &Manifest) -> Disk {
    let live = manifest.live().iter();
    live.map(|(at, live)| (at.clone(), live.entry.clone())).collect()
}

impl World {
    fn new(seed: u64) -> Self {
        let node = || Node {
            known: Manifest::default(),
            disk: Disk::new(),
            shown: Shown::new(),
            chunks: BTreeSet::new(),
            fetcher: Fetcher::default(),
        };
        Self {
            chance: Chance(seed),
            now: 0,
            history: vec![Manifest::default()],
            trees: HashMap::new(),
            nodes: (0..NODES).map(|_| node()).collect(),
            answers: Vec::new(),
            faults: true,
        }
    }

    fn file(&mut self) -> Entry {
        let mut content = [0; 32];
        content[0] = u8::try_from(self.chance.below(24)).unwrap();
        let content = ContentHash(content);
        // As an upload does: on a majority before it is named.
        let spared = usize::try_from(self.chance.below(NODES)).unwrap();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if number != spared {
                node.chunks.insert(content);
            }
        }
        Entry::File(FileEntry {
            content,
            layout: Layout::Whole,
            size: content.0[0].into(),
            mode: if self.chance.one_in(4) { 0o600 } else { 0o644 },
            modified: Modified::default(),
        })
    }

    fn whole(&mut self) -> FilePath {
        path(&format!("whole/{}", self.chance.below(3)))
    }

    fn loose(&mut self) -> FilePath {
        let names = [
            "loose/a",
            "loose/a/b",
            "loose/a/b/c",
            "loose/a-b",
            "loose/d",
            "loose/d/e",
        ];
        path(names[usize::try_from(self.chance.below(6)).unwrap()])
    }

    fn change(&mut self) {
        let (expected, directory) = (Expected::Anything, Entry::Directory { mode: 0o755 });
        let steps = match self.chance.below(8) {
            0..=2 => {
                let root = self.whole();
                let mut entries = vec![(root.clone(), directory)];
                for name in ["x", "y", "z"] {
                    if !self.chance.one_in(3) {
                        entries.push((root.join(name).unwrap(), self.file()));
                    }
                }
                vec![Step::ReplaceTree {
                    root,
                    entries,
                    expected,
                }]
            }
            3 => vec![Step::Rename {
                from: self.whole(),
                to: self.whole(),
                expected,
            }],
            4 => vec![Step::Rename {
                from: self.loose(),
                to: self.loose(),
                expected,
            }],
            5 => vec![Step::Remove {
                root: if self.chance.one_in(2) {
                    self.whole()
                } else {
                    self.loose()
                },
                expected,
            }],
            6 => vec![Step::Put {
                path: self.loose(),
                entry: directory,
                expected,
            }],
            _ => {
                let (first, second) = (self.file(), self.file());
                let put = |path, entry| Step::Put { path, entry, expected };
                vec![put(self.loose(), first), put(self.loose(), second)]
            }
        };
        let mut next = self.history.last().unwrap().clone();
        let index = u64::try_from(self.history.len()).unwrap();
        // One that does not fit changes nothing, as in Raft.
        let _fits = next.apply(index, FilesCommand::Change { set: None, steps });
        for number in 0..3 {
            let root = path(&format!("whole/{number}"));
            let state = subtree(&manifest_disk(&next), &root);
            let states = self.trees.entry(root).or_insert_with(|| vec![Disk::new()]);
            if !states.contains(&state) {
                states.push(state);
            }
        }
        self.history.push(next);
    }

    fn follow(&mut self, number: usize) {
        let at = self.nodes[number].known.version();
        let newest = u64::try_from(self.history.len()).unwrap() - 1;
        let ahead = newest.saturating_sub(at);
        if ahead > 0 {
            let to = at + 1 + self.chance.below(ahead);
            let to = if self.faults { to } else { newest };
            self.nodes[number].known = self.history[usize::try_from(to).unwrap()].clone();
        }
    }

    /// One pass, or the beginning of one: a crash comes between two jobs.
    fn pass(&mut self, number: usize) {
        let jobs_done = if self.faults && self.chance.one_in(3) {
            usize::try_from(self.chance.below(3)).unwrap()
        } else {
            usize::MAX
        };
        let now = Duration::from_millis(self.now);
        let node = &mut self.nodes[number];
        let plan = plan(&node.shown, &node.known);
        for (at, live) in plan.same {
            node.shown.insert(at, live);
        }
        let (mut wants, mut done, mut complete) = (Vec::new(), 0, true);
        for unit in plan.units {
            let needs: Vec<&FileEntry> = unit.jobs.iter().flat_map(Job::needs).collect();
            let chunks = &self.nodes[number].chunks;
            let lacks = needs.iter().filter(|file| !chunks.contains(&file.content));
            let lacks: Vec<_> = lacks.map(|file| (file.content, file.size)).collect();
            if !lacks.is_empty() {
                wants.extend(lacks);
                complete = false;
                continue;
            }
            for job in unit.jobs {
                if done == jobs_done {
                    self.crash(number);
                    return;
                }
                let node = &mut self.nodes[number];
                work(&mut node.disk, &job, &node.known);
                job.done(&mut node.shown, &node.known);
                done += 1;
                self.check_whole_trees(number);
            }
        }
        let node = &mut self.nodes[number];
        if complete {
            assert_eq!(
                node.disk,
                manifest_disk(&node.known),
                "a complete pass has done everything"
            );
            node.shown = node.known.live().clone();
        }
        let asks = node.fetcher.step(now, Input::Want(wants));
        self.send(number, asks);
    }

    /// A tree that is only ever replaced as a whole is never seen as a mixture.
    fn check_whole_trees(&self, number: usize) {
        for (root, states) in &self.trees {
            let seen = subtree(&self.nodes[number].disk, root);
            assert!(
                states.contains(&seen),
                "node {number} shows a mixture at {root}: {seen:#?}"
            );
        }
    }

    /// What was remembered is lost; the disk is looked at as a starting node does.
    fn crash(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let mut shown = Shown::new();
        for (at, entry) in &node.disk {
            let live = node
                .known
                .get(at)
                .filter(|live| live.entry == *entry || (live.entry.is_directory() && entry.is_directory()));
            let past = || {
                node.known
                    .past(at)
                    .find(|past| past.entry == *entry)
                    .map(|past| past.version)
            };
            let live = match live {
                Some(live) => Live {
                    entry: entry.clone(),
                    ..live.clone()
                },
                None => {
                    let known = entry.is_directory() || past().is_some();
                    assert!(
                        known,
                        "node {number} takes {at}, which it put there, for somebody's edit"
                    );
                    Live {
                        entry: entry.clone(),
                        version: past().unwrap_or_default(),
                        origin: Origin::Put,
                    }
                }
            };
            shown.insert(at.clone(), live);
        }
        incomplete_trees_are_not_shown(&mut shown, &node.known);
        node.shown = shown;
        node.fetcher = Fetcher::default();
        self.answers.retain(|answer| answer.to != number);
        let peers = (0..NODES).filter(|id| *id != number as u64).map(NodeId).collect();
        let asks = self.nodes[number]
            .fetcher
            .step(Duration::from_millis(self.now), Input::Peers(peers));
        self.send(number, asks);
    }

    fn send(&mut self, to: usize, asks: Vec<Ask>) {
        for ask in asks {
            let due = self.now + 1 + self.chance.below(50);
            self.answers.push(Answer { due, to, ask });
        }
    }

    /// One answer arrives: whole, in part, wrong, or not at all.
    fn deliver(&mut self) {
        self.now += 1 + self.chance.below(20);
        let due: Vec<usize> = (0..self.answers.len())
            .filter(|at| self.answers[*at].due <= self.now)
            .collect();
        let now = Duration::from_millis(self.now);
        if due.is_empty() {
            for number in 0..self.nodes.len() {
                let asks = self.nodes[number].fetcher.step(now, Input::Tick);
                self.send(number, asks);
            }
            return;
        }
        let chosen = due[usize::try_from(self.chance.below(due.len() as u64)).unwrap()];
        let Answer { to, ask, .. } = self.answers.swap_remove(chosen);
        let peer = usize::try_from(ask.peer.0).unwrap();
        let breaks = self.faults && self.chance.one_in(5);
        let mut inputs = Vec::new();
        for hash in &ask.hashes {
            if breaks && self.chance.one_in(2) {
                break;
            }
            if !self.nodes[peer].chunks.contains(hash) {
                continue;
            }
            if self.faults && self.chance.one_in(20) {
                inputs.push(Input::Wrong(ask.peer, *hash));
                continue;
            }
            self.nodes[to].chunks.insert(*hash);
            inputs.push(Input::Got(*hash));
        }
        inputs.push(if breaks {
            Input::Failed(ask.id)
        } else {
            Input::Answered(ask.id)
        });
        for input in inputs {
            let asks = self.nodes[to].fetcher.step(now, input);
            self.send(to, asks);
        }
    }

    fn run(&mut self) {
        for number in 0..self.nodes.len() {
            self.crash(number);
        }
        let mut changes = 0;
        while changes < CHANGES {
            let number = usize::try_from(self.chance.below(NODES)).unwrap();
            match self.chance.below(10) {
                0 => {
                    self.change();
                    changes += 1;
                }
                1..=2 => self.follow(number),
                3..=5 => self.pass(number),
                6 if self.chance.one_in(3) => self.crash(number),
                _ => self.deliver(),
            }
        }
        self.faults = false;
        for step in 0.. {
            assert!(step < REST_STEPS, "the nodes do not come to rest");
            for number in 0..self.nodes.len() {
                self.follow(number);
                self.pass(number);
            }
            let wanted = manifest_disk(self.history.last().unwrap());
            if self.nodes.iter().all(|node| node.disk == wanted) {
                return;
            }
            self.deliver();
        }
    }
}

/// What a job does to a disk.
fn work(disk: &mut Disk, job: &Job, wanted: &Manifest) {
    let clear = |disk: &mut Disk, root: &FilePath| {
        for at in within(disk, root) {
            disk.remove(&at);
        }
    };
    let make_way = |disk: &mut Disk, to: &FilePath| {
        for above in to.ancestors() {
            if disk.get(&above).is_none_or(|entry| !entry.is_directory()) {
                let entry = match wanted.get(&above).map(|live| &live.entry) {
                    Some(entry) if entry.is_directory() => entry.clone(),
                    _ => Entry::Directory { mode: 0o755 },
                };
                disk.insert(above, entry);
            }
        }
    };
    match job {
        Job::Tree { root, entries, keep } => {
            for at in keep {
                let kept = entries.iter().find(|(other, _)| other == at).map(|(_, entry)| entry);
                assert_eq!(disk.get(at), kept, "what is to be kept is there");
            }
            clear(disk, root);
            make_way(disk, root);
            disk.extend(entries.iter().cloned());
        }
        Job::Move { from, to } => {
            assert!(!disk.contains_key(to), "nothing is in the way of a move");
            let moved = subtree(disk, from);
            assert!(!moved.is_empty(), "there is something to move");
            clear(disk, from);
            make_way(disk, to);
            disk.extend(
                moved
                    .into_iter()
                    .map(|(at, entry)| (at.moved(from, to).unwrap(), entry)),
            );
        }
        Job::Folder { path, mode } => {
            make_way(disk, path);
            if disk.get(path).is_some_and(|entry| !entry.is_directory()) {
                clear(disk, path);
            }
            disk.insert(path.clone(), Entry::Directory { mode: *mode });
        }
        Job::File {
            path,
            file,
            bytes_stand,
        } => {
            if *bytes_stand {
                let same = disk.get(path).and_then(Entry::file).map(|there| there.content);
                assert_eq!(same, Some(file.content), "the bytes stand");
            }
            clear(disk, path);
            make_way(disk, path);
            disk.insert(path.clone(), Entry::File(file.clone()));
        }
        Job::Link { path, target } => {
            clear(disk, path);
            make_way(disk, path);
            let target = target.clone();
            disk.insert(path.clone(), Entry::Symlink { target });
        }
        Job::Remove { root } => clear(disk, root),
    }
}

#[test]
fn nodes_come_to_show_the_manifest_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("CONCLAVE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CONCLAVE_SIM_SEEDS").unwrap_or(1000),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        if let Err(why) = run {
            eprintln!("seed {seed}: repeat it with CONCLAVE_SIM_SEED={seed}");
            std::panic::resume_unwind(why);
        }
    }
}
