//! The system's limit of watches, reached: the limit is that of a user namespace of the test's own.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod support;

use std::fs;
use std::process::Command;

use support::{Cluster, wait};

const LIMIT: &str = "/proc/sys/user/max_inotify_watches";
const INSIDE: &str = "CONCLAVE_TEST_INSIDE";
const FOLDERS: usize = 20;

#[test]
fn at_the_limit_of_watches_scans_find_what_changes_until_it_is_raised() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--"]);
    if again.arg("true").status().is_ok_and(|status| !status.success()) {
        eprintln!("skipped: this account may make no user namespace");
        return;
    }
    let done = Command::new("unshare")
        .args(["--user", "--map-root-user", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "at_the_limit_of_watches_scans_find_what_changes_until_it_is_raised",
        ])
        .arg("--nocapture")
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(done.success());
}

fn inside() {
    let cluster = Cluster::of(3);
    cluster.wait_equal();
    let [one, two, three] = [0, 1, 2].map(|number| &cluster.nodes[number]);
    assert_eq!(one.status().watching, "events");
    // Three nodes watch the root and two areas each; some of the folders that come can be watched, and most cannot.
    fs::write(LIMIT, (3 * 3 + 10).to_string()).unwrap();
    let folder = |number: usize| format!("tenant-resources/folder{number}");
    for number in 0..FOLDERS {
        fs::create_dir(one.at(folder(number))).unwrap();
    }
    wait("the limit to be told", || {
        cluster.nodes.iter().all(|node| {
            let status = node.status();
            let named = |reason: String| reason.contains("fs.inotify.max_user_watches");
            status.watching == "scan" && status.watch_failure.is_some_and(named)
        })
    });
    // Whatever is changed where nothing is watched is found.
    for number in 0..FOLDERS {
        fs::write(one.at(folder(number)).join("file"), "new").unwrap();
        fs::create_dir(one.at(folder(number)).join("below")).unwrap();
        fs::write(one.at(folder(number)).join("below/file"), "new").unwrap();
    }
    let everywhere = |path: &str, content: &str| {
        (0..FOLDERS).all(|number| {
            let file = three.at(folder(number)).join(path);
            fs::read(file).is_ok_and(|found| found == content.as_bytes())
        })
    };
    wait("new files", || {
        everywhere("file", "new") && everywhere("below/file", "new")
    });
    cluster.wait_equal();
    for number in 0..FOLDERS {
        fs::write(two.at(folder(number)).join("below/file"), "changed").unwrap();
        fs::remove_file(two.at(folder(number)).join("file")).unwrap();
    }
    wait("changes", || {
        let gone = (0..FOLDERS).all(|number| !three.at(folder(number)).join("file").exists());
        gone && everywhere("below/file", "changed")
    });
    cluster.wait_equal();
    assert_eq!(two.status().watching, "scan", "it does not pretend to see everything");

    fs::write(LIMIT, "10000").unwrap();
    wait("everything to be watched again", || {
        cluster.nodes.iter().all(|node| {
            let status = node.status();
            status.watching == "events" && status.watch_failure.is_none()
        })
    });
    // The next scan is minutes away: this is seen.
    for number in 0..FOLDERS {
        fs::write(two.at(folder(number)).join("below/file"), "seen").unwrap();
    }
    wait("what is seen", || everywhere("below/file", "seen"));
    cluster.wait_equal();
}
