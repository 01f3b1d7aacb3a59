//! Three real nodes: what is put on one is on all, whatever it is, and whatever happens meanwhile.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use conclave_filesync::{Expected, FilePath, FileSyncError, Modified};
use futures::TryStreamExt;
use support::{Cluster, noise, tree, wait};

fn make_odd_tree(folder: &Path) {
    fs::create_dir_all(folder.join("empty")).unwrap();
    fs::create_dir_all(folder.join("closed")).unwrap();
    for name in [
        " ",
        "new\nline",
        "-rf",
        "~",
        "dot.",
        ".syncthing.x.tmp",
        "back\\slash",
        "a\u{308}",
    ] {
        fs::write(folder.join(name), name).unwrap();
    }
    let long = "x".repeat(255);
    fs::write(folder.join(&long), "long").unwrap();
    fs::write(folder.join(OsStr::from_bytes(b"no\xff\xfeutf8")), "bytes").unwrap();
    fs::write(folder.join("nothing"), "").unwrap();
    fs::write(folder.join("exactly"), noise(64 << 10, 1)).unwrap();
    fs::write(folder.join("one more"), noise((64 << 10) + 1, 1)).unwrap();
    fs::write(folder.join("large"), noise(5 << 20, 2)).unwrap();
    fs::write(folder.join("zeros"), vec![0; 3 << 20]).unwrap();
    let deep = folder.join(vec!["d"; 200].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("deep"), "deep").unwrap();
    symlink("exactly", folder.join("link")).unwrap();
    symlink("loop", folder.join("loop")).unwrap();
    symlink("nowhere", folder.join("dangling")).unwrap();
    fs::write(folder.join("run"), "#!/bin/sh").unwrap();
    fs::write(folder.join("closed/inside"), "inside").unwrap();
    for (name, mode) in [
        ("run", 0o755),
        ("nothing", 0o000),
        ("exactly", 0o777),
        ("closed", 0o500),
    ] {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_set_of_everything_odd_is_on_all_nodes() {
    let cluster = Cluster::of(3);
    let source = cluster.dir.path().join("source");
    make_odd_tree(&source);
    let node = &cluster.nodes[1];
    node.block_on(node.files().put_tree("blueprints/t/odd", &source))
        .unwrap();
    cluster.wait_equal();
    let shown = tree(&cluster.nodes[2].at("blueprints/t/odd"));
    support::assert_same(&shown, &tree(&source));
    let modified = |path: &Path| path.metadata().unwrap().modified().unwrap();
    assert_eq!(
        modified(&cluster.nodes[0].at("blueprints/t/odd/large")),
        modified(&source.join("large"))
    );
    // Kinds change, within one set.
    fs::remove_dir_all(source.join("empty")).unwrap();
    fs::write(source.join("empty"), "a file now").unwrap();
    fs::remove_file(source.join("large")).unwrap();
    fs::create_dir(source.join("large")).unwrap();
    fs::write(source.join("large/x"), "x").unwrap();
    fs::remove_file(source.join("link")).unwrap();
    fs::write(source.join("link"), "no link").unwrap();
    node.block_on(node.files().put_tree("blueprints/t/odd", &source))
        .unwrap();
    cluster.wait_equal();
    support::assert_same(&tree(&cluster.nodes[2].at("blueprints/t/odd")), &tree(&source));
    node.block_on(node.files().rename("blueprints/t/odd", "blueprints/t/even"))
        .unwrap();
    cluster.wait_equal();
    support::assert_same(&tree(&cluster.nodes[0].at("blueprints/t/even")), &tree(&source));
    assert!(!cluster.nodes[0].at("blueprints/t/odd").exists());
    node.block_on(node.files().remove("blueprints/t")).unwrap();
    cluster.wait_equal();
    assert_eq!(fs::read_dir(cluster.nodes[2].at("blueprints")).unwrap().count(), 0);
    // Links that leave the tree are refused, and nothing of their set is taken.
    let bad = cluster.dir.path().join("bad");
    fs::create_dir(&bad).unwrap();
    fs::write(bad.join("good"), "good").unwrap();
    symlink("/etc/shadow", bad.join("shadow")).unwrap();
    let refused = node.block_on(node.files().put_tree("blueprints/t/bad", &bad));
    assert!(matches!(refused, Err(FileSyncError::Refused(..))), "{refused:?}");
    assert!(node.files().entry("blueprints/t/bad").is_none());
}

#[test]
fn what_persons_put_on_disk_is_on_all_nodes() {
    let cluster = Cluster::of(3);
    cluster.wait_equal();
    let [one, two, three] = [0, 1, 2].map(|number| &cluster.nodes[number]);
    // Any node, whether it leads or not.
    for (number, node) in cluster.nodes.iter().enumerate() {
        fs::write(
            node.at(format!("tenant-resources/from{number}")),
            format!("hello {number}"),
        )
        .unwrap();
    }
    wait("all on all", || {
        let there =
            |node: &support::Node| (0..3).all(|number| node.at(format!("tenant-resources/from{number}")).exists());
        cluster.nodes.iter().all(there)
    });
    // A folder that is made and filled at once.
    make_odd_tree(&two.at("global-resources/odd"));
    wait("the odd tree", || {
        three.at("global-resources/odd/closed/inside").exists()
    });
    cluster.wait_equal();
    let wanted = tree(&two.at("global-resources/odd"));
    wait("all of the odd tree", || {
        tree(&one.at("global-resources/odd")) == wanted
    });
    cluster.wait_equal();
    // Changed, removed, renamed, given another mode.
    fs::write(one.at("tenant-resources/from1"), "changed").unwrap();
    fs::remove_file(two.at("tenant-resources/from0")).unwrap();
    fs::rename(three.at("tenant-resources/from2"), three.at("tenant-resources/moved")).unwrap();
    fs::set_permissions(three.at("tenant-resources/moved"), fs::Permissions::from_mode(0o600)).unwrap();
    wait("the changes", || {
        cluster.nodes.iter().all(|node| {
            fs::read(node.at("tenant-resources/from1")).is_ok_and(|bytes| bytes == b"changed")
                && !node.at("tenant-resources/from0").exists()
                && !node.at("tenant-resources/from2").exists()
                && node
                    .at("tenant-resources/moved")
                    .metadata()
                    .is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == 0o600)
        })
    });
    cluster.wait_equal();
    let versions = two.files().versions("tenant-resources/from1").unwrap();
    assert_eq!(versions.len(), 1);
    two.block_on(two.files().restore("tenant-resources/from1", None))
        .unwrap();
    cluster.wait_equal();
    assert_eq!(fs::read(three.at("tenant-resources/from1")).unwrap(), b"hello 1");
    // A link out of the tree stays where it is, is told, and goes nowhere.
    symlink("/etc/shadow", one.at("tenant-resources/shadow")).unwrap();
    wait("the refusal", || {
        one.status()
            .error
            .is_some_and(|error| error.contains("tenant-resources/shadow"))
            || {
                one.put("elsewhere", "x");
                false
            }
    });
    assert!(!two.at("tenant-resources/shadow").is_symlink());
}

#[test]
fn edits_at_once_lose_nothing() {
    let cluster = Cluster::of(3);
    cluster.nodes[0].put("tenant-resources/t/same", "the first");
    cluster.wait_equal();
    for round in 0..5 {
        for (number, node) in cluster.nodes.iter().enumerate() {
            fs::write(node.at("tenant-resources/t/same"), format!("round {round} of {number}")).unwrap();
        }
        cluster.wait_equal();
        // Whatever was there long enough to be read is the present version or a previous one.
        let node = &cluster.nodes[0];
        let present = fs::read(node.at("tenant-resources/t/same")).unwrap();
        let mut kept = vec![present];
        for past in node.files().versions("tenant-resources/t/same").unwrap() {
            let reader = node.block_on(node.files().open_version("tenant-resources/t/same", past.version));
            let pieces: Vec<bytes::Bytes> = node.block_on(reader.unwrap().read_all().try_collect()).unwrap();
            kept.push(pieces.concat());
        }
        for number in 0..3 {
            let written = format!("round {round} of {number}").into_bytes();
            let aside = |node: &support::Node| {
                let quarantine = fs::read_dir(node.dir.join("files/quarantine")).unwrap();
                quarantine
                    .into_iter()
                    .any(|entry| fs::read(entry.unwrap().path()).unwrap() == written)
            };
            assert!(
                kept.contains(&written) || cluster.nodes.iter().any(aside),
                "what node {number} wrote in round {round} is lost"
            );
        }
    }
    let node = &cluster.nodes[1];
    let put = |expected| {
        let source = std::io::Cursor::new(b"new".to_vec());
        node.block_on(
            node.files()
                .put_file("tenant-resources/t/same", source, 0o644, None, expected),
        )
    };
    assert!(matches!(put(Expected::Nothing), Err(FileSyncError::Conflict(_))));
    assert!(matches!(put(Expected::Version(1)), Err(FileSyncError::Conflict(_))));
    let version = node.files().entry("tenant-resources/t/same").unwrap().version;
    put(Expected::Version(version)).unwrap();
}

#[test]
fn damage_is_found_and_healed() {
    let cluster = Cluster::of(3);
    let large = noise(3 << 20, 9);
    cluster.nodes[0].put("plugins/large", &large);
    cluster.nodes[0].put("plugins/small", "small");
    cluster.wait_equal();
    let node = &cluster.nodes[2];
    wait("all chunks", || {
        node.status().chunks == cluster.nodes[0].status().chunks
    });
    // A bit of every stored chunk, and one of a file that is to be seen, with the time as it was.
    let mut flipped = 0;
    for shard in fs::read_dir(node.dir.join("files/chunks")).unwrap() {
        for chunk in fs::read_dir(shard.unwrap().path()).unwrap() {
            let path = chunk.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
            flipped += 1;
        }
    }
    let seen = node.at("plugins/large");
    let modified = seen.metadata().unwrap().modified().unwrap();
    let mut bytes = large.clone();
    bytes[1 << 20] ^= 1;
    fs::write(&seen, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(&seen)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    let report = node.block_on(node.files().scrub()).unwrap();
    assert!(report.healed, "{report:?}");
    assert_eq!(
        (report.damaged_chunks, report.damaged_files.len()),
        (flipped, 1),
        "{report:?}"
    );
    assert_eq!(fs::read(&seen).unwrap(), large);
    let again = node.block_on(node.files().scrub()).unwrap();
    assert_eq!((again.damaged_chunks, again.damaged_files.len()), (0, 0));
    // What was put where nothing may be put is kept outside, and what was there comes back.
    fs::write(node.at("plugins/small"), "something else").unwrap();
    fs::write(node.at("plugins/foreign"), "foreign").unwrap();
    node.block_on(node.files().scrub()).unwrap();
    assert_eq!(fs::read(node.at("plugins/small")).unwrap(), b"small");
    assert!(!node.at("plugins/foreign").exists());
    assert_eq!(fs::read_dir(node.dir.join("files/quarantine")).unwrap().count(), 3);
}

#[test]
fn a_large_file_that_a_failure_of_the_machine_left_half_written_is_made_anew() {
    let mut cluster = Cluster::of(1);
    let paths = [
        "plugins/large",
        "tenant-resources/torn",
        "tenant-resources/short",
        "plugins/whole",
    ];
    for (number, path) in (0..).zip(paths) {
        cluster.nodes[0].put(path, noise(9 << 20, number));
    }
    cluster.wait_equal();
    let version = cluster.nodes[0].version();
    let notes = cluster.nodes[0].dir.join("files/unsynced");
    let length = |path: &Path| path.metadata().unwrap().len();
    wait("everything to be synced", || length(&notes) == 0);
    cluster.nodes[0].kill();
    // What the disk has after a failure: the name, the size and the time, but not all of the bytes; or not even the size.
    let [large, torn, short, whole] = paths.map(|path| cluster.nodes[0].at(path));
    for path in [&large, &torn] {
        let modified = path.metadata().unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[0; 4096], 5 << 20).unwrap();
        file.set_modified(modified).unwrap();
    }
    fs::File::options()
        .write(true)
        .open(&short)
        .unwrap()
        .set_len(0)
        .unwrap();
    let untouched = whole.metadata().unwrap().ino();
    let noted: String = paths
        .iter()
        .map(|path| format!("a boot before this one\0{path}\0\0"))
        .collect();
    fs::write(&notes, noted + "a boot before this one\0plugins/lar").unwrap();
    cluster.nodes[0].resume();
    cluster.wait_equal();
    for (number, path) in (0..).zip([&large, &torn, &short, &whole]) {
        assert_eq!(fs::read(path).unwrap(), noise(9 << 20, number), "{}", path.display());
    }
    assert_eq!(whole.metadata().unwrap().ino(), untouched, "what is whole stays");
    assert_eq!(cluster.nodes[0].version(), version, "nothing of it is an edit");
    let quarantine = cluster.nodes[0].dir.join("files/quarantine");
    assert_eq!(fs::read_dir(quarantine).unwrap().count(), 3);
    wait("everything to be synced", || length(&notes) == 0);
}

#[test]
fn what_is_removed_while_a_node_is_down_that_had_just_shown_it_stays_removed() {
    let mut cluster = Cluster::of(3);
    cluster.wait_equal();
    for number in 0..3 {
        let path = format!("global-resources/{number}");
        cluster.nodes[number].put(&path, noise(9 << 20, 1));
        // Killed before it has noted what it shows.
        cluster.nodes[number].kill();
        fs::write(cluster.nodes[number].dir.join("files/last-shown"), "0").unwrap();
        let other = &cluster.nodes[(number + 1) % 3];
        wait("another node to lead", || {
            other.block_on(other.files().remove(&path)).is_ok()
        });
        cluster.nodes[number].resume();
        cluster.wait_equal();
        for node in &cluster.nodes {
            assert!(!node.at(&path).exists(), "what node {number} had shown is back");
        }
    }
}

#[test]
fn a_lost_store_is_filled_and_a_lost_tree_is_not_a_deletion() {
    let mut cluster = Cluster::of(3);
    let large = noise(20 << 20, 3);
    cluster.nodes[0].put("plugins/large", &large);
    for number in 0..50 {
        cluster.nodes[0].put(&format!("tenant-resources/t/{number}"), number.to_string());
    }
    cluster.wait_equal();
    cluster.nodes[1].kill();
    let dir = cluster.nodes[1].dir.clone();
    fs::remove_dir_all(dir.join("files/chunks")).unwrap();
    cluster.nodes[1].resume();
    let all = cluster.nodes[0].status().chunks;
    wait("the store to be filled", || cluster.nodes[1].status().chunks == all);
    cluster.wait_equal();
    // As a disk that is not mounted.
    cluster.nodes[1].kill();
    fs::rename(dir.join("resources"), dir.join("elsewhere")).unwrap();
    fs::create_dir(dir.join("resources")).unwrap();
    cluster.nodes[1].resume();
    wait("it to be told", || {
        cluster.nodes[1]
            .status()
            .error
            .is_some_and(|error| error.contains("mounted"))
    });
    cluster.nodes[0].put("plugins/later", "later");
    assert!(cluster.nodes[0].files().entry("tenant-resources/t/7").is_some());
    assert_eq!(
        fs::read_dir(dir.join("resources")).unwrap().count(),
        0,
        "nothing is written to it"
    );
    fs::remove_dir(dir.join("resources")).unwrap();
    fs::rename(dir.join("elsewhere"), dir.join("resources")).unwrap();
    cluster.wait_equal();
    // So much at once is no deletion; a person has to say so.
    fs::remove_dir_all(cluster.nodes[1].at("tenant-resources/t")).unwrap();
    wait("the brake", || cluster.nodes[1].status().held_deletions > 0);
    assert!(cluster.nodes[0].at("tenant-resources/t/7").exists());
    cluster.nodes[1].block_on(cluster.nodes[1].files().scrub()).unwrap();
    cluster.wait_equal();
    assert!(cluster.nodes[1].at("tenant-resources/t/7").exists());
}

#[test]
fn a_node_that_was_away_or_is_new_gets_everything() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("tenant-resources/gone", "gone");
    cluster.nodes[0].put("tenant-resources/kind", "a file");
    cluster.wait_equal();
    cluster.nodes[2].kill();
    let (away, large) = (&cluster.nodes[0], noise(30 << 20, 5));
    away.block_on(away.files().remove("tenant-resources/gone")).unwrap();
    away.block_on(away.files().remove("tenant-resources/kind")).unwrap();
    away.put("tenant-resources/kind/inside", "a folder");
    away.put("plugins/large", &large);
    for content in ["one", "two", "three"] {
        away.put("plugins/again", content);
        if content == "two" {
            away.block_on(away.files().remove("plugins/again")).unwrap();
        }
    }
    let many = cluster.dir.path().join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..1000 {
        fs::write(many.join(format!("f{number}")), noise(4096, number)).unwrap();
    }
    away.block_on(away.files().put_tree("blueprints/t/many", &many))
        .unwrap();
    // What was put on its disk meanwhile is taken up; what was deleted elsewhere does not come back.
    fs::write(
        cluster.nodes[2].dir.join("resources/tenant-resources/by hand"),
        "by hand",
    )
    .unwrap();
    cluster.nodes[2].resume();
    wait("what was put by hand", || {
        cluster.nodes[0].at("tenant-resources/by hand").exists()
    });
    cluster.wait_equal();
    assert!(!cluster.nodes[2].at("tenant-resources/gone").exists());
    assert_eq!(fs::read(cluster.nodes[2].at("plugins/again")).unwrap(), b"three");
    let given: Vec<u64> = cluster.nodes.iter().map(|node| node.status().bytes_received).collect();
    cluster.grow();
    cluster.wait_equal();
    assert_eq!(fs::read(cluster.nodes[3].at("plugins/large")).unwrap(), large);
    let received = cluster.nodes[3].status().bytes_received;
    assert!(received < 36 << 20, "{received} bytes for 34 MiB; others: {given:?}");
}

#[test]
fn a_node_that_is_killed_in_the_middle_goes_on_where_it_was() {
    let mut cluster = Cluster::of(3);
    cluster.wait_equal();
    cluster.nodes[2].kill();
    let large = noise(100 << 20, 6);
    cluster.nodes[0].put("plugins/large", &large);
    for _ in 0..3 {
        cluster.nodes[2].resume();
        let before = cluster.nodes[2].status().chunk_bytes;
        wait("some of it", || {
            let status = cluster.nodes[2].status();
            status.chunk_bytes > before + (8 << 20) || status.chunk_bytes >= 100 << 20
        });
        cluster.nodes[2].kill();
    }
    cluster.nodes[2].resume();
    let had = cluster.nodes[2].status().chunk_bytes;
    assert!(had > 16 << 20, "what was there is counted: {had}");
    cluster.wait_equal();
    assert_eq!(fs::read(cluster.nodes[2].at("plugins/large")).unwrap(), large);
    let received = cluster.nodes[2].status().bytes_received;
    assert!(
        received + had < 102 << 20,
        "{received} bytes were fetched though {had} were there"
    );
    let incoming = fs::read_dir(cluster.nodes[2].dir.join("files/incoming")).unwrap();
    assert_eq!(incoming.count(), 0, "nothing is left over");
    // An acknowledged write survives whoever took it.
    let version = cluster.nodes[0].put("plugins/last", "last");
    cluster.nodes[0].kill();
    wait("it on another node", || {
        let node = &cluster.nodes[1];
        node.version() >= version && fs::read(node.at("plugins/last")).is_ok_and(|bytes| bytes == b"last")
    });
}

#[test]
fn a_reader_sees_one_version_and_ranges_are_cut() {
    let cluster = Cluster::of(3);
    let bytes = noise(3 << 20, 7);
    cluster.nodes[0].put("plugins/wheel", &bytes);
    cluster.wait_equal();
    let node = &cluster.nodes[1];
    let reader = node.block_on(node.files().open("plugins/wheel")).unwrap();
    node.put("plugins/wheel", "short");
    let read = |offset, length| -> Vec<u8> {
        let pieces: Vec<bytes::Bytes> = node.block_on(reader.read_range(offset, length).try_collect()).unwrap();
        pieces.concat()
    };
    assert!(read(0, u64::MAX) == bytes, "the version that was opened");
    for (offset, length) in [
        (0u64, 1u64),
        (1 << 20, 1 << 20),
        ((3 << 20) - 1, 5),
        (3 << 20, 5),
        (777_777, 1_234_567),
    ] {
        let start = usize::try_from(offset).unwrap();
        let end = bytes.len().min(start + usize::try_from(length).unwrap());
        assert!(read(offset, length) == bytes[start..end], "{offset}+{length}");
    }
    let names: Vec<String> = node
        .files()
        .list("plugins")
        .unwrap()
        .iter()
        .map(|listing| listing.path.to_string())
        .collect();
    assert_eq!(names, ["plugins/wheel"]);
    assert!(node.files().list("plugins/wheel").is_none());
    assert!(matches!(
        node.block_on(node.files().read("plugins/none")),
        Err(FileSyncError::NotFound(_))
    ));
    assert!(node.files().entry("../etc/passwd").is_none());
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_is_not_put() {
    struct Broken(u32);
    impl std::io::Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(1)
                .ok_or(std::io::Error::other("the medium is broken"))?;
            buffer.fill(7);
            Ok(buffer.len())
        }
    }
    let cluster = Cluster::of(1);
    cluster.wait_equal();
    let node = &cluster.nodes[0];
    for pieces in [0, 1, 40] {
        let path = FilePath::new("plugins/broken").unwrap();
        let client = node.client();
        let put = client.put(
            &path,
            Broken(pieces),
            None,
            0o644,
            Modified::default(),
            Expected::Anything,
        );
        let refused = node.block_on(put).unwrap_err().to_string();
        assert!(refused.contains("the medium is broken"), "{refused}");
    }
    node.put("plugins/later", "later");
    assert!(
        node.files().entry("plugins/broken").is_none(),
        "a part of it is no file"
    );
}

#[test]
fn folders_that_are_renamed_as_soon_as_they_appear_are_taken_up() {
    let cluster = Cluster::of(3);
    cluster.wait_equal();
    let area = |number: usize| cluster.nodes[number].at("tenant-resources");
    for round in 0..12u64 {
        let (at, name) = (round as usize % 3, format!("set{round}"));
        let (made, renamed) = (area(at).join(&name), area(at).join(format!("{name}-renamed")));
        fs::create_dir_all(made.join("in/side")).unwrap();
        fs::write(made.join("in/side/file"), &name).unwrap();
        fs::write(made.join("top"), &name).unwrap();
        // At any moment of being noticed, published, shown elsewhere.
        std::thread::sleep(std::time::Duration::from_millis(round * 11));
        fs::rename(&made, &renamed).unwrap();
        fs::write(renamed.join("in/side/more"), "more").unwrap();
        if round % 2 == 0 {
            let other = area((at + 1) % 3).join(format!("{name}-renamed"));
            // All of it: what is still on its way to the old name would rightly come under the old name.
            let files = ["top", "in/side/file", "in/side/more"];
            wait("it elsewhere", || files.iter().all(|file| other.join(file).exists()));
            fs::rename(&other, area((at + 1) % 3).join(format!("{name}-again"))).unwrap();
        }
    }
    let wanted: Vec<String> = (0..12)
        .map(|round| format!("set{round}-{}", if round % 2 == 0 { "again" } else { "renamed" }))
        .collect();
    let whole = |number: usize| {
        let names = fs::read_dir(area(number)).unwrap().count();
        let files = wanted.iter().all(|name| {
            let folder = area(number).join(name);
            folder.join("in/side/file").exists() && folder.join("in/side/more").exists() && folder.join("top").exists()
        });
        files && names == wanted.len()
    };
    wait("all of them under their last names", || (0..3).all(whole));
    cluster.wait_equal();
}

#[test]
fn what_a_person_puts_in_stays_where_it_is_while_it_is_taken_up() {
    let cluster = Cluster::of(3);
    cluster.wait_equal();
    for round in 0..12 {
        // Two of the three hear of their own change from the leader, after it was committed.
        let node = &cluster.nodes[round % 3];
        let (outside, place) = (cluster.dir.path().join("outside"), node.at("tenant-resources/edited"));
        fs::write(&outside, format!("round {round}")).unwrap();
        let (own, before) = (fs::metadata(&outside).unwrap().ino(), node.version());
        fs::rename(&outside, &place).unwrap();
        wait("it to be taken up", || {
            let there = fs::metadata(&place).ok().map(|about| about.ino());
            assert_eq!(there, Some(own), "round {round}: it was taken out of its place");
            node.version() > before && node.is_quiet(node.version())
        });
        cluster.wait_equal();
    }
}

#[test]
fn an_area_that_is_removed_is_there_again_and_is_watched() {
    let cluster = Cluster::of(1);
    cluster.wait_equal();
    let node = &cluster.nodes[0];
    let area = node.at("global-resources");
    fs::write(area.join("a"), "a").unwrap();
    wait("a", || node.files().entry("global-resources/a").is_some());
    fs::remove_dir_all(&area).unwrap();
    wait("the area", || area.is_dir());
    wait("the file", || fs::write(area.join("b"), "b").is_ok());
    wait("b", || node.files().entry("global-resources/b").is_some());
}

#[test]
fn a_file_that_is_written_slowly_is_published_once_and_one_that_grows_is_whole_at_the_end() {
    use std::io::Write;
    let cluster = Cluster::of(3);
    cluster.wait_equal();
    let node = &cluster.nodes[0];
    let slow = node.at("tenant-resources/new/slow");
    fs::create_dir(slow.parent().unwrap()).unwrap();
    let mut writer = fs::File::create(&slow).unwrap();
    let (bytes, grown) = (noise(2 << 20, 11), noise(4 << 20, 12));
    for (piece, grows) in bytes.chunks(64 << 10).zip(grown.chunks(128 << 10)) {
        writer.write_all(piece).unwrap();
        // Closed each time: what is read of it while it grows is not taken for all of it.
        let growing = node.at("tenant-resources/growing");
        let mut growing = fs::File::options().append(true).create(true).open(growing).unwrap();
        growing.write_all(grows).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
    let early = node.files().entry("tenant-resources/new/slow").is_some();
    drop(writer);
    assert!(!early, "it was not closed yet");
    wait("both of them", || {
        let same = |path: &str, bytes: &[u8]| fs::read(cluster.nodes[2].at(path)).is_ok_and(|found| found == bytes);
        same("tenant-resources/new/slow", &bytes) && same("tenant-resources/growing", &grown)
    });
    cluster.wait_equal();
    assert!(node.files().versions("tenant-resources/new/slow").unwrap().is_empty());
}
