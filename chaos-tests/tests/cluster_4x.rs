//! The cluster through the API of 4.x: what its client reads, and its unmodified command line.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use conclave_chaos_tests::{TestCluster, python_program, wait_for};
use conclave_localcluster::{Admin, RestClient};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);
const NODES: &str = "/api/v3.1/cluster/nodes";
const CLUSTER: &str = "/api/v3.1/cluster";

async fn send(client: &RestClient, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    let answer = client.call(method, path, body, LONG).await.unwrap();
    (answer.status, answer.body)
}

/// What 4.x's client expects: 200, always.
async fn good(client: &RestClient, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = send(client, method, path, body).await;
    assert_eq!(status, 200, "{method} {path}: {answer}");
    answer
}

async fn refused(client: &RestClient, method: &str, path: &str, body: Value, status: u16, code: &str, hint: &str) {
    let (found, answer) = send(client, method, path, body.clone()).await;
    assert_eq!(
        (found, answer["error_code"].as_str()),
        (status, Some(code)),
        "{method} {path} {body}: {answer}"
    );
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains(hint), "{message:?} does not name {hint:?}");
    assert!(answer.as_object().unwrap().contains_key("server_traceback"));
}

async fn master(client: &RestClient) -> Option<String> {
    let (status, answer) = send(client, "GET", NODES, Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    let nodes = answer["items"].as_array().unwrap();
    let mut masters = nodes.iter().filter(|node| node["master"] == true);
    let name = masters.next()?["name"].as_str().unwrap().to_owned();
    assert!(masters.next().is_none(), "there is one active node: {answer}");
    Some(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_seen_and_changed_as_in_4x() {
    let test = TestCluster::three().await;
    let client = test.client(1);
    looks(&test).await;
    refusals(&client).await;
    permissions(&test).await;

    // A new node is invited with a token that `conclave cluster join` takes.
    let asked = json!({"host_ip": "127.0.0.19", "node_name": "node9"});
    let invited = good(&client, "PUT", &format!("{NODES}/node9"), asked).await;
    assert_eq!(
        (&invited["name"], &invited["initialized"]),
        (&json!("node9"), &json!(false))
    );
    assert_eq!(invited["required"]["peer"], "127.0.0.11:8300");
    let token = invited["credentials"].as_str().unwrap().split('.').next().unwrap();
    let open = test.conclave(2, &["cluster", "join-token", "list"]).unwrap();
    assert_eq!(open["tokens"][0]["id"], token, "{open}");

    // The active node moves, whoever is asked; the database's primary goes with it.
    for (asked, name) in [(3, "node2"), (1, "node2"), (2, "node1")] {
        let state = good(&test.client(asked), "PATCH", CLUSTER, json!({"master": name})).await;
        assert_eq!(state["initialized"], true);
        let nodes = test.conclave(asked, &["cluster", "nodes"]).unwrap();
        let active = nodes["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|node| node["name"] == name);
        assert_eq!(active.unwrap()["database"], "primary", "{nodes}");
        wait_for("the new active node to be seen", LONG, || async {
            (master(&client).await.as_deref() == Some(name)).then_some(())
        })
        .await;
        if let Err(error) = test.cluster.wait_healthy(1, LONG).await {
            test.fail(&error);
        }
    }
    let path = |name: &str| format!("{NODES}/{name}");
    refused(
        &client,
        "DELETE",
        &path("node1"),
        Value::Null,
        400,
        "illegal_action_error",
        "set-active",
    )
    .await;

    // A lost node is shown, cannot become active, and can be removed.
    test.cluster.kill(3);
    let lost = wait_for("the loss to be seen", LONG, || async {
        let node = good(&client, "GET", &path("node3"), Value::Null).await;
        (node["online"] == false).then_some(node)
    })
    .await;
    assert_eq!(
        lost["checks"],
        json!({"consul": false, "services": false, "database": false, "heartbeat": false})
    );
    let wanted = json!({"master": "node3"});
    refused(
        &client,
        "PATCH",
        CLUSTER,
        wanted,
        400,
        "illegal_action_error",
        "offline",
    )
    .await;
    let gone = good(&client, "DELETE", &path("node3"), Value::Null).await;
    assert_eq!(
        (&gone["name"], &gone["host_ip"]),
        (&json!("node3"), &json!("127.0.0.13"))
    );
    // One that lives removes itself, and is told so.
    let second = test.client(2);
    let gone = good(&second, "DELETE", &path("node2"), Value::Null).await;
    assert_eq!(gone["name"], "node2");
    let left = good(&client, "GET", NODES, Value::Null).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1, "{left}");
}

async fn looks(test: &TestCluster) {
    for number in 1..=3 {
        let client = test.client(number);
        let state = good(&client, "GET", CLUSTER, Value::Null).await;
        let leader = test.leader(number).await.unwrap();
        let consul = json!({"leader": format!("127.0.0.1{leader}:8300")});
        assert_eq!(state, json!({"initialized": true, "consul": consul}));
        let nodes = good(&client, "GET", NODES, Value::Null).await;
        let nodes = nodes["items"].as_array().unwrap();
        assert_eq!(nodes.len(), 3);
        for node in nodes {
            let own = node["name"].as_str().unwrap().trim_start_matches("node");
            assert_eq!(node["host_ip"], format!("127.0.0.1{own}"));
            let wanted = (own == leader.to_string(), true, true, false);
            let flag = |name: &str| node[name].as_bool().unwrap();
            assert_eq!(
                (
                    flag("master"),
                    flag("online"),
                    flag("initialized"),
                    flag("remote_database")
                ),
                wanted
            );
            assert_eq!(
                node["checks"],
                json!({"consul": true, "services": true, "database": true, "heartbeat": true}),
                "{node}"
            );
        }
        let one = good(&client, "GET", &format!("{NODES}/node2"), Value::Null).await;
        assert!(one["options"].is_object() && one["id"] == "node2", "{one}");

        // The client's wait for the end of a start.
        let path = format!("{CLUSTER}?_include=logs%2Cinitialized%2Cerror");
        let state = good(&client, "GET", &path, Value::Null).await;
        assert_eq!((&state["initialized"], &state["error"]), (&json!(true), &Value::Null));
        assert!(state.get("consul").is_none());
        let logs = state["logs"].as_array().unwrap();
        let last = logs.last().unwrap();
        assert!(last["timestamp"].as_i64().unwrap() > 1_600_000_000_000_000, "{last}");
        assert!(logs.iter().all(|line| line["message"].is_string()));
        let cursor = last["cursor"].as_str().unwrap();
        let later = good(&client, "GET", &format!("{path}&since={cursor}"), Value::Null).await;
        let known = |line: &Value| logs.iter().any(|own| own["cursor"] == line["cursor"]);
        assert!(!later["logs"].as_array().unwrap().iter().any(known), "{later}");
    }
}

async fn refusals(client: &RestClient) {
    let node = |name: &str, address: &str| json!({"node_name": name, "host_ip": address});
    let path = |name: &str| format!("{NODES}/{name}");
    let none = Value::Null;
    let (conflict, illegal, bad) = ("conflict_error", "illegal_action_error", "bad_parameters_error");
    refused(
        client,
        "PUT",
        CLUSTER,
        node("n", "10.0.0.1"),
        409,
        conflict,
        "conclave cluster join",
    )
    .await;
    let joining = json!({"node_name": "n", "host_ip": "10.0.0.1", "join_addrs": ["10.0.0.2"], "credentials": "x"});
    refused(client, "PUT", CLUSTER, joining, 409, conflict, "conclave cluster join").await;
    refused(client, "PUT", CLUSTER, json!({"node_name": "n"}), 400, bad, "host_ip").await;
    refused(client, "PATCH", CLUSTER, json!({"quorum": 1}), 400, illegal, "master").await;
    refused(client, "PATCH", CLUSTER, json!({"master": 7}), 400, bad, "master").await;
    refused(
        client,
        "PATCH",
        CLUSTER,
        json!({"master": "node9"}),
        404,
        "not_found_error",
        "node1, node2",
    )
    .await;
    let field = format!("{CLUSTER}?_include=colour");
    refused(
        client,
        "GET",
        &field,
        none.clone(),
        400,
        "no_such_include_field_error",
        "colour",
    )
    .await;
    refused(
        client,
        "GET",
        &path("node9"),
        none.clone(),
        404,
        "not_found_error",
        "node9",
    )
    .await;
    refused(client, "DELETE", &path("node9"), none, 404, "not_found_error", "node9").await;
    refused(
        client,
        "PUT",
        &path("node2"),
        node("node2", "127.0.0.19"),
        409,
        conflict,
        "node2",
    )
    .await;
    refused(
        client,
        "PUT",
        &path("node9"),
        node("node9", "127.0.0.12"),
        409,
        conflict,
        "127.0.0.12",
    )
    .await;
    refused(
        client,
        "PUT",
        &path("node9"),
        node("node8", "127.0.0.19"),
        400,
        bad,
        "node8",
    )
    .await;
    let options = json!({"check_ttl_multiplier": 2});
    refused(
        client,
        "PATCH",
        &path("node2"),
        options,
        400,
        illegal,
        "conclave manager",
    )
    .await;
    good(client, "PATCH", &path("node2"), json!({})).await;
    good(client, "PATCH", CLUSTER, json!({})).await;
}

/// All of it is the administrators' alone.
async fn permissions(test: &TestCluster) {
    let looker = Admin {
        username: "looker".into(),
        password: "looker-password".into(),
    };
    let user = json!({"username": looker.username, "password": looker.password, "role": "default"});
    let (status, answer) = send(&test.client(1), "PUT", "/api/v3.1/users", user).await;
    assert_eq!(status, 201, "{answer}");
    let facts = test.cluster.node(1);
    let client = RestClient::new(&facts.rest, &facts.status, &test.cluster.ca_file(), &looker).unwrap();
    let node = format!("{NODES}/node2");
    for (method, path) in [
        ("GET", CLUSTER),
        ("PUT", CLUSTER),
        ("PATCH", CLUSTER),
        ("GET", NODES),
        ("GET", &node),
        ("PUT", &node),
        ("PATCH", &node),
        ("DELETE", &node),
    ] {
        let (status, answer) = send(&client, method, path, json!({"master": "node2"})).await;
        assert_eq!(
            (status, answer["error_code"].as_str()),
            (403, Some("forbidden_error")),
            "{method} {path}: {answer}"
        );
    }
}

/// The unmodified command line of Cloudify 4.6.
struct Cfy {
    program: PathBuf,
    home: PathBuf,
}

impl Cfy {
    async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("HOME", &self.home)
            .env("CFY_WORKDIR", &self.home)
            .env("LC_ALL", "C.UTF-8");
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    /// A command that must succeed, or must not, and show each of `shown`.
    async fn shows(&self, test: &TestCluster, succeeds: bool, arguments: &[&str], shown: &[&str]) {
        let (success, text) = self.run(arguments).await;
        let missing: Vec<_> = shown.iter().filter(|part| !text.contains(**part)).collect();
        if success != succeeds || !missing.is_empty() {
            test.fail(&format!(
                "cfy {}: success {success}, not shown {missing:?}:\n{text}",
                arguments.join(" ")
            ));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cfy_4_6_sees_and_changes_the_cluster() {
    let program = python_program("cloudify-4.6", "cfy");
    let test = TestCluster::three().await;
    let home = test.dir().join("user");
    std::fs::create_dir(&home).unwrap();
    let cfy = Cfy { program, home };
    let (port, ca) = (test.cluster.rest_port().to_string(), test.cluster.ca_file());
    let password = &test.cluster.admin().password;
    let connect = [
        "profiles",
        "use",
        "127.0.0.11",
        "-u",
        "admin",
        "-p",
        password,
        "-t",
        "default_tenant",
        "--ssl",
        "-c",
    ];
    let connect = [&connect[..], &[ca.to_str().unwrap(), "--rest-port", &port]].concat();
    cfy.shows(&test, true, &connect, &["Using manager 127.0.0.11"]).await;
    cfy.shows(&test, true, &["cluster", "status"], &["cluster ready"]).await;
    let start = [
        "cluster",
        "start",
        "--cluster-host-ip",
        "127.0.0.11",
        "--cluster-node-name",
        "node1",
    ];
    cfy.shows(&test, false, &start, &["already part"]).await;
    let all = ["node1", "node2", "node3", "127.0.0.13", "leader", "replica", "OK"];
    cfy.shows(&test, true, &["cluster", "nodes", "list"], &all).await;
    cfy.shows(
        &test,
        true,
        &["cluster", "nodes", "get", "node2"],
        &["node2", "127.0.0.12", "OK"],
    )
    .await;
    cfy.shows(
        &test,
        true,
        &["cluster", "update-profile"],
        &["up to date with 3 nodes"],
    )
    .await;
    let leader = test.leader(1).await.unwrap();
    // The node of the profile stays: without it the command line would have to find the others.
    let next = if leader == 1 { "node2" } else { "node1" };
    let other = if leader == 3 { "node2" } else { "node3" };
    cfy.shows(
        &test,
        true,
        &["cluster", "set-active", next],
        &["set as the new active node"],
    )
    .await;
    cfy.shows(&test, false, &["cluster", "set-active", "node9"], &["not a member"])
        .await;
    if let Err(error) = test.cluster.wait_healthy(1, LONG).await {
        test.fail(&error);
    }
    let again = ["cluster", "nodes", "remove", next];
    cfy.shows(&test, false, &again, &["active node"]).await;
    cfy.shows(
        &test,
        true,
        &["cluster", "nodes", "remove", other],
        &["removed successfully"],
    )
    .await;
    let (_, nodes) = cfy.run(&["cluster", "nodes", "list"]).await;
    assert!(nodes.contains(next) && !nodes.contains(other), "{nodes}");
}
