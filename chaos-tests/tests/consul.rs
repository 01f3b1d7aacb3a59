//! Unmodified py-consul against each node of a cluster, and while the leader is killed.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use conclave_chaos_tests::{TestCluster, package_dir, python_program};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

const LIMIT: Duration = Duration::from_secs(180);

/// The script, with its input and output.
struct Script {
    child: Child,
    input: ChildStdin,
    output: BufReader<tokio::process::ChildStdout>,
}

impl Script {
    fn start(python: &Path, test: &TestCluster, what: &str) -> Self {
        let nodes: Vec<_> = (1..=3)
            .map(|number| {
                let facts = test.cluster.node(number);
                json!({"name": facts.name, "address": facts.address})
            })
            .collect();
        let certificate = test.cluster.node(1).data_dir.join("identity/credentials.pem");
        let cluster = json!({
            "nodes": nodes, "ca": test.cluster.ca_file(), "token": test.consul_token(), "certificate": certificate,
        });
        let mut child = Command::new(python)
            .arg(package_dir().join("clients/py_consul.py"))
            .args([what, &cluster.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            input,
            output: BufReader::new(output),
        }
    }

    /// The next line that it prints; empty when there is none any more.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(LIMIT, self.output.read_line(&mut line))
            .await
            .expect("the script goes on")
            .unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for its good end.
    async fn end(mut self, test: &TestCluster) {
        loop {
            let line = self.line().await;
            if line.is_empty() {
                break;
            }
            eprintln!("{line}");
        }
        let mut errors = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut errors)
            .await
            .unwrap();
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await.unwrap().unwrap();
        if !status.success() {
            test.fail(&format!("py-consul: {status}\n{errors}"));
        }
    }
}

fn python() -> PathBuf {
    python_program("consul-clients", "python")
}

#[tokio::test(flavor = "multi_thread")]
async fn py_consul_works_against_every_node() {
    let python = python();
    let test = TestCluster::three().await;
    Script::start(&python, &test, "calls").end(&test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn py_consul_does_not_notice_the_loss_of_the_leader() {
    let python = python();
    let test = TestCluster::three().await;
    let mut script = Script::start(&python, &test, "leader_loss");
    let parked = script.line().await;
    let Some(leader) = parked
        .strip_prefix("parked node")
        .and_then(|number| number.parse().ok())
    else {
        eprintln!("{parked}");
        return script.end(&test).await;
    };
    test.cluster.kill(leader);
    script.input.write_all(b"killed\n").await.unwrap();
    script.end(&test).await;
}
