//! The catalog, services, checks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Cluster, until_answer};

#[tokio::test(flavor = "multi_thread")]
async fn services_are_registered_found_and_deregistered() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let body = json!({
        "name": "web", "id": "web/1", "port": 80, "tags": ["a", "b"], "enabletagoverride": true,
        "meta": {"CamelCase": "kept"}, "checks": [{"ttl": "30s"}],
    });
    let registered = client.put("/v1/agent/service/register", body.to_string()).await;
    assert_eq!((registered.status, registered.body.len()), (200, 0));
    let services = client.get("/v1/agent/services").await.json();
    assert_eq!(services["web/1"]["Service"], json!("web"));
    assert_eq!(services.as_object().unwrap().len(), 1);
    let one = client.get("/v1/agent/service/web%2F1").await;
    assert_eq!(
        (&one.json()["Meta"], one.header("x-consul-contenthash").len()),
        (&json!({"CamelCase": "kept"}), 16)
    );
    assert_eq!(
        client.get("/v1/agent/service/none").await.text(),
        "unknown service ID: none"
    );
    assert_eq!(
        client.get("/v1/catalog/services").await.json(),
        json!({"consul": [], "web": ["a", "b"]})
    );
    let found = client.get("/v1/catalog/service/web?tag=a&tag=b").await.json();
    assert_eq!(
        (&found[0]["ServiceID"], &found[0]["Node"]),
        (&json!("web/1"), &json!("node1"))
    );
    assert_eq!(client.get("/v1/catalog/service/web?tag=c").await.json(), json!([]));
    assert_eq!(client.get("/v1/catalog/service/none").await.json(), json!([]));
    assert_eq!(client.get("/v1/catalog/node/none").await.json(), Value::Null);
    assert_eq!(
        client.get("/v1/catalog/node/node1").await.json()["Services"]["web/1"]["Port"],
        json!(80)
    );

    assert_eq!(client.get("/v1/health/service/web?passing").await.json(), json!([]));
    let health = client.get("/v1/health/service/web").await;
    let checks: Vec<_> = health.json()[0]["Checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["CheckID"].clone())
        .collect();
    assert_eq!(checks, [json!("serfHealth"), json!("service:web/1")]);
    assert_eq!(client.get("/v1/agent/health/service/id/web%2F1").await.status, 503);
    let waiting = {
        let (client, index) = (client.clone(), health.index());
        tokio::runtime::Handle::current().spawn(async move {
            client
                .get(&format!("/v1/health/service/web?passing&index={index}&wait=20s"))
                .await
        })
    };
    assert_eq!(
        client
            .put("/v1/agent/check/pass/service:web%2F1?note=fine", "")
            .await
            .status,
        200
    );
    let woken = waiting.await.unwrap();
    assert_eq!(woken.json()[0]["Service"]["ID"], json!("web/1"));
    assert_eq!(client.get("/v1/agent/health/service/name/web").await.status, 200);
    assert_eq!(
        client.get("/v1/agent/checks").await.json()["service:web/1"]["Output"],
        json!("fine")
    );
    assert_eq!(client.put("/v1/agent/check/warn/service:web%2F1", "").await.status, 200);
    assert_eq!(client.get("/v1/agent/health/service/name/web").await.status, 429);
    let update = client
        .put(
            "/v1/agent/check/update/service:web%2F1",
            r#"{"Status": "passing", "Output": "o"}"#,
        )
        .await;
    assert_eq!(update.status, 200);
    let none = client.put("/v1/agent/check/pass/none", "").await;
    assert_eq!(
        (none.status, none.text().as_str()),
        (500, "CheckID \"none\" does not have associated TTL")
    );
    assert_eq!(
        client
            .put("/v1/agent/service/maintenance/web%2F1?enable=true&reason=r", "")
            .await
            .status,
        200
    );
    assert_eq!(
        client
            .get("/v1/health/state/critical")
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        client
            .put("/v1/agent/service/maintenance/web%2F1?enable=false", "")
            .await
            .status,
        200
    );
    assert_eq!(
        client
            .get("/v1/health/state/any")
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(client.put("/v1/agent/service/deregister/web/1", "").await.status, 200);
    assert_eq!(client.put("/v1/agent/service/deregister/web/1", "").await.status, 200);
    assert_eq!(client.get("/v1/agent/services").await.json(), json!({}));
    let missing = client.put("/v1/agent/service/register", "{}").await;
    assert_eq!((missing.status, missing.text().as_str()), (400, "Missing service name"));
    let script = json!({"name": "x", "check": {"args": ["rm"], "interval": "1s"}});
    assert_eq!(
        client
            .put("/v1/agent/service/register", script.to_string())
            .await
            .status,
        400
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_not_renewed_lapses_and_ends_sessions() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let check = r#"{"Name": "alive", "TTL": "1s", "Status": "passing"}"#;
    assert_eq!(client.put("/v1/agent/check/register", check).await.status, 200);
    let session = client.session(r#"{"Checks": ["alive"], "Behavior": "delete"}"#).await;
    assert!(client.wrote(&format!("/v1/kv/k?acquire={session}"), "").await);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(client.put("/v1/agent/check/pass/alive", "").await.status, 200);
    }
    assert_eq!(client.get("/v1/kv/k").await.status, 200);
    let renewed = Instant::now();
    let lapsed = until_answer(&client, "/v1/agent/checks", "the lapse", |answer| {
        answer.json()["alive"]["Status"] == json!("critical")
    })
    .await;
    assert!(renewed.elapsed() >= Duration::from_millis(900) && renewed.elapsed() < Duration::from_secs(3));
    assert!(
        lapsed.json()["alive"]["Output"]
            .as_str()
            .unwrap()
            .starts_with("TTL expired")
    );
    assert_eq!(client.get("/v1/kv/k").await.status, 404);
    assert_eq!(
        client.get(&format!("/v1/session/info/{session}")).await.json(),
        json!([])
    );
}

/// A server that answers every request so, until it is told otherwise.
async fn server(status: std::sync::Arc<std::sync::atomic::AtomicU16>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::runtime::Handle::current().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 2048];
            let _read = stream.read(&mut request).await;
            let status = status.load(std::sync::atomic::Ordering::Relaxed);
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
            let _written = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_tcp_checks_are_carried_out() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let status = std::sync::Arc::new(std::sync::atomic::AtomicU16::new(200));
    let port = server(std::sync::Arc::clone(&status)).await;
    let http = json!({
        "id": "scope/name", "name": "pg", "enabletagoverride": true,
        "checks": [{"http": format!("http://127.0.0.1:{port}/primary"), "interval": "1s", "DeregisterCriticalServiceAfter": "150.0s"}],
    });
    assert_eq!(
        client.put("/v1/agent/service/register", http.to_string()).await.status,
        200
    );
    let tcp = json!({"name": "t", "tcp": format!("127.0.0.1:{port}"), "interval": "1s"});
    assert_eq!(
        client.put("/v1/agent/check/register", tcp.to_string()).await.status,
        200
    );
    let is = |id: &'static str, wanted: &'static str| {
        move |answer: &crate::support::Answer| answer.json()[id]["Status"] == json!(wanted)
    };
    until_answer(
        &client,
        "/v1/agent/checks",
        "the request",
        is("service:scope/name", "passing"),
    )
    .await;
    until_answer(&client, "/v1/agent/checks", "the connection", is("t", "passing")).await;
    status.store(429, std::sync::atomic::Ordering::Relaxed);
    until_answer(
        &client,
        "/v1/agent/checks",
        "the warning",
        is("service:scope/name", "warning"),
    )
    .await;
    status.store(503, std::sync::atomic::Ordering::Relaxed);
    until_answer(
        &client,
        "/v1/agent/checks",
        "the failure",
        is("service:scope/name", "critical"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn external_nodes_live_in_the_catalog() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let body = json!({
        "node": "db", "address": "10.0.0.5", "WriteRequest": {"Token": "x"},
        "service": {"service": "pg", "port": 5432}, "check": {"name": "up", "status": "passing", "serviceid": "pg"},
    });
    assert_eq!(
        client.put("/v1/catalog/register", body.to_string()).await.text(),
        "true"
    );
    let names: Vec<_> = client
        .get("/v1/catalog/nodes")
        .await
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["Node"].clone())
        .collect();
    assert_eq!(names, [json!("db"), json!("node1")]);
    assert_eq!(
        client
            .get("/v1/health/service/pg?passing")
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(client.get("/v1/health/node/db").await.json()[0]["CheckID"], json!("up"));
    assert_eq!(
        client
            .get("/v1/health/checks/pg")
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let incomplete = client.put("/v1/catalog/register", r#"{"Node": "x"}"#).await;
    assert_eq!(
        (incomplete.status, incomplete.text().as_str()),
        (500, "Must provide node and address")
    );
    assert_eq!(
        client.put("/v1/catalog/deregister", r#"{"Node": "db"}"#).await.text(),
        "true"
    );
    assert_eq!(client.get("/v1/catalog/service/pg").await.json(), json!([]));
    let member = client.put("/v1/catalog/deregister", r#"{"Node": "node1"}"#).await;
    assert_eq!(member.status, 500);
}
