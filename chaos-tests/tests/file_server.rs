//! The file server, as curl sees it: who may have what, ranges, conditions, folders, uploads, and a node that lacks the file yet.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use conclave_chaos_tests::{TestCluster, call, upload};
use conclave_localcluster::{Admin, RestClient};
use conclave_testkit::wait_until;
use serde_json::{Value, json};

/// How long a call may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// Where agents and workers fetch files.
const INTERNAL_PORT: u16 = 53333;

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

struct Curl<'a> {
    test: &'a TestCluster,
    node: u8,
    login: Option<String>,
}

impl Curl<'_> {
    fn get(&self, path: &str, options: &[&str]) -> Answer {
        self.get_at(&self.test.cluster.node(self.node).rest, path, options)
    }

    /// On another port.
    fn get_at(&self, server: &str, path: &str, options: &[&str]) -> Answer {
        let url = format!("{server}/resources/{path}");
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--path-as-is",
            "--globoff",
            "--include",
            "--cacert",
        ])
        .arg(self.test.cluster.ca_file())
        .args(options)
        .arg(url);
        if let Some(login) = &self.login {
            curl.args(["--user", login]);
        }
        let output = curl.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut rest = output.stdout;
        // An interim answer (100 Continue) has a head of its own.
        loop {
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
            let head = String::from_utf8(rest[..end].to_vec()).unwrap();
            rest.drain(..end + 4);
            let mut lines = head.lines();
            let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            if status == 100 {
                continue;
            }
            let header = |line: &str| {
                let (name, value) = line.split_once(": ")?;
                Some((name.to_ascii_lowercase(), value.to_owned()))
            };
            return Answer {
                status,
                headers: lines.filter_map(header).collect(),
                body: rest,
            };
        }
    }
}

fn shown_on(test: &TestCluster, node: u8, path: &str, content: &[u8]) {
    let file = test.cluster.node(node).data_dir.join("resources").join(path);
    let what = format!("{} on node{node}", file.display());
    wait_until(&what, || std::fs::read(&file).is_ok_and(|found| found == content));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_served_to_whom_they_may() {
    let test = TestCluster::three().await;
    let admin = test.cluster.admin();
    let login = format!("{}:{}", admin.username, admin.password);
    let as_admin = |node| Curl {
        test: &test,
        node,
        login: Some(login.clone()),
    };
    let large: Vec<u8> = (0..3_000_000u32)
        .flat_map(|number| (number / 7).to_le_bytes())
        .collect();
    let resources = |node: u8| test.cluster.node(node).data_dir.join("resources");
    // Put there by a person, on one node.
    for (path, content) in [
        ("global-resources/large.bin", large.as_slice()),
        ("tenant-resources/default_tenant/a b.txt", b"hello"),
    ] {
        let file = resources(1).join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, content).unwrap();
        for node in 1..=3 {
            shown_on(&test, node, path, content);
        }
    }

    // Whole and in parts, from every node, with the same tag.
    let mut tags = Vec::new();
    for node in 1..=3 {
        let curl = as_admin(node);
        let whole = curl.get("global-resources/large.bin", &[]);
        assert_eq!((whole.status, whole.body == large), (200, true), "node{node}");
        assert_eq!(whole.header("content-length"), large.len().to_string());
        tags.push(whole.header("etag").to_owned());
        let part = curl.get("global-resources/large.bin", &["--range", "1000000-9000000"]);
        assert_eq!((part.status, part.body == large[1_000_000..=9_000_000]), (206, true));
        assert_eq!(
            part.header("content-range"),
            format!("bytes 1000000-9000000/{}", large.len())
        );
        let end = curl.get("global-resources/large.bin", &["--range", "-5"]);
        assert_eq!((end.status, end.body.as_slice()), (206, &large[large.len() - 5..]));
    }
    tags.dedup();
    assert_eq!(tags.len(), 1, "the tag is the content's: {tags:?}");
    let curl = as_admin(2);
    let header = |name: &str, value: &str| format!("{name}: {value}");
    let known = curl.get(
        "global-resources/large.bin",
        &["--header", &header("If-None-Match", &tags[0])],
    );
    assert_eq!((known.status, known.body.len()), (304, 0));
    let other = curl.get("global-resources/large.bin", &["--header", "If-Match: \"another\""]);
    assert_eq!(other.status, 412);
    let stale = ["--range", "0-4", "--header", "If-Range: \"another\""];
    assert_eq!(curl.get("global-resources/large.bin", &stale).status, 200);
    let beyond = curl.get("global-resources/large.bin", &["--range", "99999999-"]);
    assert_eq!(
        (beyond.status, beyond.header("content-range").to_owned()),
        (416, format!("bytes */{}", large.len()))
    );
    let head = curl.get("global-resources/large.bin", &["--head"]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), large.len().to_string());

    // No way out, however it is written.
    for path in [
        "global-resources/../../../../etc/passwd",
        "global-resources/%2e%2e/%2e%2e/etc/passwd",
        "global-resources/..%2f..%2f..%2fetc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "global-resources//large.bin",
        "global-resources/%00",
        "nothing/x",
        "global-resources/nothing",
    ] {
        assert_eq!(curl.get(path, &[]).status, 404, "{path}");
    }

    may_and_may_not(&test, &as_admin(3), &login).await;
    tokens(&test).await;
    folders_and_uploads(&test, &as_admin(1)).await;
}

/// Privileges by path.
async fn may_and_may_not(test: &TestCluster, admin: &Curl<'_>, login: &str) {
    let as_user = |login: Option<&str>| Curl {
        test,
        node: 2,
        login: login.map(str::to_owned),
    };
    let user = json!({"username": "guest", "password": "guest-password", "role": "default"});
    let body = serde_json::to_vec(&user).unwrap().into();
    let created = test.client(1).call("PUT", "/api/v3.1/users", body, SOON).await.unwrap();
    assert_eq!(created.status, 201);
    let spaced = "tenant-resources/default_tenant/a%20b.txt";
    let guest = as_user(Some("guest:guest-password"));
    let status = |curl: &Curl<'_>, path: &str| curl.get(path, &[]).status;
    assert_eq!(status(admin, spaced), 200);
    assert_eq!(status(&guest, spaced), 403, "no role in the tenant");
    assert_eq!(status(&guest, "global-resources/large.bin"), 200);
    assert_eq!(status(&guest, "snapshots/s/s.zip"), 403);
    assert_eq!(status(admin, "snapshots/s/s.zip"), 404);
    assert_eq!(status(admin, "tenant-resources/nowhere/x"), 404, "no such tenant");
    assert_eq!(status(&as_user(None), "global-resources/large.bin"), 401);
    assert_eq!(status(&as_user(Some("admin:wrong")), "global-resources/large.bin"), 401);
    assert_eq!(status(&as_user(None), "cloudify_agent/none"), 404, "open to all");
    let put = as_user(Some(login)).get("global-resources/x", &["--upload-file", "/etc/hostname"]);
    assert_eq!(put.status, 403, "written by nobody");
    let put = guest.get("deployments/default_tenant/d/x", &["--upload-file", "/etc/hostname"]);
    assert_eq!(put.status, 403);
}

/// With a token in place of a password, on the port of agents and workers: what its user may have, as long as it holds.
async fn tokens(test: &TestCluster) {
    let status = |node: u8, path: &str, token: &str| {
        let curl = Curl {
            test,
            node,
            login: None,
        };
        let server = format!("https://{}:{INTERNAL_PORT}", test.cluster.node(node).address);
        let header = format!("Authentication-Token: {token}");
        curl.get_at(&server, path, &["--header", &header]).status
    };
    let on_all = |path: &str, token: &Value| [1, 2, 3].map(|node| status(node, path, token["value"].as_str().unwrap()));
    let guest = Admin {
        username: "guest".into(),
        password: "guest-password".into(),
    };
    let facts = test.cluster.node(1);
    let as_guest = RestClient::new(&facts.rest, &facts.status, &test.cluster.ca_file(), &guest).unwrap();
    let make = async |client: &RestClient| {
        let body = json!({"description": "for the file server", "expiration_date": "+1h"});
        call(client, "POST", "/api/v3.1/tokens", body).await.unwrap()
    };
    let (of_admin, of_guest) = (make(&test.client(1)).await, make(&as_guest).await);
    let (of_tenant, of_all) = (
        "tenant-resources/default_tenant/a%20b.txt",
        "global-resources/large.bin",
    );
    assert_eq!(on_all(of_tenant, &of_admin), [200; 3]);
    assert_eq!(on_all(of_tenant, &of_guest), [403; 3], "no role in the tenant");
    assert_eq!(on_all(of_all, &of_guest), [200; 3]);
    assert_eq!(status(1, of_all, "ctok-nonsense"), 401);

    // From the moment on at which it is deleted or over, on every node.
    let path = format!("/api/v3.1/tokens/{}", of_admin["id"].as_str().unwrap());
    let deleted = test.client(2).call("DELETE", &path, Bytes::new(), SOON).await.unwrap();
    assert_eq!(deleted.status, 204);
    assert_eq!(on_all(of_tenant, &of_admin), [401; 3], "deleted");
    let id = of_guest["id"].as_str().unwrap();
    let over = format!("UPDATE tokens SET expires_at = now() - interval '1 second' WHERE id = '{id}' RETURNING id");
    assert_eq!(test.database(3).run(&over).await, Ok(vec![id.to_owned()]));
    assert_eq!(on_all(of_all, &of_guest), [401; 3], "over");
}

/// What workers without the shared tree do.
async fn folders_and_uploads(test: &TestCluster, curl: &Curl<'_>) {
    let upload_file = test.dir().join("upload");
    std::fs::write(&upload_file, "made by a plugin").unwrap();
    let source = upload_file.display().to_string();
    let place = "deployments/default_tenant/d";
    let put = curl.get(&format!("{place}/deep/result.txt"), &["--upload-file", &source]);
    assert_eq!(put.status, 200, "{}", String::from_utf8_lossy(&put.body));
    let part = format!("file=@{source}");
    let form = ["--request", "PUT", "--form", &part, "--form", "mtime=1600000000"];
    assert_eq!(curl.get(&format!("{place}/dated.txt"), &form).status, 200);
    // Readable at once on another node, wherever its copy is.
    let elsewhere = Curl {
        node: 3,
        login: curl.login.clone(),
        test,
    };
    wait_until("the file on another node", || {
        elsewhere.get(&format!("{place}/deep/result.txt"), &[]).body == b"made by a plugin"
    });
    let list = |curl: &Curl<'_>| {
        let listed = curl.get(&format!("{place}/"), &[]);
        assert_eq!(listed.status, 200);
        serde_json::from_slice::<Value>(&listed.body).unwrap()
    };
    let listed = list(curl);
    assert_eq!(listed["dated.txt"], "2020-09-13T12:26:40+00:00", "{listed}");
    assert!(listed["deep/result.txt"].is_string(), "{listed}");
    assert_eq!(curl.get(place, &[]).status, 404, "a folder is no file");

    let packed = curl.get(&format!("{place}/?archive=true"), &[]);
    assert_eq!(packed.status, 200);
    let archive = test.dir().join("folder.tar.gz");
    std::fs::write(&archive, &packed.body).unwrap();
    let unpack = Command::new("tar")
        .args(["--list", "--gzip", "--file"])
        .arg(&archive)
        .output()
        .unwrap();
    let names = String::from_utf8(unpack.stdout).unwrap();
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, [".cloudify-index.json", "dated.txt", "deep/result.txt"]);

    // And what was packed can be put elsewhere in one change.
    let source = archive.display().to_string();
    let put = curl.get(
        "deployments/default_tenant/e/copy?extract=true",
        &["--upload-file", &source],
    );
    assert_eq!(put.status, 200, "{}", String::from_utf8_lossy(&put.body));
    assert_eq!(
        curl.get("deployments/default_tenant/e/copy/deep/result.txt", &[]).body,
        b"made by a plugin"
    );
    let broken = curl.get(
        "deployments/default_tenant/e/copy?extract=true",
        &["--upload-file", "/etc/hostname"],
    );
    assert_eq!(broken.status, 400);

    assert_eq!(
        curl.get(&format!("{place}/dated.txt"), &["--request", "DELETE"]).status,
        204
    );
    assert_eq!(
        curl.get(&format!("{place}/dated.txt"), &["--request", "DELETE"]).status,
        404
    );
    assert!(list(curl)["dated.txt"].is_null());

    let files = BTreeMap::from([(
        "blueprint.yaml",
        "tosca_definitions_version: cloudify_dsl_1_3\n".to_owned(),
    )]);
    upload(&test.client(2), "shown", &files).await.unwrap();
    for node in 1..=3 {
        let curl = Curl {
            node,
            login: curl.login.clone(),
            test,
        };
        let read = || curl.get("blueprints/default_tenant/shown/blueprint.yaml", &[]);
        wait_until("the blueprint's file", || read().status == 200);
        assert_eq!(read().header("content-type"), "text/x-yaml");
    }
}
