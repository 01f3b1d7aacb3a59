//! The routes.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use conclave_consensus::Consensus;
use serde_json::json;

use crate::{Health, collect};

/// The status API of this node.
///
/// | path | answer |
/// | --- | --- |
/// | `/v1/cluster/status` | [`crate::ClusterStatus`] |
/// | `/v1/cluster/nodes` | its `nodes` |
/// | `/v1/status/leader`, `/v1/status/peers` | Consul's forms: `"<address>:8300"` |
/// | `/health/live` | 200 while the process answers |
/// | `/health/ready` | 200 when the cluster serves through this node, else 503 with the causes |
/// | `/health/leader` | 200 on the leader, else 503 |
pub fn router(consensus: Consensus) -> Router {
    Router::new()
        .route("/v1/cluster/status", get(cluster_status))
        .route("/v1/cluster/nodes", get(cluster_nodes))
        .route("/v1/status/leader", get(status_leader))
        .route("/v1/status/peers", get(status_peers))
        .route("/health/live", get(|| async { "live" }))
        .route("/health/ready", get(ready))
        .route("/health/leader", get(leader))
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                Json(json!({"message": "no such path on the status API"})),
            )
        })
        .with_state(consensus)
}

async fn cluster_status(State(consensus): State<Consensus>) -> Response {
    Json(collect(&consensus).await).into_response()
}

async fn cluster_nodes(State(consensus): State<Consensus>) -> Response {
    Json(collect(&consensus).await.nodes).into_response()
}

async fn status_leader(State(consensus): State<Consensus>) -> Response {
    let leader = consensus.leadership().borrow().leader;
    let state = consensus.state().borrow().clone();
    match leader.and_then(|id| state.nodes().get(&id)) {
        Some(node) => Json(format!("{}:{}", node.address, node.ports.peer)).into_response(),
        None => (StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader").into_response(),
    }
}

async fn status_peers(State(consensus): State<Consensus>) -> Response {
    let state = consensus.state().borrow().clone();
    let peers: Vec<_> = state
        .nodes()
        .values()
        .map(|node| format!("{}:{}", node.address, node.ports.peer))
        .collect();
    Json(peers).into_response()
}

async fn ready(State(consensus): State<Consensus>) -> Response {
    let status = collect(&consensus).await;
    let code = if status.status == Health::Unavailable {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    (code, Json(json!({"status": status.status, "causes": status.causes}))).into_response()
}

async fn leader(State(consensus): State<Consensus>) -> Response {
    let leadership = consensus.leadership().borrow().clone();
    let code = if leadership.is_leader {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        code,
        Json(json!({"is_leader": leadership.is_leader, "term": leadership.term})),
    )
        .into_response()
}
