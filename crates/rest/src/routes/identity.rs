//! Users and tenants.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use conclave_auth::{ROLES, hash_password};
use conclave_store::{Resource, TenantScope};
use serde_json::Value;

use crate::error::ApiError;
use crate::guard::Caller;
use crate::list::Asked;
use crate::state::{Object, RestState};

/// 1 to 256 letters, digits, `-`, `.`, `_`; a letter first (spec/rest-api.md, section 5).
pub(super) fn check_id(what: &str, id: &str) -> Result<(), ApiError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let valid =
        (1..=256).contains(&id.len()) && id.chars().all(fits) && id.starts_with(|c: char| c.is_ascii_alphanumeric());
    if valid {
        Ok(())
    } else {
        Err(ApiError::bad(format!(
            "The `{what}` argument contains illegal characters: {id:?}"
        )))
    }
}

/// Objects that are known by a name in place of an id.
async fn named(state: &RestState, resource: Resource, field: &str, name: &str) -> Result<Value, ApiError> {
    let query = conclave_store::ListQuery::all(TenantScope::All).with(field, name);
    Ok(state.store.one(resource, &query, name).await?)
}

pub(super) async fn tenants(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    caller.may("tenant_list")?;
    let mut asked = Asked::read(Resource::TENANTS, TenantScope::All, query.as_deref())?;
    if !caller.principal.is_bootstrap_admin() && caller.principal.user.role != "sys_admin" {
        asked
            .query
            .equal
            .push(("name".into(), caller.principal.user.tenants.keys().cloned().collect()));
    }
    asked.answer(&state.store, Resource::TENANTS).await
}

pub(super) async fn tenant(
    State(state): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Object>, ApiError> {
    caller.principal.authorize("tenant_get", Some(&name))?;
    Ok(Json(named(&state, Resource::TENANTS, "name", &name).await?))
}

pub(super) async fn tenant_create(
    State(state): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Object>), ApiError> {
    caller.may("tenant_create")?;
    check_id("tenant_name", &name)?;
    state.store.tenant_create(&name).await?;
    Ok((
        StatusCode::CREATED,
        Json(named(&state, Resource::TENANTS, "name", &name).await?),
    ))
}

pub(super) async fn tenant_delete(
    State(state): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Object>, ApiError> {
    caller.may("tenant_delete")?;
    if name == "default_tenant" {
        return Err(ApiError::bad("the default tenant cannot be deleted"));
    }
    let object = named(&state, Resource::TENANTS, "name", &name).await?;
    state.store.tenant_delete(&name).await?;
    Ok(Json(object))
}

pub(super) async fn users(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    caller.may("user_list")?;
    Asked::read(Resource::USERS, TenantScope::All, query.as_deref())?
        .answer(&state.store, Resource::USERS)
        .await
}

pub(super) async fn user(
    State(state): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Object>, ApiError> {
    if !name.eq_ignore_ascii_case(&caller.principal.user.username) {
        caller.may("user_get")?;
    }
    Ok(Json(named(&state, Resource::USERS, "username", &name).await?))
}

pub(super) async fn me(State(state): State<RestState>, caller: Caller) -> Result<Json<Object>, ApiError> {
    Ok(Json(
        named(&state, Resource::USERS, "username", &caller.principal.user.username).await?,
    ))
}

pub(super) async fn user_create(
    State(state): State<RestState>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Object>), ApiError> {
    caller.may("user_create")?;
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    let missing = |key: &str| ApiError::bad(format!("{key} is missing"));
    let name = text("username").ok_or_else(|| missing("username"))?;
    let password = text("password").ok_or_else(|| missing("password"))?;
    let role = text("role").unwrap_or_else(|| "default".into());
    check_id("username", &name)?;
    if !(5..=256).contains(&password.len()) {
        return Err(ApiError::bad("a password has 5 to 256 characters"));
    }
    if !ROLES
        .iter()
        .any(|known| known.name == role && known.kind == "system_role")
    {
        return Err(ApiError::bad(format!("{role:?} is no system role")));
    }
    let hash = tokio::task::spawn_blocking(move || hash_password(&password))
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?;
    state.store.user_create(&name, &hash, &role).await?;
    Ok((
        StatusCode::CREATED,
        Json(named(&state, Resource::USERS, "username", &name).await?),
    ))
}
