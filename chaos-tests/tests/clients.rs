//! The unmodified command line of Cloudify 7.0.5, and the Python client below it, against each node.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::PathBuf;
use std::process::Command;

use conclave_chaos_tests::{TestCluster, package_dir, python_program};
use serde_json::{Value, json};

/// One user of the command line.
struct Cfy {
    program: PathBuf,
    home: PathBuf,
}

impl Cfy {
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("HOME", &self.home)
            .env("CFY_WORKDIR", &self.home)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    /// A command that must succeed and show each of `shown`.
    fn shows(&self, arguments: &[&str], shown: &[&str]) {
        let (success, text) = self.run(arguments);
        let missing: Vec<_> = shown.iter().filter(|part| !text.contains(**part)).collect();
        assert!(
            success && missing.is_empty(),
            "cfy {}: success {success}, not shown {missing:?}:\n{text}",
            arguments.join(" ")
        );
    }

    /// A command that must fail and say `said`.
    fn refuses(&self, arguments: &[&str], said: &str) {
        let (success, text) = self.run(arguments);
        assert!(
            !success && text.contains(said),
            "cfy {}: success {success}, expected {said:?}:\n{text}",
            arguments.join(" ")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cfy_works_against_every_node() {
    let program = python_program("cloudify-7.0.5", "cfy");
    let test = TestCluster::three().await;
    let example = package_dir().join("../docs/examples/hello-world/blueprint.yaml");
    let users = (1..=3).map(|number| {
        let home = test.dir().join(format!("user{number}"));
        std::fs::create_dir(&home).unwrap();
        let (program, example) = (program.clone(), example.clone());
        let facts = test.cluster.node(number);
        let (port, password) = (
            test.cluster.rest_port().to_string(),
            test.cluster.admin().password.clone(),
        );
        let (ca, work) = (test.cluster.ca_file(), test.dir().join(format!("work{number}")));
        tokio::task::spawn_blocking(move || {
            let cfy = Cfy { program, home };
            let id = format!("hello{number}");
            let (address, ca) = (facts.address.as_str(), ca.to_str().unwrap());
            let connect = [
                "profiles",
                "use",
                address,
                "-u",
                "admin",
                "-p",
                &password,
                "-t",
                "default_tenant",
                "--ssl",
                "-c",
                ca,
                "--rest-port",
                &port,
            ];
            cfy.shows(&connect, &["Using manager", "127.0.0.11", "127.0.0.12", "127.0.0.13"]);
            cfy.shows(&["status"], &["Active"]);
            let work_dir = format!("work_dir={}", work.display());
            use_blueprint(&cfy, example.to_str().unwrap(), &id, &work_dir);
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_stand_in_for_passwords() {
    let (cfy, python) = (
        python_program("cloudify-7.0.5", "cfy"),
        python_program("cloudify-7.0.5", "python"),
    );
    let test = TestCluster::three().await;
    let addresses: Vec<_> = test.cluster.nodes().into_iter().map(|node| node.address).collect();
    let (admin, ca, port) = (test.cluster.admin(), test.cluster.ca_file(), test.cluster.rest_port());
    let cluster = json!({
        "addresses": addresses, "port": port, "ca": ca, "username": admin.username, "password": admin.password,
    });
    let script = Command::new(python)
        .arg(package_dir().join("clients/cloudify_tokens.py"))
        .arg(cluster.to_string())
        .output()
        .unwrap();
    if !script.status.success() {
        test.fail(&String::from_utf8_lossy(&script.stderr));
    }

    let user = |name: &str, node: usize, credentials: &[&str]| {
        let home = test.dir().join(name);
        std::fs::create_dir(&home).unwrap();
        let cfy = Cfy {
            program: cfy.clone(),
            home,
        };
        let (port, ca) = (port.to_string(), ca.to_str().unwrap());
        let server = ["-t", "default_tenant", "--ssl", "-c", ca, "--rest-port", &port];
        let connect = [&["profiles", "use", addresses[node].as_str()], credentials, &server].concat();
        cfy.shows(&connect, &["Using manager"]);
        cfy
    };
    let admin = user("admin", 0, &["-u", &admin.username, "-p", &admin.password]);
    let create = |more: &[&str]| {
        let (success, text) = admin.run(&[&["tokens", "create", "--json"], more].concat());
        assert!(success, "{text}");
        let token: Value = serde_json::from_str(&text).unwrap();
        let field = |name: &str| token[name].as_str().unwrap().to_owned();
        (field("id"), field("value"))
    };
    let (id, value) = create(&["-d", "for the tests", "-e", "+10h"]);
    admin.shows(
        &["tokens", "list"],
        &[&id, "for the tests", "sys_admin", "Showing 1 of 1 tokens"],
    );
    admin.shows(&["tokens", "get", &id], &[&id, "for the tests"]);
    admin.refuses(&["tokens", "create", "-e", "2001-01-01 00:00"], "400");
    let by_token = user("by_token", 1, &["-T", &value]);
    by_token.shows(&["blueprints", "list"], &["Showing 0 of 0 blueprints"]);
    by_token.shows(&["tokens", "list"], &[&id]);
    admin.shows(&["tokens", "delete", &id], &["Deleting REST token"]);
    by_token.refuses(&["blueprints", "list"], "401: User unauthorized: token is not valid");
    admin.refuses(&["tokens", "delete", &id], "404");

    let (id, value) = create(&["-e", "+1h"]);
    let by_token = user("too_late", 2, &["-T", &value]);
    let over = format!("UPDATE tokens SET expires_at = now() - interval '1 second' WHERE id = '{id}' RETURNING id");
    assert_eq!(test.database(1).run(&over).await, Ok(vec![id]));
    by_token.refuses(&["blueprints", "list"], "401: User unauthorized: Token is expired");
}

/// The life of a deployment, as a user of `cfy` goes through it.
fn use_blueprint(cfy: &Cfy, example: &str, id: &str, work_dir: &str) {
    cfy.shows(&["blueprints", "upload", example, "-b", id], &["Blueprint uploaded"]);
    cfy.shows(&["blueprints", "list"], &[id, "blueprint.yaml", "uploaded"]);
    let create = [
        "deployments",
        "create",
        id,
        "-b",
        id,
        "-i",
        "visitor=Conclave",
        "-i",
        work_dir,
    ];
    cfy.shows(&create, &["created"]);
    cfy.shows(&["deployments", "list"], &[id]);
    cfy.shows(
        &["executions", "start", "install", "-d", id],
        &[
            "Starting 'install'",
            "a page that says 'Hello, Conclave!'",
            "execution succeeded",
        ],
    );
    let (_, executions) = cfy.run(&["executions", "list", "-d", id, "--json"]);
    let executions: Value = serde_json::from_str(&executions).unwrap();
    let execution = executions[0]["id"].as_str().unwrap();
    cfy.shows(
        &["events", "list", execution],
        &[
            "Task succeeded",
            "INFO: folder ",
            "wrote 26 bytes",
            "execution succeeded",
        ],
    );
    cfy.shows(&["deployments", "outputs", id], &["index.html", "Hello, Conclave!"]);
    cfy.shows(&["node-instances", "list", "-d", id], &["folder_", "page_", "started"]);
    cfy.shows(&["nodes", "list", "-d", id], &["hello.nodes.Page"]);
    cfy.refuses(&["deployments", "create", "other", "-b", "nothing"], "404");
    cfy.refuses(&["blueprints", "upload", example, "-b", id], "409");
    cfy.shows(
        &["uninstall", id],
        &[
            "'uninstall' workflow execution succeeded",
            "Deployment deleted",
            "Blueprint deleted",
        ],
    );
}
