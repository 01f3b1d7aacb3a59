//! The shape of the `ctx` object: which word leads where.

use serde_json::{Value, json};

use super::model::Failure;
use crate::call::{EndOfRelationship, OperationCall, Subject};

/// A point in the `ctx` object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place {
    /// `ctx` itself.
    Root,
    /// `ctx.deployment`.
    Deployment,
    /// `ctx.blueprint`.
    Blueprint,
    /// `ctx.operation`.
    Operation,
    /// `ctx.plugin`.
    Plugin,
    /// `ctx.logger`.
    Logger,
    /// `ctx.source`, `ctx.target`.
    End(EndOfRelationship),
    /// `.node`.
    Node(EndOfRelationship),
    /// `.instance`.
    Instance(EndOfRelationship),
    /// `.instance.runtime_properties`, the one thing that may be changed.
    RuntimeProperties(EndOfRelationship),
    /// A value; mappings can be read by path.
    Value(Value),
    /// Something to call with the remaining words.
    Function(Function),
}

/// What can be called.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Function {
    Returns,
    AbortOperation,
    RetryOperation,
    /// `ctx.operation.retry`: unlike [`Function::RetryOperation`] it does not end the `ctx` command with an error.
    Retry,
    Log(&'static str),
    SendEvent,
    GetResource,
    DownloadResource,
    /// Rendering of templates, which is not offered: the name is said in the error.
    Render(&'static str),
    Update(EndOfRelationship),
    Refresh(EndOfRelationship),
    PropertiesGet(EndOfRelationship),
    PropertiesPop(EndOfRelationship),
    PropertiesUpdate(EndOfRelationship),
    PropertiesClear(EndOfRelationship),
}

/// Context fields that are read as they are.
const FIELDS: [&str; 16] = [
    "execution_id",
    "workflow_id",
    "workflow_parameters",
    "execution_creator_username",
    "task_id",
    "task_name",
    "task_queue",
    "task_target",
    "tenant",
    "timeout",
    "timeout_recoverable",
    "execution_env",
    "execution_token",
    "rest_token",
    "rest_host",
    "rest_port",
];

impl Place {
    /// Where `word` leads from here; `None` if there is nothing of that name.
    pub(crate) fn attribute(&self, call: &OperationCall, word: &str) -> Result<Option<Self>, Failure> {
        let name = word.replace('-', "_");
        match self {
            Self::Root => root(call, &name),
            Self::Deployment => Ok(deployment(call, &name)),
            Self::Blueprint => Ok((name == "id").then(|| Self::field(call, "blueprint_id"))),
            Self::Operation => Ok(operation(call, &name)),
            Self::Plugin => Ok(plugin(call, &name)),
            Self::Logger => Ok(logger(&name)),
            Self::End(which) => Ok(match name.as_str() {
                "node" => Some(Self::Node(*which)),
                "instance" => Some(Self::Instance(*which)),
                _ => None,
            }),
            Self::Node(which) => Ok(node(call, *which, &name)),
            Self::Instance(which) => Ok(instance(call, *which, &name)),
            Self::RuntimeProperties(which) => Ok(properties(*which, &name)),
            Self::Value(_) | Self::Function(_) => Ok(None),
        }
    }

    fn field(call: &OperationCall, name: &str) -> Self {
        Self::Value(call.context.fields.get(name).cloned().unwrap_or(Value::Null))
    }
}

fn root(call: &OperationCall, name: &str) -> Result<Option<Place>, Failure> {
    if FIELDS.contains(&name) {
        return Ok(Some(Place::field(call, name)));
    }
    Ok(Some(match name {
        "node" | "instance" => match call.subject {
            Subject::NodeInstance(_) if name == "node" => Place::Node(EndOfRelationship::Own),
            Subject::NodeInstance(_) => Place::Instance(EndOfRelationship::Own),
            _ => return Err(not_here("ctx.node/ctx.instance", "node-instance", call)),
        },
        "source" | "target" => match call.subject {
            Subject::Relationship { .. } if name == "source" => Place::End(EndOfRelationship::Source),
            Subject::Relationship { .. } => Place::End(EndOfRelationship::Target),
            _ => return Err(not_here("ctx.source/ctx.target", "relationship-instance", call)),
        },
        "type" => Place::Value(json!(subject_type(call))),
        "tenant_name" => Place::Value(json!(call.context.tenant)),
        "local" => Place::Value(json!(false)),
        "resume" => Place::Value(json!(
            call.context
                .fields
                .get("resume")
                .and_then(Value::as_bool)
                .unwrap_or(false)
        )),
        "bypass_maintenance" => Place::field(call, name),
        "deployment" => Place::Deployment,
        "blueprint" => Place::Blueprint,
        "operation" => Place::Operation,
        "plugin" => Place::Plugin,
        "logger" => Place::Logger,
        "returns" => Place::Function(Function::Returns),
        "abort_operation" => Place::Function(Function::AbortOperation),
        "retry_operation" => Place::Function(Function::RetryOperation),
        "send_event" => Place::Function(Function::SendEvent),
        "get_resource" => Place::Function(Function::GetResource),
        "download_resource" => Place::Function(Function::DownloadResource),
        "get_resource_and_render" => Place::Function(Function::Render("get-resource-and-render")),
        "download_resource_and_render" => Place::Function(Function::Render("download-resource-and-render")),
        _ => return Ok(None),
    }))
}

fn subject_type(call: &OperationCall) -> &'static str {
    match call.subject {
        Subject::Deployment => "deployment",
        Subject::NodeInstance(_) => "node-instance",
        Subject::Relationship { .. } => "relationship-instance",
    }
}

fn not_here(what: &str, wanted: &str, call: &OperationCall) -> Failure {
    let used = subject_type(call);
    Failure::non_recoverable(format!(
        "{what} can only be used in a {wanted} context but used in a {used} context."
    ))
}

fn deployment(call: &OperationCall, name: &str) -> Option<Place> {
    Some(match name {
        "id" => Place::field(call, "deployment_id"),
        "display_name" => Place::field(call, "deployment_display_name"),
        "creator" => Place::field(call, "deployment_creator"),
        "resource_tags" => Place::field(call, "deployment_resource_tags"),
        "runtime_only_evaluation" => Place::field(call, "runtime_only_evaluation"),
        "tenant_name" => Place::Value(json!(call.context.tenant)),
        _ => return None,
    })
}

fn operation(call: &OperationCall, name: &str) -> Option<Place> {
    match name {
        "retry" => Some(Place::Function(Function::Retry)),
        "name" | "retry_number" | "max_retries" | "relationship" => {
            let value = call
                .context
                .fields
                .get("operation")
                .and_then(|operation| operation.get(name));
            Some(Place::Value(value.cloned().unwrap_or(Value::Null)))
        }
        _ => None,
    }
}

fn plugin(call: &OperationCall, name: &str) -> Option<Place> {
    match name {
        "name" | "package_name" | "package_version" | "source" | "properties" | "tenant_name" | "visibility" => {
            let value = call.context.fields.get("plugin").and_then(|plugin| plugin.get(name));
            Some(Place::Value(value.cloned().unwrap_or(Value::Null)))
        }
        _ => None,
    }
}

fn logger(name: &str) -> Option<Place> {
    let level = match name {
        "debug" => "debug",
        "info" => "info",
        "warn" | "warning" => "warning",
        "error" | "exception" => "error",
        "critical" | "fatal" => "critical",
        _ => return None,
    };
    Some(Place::Function(Function::Log(level)))
}

fn node(call: &OperationCall, which: EndOfRelationship, name: &str) -> Option<Place> {
    let node = &call.subject.end(which)?.node;
    Some(Place::Value(match name {
        "id" | "name" => json!(node.id),
        "type" => json!(node.type_name),
        "type_hierarchy" => json!(node.type_hierarchy),
        "properties" => Value::Object(node.properties.clone()),
        "number_of_instances" => json!(node.number_of_instances),
        _ => return None,
    }))
}

fn instance(call: &OperationCall, which: EndOfRelationship, name: &str) -> Option<Place> {
    let instance = &call.subject.end(which)?.instance;
    Some(Place::Value(match name {
        "runtime_properties" => return Some(Place::RuntimeProperties(which)),
        "node" => return Some(Place::Node(which)),
        "update" => return Some(Place::Function(Function::Update(which))),
        "refresh" => return Some(Place::Function(Function::Refresh(which))),
        "id" => json!(instance.id),
        "index" => json!(instance.index),
        "host_ip" => json!(instance.host_ip),
        "relationships" => json!(instance.relationships),
        "scaling_groups" => json!(instance.scaling_groups),
        "system_properties" => Value::Object(instance.system_properties.clone()),
        _ => return None,
    }))
}

fn properties(which: EndOfRelationship, name: &str) -> Option<Place> {
    Some(Place::Function(match name {
        "get" => Function::PropertiesGet(which),
        "pop" => Function::PropertiesPop(which),
        "update" => Function::PropertiesUpdate(which),
        "clear" => Function::PropertiesClear(which),
        _ => return None,
    }))
}
