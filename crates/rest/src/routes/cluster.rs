//! What the manager says of itself and of the cluster (spec/rest-api.md, sections 10.1, 10.2 and 12).

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use conclave_auth::{PERMISSIONS, ROLES};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::guard::Caller;
use crate::list::{flag, whole};
use crate::state::{NodeView, Object, RestState};

/// The release whose clients are spoken to.
const SPOKEN_VERSION: &str = "7.0.5";

pub(super) async fn version() -> Json<Object> {
    Json(json!({
        "edition": "community", "version": SPOKEN_VERSION, "build": env!("CARGO_PKG_VERSION"), "date": null, "commit": null,
        "distribution": "debian", "distro_release": "bookworm",
    }))
}

/// 200 on every node that can serve; by the 4.x contract, 400 on all but the leader.
pub(super) async fn status(
    State(state): State<RestState>,
    caller: Result<Caller, ApiError>,
) -> Result<Response, ApiError> {
    if state.active_only && !state.cluster.is_leader() {
        let message = "This node is not the active manager of the cluster";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "not_cluster_master", message));
    }
    caller?.may("status_get")?;
    let ready = state.store.is_ready().await;
    let (code, word) = if ready {
        (StatusCode::OK, "OK")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "Fail")
    };
    let service = |healthy: bool| json!({"status": if healthy { "Active" } else { "Inactive" }, "is_remote": false, "extra_info": {}});
    let services = json!({"Manager": service(true), "PostgreSQL": service(ready)});
    Ok((code, Json(json!({"status": word, "services": services}))).into_response())
}

pub(super) async fn ok(State(state): State<RestState>) -> Response {
    if state.store.is_ready().await {
        Json("OK").into_response()
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, Json("FAIL")).into_response()
    }
}

pub(super) async fn config(caller: Caller) -> Result<Json<Object>, ApiError> {
    caller.may("manager_config_get")?;
    let roles: Vec<Value> = ROLES
        .iter()
        .map(|role| json!({"name": role.name, "type": role.kind, "description": role.description}))
        .collect();
    let permissions: Map<String, Value> = PERMISSIONS
        .iter()
        .map(|(name, roles)| ((*name).to_owned(), json!(roles)))
        .collect();
    let authorization = json!({"roles": roles, "permissions": permissions});
    Ok(Json(
        json!({"metadata": {}, "items": [], "authorization": authorization}),
    ))
}

pub(super) async fn maintenance(caller: Caller) -> Result<Json<Object>, ApiError> {
    caller.may("maintenance_mode_get")?;
    Ok(Json(json!({
        "status": "deactivated", "activated_at": "", "activation_requested_at": "", "remaining_executions": null,
        "requested_by": "",
    })))
}

pub(super) async fn provider_context(caller: Caller) -> Result<Json<Object>, ApiError> {
    caller.may("provider_context_get")?;
    Err(ApiError::not_found("Provider Context not found"))
}

/// No license is needed.
pub(super) async fn license_check(_caller: Caller) -> Json<Object> {
    Json(json!({"status": "ok"}))
}

fn manager(node: &NodeView, ca: &str) -> Value {
    json!({
        "id": node.id, "hostname": node.name, "private_ip": node.address, "public_ip": node.address,
        "version": SPOKEN_VERSION, "edition": "community", "distribution": "debian", "distro_release": "bookworm",
        "fs_sync_node_id": node.name, "networks": {"default": node.address}, "last_seen": null,
        "status_report_frequency": null, "ca_cert_content": ca,
    })
}

pub(super) async fn managers(State(state): State<RestState>, caller: Caller) -> Result<Json<Object>, ApiError> {
    caller.may("manager_get")?;
    let ca = state.cluster.ca_certificate();
    Ok(whole(
        state
            .cluster
            .nodes()
            .await
            .iter()
            .map(|node| manager(node, &ca))
            .collect(),
    ))
}

pub(super) async fn brokers(State(state): State<RestState>, caller: Caller) -> Result<Json<Object>, ApiError> {
    caller.may("broker_get")?;
    let ca = state.cluster.ca_certificate();
    let broker = |view: crate::BrokerView| {
        json!({
            "name": view.name, "host": view.address, "management_host": view.address, "port": view.port, "username": null,
            "password": null, "params": {}, "networks": {"default": view.address}, "is_external": false,
            "ca_cert_content": ca,
        })
    };
    Ok(whole(state.cluster.brokers().into_iter().map(broker).collect()))
}

pub(super) async fn db_nodes(State(state): State<RestState>, caller: Caller) -> Result<Json<Object>, ApiError> {
    caller.may("db_nodes_get")?;
    let nodes = state.cluster.nodes().await;
    Ok(whole(
        nodes
            .iter()
            .map(|node| json!({"name": node.name, "host": node.address, "is_external": false}))
            .collect(),
    ))
}

pub(super) async fn cluster_status(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    caller.may("cluster_status_get")?;
    let nodes = state.cluster.nodes().await;
    let service = service_status(&nodes);
    let status = service["status"].clone();
    if flag(query.as_deref(), "summary") {
        let code = if status == "Fail" {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        };
        return Ok((code, Json(json!({"status": status, "services": {}}))).into_response());
    }
    let services = json!({"manager": service, "db": service, "broker": service});
    Ok(Json(json!({"status": status, "services": services})).into_response())
}

/// Every node runs everything, so that the three services are as well as the nodes are.
fn service_status(nodes: &[NodeView]) -> Value {
    let well = nodes.iter().filter(|node| node.failures.is_empty()).count();
    let status = match well {
        all if all == nodes.len() => "OK",
        some if some > nodes.len() / 2 => "Degraded",
        _ => "Fail",
    };
    let shown: Map<String, Value> = nodes
        .iter()
        .map(|node| {
            let state = if node.failures.is_empty() { "OK" } else { "Fail" };
            let view = json!({
                "status": state, "private_ip": node.address, "public_ip": node.address, "version": SPOKEN_VERSION,
                "failures": node.failures, "services": {}, "metrics": [],
            });
            (node.name.clone(), view)
        })
        .collect();
    json!({"status": status, "is_external": false, "nodes": shown})
}
