//! The resource files of a cluster of three: what is put in by API, by command and by hand is the same on every node, whatever happens to
//! nodes, chunks and files meanwhile. The checker compares the trees themselves, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use conclave_chaos_tests::resources::{Shown, Tree, files, files_json, has, noise, resources, shared, tree};
use conclave_chaos_tests::{TestCluster, upload};
use conclave_testkit::wait_until;

const LONG: Duration = Duration::from_secs(90);

/// Waits until every node shows the same, and `check` holds for it.
fn same_everywhere(test: &TestCluster, what: &str, check: impl Fn(&Tree) -> bool) {
    let look = || -> Option<Vec<Tree>> { (1..=3).map(|node| tree(&resources(test, node))).collect() };
    let mut last = None;
    let good = || {
        last = look();
        last.as_ref()
            .is_some_and(|trees| trees.iter().all(|tree| *tree == trees[0] && check(tree)))
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_until(what, good)));
    if outcome.is_err() {
        for (node, tree) in last.unwrap_or_default().iter().enumerate() {
            let lines: Vec<String> = tree
                .iter()
                .map(|(path, shown)| {
                    let shown = match shown {
                        Shown::File(mode, bytes) => format!("file {mode:o}, {} bytes", bytes.len()),
                        other => format!("{other:?}"),
                    };
                    format!("{}: {shown}", String::from_utf8_lossy(path))
                })
                .collect();
            eprintln!("node{}:\n{}", node + 1, lines.join("\n"));
        }
        test.fail(&what);
    }
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_shows_the_same() {
    let test = TestCluster::three().await;
    names_kinds_and_modes(&test);
    changes_of_kind(&test);
    edits_of_one_path(&test);
    foreign_things(&test).await;
    commands(&test);
}

/// Every legal name, every kind, on any node.
fn names_kinds_and_modes(test: &TestCluster) {
    let here = shared(test, 2).join("names");
    std::fs::create_dir(&here).unwrap();
    let long = "n".repeat(255);
    let names: [&[u8]; 9] = [
        b" a b ",
        b"line\nbreak",
        b"-dash",
        b"not \xff\xfe text",
        b"~",
        b"dot.",
        b".hidden",
        "\u{e9}\u{65}\u{301}".as_bytes(),
        long.as_bytes(),
    ];
    for name in names {
        std::fs::write(here.join(OsStr::from_bytes(name)), name).unwrap();
    }
    std::fs::write(here.join("empty"), b"").unwrap();
    std::fs::create_dir_all(here.join("folder/with/nothing")).unwrap();
    let program = here.join("program");
    std::fs::write(&program, b"#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../names/program", here.join("inside")).unwrap();
    let mut deep = here.clone();
    for _ in 0..60 {
        deep.push("deep");
    }
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("end"), b"end").unwrap();
    same_everywhere(test, "names, kinds and modes", |tree| {
        let at = |name: &[u8]| tree.get(&[b"global-resources/names/".as_slice(), name].concat());
        names
            .iter()
            .all(|name| matches!(at(name), Some(Shown::File(_, content)) if content == name))
            && matches!(at(b"empty"), Some(Shown::File(_, content)) if content.is_empty())
            && matches!(at(b"folder/with/nothing"), Some(Shown::Folder(_)))
            && matches!(at(b"program"), Some(Shown::File(0o750, _)))
            && at(b"inside") == Some(&Shown::Link(b"../names/program".to_vec()))
            && matches!(
                at(&[b"deep/".repeat(60).as_slice(), b"end"].concat()),
                Some(Shown::File(..))
            )
    });
}

/// File to folder and back, each on another node.
fn changes_of_kind(test: &TestCluster) {
    let here = |node| shared(test, node).join("kind");
    std::fs::write(here(1), b"a file").unwrap();
    same_everywhere(test, "a file", |tree| has(tree, "global-resources/kind", b"a file"));
    std::fs::remove_file(here(3)).unwrap();
    std::fs::create_dir(here(3)).unwrap();
    std::fs::write(here(3).join("inside"), b"of a folder").unwrap();
    same_everywhere(test, "a folder", |tree| {
        has(tree, "global-resources/kind/inside", b"of a folder")
    });
    std::fs::remove_dir_all(here(1)).unwrap();
    std::fs::write(here(1), b"a file again").unwrap();
    same_everywhere(test, "a file again", |tree| {
        has(tree, "global-resources/kind", b"a file again")
    });
}

/// One path, written on two nodes at once: one content everywhere, and the other is kept.
fn edits_of_one_path(test: &TestCluster) {
    let path = "global-resources/both";
    std::fs::write(shared(test, 1).join("both"), b"of the first").unwrap();
    std::fs::write(shared(test, 3).join("both"), b"of the third").unwrap();
    let contents: [&[u8]; 2] = [b"of the first", b"of the third"];
    same_everywhere(test, "one of two contents", |tree| {
        contents.iter().any(|content| has(tree, path, content))
    });
    let both = || {
        files_json(test, 2, &["versions", path])["versions"]
            .as_array()
            .map_or(0, Vec::len)
            >= 2
    };
    wait_until("both contents are kept as versions", both);
    let present = std::fs::read(shared(test, 2).join("both")).unwrap();
    let other = contents.into_iter().find(|content| *content != present).unwrap();
    done(&files(test, 2, &["restore", path], b""));
    same_everywhere(test, "the other content", |tree| has(tree, path, other));
    let conflicts = |tree: &Tree| {
        tree.keys()
            .filter(|name| name.starts_with(b"global-resources/both"))
            .count()
    };
    same_everywhere(test, "no copies with other names", |tree| conflicts(tree) == 1);
}

/// What is changed by hand where only the API writes is undone, and set aside.
async fn foreign_things(test: &TestCluster) {
    let text = "tosca_definitions_version: cloudify_dsl_1_3\n";
    let blueprint = BTreeMap::from([("blueprint.yaml", text.to_owned())]);
    upload(&test.client(1), "own", &blueprint).await.unwrap();
    let path = "blueprints/default_tenant/own/blueprint.yaml";
    same_everywhere(test, "the blueprint", |tree| has(tree, path, text.as_bytes()));
    let file = resources(test, 3).join(path);
    std::fs::write(&file, b"changed by hand").unwrap();
    std::fs::write(file.with_file_name("foreign"), b"foreign").unwrap();
    assert_eq!(files_json(test, 3, &["scrub"])["healed"], true);
    same_everywhere(test, "the blueprint as it was", |tree| {
        has(tree, path, text.as_bytes()) && !tree.contains_key(b"blueprints/default_tenant/own/foreign".as_slice())
    });
}

/// Exit codes, conditions, and what the commands show.
fn commands(test: &TestCluster) {
    let path = "tenant-resources/default_tenant/a b";
    done(&files(test, 1, &["put", "-", path, "--expect", "0"], b"by command"));
    let taken = files(test, 2, &["put", "-", path, "--expect", "0"], b"another");
    assert_eq!(taken.status.code(), Some(1));
    let listed = files_json(test, 3, &["ls", path]);
    assert_eq!(listed["entries"][0]["size"], 10, "{listed}");
    let read = files(test, 3, &["cat", path], b"");
    assert_eq!(read.stdout, b"by command");
    done(&files(test, 3, &["rm", path], b""));
    same_everywhere(test, "it is gone", |tree| !tree.contains_key(path.as_bytes()));
    done(&files(test, 1, &["restore", path], b""));
    same_everywhere(test, "it is back", |tree| has(tree, path, b"by command"));
    for bad in ["../x", "/etc/passwd", "global-resources/../../x", ""] {
        let refused = files(test, 1, &["put", "-", bad], b"x");
        assert!(!refused.status.success() && !refused.stderr.is_empty(), "{bad:?}");
    }
    assert_eq!(
        files(test, 1, &["cat", "global-resources/nothing"], b"").status.code(),
        Some(1)
    );
    let status = files_json(test, 2, &["status"]);
    assert_eq!(
        (status["missing"].clone(), status["watching"].clone()),
        (0.into(), "events".into()),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_half_there() {
    let test = TestCluster::three().await;
    let large = noise(1, 48 << 20);
    let inbox = test.dir().join("large");
    std::fs::write(&inbox, &large).unwrap();
    let source = inbox.display().to_string();

    // The node that took it is lost right after it said so.
    done(&files(&test, 2, &["put", &source, "global-resources/first"], b""));
    test.cluster.kill(2);
    gone(&test, 2);
    for node in [1, 3] {
        let what = format!("node{node} has what node2 took");
        let file = shared(&test, node).join("first");
        wait_until(&what, || std::fs::read(&file).is_ok_and(|found| found == large));
    }
    // More while it is away, and it is killed again while it catches up.
    let second = noise(2, 48 << 20);
    std::fs::write(shared(&test, 1).join("second"), &second).unwrap();
    done(&files(&test, 3, &["rm", "global-resources/first"], b""));
    wait_until("the survivors have it", || {
        std::fs::read(shared(&test, 3).join("second")).is_ok_and(|found| found == second)
    });
    test.cluster.start(2).await.unwrap();
    let half = test.cluster.node(2).data_dir.join("files/incoming");
    wait_until("node2 begins to catch up", || {
        let begun = std::fs::read_dir(&half).is_ok_and(|entries| entries.count() > 0);
        begun || shared(&test, 2).join("second").exists()
    });
    test.cluster.kill(2);
    gone(&test, 2);
    test.cluster.start(2).await.unwrap();
    if let Err(error) = test.cluster.wait_healthy(1, LONG).await {
        test.fail(&error);
    }
    same_everywhere(&test, "node2 has caught up", |tree| {
        has(tree, "global-resources/second", &second) && !tree.contains_key(b"global-resources/first".as_slice())
    });
    let left: Vec<_> = std::fs::read_dir(&half).unwrap().collect();
    assert!(left.is_empty(), "nothing is left of what was cut off: {left:?}");

    damage_is_healed(&test, &second).await;
}

/// Waits until nothing of a killed node runs any more.
fn gone(test: &TestCluster, node: u8) {
    wait_until("the killed node is gone", || {
        let cluster = &test.cluster;
        cluster.manager(node).is_none() && cluster.postmaster(node).is_none() && cluster.broker(node).is_none()
    });
}

/// Rotten chunks and files are found and made anew; a store that is gone as well.
async fn damage_is_healed(test: &TestCluster, content: &[u8]) {
    let chunks = test.cluster.node(3).data_dir.join("files/chunks");
    let stored = || -> Vec<PathBuf> {
        let shards = std::fs::read_dir(&chunks).unwrap();
        let files = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().path()).collect()
    };
    let victims: Vec<PathBuf> = stored().into_iter().take(3).collect();
    for (number, victim) in victims.iter().enumerate() {
        let mut bytes = std::fs::read(victim).unwrap();
        std::fs::set_permissions(victim, std::fs::Permissions::from_mode(0o644)).unwrap();
        match number {
            0 => bytes[0] ^= 1,
            1 => bytes.truncate(bytes.len() / 2),
            _ => {
                std::fs::remove_file(victim).unwrap();
                continue;
            }
        }
        std::fs::write(victim, &bytes).unwrap();
    }
    let report = files_json(test, 3, &["scrub"]);
    assert_eq!(report["damaged_chunks"], victims.len(), "{report}");
    wait_until("what was damaged is whole", || {
        files_json(test, 3, &["scrub"])["damaged_chunks"] == 0
    });
    let read = files(test, 3, &["cat", "global-resources/second"], b"");
    assert!(read.stdout == content, "{}", String::from_utf8_lossy(&read.stderr));

    test.cluster.kill(3);
    gone(test, 3);
    std::fs::remove_dir_all(&chunks).unwrap();
    test.cluster.start(3).await.unwrap();
    if let Err(error) = test.cluster.wait_healthy(1, LONG).await {
        test.fail(&error);
    }
    wait_until("the store is there again", || {
        !stored().is_empty() && files_json(test, 3, &["scrub"])["healed"] == true
    });
    let read = files(test, 3, &["cat", "global-resources/second"], b"");
    assert!(read.stdout == content, "{}", String::from_utf8_lossy(&read.stderr));
    same_everywhere(test, "the trees", |tree| has(tree, "global-resources/second", content));
}
