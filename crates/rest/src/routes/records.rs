//! Lists and single objects that are read as they stand in the record.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use conclave_store::{InstancePatch, Resource};
use serde_json::Value;

use crate::error::ApiError;
use crate::guard::Caller;
use crate::list::{Asked, flag};
use crate::state::{Object, RestState};

async fn listed(
    state: &RestState,
    caller: &Caller,
    permission: &str,
    resource: Resource,
    query: Option<&str>,
) -> Result<Json<Object>, ApiError> {
    Asked::read(resource, caller.scope(permission)?, query)?
        .answer(&state.store, resource)
        .await
}

pub(super) async fn events(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    let scope = caller.scope("event_list")?;
    let mut asked = Asked::read(Resource::EVENTS, scope, query.as_deref())?;
    // A level means logs, an event type means events.
    let has = |asked: &Asked, field: &str| asked.query.equal.iter().any(|(name, _)| name == field);
    for (field, kind) in [("level", "cloudify_log"), ("event_type", "cloudify_event")] {
        if has(&asked, field) {
            asked.query.equal.push(("type".into(), vec![kind.into()]));
        }
    }
    asked.answer(&state.store, Resource::EVENTS).await
}

pub(super) async fn nodes(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    listed(&state, &caller, "node_list", Resource::NODES, query.as_deref()).await
}

pub(super) async fn node_instances(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    listed(
        &state,
        &caller,
        "node_instance_list",
        Resource::NODE_INSTANCES,
        query.as_deref(),
    )
    .await
}

pub(super) async fn node_instance(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    let asked = Asked::read(
        Resource::NODE_INSTANCES,
        caller.scope("node_instance_get")?,
        query.as_deref(),
    )?;
    Ok(Json(asked.one(&state.store, Resource::NODE_INSTANCES, &id).await?))
}

pub(super) async fn node_instance_update(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    Json(body): Json<Value>,
) -> Result<Json<Object>, ApiError> {
    let tenant = caller.tenant("node_instance_update")?;
    let version = body["version"]
        .as_i64()
        .and_then(|version| i32::try_from(version).ok())
        .filter(|version| *version >= 0);
    let object = |key: &str| body.get(key).filter(|value| value.is_object()).cloned();
    let patch = InstancePatch {
        version: version.ok_or_else(|| ApiError::bad("version: a number from 0 on is needed"))?,
        state: body["state"].as_str().map(str::to_owned),
        runtime_properties: object("runtime_properties"),
        system_properties: object("system_properties"),
        force: flag(query.as_deref(), "force"),
    };
    state.store.node_instance_update(tenant, &id, &patch).await?;
    let asked = Asked::read(Resource::NODE_INSTANCES, caller.scope("node_instance_get")?, None)?;
    Ok(Json(asked.one(&state.store, Resource::NODE_INSTANCES, &id).await?))
}

pub(super) async fn tasks_graphs(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    listed(&state, &caller, "operations", Resource::TASKS_GRAPHS, query.as_deref()).await
}

pub(super) async fn operations(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    listed(&state, &caller, "operations", Resource::OPERATIONS, query.as_deref()).await
}
