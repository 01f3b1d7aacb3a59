//! As many files as there may be, as one change, and a node that joins then; what it costs is printed (`--nocapture`).

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::{Cluster, assert_same, tree, wait_within};

const FOLDERS: usize = 400;
const FILES: usize = 500;
/// On a machine that does other things as well.
const LONG: Duration = Duration::from_secs(600);

fn wait_quiet(cluster: &Cluster, what: &str) {
    wait_within(LONG, what, || {
        let version = cluster.nodes.iter().map(support::Node::version).max().unwrap();
        let quiet = |node: &support::Node| node.version() == version && node.is_quiet(version);
        cluster.nodes.iter().all(quiet)
    });
}

#[test]
#[ignore = "takes minutes: deploy/test --extended"]
fn a_set_of_two_hundred_thousand_files_is_one_change_and_a_new_node_gets_it() {
    let mut cluster = Cluster::of(3);
    cluster.wait_equal();
    let source = cluster.dir.path().join("source");
    for number in 0..FOLDERS {
        let folder = source.join(format!("folder{number:03}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..FILES {
            fs::write(folder.join(format!("file{file:03}")), format!("{number} {file}")).unwrap();
        }
    }
    let begin = Instant::now();
    let node = &cluster.nodes[1];
    let version = node
        .block_on(node.files().put_tree("blueprints/t/many", &source))
        .unwrap();
    eprintln!(
        "a set of 200,000 files is acknowledged: {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    wait_quiet(&cluster, "the set on all nodes");
    eprintln!("and is on all nodes: {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(
        node.files()
            .entry("blueprints/t/many/folder399/file499")
            .unwrap()
            .version,
        version
    );
    let wanted = tree(&source);
    for node in &cluster.nodes {
        assert_same(&tree(&node.at("blueprints/t/many")), &wanted);
    }

    let begin = Instant::now();
    cluster.grow();
    wait_within(LONG, "the new node to know of it", || {
        cluster.nodes[3].version() >= version
    });
    eprintln!("a new node knows of them: {:.1} s", begin.elapsed().as_secs_f64());
    wait_quiet(&cluster, "the set on the new node");
    eprintln!("and has them: {:.1} s", begin.elapsed().as_secs_f64());
    assert_same(&tree(&cluster.nodes[3].at("blueprints/t/many")), &wanted);

    let begin = Instant::now();
    cluster.nodes[2].kill();
    cluster.nodes[2].resume();
    wait_quiet(&cluster, "the node that was killed");
    eprintln!(
        "a node is killed and started, until it shows all: {:.1} s",
        begin.elapsed().as_secs_f64()
    );

    let begin = Instant::now();
    let node = &cluster.nodes[0];
    node.block_on(node.files().rename("blueprints/t/many", "blueprints/t/renamed"))
        .unwrap();
    wait_quiet(&cluster, "the rename");
    eprintln!("their folder has another name: {:.1} s", begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    node.block_on(node.files().remove("blueprints/t/renamed")).unwrap();
    wait_quiet(&cluster, "the removal");
    eprintln!("and is removed: {:.1} s", begin.elapsed().as_secs_f64());
    cluster.wait_equal();
    assert!(!cluster.nodes[3].at("blueprints/t").join("renamed").exists());
}
