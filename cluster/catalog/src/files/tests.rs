//! What the manifest must do, and what it must never do.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn path(text: &str) -> FilePath {
    FilePath::new(text).unwrap()
}

fn file(number: u8) -> Entry {
    Entry::File(FileEntry {
        content: ContentHash([number; 32]),
        layout: Layout::Whole,
        size: u64::from(number),
        mode: 0o644,
        modified: Modified::default(),
    })
}

fn folder() -> Entry {
    Entry::Directory { mode: 0o755 }
}

fn link(target: &str) -> Entry {
    Entry::Symlink {
        target: LinkTarget::new(target),
    }
}

fn change(steps: Vec<Step>) -> FilesCommand {
    FilesCommand::Change { set: None, steps }
}

fn put(at: &str, entry: Entry) -> Step {
    Step::Put {
        path: path(at),
        entry,
        expected: Expected::Anything,
    }
}

fn tree(root: &str, entries: &[(&str, Entry)]) -> Step {
    Step::ReplaceTree {
        root: path(root),
        entries: entries.iter().map(|(at, entry)| (path(at), entry.clone())).collect(),
        expected: Expected::Anything,
    }
}

fn remove(at: &str) -> Step {
    Step::Remove {
        root: path(at),
        expected: Expected::Anything,
    }
}

fn rename(from: &str, to: &str) -> Step {
    Step::Rename {
        from: path(from),
        to: path(to),
        expected: Expected::Anything,
    }
}

fn names(manifest: &Manifest) -> Vec<String> {
    manifest.live().keys().map(ToString::to_string).collect()
}

#[test]
fn bad_paths_are_refused() {
    let long = "x".repeat(256);
    for (bytes, fault) in [
        ("", PathFault::Empty),
        ("/etc/passwd", PathFault::Empty),
        ("a//b", PathFault::Empty),
        ("a/", PathFault::Empty),
        ("a/../b", PathFault::Dots),
        ("./a", PathFault::Dots),
        ("a\0b", PathFault::Zero),
        (long.as_str(), PathFault::LongPart),
        ("a/.conclave-new.1", PathFault::Reserved),
    ] {
        assert_eq!(FilePath::new(bytes), Err(fault), "{bytes:?}");
    }
    let deep = vec!["d"; 2000].join("/");
    assert_eq!(FilePath::new(&deep), Err(PathFault::Long));
    for odd in [" ", "\n", "-rf", "~", "dot.", ".syncthing.x.tmp", "...", "ä\u{308}"] {
        FilePath::new(odd).unwrap();
    }
}

#[test]
fn links_stay_inside() {
    for (at, target, inside) in [
        ("a", "b", true),
        ("a", "..", false),
        ("a/b", "../c", true),
        ("a/b", "../../c", false),
        ("a/b/c", "../../../etc", false),
        ("a", "/etc/shadow", false),
        ("a", "", false),
        ("a", "b/../../c", false),
        ("a/l", "./l", true),
    ] {
        assert_eq!(
            LinkTarget::new(target).stays_inside(&path(at)),
            inside,
            "{at} -> {target}"
        );
    }
    let mut manifest = Manifest::default();
    let refused = manifest.apply(1, change(vec![put("ok", file(1)), put("a", link("../x"))]));
    assert_eq!(refused, Err(FilesRefusal::LinkEscapes(path("a"))));
    assert_eq!(
        manifest,
        Manifest::default(),
        "a refused change leaves nothing, not even its first step"
    );
}

#[test]
fn a_path_has_its_previous_versions() {
    let mut manifest = Manifest::default();
    for index in 1..=3u8 {
        let step = put("tenant-resources/t/a", file(index));
        manifest.apply(u64::from(index), change(vec![step])).unwrap();
    }
    manifest.apply(9, change(vec![remove("tenant-resources")])).unwrap();
    assert!(manifest.is_empty());
    let versions: Vec<(u64, u64)> = manifest
        .past(&path("tenant-resources/t/a"))
        .map(|past| (past.version, past.until))
        .collect();
    assert_eq!(versions, [(1, 2), (2, 3), (3, 9)]);
    for index in 10..40u8 {
        manifest
            .apply(u64::from(index), change(vec![put("tenant-resources/t/a", file(index))]))
            .unwrap();
    }
    assert_eq!(manifest.past(&path("tenant-resources/t/a")).count(), 10);
    manifest
        .apply(500_000, change(vec![put("elsewhere", file(1))]))
        .unwrap();
    assert_eq!(
        manifest.past(&path("tenant-resources/t/a")).count(),
        0,
        "what is old by the log is forgotten"
    );
}

#[test]
fn an_expected_version_is_looked_at() {
    let mut manifest = Manifest::default();
    let put_if = |number, expected| {
        change(vec![Step::Put {
            path: path("a"),
            entry: file(number),
            expected,
        }])
    };
    manifest.apply(5, put_if(1, Expected::Nothing)).unwrap();
    let refused = manifest.apply(6, put_if(2, Expected::Nothing)).unwrap_err();
    assert_eq!(
        refused,
        FilesRefusal::Unexpected {
            path: path("a"),
            found: Found::Version(5)
        }
    );
    manifest.apply(7, put_if(2, Expected::Version(5))).unwrap();
    assert!(manifest.apply(8, put_if(3, Expected::Version(5))).is_err());
    assert_eq!(manifest.get(&path("a")).unwrap().version, 7);
}

#[test]
fn kinds_change_and_trees_move() {
    let mut manifest = Manifest::default();
    let steps = vec![tree("a", &[("a", folder()), ("a/x", file(1)), ("a/s/y", file(2))])];
    manifest.apply(1, change(steps)).unwrap();
    manifest.apply(2, change(vec![put("a-b", file(3))])).unwrap();
    assert_eq!(names(&manifest), ["a", "a-b", "a/s", "a/s/y", "a/x"]);
    manifest.apply(3, change(vec![rename("a", "c/d")])).unwrap();
    assert_eq!(names(&manifest), ["a-b", "c", "c/d", "c/d/s", "c/d/s/y", "c/d/x"]);
    assert_eq!(
        manifest.get(&path("c/d")).unwrap().origin,
        Origin::Moved(path("a")),
        "no content has to move"
    );
    manifest.apply(4, change(vec![put("c/d", file(9))])).unwrap();
    assert_eq!(names(&manifest), ["a-b", "c", "c/d"]);
    let below_a_file = manifest.apply(5, change(vec![put("c/d/e", file(1))]));
    assert!(matches!(below_a_file, Err(FilesRefusal::NoDirectory { .. })));
    manifest
        .apply(6, change(vec![put("c/d", folder()), put("c/d/e", file(1))]))
        .unwrap();
    manifest.apply(7, change(vec![rename("c/d", "c")])).unwrap();
    assert_eq!(
        names(&manifest),
        ["a-b", "c", "c/e"],
        "a folder takes its parent's place"
    );
    assert!(manifest.apply(8, change(vec![rename("c", "c/f")])).is_err());
    // Two names swapped in one change.
    let swap = vec![rename("a-b", "tmp"), rename("c", "a-b"), rename("tmp", "c")];
    manifest.apply(9, change(swap)).unwrap();
    assert_eq!(names(&manifest), ["a-b", "a-b/e", "c"]);
}

#[test]
fn what_a_replaced_tree_keeps_keeps_its_version() {
    let mut manifest = Manifest::default();
    let steps = vec![tree("b", &[("b", folder()), ("b/same", file(1)), ("b/other", file(2))])];
    manifest.apply(1, change(steps)).unwrap();
    let steps = vec![tree("b", &[("b", folder()), ("b/same", file(1)), ("b/other", file(3))])];
    manifest.apply(2, change(steps)).unwrap();
    let version = |at: &str| manifest.get(&path(at)).unwrap().version;
    assert_eq!((version("b"), version("b/same"), version("b/other")), (2, 1, 2));
    assert_eq!(manifest.past(&path("b/same")).count(), 0);
    assert_eq!(manifest.past(&path("b/other")).count(), 1);
}

#[test]
fn what_a_rename_leaves_as_it_was_has_a_past() {
    for put_again in [rename("c", "b/b"), tree("b/b", &[("b/b", link("a"))])] {
        let mut manifest = Manifest::default();
        let steps = vec![put("c", link("a")), put("b/b", link("a"))];
        manifest.apply(1, change(steps)).unwrap();
        let mut alone = manifest.clone();
        alone.apply(2, change(vec![put_again.clone()])).unwrap();
        assert_eq!(alone.get(&path("b/b")).unwrap().version, 1, "{put_again:?}");
        let steps = vec![put_again, put("b", link("a"))];
        manifest.apply(2, change(steps)).unwrap();
        assert_eq!(
            manifest.past(&path("b/b")).count(),
            1,
            "it was to be seen before this change"
        );
    }
}

#[test]
fn a_tree_that_contradicts_itself_is_refused() {
    for entries in [
        [("b", folder()), ("b/c/d", file(1)), ("b/c", file(2))],
        [("b", folder()), ("b/c", file(2)), ("b/c/d", file(1))],
    ] {
        let mut manifest = Manifest::default();
        let refused = manifest.apply(1, change(vec![tree("b", &entries)]));
        assert!(matches!(refused, Err(FilesRefusal::NoDirectory { .. })), "{refused:?}");
        assert!(manifest.is_empty());
    }
}

#[test]
fn a_large_set_is_brought_in_by_parts() {
    let (mut manifest, set) = (Manifest::default(), SetId(uuid::Uuid::from_u128(7)));
    let stage = |part, steps| FilesCommand::Stage { set, part, steps };
    let extend = |at: &str| Step::ExtendTree {
        root: path("b"),
        entries: vec![(path(at), file(1))],
    };
    manifest
        .apply(1, stage(0, vec![tree("b", &[("b", folder()), ("b/1", file(1))])]))
        .unwrap();
    manifest.apply(2, stage(1, vec![extend("b/2")])).unwrap();
    assert!(
        manifest.apply(3, stage(3, vec![extend("b/4")])).is_err(),
        "a part is lost"
    );
    assert_eq!((manifest.len(), manifest.staged().count()), (0, 3));
    let commit = FilesCommand::Change {
        set: Some(set),
        steps: vec![extend("b/3")],
    };
    assert_eq!(manifest.apply(4, commit.clone()), Ok(4));
    assert_eq!(names(&manifest), ["b", "b/1", "b/2", "b/3"]);
    assert_eq!(manifest.apply(5, commit), Err(FilesRefusal::UnknownSet));
    manifest.apply(6, stage(0, vec![extend("b/9")])).unwrap();
    manifest.apply(50_000, change(vec![put("a", file(1))])).unwrap();
    assert_eq!(manifest.staged().count(), 0, "an abandoned set is forgotten");
}

#[test]
fn a_small_change_of_a_large_manifest_is_small() {
    let mut manifest = Manifest::default();
    for tree_number in 0..200u64 {
        let root = format!("blueprints/tenant/{tree_number:04}");
        let entries = (0..1000).map(|number| (path(&format!("{root}/f{number:04}")), file(1)));
        let step = Step::ReplaceTree {
            root: path(&root),
            entries: std::iter::once((path(&root), folder())).chain(entries).collect(),
            expected: Expected::Anything,
        };
        manifest.apply(tree_number + 1, change(vec![step])).unwrap();
    }
    assert!(manifest.len() > 200_000);
    let before = manifest.clone();
    for number in 0..1000u64 {
        let at = format!("blueprints/tenant/{:04}/f{number:04}", number % 200);
        manifest.apply(1000 + number, change(vec![put(&at, file(2))])).unwrap();
        if number == 0 {
            assert_eq!(before.live().diff(manifest.live()).count(), 1);
        }
    }
    assert_eq!(before.live().diff(manifest.live()).count(), 1000);
    assert_eq!(manifest.children(Some(&path("blueprints/tenant"))).len(), 200);
}

/// A model that is too simple to be wrong: paths in a map, everything below a path by comparing every path.
#[derive(Clone, Default)]
struct Model(BTreeMap<Vec<u8>, Entry>);

impl Model {
    fn within(at: &[u8], root: &[u8]) -> bool {
        at == root || at.starts_with(&[root, b"/"].concat())
    }

    fn put(&mut self, at: &FilePath, entry: Entry) -> bool {
        for above in at.ancestors() {
            match self.0.get(above.as_bytes()) {
                Some(entry) if entry.is_directory() => {}
                Some(_) => return false,
                None => {
                    self.0.insert(above.as_bytes().to_vec(), folder());
                }
            }
        }
        let below = self
            .0
            .keys()
            .any(|other| other != at.as_bytes() && Self::within(other, at.as_bytes()));
        if below && !entry.is_directory() {
            return false;
        }
        self.0.insert(at.as_bytes().to_vec(), entry);
        true
    }

    fn remove(&mut self, root: &FilePath) {
        self.0.retain(|at, _| !Self::within(at, root.as_bytes()));
    }

    fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::ReplaceTree { root, entries, .. } => {
                self.remove(root);
                entries.iter().all(|(at, entry)| self.put(at, entry.clone()))
            }
            Step::Put { path, entry, .. } => {
                if !entry.is_directory() {
                    self.remove(path);
                }
                self.put(path, entry.clone())
            }
            Step::Remove { root, .. } => {
                self.remove(root);
                true
            }
            Step::Rename { from, to, .. } => {
                if !self.0.contains_key(from.as_bytes()) || (to != from && to.is_within(from)) {
                    return false;
                }
                let moved: Vec<_> = self
                    .0
                    .iter()
                    .filter(|(at, _)| Self::within(at, from.as_bytes()))
                    .map(|(at, entry)| (at.clone(), entry.clone()))
                    .collect();
                self.remove(from);
                self.remove(to);
                moved.into_iter().all(|(at, entry)| {
                    let at = [to.as_bytes(), &at[from.as_bytes().len()..]].concat();
                    self.put(&FilePath::new(at).unwrap(), entry)
                })
            }
            Step::ExtendTree { .. } => unreachable!("not made here"),
        }
    }
}

fn some_path() -> impl Strategy<Value = FilePath> {
    prop::collection::vec(prop::sample::select(vec!["a", "a-b", "b", "c"]), 1..4)
        .prop_map(|parts| FilePath::new(parts.join("/")).unwrap())
}

fn some_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![(0..4u8).prop_map(file), Just(folder()), Just(link("a"))]
}

fn some_step() -> impl Strategy<Value = Step> {
    let expected = Expected::Anything;
    prop_oneof![
        (some_path(), some_entry()).prop_map(move |(path, entry)| Step::Put { path, entry, expected }),
        some_path().prop_map(move |root| Step::Remove { root, expected }),
        (some_path(), some_path()).prop_map(move |(from, to)| Step::Rename { from, to, expected }),
        (some_path(), prop::collection::vec((some_path(), some_entry()), 0..4)).prop_map(move |(root, below)| {
            let entries = below
                .into_iter()
                .filter_map(|(at, entry)| Some((root.join(at.as_bytes()).ok()?, entry)));
            Step::ReplaceTree {
                entries: std::iter::once((root.clone(), folder())).chain(entries).collect(),
                root,
                expected,
            }
        }),
    ]
}

proptest! {
    #[test]
    fn text_brings_the_bytes_back(bytes in prop::collection::vec(any::<u8>(), 1..40)) {
        if let Ok(path) = FilePath::new(&bytes) {
            prop_assert_eq!(FilePath::from_text(&path.to_string()), Ok(path.clone()));
            let json = serde_json::to_string(&path).unwrap();
            prop_assert_eq!(serde_json::from_str::<FilePath>(&json).unwrap(), path);
        }
    }

    #[test]
    fn it_does_what_the_model_does(changes in prop::collection::vec(prop::collection::vec(some_step(), 1..4), 0..20)) {
        let (mut manifest, mut model) = (Manifest::default(), Model::default());
        let mut ever: BTreeMap<FilePath, Vec<Entry>> = BTreeMap::new();
        for (index, steps) in (1u64..).zip(changes) {
            let before = manifest.clone();
            let mut next = model.clone();
            let fits = steps.iter().all(|step| next.step(step));
            let outcome = manifest.apply(index, change(steps));
            prop_assert_eq!(outcome.is_ok(), fits);
            if fits {
                model = next;
            } else {
                prop_assert_eq!(&manifest, &before, "a refused change changes nothing");
            }
            let live: BTreeMap<_, _> = manifest
                .live()
                .iter()
                .map(|(at, live)| (at.as_bytes().to_vec(), live.entry.clone()))
                .collect();
            prop_assert_eq!(&live, &model.0);
            // Whatever was to be seen after a change is kept: nobody's content is lost.
            for (at, live) in manifest.live() {
                let seen = ever.entry(at.clone()).or_default();
                if !live.entry.is_directory() && seen.last() != Some(&live.entry) {
                    seen.push(live.entry.clone());
                }
            }
            for (at, seen) in &ever {
                let kept: Vec<Entry> = manifest
                    .past(at)
                    .map(|past| past.entry.clone())
                    .chain(manifest.get(at).map(|live| live.entry.clone()))
                    .collect();
                for entry in seen.iter().rev().take(8) {
                    prop_assert!(kept.contains(entry), "{at} has lost {entry:?}");
                }
            }
            // Children are what a look at every path finds.
            let folders = std::iter::once(None).chain(manifest.live().keys().cloned().map(Some));
            for folder in folders {
                let expected: Vec<&FilePath> =
                    manifest.live().keys().filter(|at| at.parent() == folder).collect();
                let found: Vec<&FilePath> =
                    manifest.children(folder.as_ref()).into_iter().map(|(at, _)| at).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
