//! What is made on disk is seen, whatever happens to the folders that it is in.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use super::*;

/// After this, nothing more comes.
const QUIET: Duration = Duration::from_millis(300);

struct Place {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        for area in EDITABLE {
            fs::create_dir(root.join(std::str::from_utf8(area).unwrap())).unwrap();
        }
        Self { _dir: dir, root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join("tenant-resources").join(path)
    }
}

/// All events, until it is quiet.
fn drain(watch: &mut Watch) -> Vec<Event> {
    let (mut all, mut last) = (Vec::new(), Instant::now());
    while last.elapsed() < QUIET {
        match watch.events.try_recv() {
            Ok(event) => {
                all.push(event);
                last = Instant::now();
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    all
}

fn seen(events: &[Event]) -> BTreeSet<String> {
    let paths = events.iter().filter_map(|event| match event {
        Event::Seen(path, _) => path.to_string().strip_prefix("tenant-resources/").map(str::to_owned),
        _ => None,
    });
    paths.collect()
}

#[test]
fn whatever_is_made_in_new_folders_is_seen() {
    let place = Place::new();
    let mut watch = Watch::begin(&place.root).unwrap();
    let mut wanted = BTreeSet::new();
    for round in 0..200 {
        fs::create_dir_all(place.at(&format!("{round}/a/b"))).unwrap();
        fs::write(place.at(&format!("{round}/a/b/first")), "x").unwrap();
        fs::rename(place.at(&format!("{round}")), place.at(&format!("r{round}"))).unwrap();
        fs::write(place.at(&format!("r{round}/a/b/second")), "x").unwrap();
        fs::rename(place.at(&format!("r{round}/a")), place.at(&format!("r{round}/c"))).unwrap();
        fs::write(place.at(&format!("r{round}/c/b/third")), "x").unwrap();
        wanted.extend(["first", "second", "third"].map(|name| format!("r{round}/c/b/{name}")));
    }
    let found = seen(&drain(&mut watch));
    let missed: Vec<_> = wanted.difference(&found).collect();
    assert!(missed.is_empty(), "{missed:?}");
    // And they are watched where they are now.
    fs::write(place.at("r7/c/b/later"), "x").unwrap();
    fs::remove_file(place.at("r9/c/b/third")).unwrap();
    let found = seen(&drain(&mut watch));
    assert_eq!(
        found,
        BTreeSet::from(["r7/c/b/later".to_owned(), "r9/c/b/third".to_owned()])
    );
}

#[test]
fn an_area_that_comes_anew_is_watched_and_nothing_else_is() {
    let place = Place::new();
    let mut watch = Watch::begin(&place.root).unwrap();
    fs::remove_dir(place.at("")).unwrap();
    fs::create_dir(place.root.join("blueprints")).unwrap();
    fs::write(place.root.join("blueprints/x"), "x").unwrap();
    fs::create_dir(place.at("")).unwrap();
    fs::write(place.at("a"), "x").unwrap();
    let events = drain(&mut watch);
    assert!(seen(&events).contains("a"), "{events:?}");
    assert!(!format!("{events:?}").contains("blueprints"), "{events:?}");
    // Links are not followed: what is behind one is nobody's.
    std::os::unix::fs::symlink("../blueprints", place.at("link")).unwrap();
    drain(&mut watch);
    fs::write(place.root.join("blueprints/y"), "y").unwrap();
    assert_eq!(drain(&mut watch), []);
}

#[test]
fn events_that_were_lost_are_told_and_all_folders_are_watched_again() {
    let place = Place::new();
    let mut watch = Watch::begin(&place.root).unwrap();
    // Nobody takes events meanwhile: first ours wait, then the queue is full, and each file is two.
    for number in 0..=(WAITING + QUEUED) / 2 {
        fs::write(place.at(&format!("f{number}")), "").unwrap();
    }
    fs::create_dir_all(place.at("unseen/below")).unwrap();
    let events = drain(&mut watch);
    assert!(events.contains(&Event::Lost), "of {} events", events.len());
    fs::write(place.at("unseen/below/file"), "x").unwrap();
    assert!(seen(&drain(&mut watch)).contains("unseen/below/file"));
}

#[test]
fn a_limit_is_told() {
    let place = Place::new();
    for number in 0..10 {
        fs::create_dir_all(place.at(&format!("{number}"))).unwrap();
    }
    let limits = Limits {
        watches: 5,
        ..Limits::default()
    };
    let mut watch = Watch::begin_with(&place.root, limits).unwrap();
    let events = drain(&mut watch);
    let [Event::Blind(reason)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert!(reason.contains("fs.inotify.max_user_watches"), "{reason}");
    // Told once, and what is watched is still told.
    fs::create_dir(place.at("another")).unwrap();
    let events = drain(&mut watch);
    assert_eq!(seen(&events), BTreeSet::from(["another".to_owned()]));
    assert!(
        !events.iter().any(|event| matches!(event, Event::Blind(_))),
        "{events:?}"
    );
}

#[test]
fn it_begins_anew_when_many_folders_were_deleted() {
    let place = Place::new();
    let limits = Limits {
        deleted: 10,
        ..Limits::default()
    };
    let mut watch = Watch::begin_with(&place.root, limits).unwrap();
    fs::create_dir_all(place.at("stays/below")).unwrap();
    for number in 0..20 {
        let folder = place.at(&format!("{number}"));
        fs::create_dir(&folder).unwrap();
        fs::remove_dir(&folder).unwrap();
    }
    let events = drain(&mut watch);
    assert!(events.contains(&Event::Lost), "{events:?}");
    fs::write(place.at("stays/below/file"), "x").unwrap();
    assert!(seen(&drain(&mut watch)).contains("stays/below/file"));
}
