//! `/v1/health/…` (spec/consul-api.md, section 8).

use conclave_catalog::directory::{CatalogNode, CheckStatus, Directory, Service};
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::catalog::{has_meta, has_tags, refuse_filter};
use super::error::ApiError;
use super::{Api, rows};
use crate::watch::Topic;

pub(super) async fn of_node(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    let name = call.rest.as_str();
    api.read(
        call,
        Topic::Node(name.to_owned()),
        |state| state.services().index_of_node(name),
        |state| {
            let node = state.services().node(name);
            let checks = node
                .into_iter()
                .flat_map(|node| node.checks.values().map(|check| rows::check(node, check)));
            call.json(&checks.collect::<Vec<_>>())
        },
    )
    .await
}

pub(super) async fn of_service(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    let name = call.rest.as_str();
    api.read(
        call,
        Topic::Service(name.to_owned()),
        |state| state.services().index_of_service(name),
        |state| {
            let mut shown = Vec::new();
            for (node, service) in state
                .services()
                .instances(name)
                .filter(|(node, _)| has_meta(call, node))
            {
                let own = node
                    .checks
                    .values()
                    .filter(|check| check.service_id.as_deref() == Some(&service.spec.id));
                shown.extend(own.map(|check| rows::check(node, check)));
            }
            call.json(&shown)
        },
    )
    .await
}

pub(super) async fn state(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    let wanted: Option<CheckStatus> = call.rest.parse().ok();
    let any = call.rest == "any";
    api.read(
        call,
        Topic::Checks,
        |state| state.services().checks_index(),
        |state| {
            let mut shown = Vec::new();
            for node in state.services().nodes().values().filter(|node| has_meta(call, node)) {
                let checks = node.checks.values().filter(|check| any || Some(check.status) == wanted);
                shown.extend(checks.map(|check| rows::check(node, check)));
            }
            call.json(&shown)
        },
    )
    .await
}

pub(super) async fn service(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    let name = call.rest.as_str();
    let passing = call.has("passing") && call.truth("passing") != Some(false);
    api.read(
        call,
        Topic::Service(name.to_owned()),
        |state| state.services().index_of_service(name),
        |state| call.json(&instances(call, state, name, passing)),
    )
    .await
}

fn instances(call: &Call, state: &Directory, name: &str, passing: bool) -> Vec<Value> {
    let instances = state.services().instances(name);
    let fitting = instances
        .filter(|(node, service)| has_meta(call, node) && has_tags(call, &service.spec.tags))
        .filter(|(node, service)| !passing || worst(node, service) == CheckStatus::Passing);
    fitting
        .map(|(node, service)| {
            let checks: Vec<_> = node
                .checks_of(&service.spec.id)
                .map(|check| rows::check(node, check))
                .collect();
            json!({"Node": rows::node(node), "Service": rows::service(service), "Checks": checks})
        })
        .collect()
}

/// The worst of a service's checks and its node's.
pub(super) fn worst(node: &CatalogNode, service: &Service) -> CheckStatus {
    let statuses = node.checks_of(&service.spec.id).map(|check| check.status);
    statuses.max().unwrap_or(CheckStatus::Passing)
}
