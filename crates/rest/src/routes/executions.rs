//! Executions.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use conclave_executor::NewRequest;
use conclave_store::Resource;
use conclave_types::ExecutionId;
use serde_json::Value;

use crate::error::ApiError;
use crate::guard::Caller;
use crate::list::{Asked, flag};
use crate::state::{Object, RestState};

pub(super) async fn list(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    let scope = caller.scope("execution_list")?;
    let mut asked = Asked::read(Resource::EXECUTIONS, scope, query.as_deref())?;
    if !flag(query.as_deref(), "_include_system_workflows") {
        asked
            .query
            .equal
            .push(("is_system_workflow".into(), vec!["false".into()]));
    }
    asked.answer(&state.store, Resource::EXECUTIONS).await
}

pub(super) async fn get(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    let asked = Asked::read(Resource::EXECUTIONS, caller.scope("execution_get")?, query.as_deref())?;
    Ok(Json(asked.one(&state.store, Resource::EXECUTIONS, &id).await?))
}

/// Booleans arrive as such and as texts.
fn truth(body: &Value, key: &str) -> Result<bool, ApiError> {
    match &body[key] {
        Value::Null => Ok(false),
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(ApiError::bad(format!("{key}: {other} is no boolean"))),
    }
}

pub(super) async fn create(
    State(state): State<RestState>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Object>), ApiError> {
    let tenant = caller.tenant("execution_start")?;
    let text = |key: &str| {
        let found = body[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        found.ok_or_else(|| ApiError::bad(format!("{key} is missing from json request body")))
    };
    let parameters = match &body["parameters"] {
        Value::Null => serde_json::Map::new(),
        Value::Object(parameters) => parameters.clone(),
        other => return Err(ApiError::bad(format!("parameters: expected a dict, got {other}"))),
    };
    let request = NewRequest {
        tenant: tenant.to_owned(),
        deployment: text("deployment_id")?,
        workflow: text("workflow_id")?,
        parameters,
        creator: caller.principal.user.id,
        is_dry_run: truth(&body, "dry_run")?,
        allow_custom_parameters: truth(&body, "allow_custom_parameters")?,
        force: truth(&body, "force")?,
        wait_after_fail: body["wait_after_fail"]
            .as_i64()
            .and_then(|value| i32::try_from(value).ok())
            .unwrap_or(600),
    };
    let id = state.executor.create(request).await?;
    let asked = Asked::read(Resource::EXECUTIONS, caller.scope("execution_get")?, None)?;
    let object = asked.one(&state.store, Resource::EXECUTIONS, &id.to_string()).await?;
    Ok((StatusCode::CREATED, Json(object)))
}

pub(super) async fn act(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Json<Object>, ApiError> {
    let tenant = caller.tenant("execution_cancel")?;
    let parsed: ExecutionId = id
        .parse()
        .map_err(|_| ApiError::not_found(format!("Requested `Execution` with ID `{id}` was not found")))?;
    match body["action"].as_str().unwrap_or_default() {
        action @ ("cancel" | "force-cancel" | "kill") => state.executor.cancel(tenant, parsed, action).await?,
        "resume" => state.executor.resume(tenant, parsed, false).await?,
        "force-resume" => state.executor.resume(tenant, parsed, true).await?,
        other => {
            let message = format!(
                "Invalid action: {other}, Valid action values are: cancel, force-cancel, kill, resume, force-resume"
            );
            return Err(ApiError::bad(message));
        }
    }
    let asked = Asked::read(Resource::EXECUTIONS, caller.scope("execution_get")?, None)?;
    Ok(Json(asked.one(&state.store, Resource::EXECUTIONS, &id).await?))
}
