//! API tokens.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use conclave_auth::ApiToken;
use conclave_runtime::clock;
use conclave_store::{ListQuery, NewToken, Resource, TenantScope};
use serde_json::Value;

use crate::error::ApiError;
use crate::expiry::expiry;
use crate::guard::Caller;
use crate::list::Asked;
use crate::state::{Object, RestState};

/// Whether only the caller's own tokens are there for it.
fn own_alone(caller: &Caller) -> bool {
    caller.may("manage_others_tokens").is_err()
}

pub(super) async fn list(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    caller.may("token_get")?;
    let mut asked = Asked::read(Resource::TOKENS, TenantScope::All, query.as_deref())?;
    if own_alone(&caller) {
        asked.query = asked.query.with("username", &caller.principal.user.username);
    }
    asked.answer(&state.store, Resource::TOKENS).await
}

pub(super) async fn get(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    caller.may("list_token")?;
    let asked = Asked::read(Resource::TOKENS, TenantScope::All, query.as_deref())?;
    let mut one = ListQuery::all(TenantScope::All).with("id", &id);
    if own_alone(&caller) {
        one = one.with("username", &caller.principal.user.username);
    }
    let object = state.store.one(Resource::TOKENS, &one, &id).await?;
    Ok(Json(asked.shape(object)?))
}

/// The only answer that holds the token's whole value: of its secret a hash is stored.
pub(super) async fn create(
    State(state): State<RestState>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<Json<Object>, ApiError> {
    caller.may("create_token")?;
    let Value::Object(body) = body else {
        return Err(ApiError::bad("the body of the request is expected to be a dict"));
    };
    let text = |key: &str| match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(ApiError::bad(format!("{key}: expected a text, got {other}"))),
    };
    let expires_at = text("expiration_date")?
        .map(|text| expiry(&text, clock::now()))
        .transpose()
        .map_err(|reason| ApiError::bad(format!("expiration_date: {reason}")))?;
    let token = ApiToken::random();
    let new = NewToken {
        id: token.id().to_owned(),
        user: caller.principal.user.id,
        secret_hash: token.secret_hash(),
        description: text("description")?,
        expires_at,
    };
    let mut object = state.store.token_create(&new).await?;
    object["value"] = token.value().into();
    Ok(Json(object))
}

pub(super) async fn delete(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.may("delete_token")?;
    let owner = own_alone(&caller).then_some(caller.principal.user.id);
    state.store.token_delete(&id, owner).await?;
    Ok(StatusCode::NO_CONTENT)
}
