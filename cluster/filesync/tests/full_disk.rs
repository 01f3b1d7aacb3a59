//! Disks that are full: what has no room is refused and told, the rest goes on, and with space comes what was missed.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use conclave_filesync::{Expected, FileSyncError};
use futures::TryStreamExt;
use support::{Cluster, Node, may_mount, noise, wait};

const MIB: u64 = 1 << 20;
/// What filesync keeps free for others.
const RESERVE: u64 = 256 * MIB;

fn read(node: &Node, path: &str) -> Vec<u8> {
    let reader = node.block_on(node.files().open(path)).unwrap();
    let pieces: Vec<bytes::Bytes> = node.block_on(reader.read_all().try_collect()).unwrap();
    pieces.concat()
}

fn count(folder: &std::path::Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn is_full(error: &FileSyncError) -> bool {
    matches!(error, FileSyncError::DiskFull { .. })
}

fn tells_of_the_disk(node: &Node) -> bool {
    node.status().error.is_some_and(|error| error.contains("bytes free"))
}

#[test]
fn a_node_whose_disk_is_full_refuses_serves_and_catches_up() {
    if !may_mount() {
        return;
    }
    let cluster = Cluster::on(3, &[("node3", "size=420m")]);
    let (first, large) = (noise(20 << 20, 1), noise(9 << 20, 2));
    cluster.nodes[0].put("plugins/first", &first);
    cluster.wait_equal();
    let (node, other) = (&cluster.nodes[2], &cluster.nodes[0]);
    wait("all chunks", || node.status().chunks == other.status().chunks);
    let ballast = cluster.disk().fill_up_to(RESERVE + 2 * MIB);

    // Refused before anything of it is written, whoever asks and however.
    let (free, version) = (cluster.disk().free(), node.version());
    let folder = cluster.dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("large"), &large).unwrap();
    let refused = node.block_on(node.files().put_tree("plugins/set", &folder));
    assert!(is_full(&refused.unwrap_err()));
    let source = std::io::Cursor::new(large.clone());
    let put = node
        .files()
        .put_file("plugins/large", source, 0o644, None, Expected::Anything);
    assert!(is_full(&node.block_on(put).unwrap_err()));
    assert!(
        is_full(&node.files().check_room(2 * MIB).unwrap_err()),
        "it is stored twice"
    );
    assert!(
        is_full(&node.files().check_upload(MIB).unwrap_err()),
        "and comes in before"
    );
    node.files().check_room(MIB / 2).unwrap();
    assert!(cluster.disk().free() >= free, "nothing was written");
    assert_eq!(count(&node.dir.join("files/incoming")), 0);
    assert_eq!(other.version(), version, "nothing was changed");
    assert_eq!(read(node, "plugins/first"), first);
    // What has room is taken.
    node.put("plugins/small", "small");

    // Others put it: they are enough, and this one says what it lacks, and serves it all the same.
    other.put("plugins/large", &large);
    wait("it on the others", || {
        cluster.nodes[..2]
            .iter()
            .all(|node| fs::read(node.at("plugins/large")).is_ok_and(|found| found == large))
    });
    wait("the full disk to be told", || {
        tells_of_the_disk(node) && node.status().missing > 0
    });
    assert!(read(node, "plugins/large") == large, "it is read from the others");
    let before = node.status().bytes_received;
    // It goes on with what has room, and does not fetch again and again what it cannot keep.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        assert!(read(node, "plugins/first") == first, "what is here is served");
    }
    for number in 0..10 {
        let name = format!("plugins/small{number}");
        other.put(&name, number.to_string());
        wait("a small one", || node.at(&name).exists());
    }
    let received = node.status().bytes_received - before;
    assert!(received < MIB, "{received} bytes came that could not be kept");
    assert!(!node.at("plugins/large").exists() && tells_of_the_disk(node));

    fs::remove_file(ballast).unwrap();
    cluster.wait_equal();
    wait("nothing to be told any more", || node.status().error.is_none());
    assert!(fs::read(node.at("plugins/large")).unwrap() == large);
    let received = node.status().bytes_received - before;
    assert!(received < 11 * MIB, "{received} bytes came for 9 MiB");
}

#[test]
fn a_tree_whose_disk_is_full_shows_the_old_and_then_the_new_and_nothing_between() {
    if !may_mount() {
        return;
    }
    let cluster = Cluster::on(3, &[("node3/resources", "size=290m,nr_inodes=200")]);
    let (node, other) = (&cluster.nodes[2], &cluster.nodes[0]);
    let (old, new) = (noise(MIB as usize, 1), noise(40 << 20, 2));
    other.put("plugins/file", &old);
    cluster.wait_equal();
    other.put("plugins/file", &new);
    wait("the full disk to be told", || tells_of_the_disk(node));
    assert!(fs::read(node.at("plugins/file")).unwrap() == old, "the old one stands");
    assert!(read(node, "plugins/file") == new, "the store has it");
    cluster.disk().resize("size=400m");
    cluster.wait_equal();
    assert!(fs::read(node.at("plugins/file")).unwrap() == new);

    // Space there is, but no more files can be made: that is seen when half of the set has been written.
    let folder = cluster.dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for number in 0..300 {
        fs::write(folder.join(number.to_string()), number.to_string()).unwrap();
    }
    for (place, is_new) in [("blueprints/t/set", true), ("tenant-resources/t", false)] {
        if is_new {
            other.block_on(other.files().put_tree(place, &folder)).unwrap();
        } else {
            // One by one, in one change.
            let each = (0..300).map(|number| {
                let name = number.to_string();
                let path = format!("{place}/{name}").into_bytes();
                (path, folder.join(name), Expected::Anything)
            });
            other.block_on(other.files().put_trees(each.collect())).unwrap();
        }
        wait("the refusal to be told", || {
            let status = node.status();
            status.missing > 0 && status.error.is_some_and(|error| error.contains("No space left"))
        });
        assert!(!node.at(place).join("1").exists() && !node.at(place).join("299").exists());
        other.put("plugins/meanwhile", place);
        wait("what has room", || {
            fs::read(node.at("plugins/meanwhile")).is_ok_and(|found| found == place.as_bytes())
        });
        cluster
            .disk()
            .resize(if is_new { "nr_inodes=450" } else { "nr_inodes=2000" });
        cluster.wait_equal();
        wait("nothing to be told any more", || node.status().error.is_none());
        assert_eq!(count(&node.at(place)), 300);
        assert_eq!(count(&node.root().join(".conclave-staging")), 0, "nothing is left over");
    }
}
