//! From a request to its handler.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};

use super::access::Need;
use super::answer::Answer;
use super::call::{Call, peer, query_of, token};
use super::error::ApiError;
use super::routes::{Endpoint, Found, find};
use super::{
    Api, DATACENTER, acl, agent, agent_checks, agent_services, catalog, health, kv, operator, session, snapshot,
    status, txn,
};

/// Answers a request on a path of Consul's.
pub(crate) async fn handle(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.metrics.request();
    let Some(found) = find(request.uri().path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let method = request.method().clone();
    let endpoint = found
        .methods
        .iter()
        .find(|(own, _)| *own == method)
        .map(|(_, endpoint)| *endpoint);
    let Some(endpoint) = endpoint else {
        return other_method(&found, &method);
    };
    let rest = found.rest.to_owned();
    answer(&api, endpoint, request, &rest)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

fn other_method(found: &Found<'_>, method: &Method) -> Response {
    let methods = found.methods.iter().map(|(own, _)| own.as_str());
    let allowed: Vec<&str> = std::iter::once("OPTIONS").chain(methods).collect();
    let mut response = if method == Method::OPTIONS {
        StatusCode::OK.into_response()
    } else {
        let text = format!("method {method} not allowed");
        (StatusCode::METHOD_NOT_ALLOWED, text).into_response()
    };
    if let Ok(allowed) = HeaderValue::from_str(&allowed.join(",")) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

async fn answer(api: &Api, endpoint: Endpoint, request: Request, rest: &str) -> Result<Response, ApiError> {
    let (request_peer, query) = (peer(&request).cloned(), {
        let (parts, body) = request.into_parts();
        let query = query_of(&parts)?;
        (Request::from_parts(parts, body), query)
    });
    let (request, query) = query;
    let trusted = api
        .access
        .judge(&api.state(), token(request.headers(), &query), request_peer.as_ref())?;
    if !trusted && endpoint.need() == Need::Token {
        return Err(ApiError::PermissionDenied);
    }
    let call = Call::read(request, rest, query, trusted, endpoint.body_bytes_max()).await?;
    if call.value("dc").is_some_and(|dc| !dc.is_empty() && dc != DATACENTER) {
        return Err(ApiError::OtherDatacenter);
    }
    let answer = carry_out(api, endpoint, &call).await?;
    Ok(answer.into_response(call.takes_gzip()))
}

async fn carry_out(api: &Api, endpoint: Endpoint, call: &Call) -> Result<Answer, ApiError> {
    match endpoint {
        Endpoint::KvGet => kv::get(api, call).await,
        Endpoint::KvPut => kv::put(api, call).await,
        Endpoint::KvDelete => kv::delete(api, call).await,
        Endpoint::Txn => txn::put(api, call).await,
        Endpoint::SessionCreate => session::create(api, call).await,
        Endpoint::SessionDestroy => session::destroy(api, call).await,
        Endpoint::SessionRenew => session::renew(api, call).await,
        Endpoint::SessionInfo => session::info(api, call).await,
        Endpoint::SessionList => session::list(api, call).await,
        Endpoint::SessionNode => session::of_node(api, call).await,
        Endpoint::StatusLeader => status::leader(api, call),
        Endpoint::StatusPeers => status::peers(api, call),
        Endpoint::AgentSelf => agent::own(api, call),
        Endpoint::AgentMembers => agent::members(api, call),
        Endpoint::AgentVersion => agent::version(call),
        Endpoint::AgentMetrics => agent::metrics(api, call),
        Endpoint::AgentMembership => agent::refuse_membership(call),
        Endpoint::AgentReload => Ok(agent::reload()),
        Endpoint::AgentMaintenance => agent_services::node_maintenance(api, call).await,
        Endpoint::AgentServices => agent_services::list(api, call).await,
        Endpoint::AgentService => agent_services::one(api, call).await,
        Endpoint::ServiceRegister => agent_services::register(api, call).await,
        Endpoint::ServiceDeregister => agent_services::deregister(api, call).await,
        Endpoint::ServiceMaintenance => agent_services::maintenance(api, call).await,
        Endpoint::ServiceHealthById => agent_services::health_by_id(api, call).await,
        Endpoint::ServiceHealthByName => agent_services::health_by_name(api, call).await,
        Endpoint::AgentChecks => agent_checks::list(api, call).await,
        Endpoint::CheckRegister => agent_checks::register(api, call).await,
        Endpoint::CheckDeregister => agent_checks::deregister(api, call).await,
        Endpoint::CheckPass => agent_checks::pass(api, call).await,
        Endpoint::CheckWarn => agent_checks::warn(api, call).await,
        Endpoint::CheckFail => agent_checks::fail(api, call).await,
        Endpoint::CheckUpdate => agent_checks::update(api, call).await,
        Endpoint::Datacenters => catalog::datacenters(call),
        Endpoint::CatalogNodes => catalog::nodes(api, call).await,
        Endpoint::CatalogServices => catalog::services(api, call).await,
        Endpoint::CatalogService => catalog::service(api, call).await,
        Endpoint::CatalogNode => catalog::node(api, call).await,
        Endpoint::CatalogRegister => catalog::register(api, call).await,
        Endpoint::CatalogDeregister => catalog::deregister(api, call).await,
        Endpoint::HealthNode => health::of_node(api, call).await,
        Endpoint::HealthChecks => health::of_service(api, call).await,
        Endpoint::HealthState => health::state(api, call).await,
        Endpoint::HealthService => health::service(api, call).await,
        Endpoint::RaftConfiguration => operator::configuration(api, call).await,
        Endpoint::RaftRemovePeer => operator::remove_peer(api, call).await,
        Endpoint::RaftTransferLeader => operator::transfer_leader(api, call).await,
        Endpoint::AutopilotHealth => operator::autopilot_health(api, call).await,
        Endpoint::AutopilotConfiguration => operator::autopilot_configuration(call),
        Endpoint::SnapshotSave => snapshot::save(api, call).await,
        Endpoint::SnapshotRestore => snapshot::restore(api, call).await,
        Endpoint::TokenSelf => acl::token_self(api, call),
        Endpoint::Acl => acl::refuse(),
        // Clients probe for these; there are none.
        Endpoint::EmptyList => Ok(call.json(&[(); 0])?.with_header("x-consul-index", "1")),
    }
}
