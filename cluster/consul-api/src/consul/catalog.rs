//! `/v1/catalog/…` (spec/consul-api.md, section 8).

use std::collections::{BTreeMap, BTreeSet};

use conclave_catalog::directory::{CatalogNode, DirectoryCommand, Registration};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use super::fields::{Fields, object};
use super::{Api, DATACENTER, registration, rows};
use crate::watch::Topic;

pub(super) fn datacenters(call: &Call) -> Result<Answer, ApiError> {
    call.json(&[DATACENTER])
}

/// The language of filters is not spoken here; an unfiltered answer would be a wrong one.
pub(super) fn refuse_filter(call: &Call) -> Result<(), ApiError> {
    match call.value("filter") {
        None | Some("") => Ok(()),
        Some(_) => Err(ApiError::BadRequest("filter expressions are not supported".into())),
    }
}

/// Whether a node carries all of `?node-meta=key:value`.
pub(super) fn has_meta(call: &Call, node: &CatalogNode) -> bool {
    call.values("node-meta").all(|wanted| {
        let (key, value) = wanted.split_once(':').unwrap_or((wanted, ""));
        node.spec.meta.get(key).is_some_and(|own| own == value)
    })
}

pub(super) async fn nodes(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    api.read(
        call,
        Topic::Nodes,
        |state| state.services().nodes_index(),
        |state| {
            let nodes = state.services().nodes().values();
            let shown: Vec<_> = nodes
                .filter(|node| has_meta(call, node))
                .map(|node| rows::node(node))
                .collect();
            call.json(&shown)
        },
    )
    .await
}

pub(super) async fn services(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    api.read(
        call,
        Topic::Services,
        |state| state.services().services_index(),
        |state| {
            let mut tags: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for node in state.services().nodes().values().filter(|node| has_meta(call, node)) {
                for service in node.services.values() {
                    let own = tags.entry(&service.spec.name).or_default();
                    own.extend(service.spec.tags.iter().map(String::as_str));
                }
            }
            call.json(&tags)
        },
    )
    .await
}

pub(super) async fn service(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    let name = call.rest.as_str();
    api.read(
        call,
        Topic::Service(name.to_owned()),
        |state| state.services().index_of_service(name),
        |state| {
            let instances = state.services().instances(name);
            let shown: Vec<_> = instances
                .filter(|(node, service)| has_meta(call, node) && has_tags(call, &service.spec.tags))
                .map(|(node, service)| rows::catalog_service(node, service))
                .collect();
            call.json(&shown)
        },
    )
    .await
}

/// Whether a service carries every `?tag=`.
pub(super) fn has_tags(call: &Call, tags: &[String]) -> bool {
    call.values("tag")
        .all(|wanted| tags.iter().any(|own| own.eq_ignore_ascii_case(wanted)))
}

pub(super) async fn node(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    let name = call.rest.as_str();
    api.read(
        call,
        Topic::Node(name.to_owned()),
        |state| state.services().index_of_node(name),
        |state| {
            let Some(node) = state.services().node(name) else {
                return call.json(&Value::Null);
            };
            let services = node.services.iter();
            let services: Map<_, _> = services
                .map(|(id, service)| (id.to_string(), rows::service(service)))
                .collect();
            call.json(&json!({"Node": rows::node(node), "Services": services}))
        },
    )
    .await
}

pub(super) async fn register(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let body = object(&call.body)?;
    let fields = Fields::new(&body);
    check_datacenter(&fields)?;
    let node = fields.text_or_empty("Node")?;
    let address = fields.text_or_empty("Address")?;
    let known = api.state().directory().services().node(&node).is_some();
    if node.is_empty() || (address.is_empty() && !known) {
        return Err(ApiError::Failed("Must provide node and address".into()));
    }
    let skip = fields.flag("SkipNodeUpdate")? && known;
    let facts = if skip || address.is_empty() {
        None
    } else {
        Some(registration::node(&fields, address)?)
    };
    let service = fields
        .get("Service")
        .map(|service| registration::catalog_service(&Fields::of(service)?));
    let service = service.transpose()?;
    let mut checks = Vec::new();
    let one = fields.get("Check").into_iter();
    for check in one.chain(fields.list("Checks")?.into_iter().flatten()) {
        checks.push(registration::catalog_check(&Fields::of(check)?)?);
    }
    let registration = Registration {
        node,
        facts,
        service,
        checks,
        replace_checks: false,
    };
    api.propose(DirectoryCommand::Register(Box::new(registration))).await?;
    call.json(&true)
}

fn check_datacenter(fields: &Fields<'_>) -> Result<(), ApiError> {
    match fields.text("Datacenter")?.as_deref() {
        None | Some("" | DATACENTER) => Ok(()),
        Some(_) => Err(ApiError::OtherDatacenter),
    }
}

pub(super) async fn deregister(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let body = object(&call.body)?;
    let fields = Fields::new(&body);
    check_datacenter(&fields)?;
    let node = fields.text_or_empty("Node")?;
    if node.is_empty() {
        return Err(ApiError::Failed("Must provide node".into()));
    }
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let command = DirectoryCommand::Deregister {
        node,
        service: given(fields.text("ServiceID")?),
        check: given(fields.text("CheckID")?),
    };
    api.propose(command).await?;
    call.json(&true)
}
