//! The routes: one file a group of resources.

mod blueprints;
mod cluster;
mod deployments;
mod executions;
mod formation;
mod identity;
mod records;
mod tokens;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, patch, post, put};

use crate::state::RestState;

/// Uploads may be large; everything else is small JSON.
const UPLOAD_BYTES_MAX: usize = 2 << 30;

/// The versioned routes.
pub(crate) fn api() -> Router<RestState> {
    let uploads = Router::new()
        .route(
            "/blueprints/{id}",
            get(blueprints::get).put(blueprints::upload).delete(blueprints::delete),
        )
        .layer(DefaultBodyLimit::max(UPLOAD_BYTES_MAX));
    Router::new()
        .merge(uploads)
        .route("/blueprints", get(blueprints::list))
        .route("/blueprints/{id}/archive", get(blueprints::archive))
        .route("/deployments", get(deployments::list))
        .route(
            "/deployments/{id}",
            put(deployments::create)
                .get(deployments::get)
                .delete(deployments::delete),
        )
        .route("/deployments/{id}/outputs", get(deployments::outputs))
        .route("/deployments/{id}/capabilities", get(deployments::capabilities))
        .route("/evaluate/functions", post(deployments::evaluate))
        .route("/executions", get(executions::list).post(executions::create))
        .route("/executions/{id}", get(executions::get).post(executions::act))
        .route("/events", get(records::events))
        .route("/nodes", get(records::nodes))
        .route("/node-instances", get(records::node_instances))
        .route(
            "/node-instances/{id}",
            patch(records::node_instance_update).get(records::node_instance),
        )
        .route("/tasks_graphs", get(records::tasks_graphs))
        .route("/operations", get(records::operations))
        .route("/tenants", get(identity::tenants))
        .route(
            "/tenants/{name}",
            post(identity::tenant_create)
                .delete(identity::tenant_delete)
                .get(identity::tenant),
        )
        .route("/users", get(identity::users).put(identity::user_create))
        .route("/user", get(identity::me))
        .route("/users/{name}", get(identity::user))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}", get(tokens::get).delete(tokens::delete))
        .route("/version", get(cluster::version))
        .route("/status", get(cluster::status))
        .route("/ok", get(cluster::ok))
        .route("/config", get(cluster::config))
        .route("/maintenance", get(cluster::maintenance))
        .route("/provider/context", get(cluster::provider_context))
        .route("/license-check", get(cluster::license_check))
        .route("/managers", get(cluster::managers))
        .route("/brokers", get(cluster::brokers))
        .route("/db-nodes", get(cluster::db_nodes))
        .route("/cluster-status", get(cluster::cluster_status))
        .route(
            "/cluster",
            get(formation::state).put(formation::found).patch(formation::update),
        )
        .route("/cluster/nodes", get(formation::nodes))
        .route(
            "/cluster/nodes/{name}",
            get(formation::node)
                .put(formation::invite)
                .patch(formation::node_update)
                .delete(formation::remove),
        )
}

/// The one path that names no version.
pub(crate) fn unversioned() -> Router<RestState> {
    Router::new().route("/api/version", get(cluster::version))
}
