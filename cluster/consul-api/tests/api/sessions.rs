//! Sessions, locks, lock-delays, times to live.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Cluster, until_answer};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_hold_keys_and_let_go_of_them() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let first = client.session("").await;
    let info = client.get(&format!("/v1/session/info/{first}")).await;
    let session = info.json()[0].clone();
    assert_eq!(
        (&session["Node"], &session["Behavior"]),
        (&json!("node1"), &json!("release"))
    );
    assert_eq!(
        (&session["NodeChecks"], &session["Checks"]),
        (&json!(["serfHealth"]), &json!(["serfHealth"]))
    );
    assert_eq!(
        (&session["LockDelay"], &session["TTL"]),
        (&json!(15_000_000_000_u64), &json!(""))
    );
    // As py-consul writes it, and as Go does.
    let second = client
        .session(r#"{"name": "x", "checks": [], "lockdelay": "0.001s", "behavior": "delete", "ttl": "15.0s"}"#)
        .await;
    let third = client
        .session(r#"{"Name": "y", "NodeChecks": [], "LockDelay": 5, "TTL": "10s"}"#)
        .await;
    let delay = client.get(&format!("/v1/session/info/{third}")).await.json()[0]["LockDelay"].clone();
    assert_eq!(delay, json!(5_000_000_000_u64));
    assert_eq!(client.get("/v1/session/list").await.json().as_array().unwrap().len(), 3);
    assert_eq!(
        client
            .get("/v1/session/node/node1")
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(client.get("/v1/session/node/none").await.json(), json!([]));

    let unknown = "6ff1c4f8-1bf4-4b7c-9f3e-6a4d1a0d6d50";
    assert_eq!(
        client.get(&format!("/v1/session/info/{unknown}")).await.json(),
        json!([])
    );
    assert_eq!(client.get("/v1/session/info/nonsense").await.status, 500);
    assert_eq!(
        client.put(&format!("/v1/session/destroy/{unknown}"), "").await.text(),
        "true"
    );
    let renewed = client.put(&format!("/v1/session/renew/{second}"), "").await;
    assert_eq!((renewed.status, &renewed.json()[0]["ID"]), (200, &json!(second)));
    let missing = client.put(&format!("/v1/session/renew/{unknown}"), "").await;
    assert_eq!(
        (missing.status, missing.text()),
        (404, format!("Session id '{unknown}' not found"))
    );
    assert_eq!(
        client.put(&format!("/v1/session/renew/{first}"), "").await.status,
        200,
        "it lives for ever"
    );
    let short = client.put("/v1/session/create", r#"{"TTL": "500ms"}"#).await;
    assert_eq!(
        (short.status, short.text().as_str()),
        (500, "Invalid Session TTL '500000000', must be between [1s=24h0m0s]")
    );
    let node = client.put("/v1/session/create", r#"{"Node": "none"}"#).await;
    assert_eq!((node.status, node.text().as_str()), (500, "Missing node registration"));
    let check = client.put("/v1/session/create", r#"{"Checks": ["none"]}"#).await;
    assert_eq!(
        (check.status, check.text().as_str()),
        (500, "Missing check 'none' registration")
    );

    assert!(client.wrote(&format!("/v1/kv/lock?acquire={first}"), "1").await);
    assert!(!client.wrote(&format!("/v1/kv/lock?acquire={second}"), "2").await);
    assert_eq!(client.entry("lock").await["Session"], json!(first));
    assert!(!client.wrote(&format!("/v1/kv/lock?release={second}"), "").await);
    assert!(client.wrote(&format!("/v1/kv/lock?release={first}"), "free").await);
    assert!(client.wrote(&format!("/v1/kv/lock?acquire={second}"), "2").await);
    assert_eq!(client.entry("lock").await["LockIndex"], json!(2));
    assert!(client.wrote(&format!("/v1/kv/other?acquire={second}"), "").await);
    assert_eq!(
        client.put(&format!("/v1/session/destroy/{second}"), "").await.status,
        200
    );
    assert_eq!(client.get("/v1/kv/lock").await.status, 404, "deleted with its session");
    assert!(
        client.wrote(&format!("/v1/kv/lock?acquire={first}"), "").await,
        "a delay of 1 ms is none"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_renews_ends_and_its_keys_are_delayed() {
    let cluster = Cluster::one().await;
    let client = cluster.client();
    let body = r#"{"TTL": "1s", "LockDelay": "1s", "Checks": []}"#;
    let session = client.session(body).await;
    let other = client.session("").await;
    assert!(client.wrote(&format!("/v1/kv/k?acquire={session}"), "v").await);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(
            client.put(&format!("/v1/session/renew/{session}"), "").await.status,
            200
        );
    }
    let renewed = Instant::now();
    let path = format!("/v1/session/info/{session}");
    until_answer(&client, &path, "the end", |answer| answer.json() == json!([])).await;
    let lived = renewed.elapsed();
    assert!(
        lived >= Duration::from_secs(1) && lived < Duration::from_secs(4),
        "{lived:?}"
    );
    assert!(client.entry("k").await.get("Session").is_none());
    assert!(
        !client.wrote(&format!("/v1/kv/k?acquire={other}"), "").await,
        "the lock-delay holds"
    );
    let ended = Instant::now();
    loop {
        if client.wrote(&format!("/v1/kv/k?acquire={other}"), "").await {
            break;
        }
        assert!(ended.elapsed() < Duration::from_secs(5), "the lock-delay does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ended.elapsed() > Duration::from_millis(500));
    assert_eq!(
        client.put(&format!("/v1/session/renew/{session}"), "").await.status,
        404
    );
}
