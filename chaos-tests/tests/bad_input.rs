//! Bad input gets the status and the code that Cloudify's clients know, a message that names the place, and changes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeMap;

use conclave_chaos_tests::{Quiet, TestAddresses, TestCluster, call, program, upload};
use conclave_localcluster::{Admin, LocalCluster, RestClient, Spec, UpError};
use serde_json::{Value, json};

/// Checks status, code and a part of the message.
fn refused(status: u16, code: &str, text: &str, outcome: Result<Value, String>) {
    let error = outcome.unwrap_err();
    assert!(
        error.contains(&format!(" {status} {code}: ")) && error.contains(text),
        "expected {status} {code} with {text:?}, got {error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_changes_nothing() {
    let test = TestCluster::three().await;
    let client = test.client(2);
    let files = |text: &str| BTreeMap::from([("blueprint.yaml", text.to_owned())]);
    let head = "tosca_definitions_version: cloudify_dsl_1_3\n";

    let malformed = files(&format!("{head}nodes: [\n"));
    refused(
        400,
        "invalid_blueprint_error",
        "in line: ",
        upload(&client, "b", &malformed).await,
    );
    let import = files(&format!("{head}imports: [missing.yaml]\n"));
    refused(
        400,
        "invalid_blueprint_error",
        "missing.yaml",
        upload(&client, "b", &import).await,
    );
    let blueprint = call(&client, "GET", "/api/v3.1/blueprints/b", Value::Null).await;
    refused(404, "not_found_error", "`b`", blueprint);
    for tree in ["blueprints", "uploaded-blueprints"] {
        let path = format!("/resources/{tree}/default_tenant/b/blueprint.yaml");
        assert_eq!(
            client.get(&path).await.unwrap().status,
            404,
            "nothing is left of a refused upload"
        );
    }

    let body = json!({"blueprint_id": "nothing"});
    let created = call(&client, "PUT", "/api/v3.1/deployments/nothing", body).await;
    refused(404, "not_found_error", "`nothing`", created);
    let deployment = call(&client, "GET", "/api/v3.1/deployments/nothing", Value::Null).await;
    refused(404, "not_found_error", "`nothing`", deployment);
    let body = json!({"deployment_id": "nothing", "workflow_id": "install"});
    let execution = call(&client, "POST", "/api/v3.1/executions", body).await;
    refused(404, "not_found_error", "`nothing`", execution);

    let facts = test.cluster.node(3);
    let wrong = Admin {
        username: "admin".into(),
        password: "wrong".into(),
    };
    let stranger = RestClient::new(&facts.rest, &facts.status, &test.cluster.ca_file(), &wrong).unwrap();
    let listed = call(&stranger, "GET", "/api/v3.1/blueprints", Value::Null).await;
    refused(401, "unauthorized_error", "", listed);
    let elsewhere = test.client(1).in_tenant("nowhere");
    let listed = call(&elsewhere, "GET", "/api/v3.1/blueprints", Value::Null).await;
    refused(403, "forbidden_error", "nowhere", listed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_its_holder() {
    let _addresses = TestAddresses::lock().await;
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.12:8500").unwrap();
    let spec = Spec {
        nodes: 3,
        dir: dir.path().join("cluster"),
        program: program(),
    };
    let error = LocalCluster::up(&spec, &Quiet).await.unwrap_err();
    assert!(matches!(error, UpError::PortInUse { .. }), "{error}");
    let text = error.to_string();
    let holder = format!("process {}", std::process::id());
    assert!(
        text.contains("port 8500 on 127.0.0.12") && text.contains(&holder),
        "{text}"
    );
    assert!(
        matches!(LocalCluster::load(&spec.dir), Err(UpError::NoCluster(_))),
        "nothing was made"
    );
    drop(taken);
}
