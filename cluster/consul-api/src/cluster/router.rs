//! The routes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use conclave_catalog::NodeId;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Feed, Health, collect};
use crate::consul::Api;

/// How long the primary may take to tell its position for a page of metrics.
const PRIMARY_TIMEOUT: Duration = Duration::from_millis(300);

#[derive(Clone)]
struct Shared {
    api: Arc<Api>,
    feed: Feed,
}

/// The status API of this node.
///
/// | path | answer |
/// | --- | --- |
/// | `/v1/cluster/status` | [`super::ClusterStatus`] |
/// | `/v1/cluster/nodes` | its `nodes` |
/// | `/v1/cluster/events` | [`super::ClusterEvent`]s as server-sent events |
/// | `/health/live` | 200 while the process answers |
/// | `/health/ready` | 200 when the cluster serves through this node, else 503 with the causes |
/// | `/health/leader` | 200 on the leader, else 503 with who leads |
/// | `/metrics` | Prometheus |
pub(crate) fn router(api: Arc<Api>, feed: Feed) -> Router {
    Router::new()
        .route("/v1/cluster/status", get(cluster_status))
        .route("/v1/cluster/nodes", get(cluster_nodes))
        .route("/v1/cluster/events", get(events))
        .route("/health/live", get(|| async { "live" }))
        .route("/health/ready", get(ready))
        .route("/health/leader", get(leader))
        .route("/metrics", get(metrics))
        .with_state(Shared { api, feed })
}

async fn cluster_status(State(shared): State<Shared>) -> Response {
    Json(status(&shared).await).into_response()
}

/// The status, with the time since when this node has been alone, if it is.
async fn status(shared: &Shared) -> super::ClusterStatus {
    let mut status = collect(&shared.api.consensus).await;
    if let Some(since) = shared.api.patience.leaderless_since() {
        status.date_own_causes(before_now(since));
    }
    status
}

fn before_now(moment: Instant) -> jiff::Timestamp {
    let now = conclave_runtime::clock::now();
    let past = jiff::SignedDuration::try_from(moment.elapsed()).unwrap_or(jiff::SignedDuration::ZERO);
    now.checked_sub(past).unwrap_or(now)
}

async fn cluster_nodes(State(shared): State<Shared>) -> Response {
    Json(status(&shared).await.nodes).into_response()
}

async fn events(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    shared.feed.read(seen)
}

async fn ready(State(shared): State<Shared>) -> Response {
    let status = status(&shared).await;
    let code = if status.status == Health::Unavailable {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let body = json!({"status": status.status, "minority": status.minority, "causes": status.causes});
    (code, Json(body)).into_response()
}

async fn leader(State(shared): State<Shared>) -> Response {
    let leadership = shared.api.consensus.leadership().borrow().clone();
    let state = shared.api.consensus.state().borrow().clone();
    let leader = leadership
        .leader
        .and_then(|id| state.nodes().get(&id))
        .map(|node| node.name.clone());
    let code = if leadership.is_leader {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "is_leader": leadership.is_leader, "term": leadership.term, "leader": leader,
        "minority": !leadership.has_quorum,
    });
    (code, Json(body)).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let api = &shared.api;
    let own = api.consensus.report_of(api.consensus.me()).await.unwrap_or(Value::Null);
    let lag = replication_lag(api, &own).await;
    let sessions = api.renewing.keeper.sessions();
    let mut text = api.metrics.text(&api.consensus, sessions, api.hub.waiters(), &own);
    if let Some(lag) = lag {
        text += "# HELP conclave_postgres_lag_bytes WAL that this node's PostgreSQL has not received yet.\n";
        text += &format!("# TYPE conclave_postgres_lag_bytes gauge\nconclave_postgres_lag_bytes {lag}\n");
    }
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

fn position(report: &Value) -> Option<u64> {
    report["parts"]["postgres"]["details"]["lsn"].as_u64()
}

/// How far this node's PostgreSQL is behind the primary; `None` when either position is not known.
async fn replication_lag(api: &Api, own: &Value) -> Option<u64> {
    let primary: NodeId = api.consensus.state().borrow().database().rule.as_ref()?.primary;
    let report = tokio::time::timeout(PRIMARY_TIMEOUT, api.consensus.report_of(primary))
        .await
        .ok()?
        .ok()?;
    Some(position(&report)?.saturating_sub(position(own)?))
}
