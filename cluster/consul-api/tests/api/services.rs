//! The catalog, services, checks.

use std::time::{Duration, Instant};

use conclave_catalog::directory::{
    CheckDefinition, CheckKind, CheckSpec, CheckStatus, DirectoryCommand, Registration, ServiceSpec,
};
use conclave_catalog::{Command, Refusal};
use conclave_consensus::ConsensusError;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Answer, Client, Cluster, DEADLINE, until, until_answer};

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
    let check = r#"{"Name": "alive", "TTL": "3s", "Status": "passing"}"#;
    assert_eq!(client.put("/v1/agent/check/register", check).await.status, 200);
    let session = client.session(r#"{"Checks": ["alive"], "Behavior": "delete"}"#).await;
    assert!(client.wrote(&format!("/v1/kv/k?acquire={session}"), "").await);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(client.put("/v1/agent/check/pass/alive", "").await.status, 200);
    }
    assert_eq!(client.get("/v1/kv/k").await.status, 200);
    let renewed = Instant::now();
    let lapsed = until_answer(&client, "/v1/agent/checks", "the lapse", |answer| {
        answer.json()["alive"]["Status"] == json!("critical")
    })
    .await;
    assert!(renewed.elapsed() >= Duration::from_millis(2900));
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

/// A service with a check that has to be renewed, as the leader's keeper acts on it: the API itself takes no time below a
/// minute.
async fn register(cluster: &Cluster, id: &str, status: CheckStatus, deregister_after_ms: u64) {
    let service = ServiceSpec {
        id: id.into(),
        name: id.into(),
        ..ServiceSpec::default()
    };
    let check = CheckSpec {
        id: format!("service:{id}"),
        name: id.into(),
        notes: String::new(),
        status: Some(status),
        output: String::new(),
        service_id: Some(id.into()),
        definition: CheckDefinition {
            kind: CheckKind::Ttl { millis: 600_000 },
            deregister_after_ms: Some(deregister_after_ms),
            ..CheckDefinition::default()
        },
    };
    let registration = Registration {
        node: "node1".into(),
        facts: None,
        service: Some(service),
        checks: vec![check],
        replace_checks: false,
    };
    let command = Command::Directory(DirectoryCommand::Register(Box::new(registration)));
    cluster.nodes[0].consensus.propose(command).await.unwrap();
}

/// The services of the first node, as `client` finds them.
async fn services(client: &Client) -> Vec<String> {
    let shown = client.get("/v1/catalog/node/node1").await.json();
    let services = shown["Services"].as_object().unwrap();
    services.keys().filter(|id| *id != "consul").cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_check_stays_critical_is_deregistered() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    register(&cluster, "lost", CheckStatus::Critical, 300).await;
    register(&cluster, "well", CheckStatus::Passing, 300).await;
    register(&cluster, "slow", CheckStatus::Critical, 600_000).await;
    let path = "/v1/catalog/node/node1";
    let gone = |answer: &Answer| answer.json()["Services"].get("lost").is_none();
    until_answer(&client, path, "the end of the service", gone).await;
    assert_eq!(services(&client).await, ["slow", "well"]);
    let checks = client.get("/v1/agent/checks").await.json();
    assert!(checks.get("service:lost").is_none(), "{checks}");
    // One that fails now goes as well.
    let failed = client.put("/v1/agent/check/fail/service:well", "").await;
    assert_eq!(failed.status, 200);
    let gone = |answer: &Answer| answer.json()["Services"].get("well").is_none();
    until_answer(&client, path, "the end of the second", gone).await;
    // What clients give is no shorter than a minute.
    let short = json!({"name": "short", "check": {"ttl": "10s", "DeregisterCriticalServiceAfter": "1s"}});
    assert_eq!(
        client.put("/v1/agent/service/register", short.to_string()).await.status,
        200
    );
    let state = cluster.nodes[0].consensus.state().borrow().clone();
    let node = state.directory().services().node("node1").cloned().unwrap();
    assert_eq!(
        node.checks["service:short"].definition.deregister_after_ms,
        Some(60_000)
    );
}

/// A leader's verdict holds in its own term. The next leader carries none of it out, and measures in full.
#[tokio::test(flavor = "multi_thread")]
async fn critical_services_are_deregistered_through_a_change_of_leader() {
    const WHOLE: Duration = Duration::from_secs(3);
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
    let mut cluster = Cluster::of(3).await;
    let first = cluster.leader();
    let term = cluster.nodes[first].consensus.leadership().borrow().term;
    register(&cluster, "lost", CheckStatus::Critical, millis(WHOLE)).await;
    register(&cluster, "spared", CheckStatus::Critical, 600_000).await;
    let checks = cluster.nodes[first].consensus.state().borrow().clone();
    let since = |id: &str| {
        let node = checks.directory().services().node("node1").cloned().unwrap();
        node.checks[format!("service:{id}").as_str()].status_index
    };
    let verdict = |id: &str| {
        Command::Directory(DirectoryCommand::DeregisterCritical {
            node: "node1".into(),
            check: format!("service:{id}"),
            since: since(id),
        })
    };
    let begun = Instant::now();
    cluster.nodes[first].kill();
    let others: Vec<usize> = (0..3).filter(|node| *node != first).collect();
    until("another leader", || {
        others.iter().any(|node| cluster.nodes[*node].leads())
    })
    .await;
    let next = others
        .iter()
        .copied()
        .find(|node| cluster.nodes[*node].leads())
        .unwrap();
    let (node, client) = (&cluster.nodes[next], cluster.nodes[next].client());
    // What the first leader would have told, had it only been paused.
    let late = node.consensus.propose_in_term(term, verdict("spared"), DEADLINE).await;
    let refused = matches!(
        late,
        Err(ConsensusError::Refused(Refusal::OtherTerm { decided, .. })) if decided == term
    );
    assert!(refused, "{late:?}");
    let gone = |answer: &Answer| answer.json()["Services"].get("lost").is_none();
    until_answer(&client, "/v1/catalog/node/node1", "the end of the service", gone).await;
    assert!(begun.elapsed() >= WHOLE, "its time begins anew with the leader");
    assert_eq!(services(&client).await, ["spared"]);
    let now = node.consensus.leadership().borrow().term;
    let own = node.consensus.propose_in_term(now, verdict("spared"), DEADLINE).await;
    own.unwrap();
    assert!(services(&client).await.is_empty());
}
