//! The file server (spec/rest-api.md, section 13): resource files for whoever may read them.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use conclave_auth::Credentials;
use http::HeaderMap;

use crate::error::ApiError;
use crate::state::RestState;

/// Below these the second part of the path names a tenant.
const OF_TENANTS: [&str; 4] = ["blueprints", "uploaded-blueprints", "deployments", "tenant-resources"];
/// Whoever may log in may read these.
const OF_ALL: [&str; 3] = ["global-resources", "plugins", "spec"];

pub(crate) fn router() -> Router<RestState> {
    Router::new().route("/resources/{*path}", get(resource))
}

async fn resource(
    State(state): State<RestState>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let principal = state
        .authenticator
        .authenticate(&Credentials::from_headers(&headers))
        .await?;
    let mut parts = path.split('/');
    let (area, tenant) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if OF_TENANTS.contains(&area) {
        if !state.store.tenant_exists(tenant).await? {
            return Err(ApiError::not_found(format!("there is no tenant {tenant}")));
        }
        principal.authorize("file_server_auth", Some(tenant))?;
    } else if !OF_ALL.contains(&area) {
        return Err(ApiError::not_found(format!("{path} was not found")));
    }
    // The entity tag is the content's hash. Paths come from the manifest: nothing outside of the tree can be named.
    let Some(tag) = state.files.content_name(&path).map(|name| format!("\"{name}\"")) else {
        return Err(ApiError::not_found(format!("{path} was not found")));
    };
    if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes())
    {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let bytes = state.files.read(&path).await?;
    let kind = (header::CONTENT_TYPE, "application/octet-stream".to_owned());
    Ok(([kind, (header::ETAG, tag)], bytes).into_response())
}
