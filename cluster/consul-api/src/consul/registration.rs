//! What clients register, in the forms of the agent's and the catalog's endpoints (spec/consul-api.md, sections 7 and 8).

use std::time::Duration;

use conclave_catalog::directory::{
    CheckDefinition, CheckKind, CheckSpec, CheckStatus, NodeSpec, ServiceAddress, ServiceSpec,
};
use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
/// Nothing is checked more often.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// A service whose check is critical is not deregistered sooner (spec/consul-api.md, section 7).
const DEREGISTER_MIN: Duration = Duration::from_secs(60);
/// Kinds of checks that would run programs on the manager's machine, or that are not known here.
const REFUSED: [&str; 8] = [
    "Script",
    "Args",
    "ScriptArgs",
    "DockerContainerID",
    "GRPC",
    "AliasNode",
    "AliasService",
    "UDP",
];

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::BadRequest(text.into())
}

fn port(fields: &Fields<'_>, name: &str) -> Result<u16, ApiError> {
    let number = fields.number(name)?.unwrap_or(0);
    u16::try_from(number).map_err(|_| bad(format!("Invalid {name}: {number} is no port")))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn node(fields: &Fields<'_>, address: String) -> Result<NodeSpec, ApiError> {
    let meta = fields.text_map("NodeMeta")?;
    Ok(NodeSpec {
        id: fields.text_or_empty("ID")?,
        address,
        tagged_addresses: fields.text_map("TaggedAddresses")?,
        meta,
    })
}

/// A service as the agent's endpoint takes it: `Name`.
pub(super) fn agent_service(fields: &Fields<'_>) -> Result<ServiceSpec, ApiError> {
    service(fields, "Name", "Missing service name")
}

/// A service as the catalog's endpoint takes it: `Service`.
pub(super) fn catalog_service(fields: &Fields<'_>) -> Result<ServiceSpec, ApiError> {
    service(fields, "Service", "Must provide service name with ID")
}

fn service(fields: &Fields<'_>, name_field: &str, missing: &str) -> Result<ServiceSpec, ApiError> {
    let name = fields.text_or_empty(name_field)?;
    if name.is_empty() {
        return Err(bad(missing));
    }
    let id = fields.text("ID")?.filter(|id| !id.is_empty());
    let weights = match fields.get("Weights") {
        None => (1, 1),
        Some(weights) => {
            let weights = Fields::of(weights)?;
            let weight = |name| -> Result<u32, ApiError> {
                let number = weights.number(name)?.unwrap_or(1);
                u32::try_from(number).map_err(|_| bad(format!("Invalid weight: {number}")))
            };
            (weight("Passing")?, weight("Warning")?)
        }
    };
    let address_of = |value: &Value| match value {
        Value::String(address) => Ok(ServiceAddress {
            address: address.clone(),
            port: 0,
        }),
        other => {
            let fields = Fields::of(other)?;
            Ok(ServiceAddress {
                address: fields.text_or_empty("Address")?,
                port: port(&fields, "Port")?,
            })
        }
    };
    Ok(ServiceSpec {
        id: id.unwrap_or_else(|| name.clone()),
        name,
        tags: fields.texts("Tags")?.unwrap_or_default(),
        address: fields.text_or_empty("Address")?,
        port: port(fields, "Port")?,
        meta: fields.text_map("Meta")?,
        tagged_addresses: fields.map("TaggedAddresses", address_of)?,
        weights,
        enable_tag_override: fields.flag("EnableTagOverride")?,
    })
}

/// The checks that come with a service. A single one has the service's own name, several are numbered.
pub(super) fn service_checks(fields: &Fields<'_>, service: &ServiceSpec) -> Result<Vec<CheckSpec>, ApiError> {
    let one = fields.get("Check").into_iter();
    let given: Vec<&Value> = one.chain(fields.list("Checks")?.into_iter().flatten()).collect();
    let single = given.len() == 1;
    let mut checks = Vec::new();
    for (number, value) in (1..).zip(given) {
        let fields = Fields::of(value)?;
        let own = id(&fields)?;
        let id = own.unwrap_or_else(|| match single {
            true => format!("service:{}", service.id),
            false => format!("service:{}:{number}", service.id),
        });
        let name = fields.text("Name")?.filter(|name| !name.is_empty());
        checks.push(CheckSpec {
            id,
            name: name.unwrap_or_else(|| format!("Service '{}' check", service.name)),
            service_id: Some(service.id.clone()),
            ..check(&fields)?
        });
    }
    Ok(checks)
}

fn id(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let own = fields.text("CheckID")?.filter(|id| !id.is_empty());
    Ok(own.or(fields.text("ID")?.filter(|id| !id.is_empty())))
}

/// A check as the agent's endpoint takes it.
pub(super) fn agent_check(fields: &Fields<'_>) -> Result<CheckSpec, ApiError> {
    let name = fields.text_or_empty("Name")?;
    if name.is_empty() {
        return Err(bad("Missing check name"));
    }
    let spec = check(fields)?;
    if spec.definition.kind == CheckKind::Passive {
        return Err(bad("Check type is not known: a TTL, HTTP or TCP check is expected"));
    }
    Ok(CheckSpec {
        id: id(fields)?.unwrap_or_else(|| name.clone()),
        name,
        ..spec
    })
}

/// A check as the catalog's endpoint takes it: a result, which nobody here carries out.
pub(super) fn catalog_check(fields: &Fields<'_>) -> Result<CheckSpec, ApiError> {
    let name = fields.text_or_empty("Name")?;
    let id = id(fields)?.unwrap_or_else(|| name.clone());
    if id.is_empty() {
        return Err(bad("Must provide CheckID or Name"));
    }
    Ok(CheckSpec {
        id,
        name,
        notes: fields.text_or_empty("Notes")?,
        status: Some(status(fields)?.unwrap_or(CheckStatus::Critical)),
        output: fields.text_or_empty("Output")?,
        service_id: fields.text("ServiceID")?.filter(|id| !id.is_empty()),
        definition: CheckDefinition::default(),
    })
}

fn status(fields: &Fields<'_>) -> Result<Option<CheckStatus>, ApiError> {
    match fields.text("Status")?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => {
            let malformed = || {
                bad(format!(
                    "Bad check status {text:?}: passing, warning or critical is expected"
                ))
            };
            text.parse().map(Some).map_err(|()| malformed())
        }
    }
}

fn check(fields: &Fields<'_>) -> Result<CheckSpec, ApiError> {
    if let Some(kind) = REFUSED.iter().find(|kind| fields.get(kind).is_some()) {
        return Err(bad(format!(
            "Invalid check: {kind} checks are disabled on this server; use TTL, HTTP or TCP"
        )));
    }
    let text = |name: &str| fields.text(name).map(|text| text.filter(|text| !text.is_empty()));
    let kind = if let Some(url) = text("HTTP")? {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(bad(format!("Invalid check: {url:?} is no URL")));
        }
        let headers = fields.map("Header", |value| match value {
            Value::String(one) => Ok(vec![one.clone()]),
            other => {
                let list = other
                    .as_array()
                    .ok_or_else(|| bad("Invalid check: Header: lists of texts are expected"))?;
                Ok(list
                    .iter()
                    .filter_map(|value| value.as_str().map(str::to_owned))
                    .collect())
            }
        });
        CheckKind::Http {
            url,
            method: fields.text_or_empty("Method")?,
            headers: headers?,
            body: fields.text_or_empty("Body")?,
            tls_skip_verify: fields.flag("TLSSkipVerify")?,
            tls_server_name: fields.text_or_empty("TLSServerName")?,
        }
    } else if let Some(address) = text("TCP")? {
        CheckKind::Tcp { address }
    } else if let Some(ttl) = fields.duration("TTL")?.filter(|ttl| !ttl.is_zero()) {
        CheckKind::Ttl { millis: millis(ttl) }
    } else {
        CheckKind::Passive
    };
    let probed = matches!(kind, CheckKind::Http { .. } | CheckKind::Tcp { .. });
    let interval = fields
        .duration("Interval")?
        .unwrap_or(INTERVAL_DEFAULT)
        .max(INTERVAL_MIN);
    let timeout = fields
        .duration("Timeout")?
        .unwrap_or(TIMEOUT_DEFAULT)
        .max(Duration::from_millis(1));
    let deregister = fields
        .duration("DeregisterCriticalServiceAfter")?
        .filter(|after| !after.is_zero())
        .map(|after| after.max(DEREGISTER_MIN));
    Ok(CheckSpec {
        id: String::new(),
        name: String::new(),
        notes: fields.text_or_empty("Notes")?,
        status: status(fields)?,
        output: String::new(),
        service_id: fields.text("ServiceID")?.filter(|id| !id.is_empty()),
        definition: CheckDefinition {
            kind,
            interval_ms: if probed { millis(interval) } else { 0 },
            timeout_ms: if probed { millis(timeout) } else { 0 },
            deregister_after_ms: deregister.map(millis),
        },
    })
}
