//! Keys, transactions, common rules.

use serde_json::{Value, json};

use crate::support::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_written_read_listed_and_deleted() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    assert!(client.wrote("/v1/kv/a?flags=18446744073709551615", "hello").await);
    let answer = client.get("/v1/kv/a").await;
    let entry = answer.json()[0].clone();
    assert_eq!(
        (entry["Value"].as_str(), entry["LockIndex"].as_u64()),
        (Some("aGVsbG8="), Some(0))
    );
    assert_eq!(entry["Flags"].as_u64(), Some(u64::MAX));
    assert!(entry.get("Session").is_none());
    assert_eq!(Some(answer.index()), entry["ModifyIndex"].as_u64());
    assert_eq!(
        (
            answer.header("x-consul-knownleader"),
            answer.header("x-consul-lastcontact")
        ),
        ("true", "0")
    );
    assert_eq!(answer.header("content-type"), "application/json");
    let raw = client.get("/v1/kv/a?raw").await;
    assert_eq!(
        (raw.text().as_str(), raw.header("x-content-type-options")),
        ("hello", "nosniff")
    );
    assert!(raw.index() > 0);
    let missing = client.get("/v1/kv/none").await;
    assert_eq!((missing.status, missing.body.len()), (404, 0));
    assert!(missing.index() >= answer.index());

    assert!(client.wrote("/v1/kv/empty", "").await);
    assert_eq!(client.entry("empty").await["Value"], Value::Null);
    for key in ["d/1", "d/s/2", "d/s/3", "d/%25", "d//x", "d/../y", "d/%20%C3%BC"] {
        assert!(client.wrote(&format!("/v1/kv/{key}"), "x").await);
    }
    let names = client.get("/v1/kv/d/?keys&separator=/").await.json();
    assert_eq!(names, json!(["d/ ü", "d/%", "d/../", "d//", "d/1", "d/s/"]));
    let all = client.get("/v1/kv/d/s?recurse").await.json();
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(client.get("/v1/kv/?keys").await.json().as_array().unwrap().len(), 9);
    assert_eq!(client.get("/v1/kv/zz?recurse").await.status, 404);

    let modified = client.entry("a").await["ModifyIndex"].as_u64().unwrap();
    assert!(!client.wrote("/v1/kv/a?cas=0", "x").await);
    assert!(!client.wrote(&format!("/v1/kv/a?cas={}", modified + 1), "x").await);
    assert!(client.wrote(&format!("/v1/kv/a?cas={modified}"), "y").await);
    assert_eq!(client.delete("/v1/kv/a?cas=0").await.text(), "false");
    assert_eq!(client.delete("/v1/kv/a").await.text(), "true");
    assert_eq!(client.delete("/v1/kv/a").await.text(), "true");
    assert_eq!(client.delete("/v1/kv/d?recurse").await.text(), "true");
    assert_eq!(client.get("/v1/kv/d?recurse").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_as_consul_says_it() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let cases: [(&str, &str, u16, &str); 12] = [
        ("PUT", "/v1/kv/", 400, "Missing key name"),
        ("PUT", "/v1/kv/a?cas=1&acquire=x", 400, "Conflicting flags"),
        ("DELETE", "/v1/kv/a?recurse&cas=1", 400, "Conflicting flags"),
        ("PUT", "/v1/kv/a?acquire=nonsense", 500, "invalid session"),
        (
            "PUT",
            "/v1/kv/a?acquire=6ff1c4f8-1bf4-4b7c-9f3e-6a4d1a0d6d50",
            500,
            "invalid session",
        ),
        ("GET", "/v1/kv/a?index=x", 400, "Invalid index"),
        ("GET", "/v1/kv/a?index=1&wait=x", 400, "Invalid wait time"),
        (
            "GET",
            "/v1/kv/a?stale&consistent",
            400,
            "Cannot specify ?stale with ?consistent, conflicting semantics.",
        ),
        ("GET", "/v1/kv/a?dc=other", 500, "No path to datacenter"),
        ("POST", "/v1/kv/a", 405, "method POST not allowed"),
        ("GET", "/v1/nothing", 404, ""),
        ("PUT", "/v1/txn", 400, "Failed to parse body"),
    ];
    for (method, path, status, text) in cases {
        let answer = client.send(method, path, "").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(answer.text().starts_with(text), "{method} {path}: {}", answer.text());
    }
    let options = client.send("OPTIONS", "/v1/kv/a", "").await;
    assert_eq!(
        (options.status, options.header("allow")),
        (200, "OPTIONS,GET,PUT,DELETE")
    );
    assert_eq!(client.get("/v1/kv/a?dc=dc1").await.status, 404);
    let limit = 524_288;
    assert!(client.wrote("/v1/kv/large", &"x".repeat(limit)).await);
    let too_large = client.put("/v1/kv/large", "x".repeat(limit + 1)).await;
    assert_eq!(too_large.status, 413);
    assert!(
        too_large
            .text()
            .starts_with("Request body(524289 bytes) too large, max size: 524288 bytes.")
    );

    let pretty = client.get("/v1/kv/large?keys&pretty").await;
    assert!(
        client.get("/v1/catalog/nodes?pretty").await.text().contains("\n    "),
        "{}",
        pretty.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_needed_and_known() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    assert!(client.wrote("/v1/kv/a", "secret").await);
    let mut stranger = client.clone();
    stranger.token = None;
    let cases = [
        ("GET", "/v1/kv/a", 403, "Permission denied"),
        ("PUT", "/v1/kv/a", 403, "Permission denied"),
        ("GET", "/v1/kv/?recurse", 404, ""),
        ("GET", "/v1/session/list", 200, "[]"),
        ("GET", "/v1/health/service/consul", 200, "[]"),
        ("PUT", "/v1/session/create", 403, "Permission denied"),
        ("PUT", "/v1/agent/service/register", 403, "Permission denied"),
        ("GET", "/v1/snapshot", 403, "Permission denied"),
        ("GET", "/v1/catalog/datacenters", 200, "[\"dc1\"]"),
        ("GET", "/v1/acl/policies", 401, "ACL support disabled"),
    ];
    for (method, path, status, text) in cases {
        let answer = stranger.send(method, path, "").await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (status, text),
            "{method} {path}"
        );
    }
    assert!(stranger.get("/v1/status/leader").await.text().contains("127.0.0.1:"));
    assert_eq!(stranger.get("/v1/agent/self").await.status, 200);
    let token = client.token.clone().unwrap();
    assert_eq!(stranger.get(&format!("/v1/kv/a?token={token}")).await.status, 200);
    stranger.token = Some("6ff1c4f8-1bf4-4b7c-9f3e-6a4d1a0d6d50".into());
    let unknown = stranger.get("/v1/kv/a").await;
    assert_eq!((unknown.status, unknown.text().as_str()), (403, "ACL not found"));
    assert_eq!(client.get("/v1/acl/token/self").await.json()["SecretID"], token);

    let off = conclave_catalog::Command::PutSetting {
        key: conclave_consul_api::ACL_SETTING.into(),
        value: "disabled".into(),
    };
    cluster.nodes[0].consensus.propose(off).await.unwrap();
    stranger.token = None;
    assert_eq!(stranger.get("/v1/kv/a?raw").await.text(), "secret");
    assert_eq!(stranger.get("/v1/acl/token/self").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_change_all_or_nothing() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let body = json!([
        {"KV": {"Verb": "set", "Key": "a", "Value": "MQ==", "Flags": 7}},
        {"kv": {"verb": "set", "key": "b", "value": "Mg=="}},
        {"KV": {"Verb": "get-tree", "Key": ""}},
    ]);
    let answer = client.put("/v1/txn", body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let results = answer.json()["Results"].clone();
    assert_eq!(results.as_array().unwrap().len(), 4);
    assert_eq!(
        (&results[0]["KV"]["Value"], &results[2]["KV"]["Value"]),
        (&Value::Null, &json!("MQ=="))
    );
    assert_eq!(results[0]["KV"]["ModifyIndex"], results[1]["KV"]["ModifyIndex"]);
    let index = results[0]["KV"]["ModifyIndex"].as_u64().unwrap();

    let failing = json!([
        {"KV": {"Verb": "delete", "Key": "a"}},
        {"KV": {"Verb": "check-index", "Key": "b", "Index": index + 1}},
    ]);
    let answer = client.put("/v1/txn", failing.to_string()).await;
    assert_eq!(answer.status, 409);
    assert_eq!(
        (&answer.json()["Results"], &answer.json()["Errors"][0]["OpIndex"]),
        (&Value::Null, &json!(1))
    );
    assert_eq!(client.get("/v1/kv/a?raw").await.text(), "1");

    let read = json!([{"KV": {"Verb": "get", "Key": "a"}}, {"KV": {"Verb": "check-not-exists", "Key": "c"}}]);
    let answer = client.put("/v1/txn", read.to_string()).await;
    assert_eq!((answer.status, &answer.json()["KnownLeader"]), (200, &json!(true)));
    let unknown = client
        .put("/v1/txn", json!([{"KV": {"Verb": "fly", "Key": "a"}}]).to_string())
        .await;
    assert_eq!(unknown.status, 409);
    let many: Vec<_> = (0..65)
        .map(|key| json!({"KV": {"Verb": "get", "Key": key.to_string()}}))
        .collect();
    let answer = client.put("/v1/txn", json!(many).to_string()).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (413, "Transaction contains too many operations (65 > 64)")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_brings_the_keys_back() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    for key in ["a", "b/c"] {
        assert!(client.wrote(&format!("/v1/kv/{key}?flags=5"), key).await);
    }
    let archive = client.get("/v1/snapshot").await;
    assert_eq!(
        (archive.status, archive.header("content-type")),
        (200, "application/x-gzip")
    );
    assert!(archive.index() > 0);
    let before = client.entry("a").await["ModifyIndex"].as_u64().unwrap();
    assert!(client.wrote("/v1/kv/a", "changed").await);
    assert!(client.wrote("/v1/kv/new", "").await);
    let garbage = client.put("/v1/snapshot", "garbage").await;
    assert_eq!(garbage.status, 500);
    assert!(
        garbage.text().starts_with("failed to decompress snapshot: "),
        "{}",
        garbage.text()
    );
    assert_eq!(client.put("/v1/snapshot", &archive.body).await.status, 200);
    assert_eq!(client.get("/v1/kv/?keys").await.json(), json!(["a", "b/c"]));
    let entry = client.entry("a").await;
    assert_eq!(
        (entry["Value"].as_str(), entry["Flags"].as_u64()),
        (Some("YQ=="), Some(5))
    );
    assert!(entry["ModifyIndex"].as_u64().unwrap() > before, "watchers are woken");
}
