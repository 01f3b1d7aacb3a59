//! A whole manager whose PostgreSQL is somebody else's: it works, says so when the database is lost, and goes on when it is back.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use conclave_chaos_tests::{TestAddresses, call, install, program, upload, wait_for};
use conclave_localcluster::{Admin, FIRST_ADDRESS, RestClient, Signal, TrackedProcess};
use conclave_testkit::TestPostgres;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(90);

/// A manager that ends with this value.
struct Manager {
    child: Child,
    log: PathBuf,
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(process) = TrackedProcess::running(self.child.id() as i32) {
            // Its servers end with it only if it is asked.
            process.signal(Signal::SIGTERM);
        }
        println!("the manager has ended: {:?}", self.child.wait());
        if std::thread::panicking() {
            println!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Founds a cluster of one node on that database and starts its manager.
fn found(folder: &Path, postgres: &TestPostgres) -> (Manager, RestClient) {
    let (config, password) = (folder.join("node.yaml"), folder.join("password"));
    std::fs::write(&password, TestPostgres::PASSWORD).unwrap();
    let text = json!({
        "node": {"name": "node1", "address": FIRST_ADDRESS},
        "data_dir": folder.join("data"),
        "external_database": {
            "host": "127.0.0.1", "port": postgres.port, "user": TestPostgres::USER,
            "password_file": password, "name": TestPostgres::DATABASE,
        },
    });
    // JSON is YAML too.
    std::fs::write(&config, text.to_string()).unwrap();
    let init = Command::new(program())
        .args(["cluster", "init", "--json", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    let said: Value = serde_json::from_slice(&init.stdout).unwrap();
    let admin: Admin = serde_json::from_value(said["admin"].clone()).unwrap();
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, said["ca_certificate"].as_str().unwrap()).unwrap();
    let log = folder.join("manager.log");
    let file = std::fs::File::create(&log).unwrap();
    let child = Command::new(program())
        .args(["manager", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let (rest, status) = (
        format!("https://{FIRST_ADDRESS}:443"),
        format!("https://{FIRST_ADDRESS}:8500"),
    );
    (
        Manager { child, log },
        RestClient::new(&rest, &status, &ca, &admin).unwrap(),
    )
}

/// The state of the cluster, and why it is not well.
async fn health(client: &RestClient) -> Option<(String, String)> {
    let status = client.get_status("/v1/cluster/status").await.ok()?;
    Some((status["status"].as_str()?.to_owned(), status["causes"].to_string()))
}

async fn healthy(client: &RestClient) {
    let well = || async { (health(client).await?.0 == "healthy").then_some(()) };
    wait_for("a healthy manager", LONG, well).await;
}

async fn installs(client: &RestClient, deployment: &str) {
    let execution = install(client, "hello", deployment).await.unwrap();
    let path = format!("/api/v3.1/executions/{execution}");
    let ended = || async {
        let now = call(client, "GET", &path, Value::Null).await.ok()?;
        let status = now["status"].as_str()?.to_owned();
        matches!(status.as_str(), "terminated" | "failed").then_some(status)
    };
    assert_eq!(wait_for("the install", LONG, ended).await, "terminated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_works_on_another_ones_database_and_outlives_its_loss() {
    conclave_net::install_crypto_provider();
    let _addresses = TestAddresses::lock().await;
    let folder = tempfile::Builder::new().prefix("conclave").tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let mut postgres = TestPostgres::start().await;
    let (_manager, client) = found(folder.path(), &postgres);
    healthy(&client).await;
    let blueprint = "tosca_definitions_version: cloudify_dsl_1_3\nimports: [cloudify/types/types.yaml]\n\
        node_templates:\n  one:\n    type: cloudify.nodes.Root\n    interfaces:\n      \
        cloudify.interfaces.lifecycle:\n        create: {implementation: step.sh, executor: central_deployment_agent}\n";
    let files = BTreeMap::from([
        ("blueprint.yaml", blueprint.to_owned()),
        (
            "step.sh",
            "#!/bin/bash\nctx instance runtime-properties done yes\n".to_owned(),
        ),
    ]);
    upload(&client, "hello", &files).await.unwrap();
    installs(&client, "before").await;

    postgres.crash();
    let refused = || async {
        let said = call(&client, "POST", "/api/v3.1/tenants/lost", Value::Null)
            .await
            .err()?;
        said.contains("503").then_some(said)
    };
    let said = wait_for("an honest answer", LONG, refused).await;
    println!("without a database: {said}");
    let degraded = || async {
        let (status, causes) = health(&client).await?;
        (status != "healthy" && causes.contains("postgres")).then_some(causes)
    };
    println!(
        "the status: {}",
        wait_for("the cause in the status", LONG, degraded).await
    );

    postgres.start_again();
    healthy(&client).await;
    installs(&client, "after").await;
    let path = "/api/v3.1/deployments?_include=id";
    let deployments = call(&client, "GET", path, Value::Null).await.unwrap();
    assert_eq!(deployments["items"].as_array().unwrap().len(), 2, "{deployments}");
}
