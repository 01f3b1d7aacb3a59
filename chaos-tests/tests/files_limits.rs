//! Resource files where the machine gives no more: a disk that is full, and more events than the system keeps.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use conclave_chaos_tests::drill::DISK_MEBIBYTES;
use conclave_chaos_tests::frozen::Frozen;
use conclave_chaos_tests::hosts::Hosts;
use conclave_chaos_tests::resources::{files, files_json, noise, resources, shared};
use conclave_chaos_tests::{TestCluster, wait_for};
use conclave_testkit::wait_until;
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// What the files leave to Raft and the database.
const RESERVE: u64 = 256 * MIB;
const SOON: Duration = Duration::from_secs(60);
/// What is in the API's way to the files of a deployment.
const DEPLOYMENT: &str = "/resources/deployments/default_tenant/limits";

#[test]
fn where_the_machine_gives_no_more_nothing_is_lost() {
    let Some(hosts) = Hosts::new(3) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let test = TestCluster::on(&hosts, DISK_MEBIBYTES).await;
        a_full_disk(&test).await;
        more_events_than_the_system_keeps(&test).await;
    });
}

fn free(folder: &Path) -> u64 {
    let disk = nix::sys::statvfs::statvfs(folder).unwrap();
    disk.blocks_available() * disk.fragment_size()
}

/// Leaves so many bytes of a node's disk free; the file that takes the rest.
fn fill_up_to(data: &Path, left: u64) -> PathBuf {
    let ballast = data.join("ballast");
    let file = std::fs::File::create(&ballast).unwrap();
    let length = i64::try_from(free(data) - left).unwrap();
    nix::fcntl::posix_fallocate(&file, 0, length).unwrap();
    ballast
}

async fn get(test: &TestCluster, node: u8, path: &str) -> Vec<u8> {
    let answer = test.client(node).call("GET", path, bytes::Bytes::new(), SOON).await;
    // Its body is JSON, or nothing: the bytes are asked of curl.
    assert_eq!(answer.unwrap().status, 200, "{path}");
    let output = curl(test, node, path, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn curl(test: &TestCluster, node: u8, path: &str, options: &[&str]) -> std::process::Output {
    let (admin, facts) = (test.cluster.admin(), test.cluster.node(node));
    Command::new("curl")
        .args(["--silent", "--show-error", "--user"])
        .arg(format!("{}:{}", admin.username, admin.password))
        .arg("--cacert")
        .arg(test.cluster.ca_file())
        .args(options)
        .arg(format!("{}{path}", facts.rest))
        .output()
        .unwrap()
}

fn refused(answer: &Value) {
    assert_eq!(answer["error_code"], "service_unavailable", "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("bytes free"), "{message}");
}

async fn a_full_disk(test: &TestCluster) {
    let (first, large) = (noise(1, 2 << 20), noise(2, 9 << 20));
    let put = |node: u8, path: &str, bytes: &[u8]| {
        let output = files(test, node, &["put", "-", path], bytes);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(put(1, "global-resources/first", &first), "");
    let there = shared(test, 3).join("first");
    wait_until("the first file", || {
        std::fs::read(&there).is_ok_and(|found| found == first)
    });
    let data = test.cluster.node(3).data_dir;
    let ballast = fill_up_to(&data, RESERVE + 3 * MIB);
    let version = files_json(test, 1, &["status"])["seen"].clone();

    // Whole, in pieces of no known number, as a blueprint, by command.
    let answer = test
        .client(3)
        .call("PUT", &format!("{DEPLOYMENT}/large"), large.clone().into(), SOON)
        .await
        .unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    refused(&answer.body);
    let outside = test.dir().join("large");
    std::fs::write(&outside, &large).unwrap();
    let source = format!("@{}", outside.display());
    let pieces = [
        "--request",
        "PUT",
        "--data-binary",
        &source,
        "--header",
        "Transfer-Encoding: chunked",
    ];
    let in_pieces = curl(test, 3, &format!("{DEPLOYMENT}/large"), &pieces);
    refused(&serde_json::from_slice(&in_pieces.stdout).unwrap());
    let folder = test.dir().join("blueprint");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(
        folder.join("blueprint.yaml"),
        "tosca_definitions_version: cloudify_dsl_1_3\n",
    )
    .unwrap();
    std::fs::write(folder.join("large"), &large).unwrap();
    let archive = conclave_archive::pack_tar_gz(&folder, "limits").unwrap();
    let answer = test
        .client(3)
        .call("PUT", "/api/v3.1/blueprints/limits", archive.into(), SOON)
        .await
        .unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    refused(&answer.body);
    let by_command = files(
        test,
        3,
        &["put", &outside.display().to_string(), "global-resources/large"],
        b"",
    );
    assert_eq!(by_command.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&by_command.stderr).contains("bytes free"));
    assert_eq!(
        std::fs::read_dir(data.join("uploads")).unwrap().count(),
        0,
        "nothing of it is left"
    );
    assert_eq!(
        files_json(test, 1, &["status"])["seen"],
        version,
        "and nothing was changed"
    );
    assert!(get(test, 3, "/resources/global-resources/first").await == first);

    // The others are enough; the full one says what it lacks, and serves it.
    assert_eq!(put(1, "global-resources/large", &large), "");
    for node in [1, 2] {
        let file = shared(test, node).join("large");
        wait_until("it on the others", || {
            std::fs::read(&file).is_ok_and(|found| found == large)
        });
    }
    let tells = || async {
        let status = files(test, 3, &["status"], b"");
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        (status.status.code() == Some(1) && text.contains("bytes free")).then_some(())
    };
    wait_for("the full disk to be told", SOON, tells).await;
    let degraded = || async {
        let status = test.conclave(1, &["cluster", "status"]).unwrap();
        let causes = status["causes"].to_string();
        (status["status"] == "degraded" && causes.contains("bytes free")).then_some(())
    };
    wait_for("the cluster to say so", SOON, degraded).await;
    assert!(get(test, 3, "/resources/global-resources/large").await == large);
    assert!(!shared(test, 3).join("large").exists());

    std::fs::remove_file(ballast).unwrap();
    let there = shared(test, 3).join("large");
    wait_until("it catches up", || {
        std::fs::read(&there).is_ok_and(|found| found == large)
    });
    let whole = || async { files(test, 3, &["status"], b"").status.success().then_some(()) };
    wait_for("nothing to be told", SOON, whole).await;
    test.cluster.wait_healthy(1, SOON).await.unwrap();
}

/// The manager is stopped while more is written than the system's queue of events takes.
async fn more_events_than_the_system_keeps(test: &TestCluster) {
    let queue = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    if queue > 100_000 {
        eprintln!("not tested: to fill a queue of {queue} events would take too long");
        return;
    }
    let here = shared(test, 2).join("burst");
    std::fs::create_dir_all(here.join("watched")).unwrap();
    let known = resources(test, 1).join("global-resources/burst/watched");
    wait_until("the folder", || known.is_dir());
    let mut frozen = Frozen::default();
    frozen.freeze(test.cluster.manager(2).unwrap());
    // Each is three events: it is made, written and closed.
    let count = queue / 2;
    for number in 0..count {
        std::fs::write(here.join(format!("watched/file{number}")), number.to_string()).unwrap();
    }
    let (unseen, inside) = (here.join("unseen/below"), "global-resources/burst/unseen/below/file");
    std::fs::create_dir_all(&unseen).unwrap();
    std::fs::write(unseen.join("file"), "unseen").unwrap();
    frozen.resume();
    for node in [1, 3] {
        let tree = resources(test, node);
        wait_until("all of them elsewhere", || {
            let watched = std::fs::read_dir(tree.join("global-resources/burst/watched"));
            watched.is_ok_and(|watched| watched.count() == count) && tree.join(inside).exists()
        });
    }
    let log = std::fs::read_to_string(test.cluster.layout().node(2).log_file()).unwrap();
    assert!(log.contains("everything is looked through"), "events were lost");
    // What was not told of is watched now.
    std::fs::write(unseen.join("later"), "later").unwrap();
    let later = resources(test, 3).join("global-resources/burst/unseen/below/later");
    wait_until("what comes later", || later.exists());
}
