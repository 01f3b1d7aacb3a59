//! The REST API, v3.1, as Cloudify's clients know it (spec/rest-api.md).
//!
//! Thin: it reads requests, asks who they come from, and calls the record, the executor and the files. Every route but the
//! few open ones takes a [`guard::Caller`], which cannot be had without credentials and a permission.

mod error;
mod expiry;
mod guard;
mod list;
mod routes;
mod state;

pub use state::{BrokerView, ClusterError, ClusterView, Invitation, LogLine, NodeChecks, NodeView, RestState};

use axum::Router;

/// All routes.
pub fn router(state: RestState) -> Router {
    Router::new()
        .nest("/api/v3.1", routes::api())
        .nest("/api/v3", routes::api())
        .nest("/api/v2.1", routes::api())
        .merge(routes::unversioned())
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method)
        .with_state(state)
}
