//! As many files as there may be, and as large a one, with what they cost: it is printed (`--nocapture`).

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use conclave_chaos_tests::resources::{Tree, begin_files, files, files_json, noise, resources, shared, tree};
use conclave_chaos_tests::{TestCluster, wait_for};

/// On a machine that does other things as well.
const LONG: Duration = Duration::from_secs(600);
const FOLDERS: usize = 400;
const FILES: usize = 500;
/// Folders of one archive: the file server takes 20,000 entries at once.
const FOLDERS_AT_ONCE: usize = 20;
const GIB: u64 = 1 << 30;
const LARGE_BYTES: u64 = 10 * GIB;
/// As many chunks as one list holds.
const LISTED: u64 = (4 << 20) / 36;

fn say(what: &str, since: Instant, test: &TestCluster, nodes: u8) {
    let peaks: Vec<String> = (1..=nodes)
        .map(|node| format!("{}", peak_mebibytes(test, node)))
        .collect();
    let took = since.elapsed().as_secs_f64();
    eprintln!(
        "{what}: {took:.1} s; most memory since the last line, MiB: {}",
        peaks.join(", ")
    );
}

/// The largest resident set of a node's manager since it was asked last.
fn peak_mebibytes(test: &TestCluster, node: u8) -> u64 {
    let pid = test.cluster.manager(node).unwrap().pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kibibytes: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    kibibytes >> 10
}

/// Waits until every node shows this version, or a later one, and has nothing left to do.
async fn settled(test: &TestCluster, version: u64, what: &str) {
    let settled = || async {
        let all: Vec<_> = (1..=3).map(|node| files_json(test, node, &["status"])).collect();
        let known = all.iter().filter_map(|status| status["seen"].as_u64()).max()?;
        let is_quiet = all.iter().all(|status| {
            status["applied"] == known
                && status["missing"] == 0
                && status["edits"] == 0
                && status["missing_chunks"] == 0
                && status["watching"] == "events"
        });
        (is_quiet && known >= version).then_some(())
    };
    wait_for(what, LONG, settled).await;
}

/// The version that put the last of a folder's files there, once this node knows all of them.
async fn whole_folder(test: &TestCluster, node: u8, folder: &str) -> u64 {
    let all = || async {
        // Refused as long as there is no such folder.
        let listed = files(test, node, &["ls", folder, "--json"], b"");
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).ok()?;
        let versions: Vec<u64> = listed["entries"]
            .as_array()?
            .iter()
            .filter(|entry| entry["kind"] == "file")
            .filter_map(|entry| entry["version"].as_u64())
            .collect();
        (versions.len() == FILES).then(|| versions.into_iter().max())?
    };
    wait_for(folder, LONG, all).await
}

fn same_everywhere(test: &TestCluster) -> Tree {
    let first = tree(&resources(test, 1)).unwrap();
    for node in [2, 3] {
        let other = tree(&resources(test, node)).unwrap();
        assert_eq!(other.len(), first.len(), "node{node}");
        let different = first.iter().find(|(path, shown)| other.get(*path) != Some(shown));
        let different = different.map(|(path, _)| String::from_utf8_lossy(path));
        assert_eq!(different, None, "node{node} shows something else");
    }
    first
}

/// Folders of small files, each with a content of its own.
fn make_folders(at: &Path, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let folder = at.join(format!("folder{number:03}"));
        std::fs::create_dir_all(&folder).unwrap();
        for file in 0..FILES {
            std::fs::write(folder.join(format!("file{file:03}")), format!("{number} {file}")).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: deploy/test --extended"]
async fn two_hundred_thousand_files_are_on_every_node() {
    let test = TestCluster::three().await;
    settled(&test, 0, "an empty tree").await;
    say("an empty tree", Instant::now(), &test, 3);

    // Onto one node's disk, as somebody would who copies a folder there.
    let begin = Instant::now();
    make_folders(&shared(&test, 2).join("many"), 0..FOLDERS);
    say("200,000 files written to the disk of node2", begin, &test, 3);
    let last = whole_folder(&test, 1, "global-resources/many/folder399").await;
    settled(&test, last, "200,000 files from a disk").await;
    say("and are on all nodes", begin, &test, 3);
    let below = |shown: &Tree, place: &[u8]| shown.keys().filter(|path| path.starts_with(place)).count();
    let shown = same_everywhere(&test);
    assert_eq!(below(&shown, b"global-resources/many/"), FOLDERS * (FILES + 1));

    // One more is as quick as ever.
    let begin = Instant::now();
    std::fs::write(shared(&test, 1).join("one more"), "one more").unwrap();
    let place = shared(&test, 3).join("one more");
    wait_for("one more", LONG, || async { place.exists().then_some(()) }).await;
    say("one more file beside them, from disk to disk", begin, &test, 3);

    let begin = Instant::now();
    test.cluster.kill(3);
    let ended = || async { test.cluster.manager(3).is_none().then_some(()) };
    wait_for("its end", LONG, ended).await;
    test.cluster.start(3).await.unwrap();
    let back = || async {
        let status = files(&test, 3, &["status", "--json"], b"");
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        let known = files_json(&test, 1, &["status"])["seen"].clone();
        (status["applied"] == known && status["watching"] == "events").then_some(())
    };
    wait_for("the node's files", LONG, back).await;
    say(
        "a node is killed and started, until its files are looked through",
        begin,
        &test,
        3,
    );

    // Before anything is removed: ext4 without a journal makes files slowly for minutes after many were removed.
    let begin = Instant::now();
    through_the_file_server(&test).await;
    say(
        "200,000 files as 20 archives through the API, on all nodes",
        begin,
        &test,
        3,
    );
    let shown = same_everywhere(&test);
    let place = b"deployments/default_tenant/many/sets/files/";
    assert_eq!(below(&shown, place), FOLDERS * (FILES + 1));
    done_away(&test, "global-resources/many").await;
    done_away(&test, "deployments/default_tenant/many").await;
}

async fn done_away(test: &TestCluster, path: &str) {
    let begin = Instant::now();
    let removed = files_json(test, 1, &["rm", path]);
    settled(test, removed["version"].as_u64().unwrap(), "the removal").await;
    say("their folder is removed, on all nodes", begin, test, 3);
    assert!((1..=3).all(|node| !resources(test, node).join(path).exists()));
}

async fn through_the_file_server(test: &TestCluster) {
    for first in (0..FOLDERS).step_by(FOLDERS_AT_ONCE) {
        let folder = test.dir().join("set");
        make_folders(&folder, first..first + FOLDERS_AT_ONCE);
        let archive = conclave_archive::pack_tar_gz(&folder, "files").unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let node = u8::try_from(first / FOLDERS_AT_ONCE % 3).unwrap() + 1;
        let place = "/resources/deployments/default_tenant/many/sets?extract=true";
        let answer = test
            .client(node)
            .call("PUT", place, archive.into(), LONG)
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let folder = "deployments/default_tenant/many/sets/files/folder399";
    let last = whole_folder(test, 1, folder).await;
    settled(test, last, "200,000 files by the API").await;
}

/// A block that is cut into chunks as small as they may be, wherever it is repeated: the smallest chunk of much noise.
fn finest_block(test: &TestCluster) -> Vec<u8> {
    let noise = noise(1, 64 << 20);
    let put = files(test, 1, &["put", "-", "global-resources/noise"], &noise);
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let shards = std::fs::read_dir(test.cluster.node(1).data_dir.join("files/chunks")).unwrap();
    let chunks = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    let sizes: BTreeMap<u64, PathBuf> = chunks
        .map(|chunk| (chunk.as_ref().unwrap().metadata().unwrap().len(), chunk.unwrap().path()))
        .collect();
    let (size, path) = sizes.range((64 << 10) + 1..).next().unwrap();
    assert!(
        LARGE_BYTES / size > LISTED,
        "chunks of {size} bytes need more than one list"
    );
    let mut block = std::fs::read(path).unwrap();
    let at = noise.windows(64).position(|some| *some == block[..64]).unwrap();
    // The byte behind a cut has its part in it.
    block[0] = noise[at + block.len()];
    block
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and 10 GiB: deploy/test --extended"]
async fn a_file_of_ten_gibibytes_is_stored_shown_and_served_in_parts() {
    let test = TestCluster::one().await;
    let disk = nix::sys::statvfs::statvfs(test.dir()).unwrap();
    if disk.blocks_available() * disk.fragment_size() < LARGE_BYTES + 2 * GIB {
        eprintln!("skipped: 12 GiB are not free at {}", test.dir().display());
        return;
    }
    let block = finest_block(&test);
    let size = usize::try_from(LARGE_BYTES).unwrap();
    peak_mebibytes(&test, 1);

    let begin = Instant::now();
    let mut putting = begin_files(&test, 1, &["put", "-", "global-resources/large"]);
    let mut input = putting.stdin.take().unwrap();
    for _ in 0..size / block.len() {
        input.write_all(&block).unwrap();
    }
    input.write_all(&block[..size % block.len()]).unwrap();
    drop(input);
    let put = putting.wait_with_output().unwrap();
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    say("10 GiB are put", begin, &test, 1);
    let place = shared(&test, 1).join("large");
    let shown = || async {
        place
            .metadata()
            .is_ok_and(|about| about.len() == LARGE_BYTES)
            .then_some(())
    };
    wait_for("the file", LONG, shown).await;
    say("and shown", begin, &test, 1);

    let begin = Instant::now();
    let mut file = File::open(&place).unwrap();
    let (mut found, mut at) = (vec![0; block.len()], 0);
    while at < size {
        let piece = block.len().min(size - at);
        file.read_exact(&mut found[..piece]).unwrap();
        assert!(found[..piece] == block[..piece], "at {at}");
        at += piece;
    }
    say(
        "they are as they were given (read from the tree by the test)",
        begin,
        &test,
        1,
    );

    let begin = Instant::now();
    for (from, to) in [
        (LARGE_BYTES - (3 << 20), LARGE_BYTES - 1),
        (LARGE_BYTES - 1, LARGE_BYTES - 1),
        (
            LISTED * block.len() as u64 - (1 << 20),
            LISTED * block.len() as u64 + (1 << 20),
        ),
        (5 * GIB, 5 * GIB),
    ] {
        let served = range(&test, from, to);
        let mut wanted = vec![0; usize::try_from(to - from + 1).unwrap()];
        file.seek(SeekFrom::Start(from)).unwrap();
        file.read_exact(&mut wanted).unwrap();
        assert!(served == wanted, "{from}-{to}");
    }
    say("four parts of it through the file server", begin, &test, 1);

    let begin = Instant::now();
    test.cluster.kill(1);
    let ended = || async { test.cluster.manager(1).is_none().then_some(()) };
    wait_for("its end", LONG, ended).await;
    test.cluster.start(1).await.unwrap();
    test.cluster.wait_healthy(1, LONG).await.unwrap();
    say("the node is killed and started, until it is healthy", begin, &test, 1);
    assert_eq!(
        range(&test, LARGE_BYTES - 1, LARGE_BYTES - 1),
        [block[(size - 1) % block.len()]]
    );
    let scrubbed = files_json(&test, 1, &["scrub"]);
    assert_eq!(
        (&scrubbed["damaged_chunks"], &scrubbed["swept_chunks"]),
        (&0.into(), &0.into()),
        "{scrubbed}"
    );
    assert_eq!(scrubbed["damaged_files"].as_array().unwrap().len(), 0, "{scrubbed}");
    say("and everything is read by a scrub", begin, &test, 1);
}

fn range(test: &TestCluster, from: u64, to: u64) -> Vec<u8> {
    let admin = test.cluster.admin();
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--user"])
        .arg(format!("{}:{}", admin.username, admin.password))
        .arg("--cacert")
        .arg(test.cluster.ca_file())
        .args(["--range", &format!("{from}-{to}")])
        .arg(format!(
            "{}/resources/global-resources/large",
            test.cluster.node(1).rest
        ))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
