//! Services of the answering node (spec/consul-api.md, section 7).
//!
//! They live in the replicated catalog under this node's name, so they survive a restart of its process.

use conclave_catalog::directory::{CheckDefinition, CheckSpec, CheckStatus, DirectoryCommand, Registration};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::Call;
use super::catalog::refuse_filter;
use super::error::ApiError;
use super::fields::{Fields, object};
use super::health::worst;
use super::{Api, registration, rows};

/// The check that maintenance adds to a service, before its id.
const MAINTENANCE: &str = "_service_maintenance:";
/// The check that maintenance adds to the node.
const NODE_MAINTENANCE: &str = "_node_maintenance";
const NO_REASON: &str =
    "Maintenance mode is enabled for this service, but no reason was provided. This is a default message.";

pub(super) async fn list(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    let state = api.visible(call).await;
    let node = state.services().node(&api.node_name());
    let services = node.into_iter().flat_map(|node| node.services.iter());
    // The service of the cluster itself was registered by nobody.
    let own = services.filter(|(id, _)| &***id != conclave_catalog::directory::CONSUL_SERVICE);
    let shown: Map<_, _> = own.map(|(id, service)| (id.to_string(), local(service))).collect();
    call.json(&shown)
}

/// A service without what the catalog adds.
fn local(service: &conclave_catalog::directory::Service) -> Value {
    let mut row = rows::service(service);
    if let Some(fields) = row.as_object_mut() {
        for catalogs in ["Proxy", "Connect", "CreateIndex", "ModifyIndex"] {
            fields.shift_remove(catalogs);
        }
        fields.insert("Datacenter".into(), super::DATACENTER.into());
    }
    row
}

pub(super) async fn one(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let state = api.visible(call).await;
    let node = state.services().node(&api.node_name());
    let service = node.and_then(|node| node.services.get(call.rest.as_str()));
    let unknown = || ApiError::NotFound(format!("unknown service ID: {}", call.rest));
    let mut row = local(service.ok_or_else(unknown)?);
    let hash = conclave_net::sha256_hex(row.to_string().as_bytes());
    let hash = hash.get(..16).unwrap_or_default().to_owned();
    if let Some(fields) = row.as_object_mut() {
        fields.insert("ContentHash".into(), hash.as_str().into());
    }
    Ok(call.json(&row)?.with_header("x-consul-contenthash", &hash))
}

pub(super) async fn register(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let body = object(&call.body)?;
    let fields = Fields::new(&body);
    let service = registration::agent_service(&fields)?;
    let checks = registration::service_checks(&fields, &service)?;
    let registration = Registration {
        node: api.node_name(),
        facts: None,
        service: Some(service),
        checks,
        replace_checks: call.has("replace-existing-checks"),
    };
    api.propose(DirectoryCommand::Register(Box::new(registration))).await?;
    Ok(Answer::empty())
}

pub(super) async fn deregister(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let command = DirectoryCommand::Deregister {
        node: api.node_name(),
        service: Some(call.rest.clone()),
        check: None,
    };
    api.propose(command).await?;
    Ok(Answer::empty())
}

pub(super) async fn maintenance(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    if call.rest.is_empty() {
        return Err(ApiError::BadRequest("Missing service ID".into()));
    }
    api.barrier.pass().await?;
    let state = api.state();
    let node = state.directory().services().node(&api.node_name()).cloned();
    if !node.is_some_and(|node| node.services.contains_key(call.rest.as_str())) {
        return Err(ApiError::NotFound(format!(
            "No service registered with ID {:?}",
            call.rest
        )));
    }
    maintain(
        api,
        call,
        format!("{MAINTENANCE}{}", call.rest),
        Some(call.rest.clone()),
    )
    .await
}

pub(super) async fn node_maintenance(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    maintain(api, call, NODE_MAINTENANCE.into(), None).await
}

async fn maintain(api: &Api, call: &Call, id: String, service_id: Option<String>) -> Result<Answer, ApiError> {
    let missing = || ApiError::BadRequest("Missing value for enable".into());
    let enable = match call.value("enable") {
        None => return Err(missing()),
        Some(_) => call
            .truth("enable")
            .ok_or_else(|| ApiError::BadRequest("Invalid value for enable".into()))?,
    };
    let node = api.node_name();
    let command = if enable {
        let reason = call
            .value("reason")
            .filter(|reason| !reason.is_empty())
            .unwrap_or(NO_REASON);
        let check = CheckSpec {
            id,
            name: if service_id.is_some() {
                "Service Maintenance Mode"
            } else {
                "Node Maintenance Mode"
            }
            .into(),
            notes: reason.to_owned(),
            status: Some(CheckStatus::Critical),
            output: String::new(),
            service_id,
            definition: CheckDefinition::default(),
        };
        DirectoryCommand::Register(Box::new(Registration {
            node,
            facts: None,
            service: None,
            checks: vec![check],
            replace_checks: false,
        }))
    } else {
        DirectoryCommand::Deregister {
            node,
            service: None,
            check: Some(id),
        }
    };
    api.propose(command).await?;
    Ok(Answer::empty())
}

fn status_code(status: CheckStatus) -> StatusCode {
    match status {
        CheckStatus::Passing => StatusCode::OK,
        CheckStatus::Warning => StatusCode::TOO_MANY_REQUESTS,
        CheckStatus::Critical => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn health_row(
    api: &Api,
    call: &Call,
    wanted: impl Fn(&conclave_catalog::directory::Service) -> bool,
) -> Vec<(CheckStatus, Value)> {
    let state = api.visible(call).await;
    let node = state.services().node(&api.node_name());
    let services = node
        .into_iter()
        .flat_map(|node| node.services.values().map(move |service| (node, service)));
    services
        .filter(|(_, service)| wanted(service))
        .map(|(node, service)| {
            let status = worst(node, service);
            let checks: Vec<_> = node
                .checks_of(&service.spec.id)
                .map(|check| rows::check(node, check))
                .collect();
            (
                status,
                json!({"AggregatedStatus": status.as_str(), "Service": local(service), "Checks": checks}),
            )
        })
        .collect()
}

/// The status in words alone, for load balancers that ask so.
fn worded(call: &Call, status: &str, body: &Value) -> Result<Answer, ApiError> {
    if call.value("format") == Some("text") {
        return Ok(Answer::of_type("text/plain; charset=utf-8", status.to_owned()));
    }
    call.json(body)
}

pub(super) async fn health_by_id(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let rows = health_row(api, call, |service| service.spec.id == call.rest).await;
    let Some((status, row)) = rows.into_iter().next() else {
        let why = format!("ServiceId {} not found", call.rest);
        let body = json!({"AggregatedStatus": "critical", "Service": null, "Checks": null});
        return Ok(worded(call, &why, &body)?
            .with_status(StatusCode::NOT_FOUND)
            .with_header("x-consul-reason", &why));
    };
    Ok(worded(call, status.as_str(), &row)?
        .with_status(status_code(status))
        .with_header("x-consul-reason", status.as_str()))
}

pub(super) async fn health_by_name(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let rows = health_row(api, call, |service| service.spec.name == call.rest).await;
    let Some(status) = rows.iter().map(|(status, _)| *status).max() else {
        let why = format!("ServiceName {} Not Found", call.rest);
        return Ok(worded(call, &why, &json!([]))?
            .with_status(StatusCode::NOT_FOUND)
            .with_header("x-consul-reason", &why));
    };
    let rows: Vec<Value> = rows.into_iter().map(|(_, row)| row).collect();
    Ok(worded(call, status.as_str(), &rows.into())?
        .with_status(status_code(status))
        .with_header("x-consul-reason", status.as_str()))
}
