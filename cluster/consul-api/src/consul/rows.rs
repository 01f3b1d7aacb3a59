//! Nodes, services and checks as Consul shows them (spec/consul-api.md, sections 7 and 8).

use conclave_catalog::directory::{CatalogNode, Check, CheckKind, Service};
use serde_json::{Map, Value, json};

use super::DATACENTER;
use super::duration;

pub(super) fn node(node: &CatalogNode) -> Value {
    json!({
        "ID": node.spec.id,
        "Node": node.name,
        "Address": node.spec.address,
        "Datacenter": DATACENTER,
        "TaggedAddresses": node.spec.tagged_addresses,
        "Meta": node.spec.meta,
        "CreateIndex": node.create_index,
        "ModifyIndex": node.modify_index,
    })
}

fn tagged_addresses(service: &Service) -> Value {
    let pairs = service.spec.tagged_addresses.iter();
    let pairs = pairs.map(|(name, own)| (name.clone(), json!({"Address": own.address, "Port": own.port})));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn weights(service: &Service) -> Value {
    let (passing, warning) = service.spec.weights;
    json!({"Passing": passing, "Warning": warning})
}

/// A service of a node that stands beside it.
pub(super) fn service(service: &Service) -> Value {
    let spec = &service.spec;
    json!({
        "ID": spec.id,
        "Service": spec.name,
        "Tags": spec.tags,
        "Address": spec.address,
        "TaggedAddresses": tagged_addresses(service),
        "Meta": spec.meta,
        "Port": spec.port,
        "Weights": weights(service),
        "EnableTagOverride": spec.enable_tag_override,
        "Proxy": {"MeshGateway": {}, "Expose": {}},
        "Connect": {},
        "CreateIndex": service.create_index,
        "ModifyIndex": service.modify_index,
    })
}

/// A service with its node's facts.
pub(super) fn catalog_service(node: &CatalogNode, service: &Service) -> Value {
    let spec = &service.spec;
    json!({
        "ID": node.spec.id,
        "Node": node.name,
        "Address": node.spec.address,
        "Datacenter": DATACENTER,
        "TaggedAddresses": node.spec.tagged_addresses,
        "NodeMeta": node.spec.meta,
        "ServiceKind": "",
        "ServiceID": spec.id,
        "ServiceName": spec.name,
        "ServiceTags": spec.tags,
        "ServiceAddress": spec.address,
        "ServiceTaggedAddresses": tagged_addresses(service),
        "ServiceWeights": weights(service),
        "ServiceMeta": spec.meta,
        "ServicePort": spec.port,
        "ServiceEnableTagOverride": spec.enable_tag_override,
        "ServiceProxy": {"MeshGateway": {}, "Expose": {}},
        "ServiceConnect": {},
        "CreateIndex": service.create_index,
        "ModifyIndex": service.modify_index,
    })
}

fn millis(millis: u64) -> String {
    duration::show(std::time::Duration::from_millis(millis))
}

/// How a check is carried out. Headers and bodies may hold credentials and are not shown.
fn definition(check: &Check) -> Value {
    let definition = &check.definition;
    let mut shown = Map::new();
    match &definition.kind {
        CheckKind::Passive => return json!({}),
        CheckKind::Ttl { .. } => {}
        CheckKind::Http {
            url,
            method,
            tls_skip_verify,
            ..
        } => {
            shown.insert("HTTP".into(), url.as_str().into());
            shown.insert("Method".into(), method.as_str().into());
            shown.insert("TLSSkipVerify".into(), (*tls_skip_verify).into());
        }
        CheckKind::Tcp { address } => {
            shown.insert("TCP".into(), address.as_str().into());
        }
    }
    if definition.interval_ms > 0 {
        shown.insert("Interval".into(), millis(definition.interval_ms).into());
        shown.insert("Timeout".into(), millis(definition.timeout_ms).into());
    }
    if let Some(after) = definition.deregister_after_ms {
        shown.insert("DeregisterCriticalServiceAfter".into(), millis(after).into());
    }
    Value::Object(shown)
}

pub(super) fn check(node: &CatalogNode, check: &Check) -> Value {
    let service = check.service_id.as_ref().and_then(|id| node.services.get(id));
    json!({
        "Node": node.name,
        "CheckID": check.id,
        "Name": check.name,
        "Status": check.status.as_str(),
        "Notes": check.notes,
        "Output": check.output,
        "ServiceID": check.service_id.as_deref().unwrap_or_default(),
        "ServiceName": service.map_or("", |service| service.spec.name.as_str()),
        "ServiceTags": service.map(|service| service.spec.tags.clone()).unwrap_or_default(),
        "Type": match check.definition.kind {
            CheckKind::Passive => "",
            CheckKind::Ttl { .. } => "ttl",
            CheckKind::Http { .. } => "http",
            CheckKind::Tcp { .. } => "tcp",
        },
        "Definition": definition(check),
        "CreateIndex": check.create_index,
        "ModifyIndex": check.modify_index,
    })
}
