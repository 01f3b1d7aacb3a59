//! Interfaces and operations: inheritance, templates over types, implementations (spec/dsl.md, section 9).

use conclave_yaml::{Kind, Node};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::types::{PropertySchema, schema_of};
use crate::{Diagnostic, Resolver};

/// An operation as a type declares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TypeOperation {
    pub(crate) implementation: String,
    pub(crate) inputs: IndexMap<String, PropertySchema>,
    /// executor, max_retries, retry_interval, timeout, timeout_recoverable.
    pub(crate) options: Map<String, Value>,
}

/// Operations by interface.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interfaces(IndexMap<String, IndexMap<String, TypeOperation>>);

const OPTIONS: [&str; 5] = [
    "executor",
    "max_retries",
    "retry_interval",
    "timeout",
    "timeout_recoverable",
];

impl Interfaces {
    pub(crate) fn of_type(node: Option<&Node>, file: &str, path: &str, errors: &mut Vec<Diagnostic>) -> Self {
        let mut interfaces = Self::default();
        for (interface, operations) in node.and_then(Node::as_map).unwrap_or_default() {
            let into = interfaces.0.entry(interface.key_text()).or_default();
            for (name, operation) in operations.as_map().unwrap_or_default() {
                let at = format!("{path}.{}.{}", interface.key_text(), name.key_text());
                let read = read_operation(operation, file, &at, errors);
                let inputs = operation.get("inputs").and_then(Node::as_map).unwrap_or_default();
                let inputs = inputs
                    .iter()
                    .map(|(key, schema)| (key.key_text(), schema_of(schema)))
                    .collect();
                into.insert(name.key_text(), TypeOperation { inputs, ..read });
            }
        }
        interfaces
    }

    /// A child's operation replaces the whole of its parent's.
    pub(crate) fn inherit(&mut self, own: Self) {
        for (interface, operations) in own.0 {
            self.0.entry(interface).or_default().extend(operations);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, &TypeOperation)> {
        self.0.iter().flat_map(|(interface, operations)| {
            operations
                .iter()
                .map(move |(name, operation)| (interface.as_str(), name.as_str(), operation))
        })
    }
}

fn read_operation(node: &Node, file: &str, path: &str, errors: &mut Vec<Diagnostic>) -> TypeOperation {
    match &node.kind {
        Kind::Null => TypeOperation::default(),
        Kind::Str(implementation) => TypeOperation {
            implementation: implementation.clone(),
            ..TypeOperation::default()
        },
        Kind::Map(_) => {
            let options = OPTIONS
                .iter()
                .filter_map(|key| Some(((*key).to_owned(), node.get(key)?.to_json())));
            let implementation = node
                .get("implementation")
                .and_then(Node::as_str)
                .unwrap_or_default()
                .to_owned();
            let executor = node.get("executor").filter(|executor| {
                !matches!(
                    executor.as_str(),
                    Some("central_deployment_agent" | "host_agent" | "auto")
                )
            });
            if let Some(executor) = executor {
                let message = format!(
                    "{} is no executor: central_deployment_agent or host_agent is",
                    executor.key_text()
                );
                errors.push(Diagnostic::new(
                    28,
                    message,
                    file,
                    executor.place,
                    format!("{path}.executor"),
                ));
            }
            TypeOperation {
                implementation,
                options: options.collect(),
                inputs: IndexMap::new(),
            }
        }
        _ => {
            let message = "an operation is a text or a mapping with 'implementation' and 'inputs'";
            errors.push(Diagnostic::new(1, message, file, node.place, path));
            TypeOperation::default()
        }
    }
}

/// What is known of the blueprint's plugins: name and executor.
pub(crate) struct Plugins<'a> {
    pub(crate) executors: IndexMap<String, String>,
    pub(crate) resolver: &'a dyn Resolver,
}

/// Where the operations of a template stand.
pub(crate) struct Site<'a> {
    pub(crate) file: &'a str,
    pub(crate) node: &'a Node,
    pub(crate) path: String,
    /// Unknown implementation of a node or of a relationship.
    pub(crate) code: i32,
}

/// The operations of a template over those of its type, under `interface.operation` and, where that is unambiguous, under the
/// bare name.
pub(crate) fn resolve<'a>(
    of_type: impl Iterator<Item = (&'a str, &'a str, &'a TypeOperation)>,
    given: Option<&Node>,
    site: &Site<'_>,
    plugins: &Plugins<'_>,
    errors: &mut Vec<Diagnostic>,
) -> Map<String, Value> {
    let mut merged: IndexMap<(String, String), Value> = IndexMap::new();
    let templates = given.and_then(Node::as_map).unwrap_or_default();
    let own = |interface: &str, name: &str| {
        templates
            .iter()
            .find(|(key, _)| key.as_str() == Some(interface))
            .and_then(|(_, operations)| operations.get(name))
    };
    for (interface, name, declared) in of_type {
        let path = format!("{}.{interface}.{name}", site.path);
        let operation = match own(interface, name) {
            None => with_defaults(declared, site, &path, errors),
            Some(node) => over(declared, node, site, &path, errors),
        };
        merged.insert(
            (interface.into(), name.into()),
            implement(operation, site, &path, plugins, errors),
        );
    }
    for (interface, operations) in templates {
        for (name, node) in operations.as_map().unwrap_or_default() {
            let key = (interface.key_text(), name.key_text());
            if merged.contains_key(&key) {
                continue;
            }
            let path = format!("{}.{}.{}", site.path, key.0, key.1);
            let operation = over(&TypeOperation::default(), node, site, &path, errors);
            merged.insert(key, implement(operation, site, &path, plugins, errors));
        }
    }
    let mut result = Map::new();
    for ((interface, name), operation) in &merged {
        let ambiguous = merged.keys().filter(|(_, other)| other == name).count() > 1;
        if !ambiguous {
            result.insert(name.clone(), operation.clone());
        }
        result.insert(format!("{interface}.{name}"), operation.clone());
    }
    result
}

struct Merged {
    implementation: String,
    inputs: Map<String, Value>,
    options: Map<String, Value>,
}

fn with_defaults(declared: &TypeOperation, site: &Site<'_>, path: &str, errors: &mut Vec<Diagnostic>) -> Merged {
    complete(
        declared,
        Map::new(),
        declared.options.clone(),
        declared.implementation.clone(),
        site,
        path,
        errors,
    )
}

fn complete(
    declared: &TypeOperation,
    given: Map<String, Value>,
    options: Map<String, Value>,
    implementation: String,
    site: &Site<'_>,
    path: &str,
    errors: &mut Vec<Diagnostic>,
) -> Merged {
    let mut inputs = Map::new();
    for (name, schema) in &declared.inputs {
        match given.get(name).or(schema.default.as_ref()) {
            Some(value) => {
                inputs.insert(name.clone(), value.clone());
            }
            None if schema.required => {
                let message = format!("Missing value for the required input '{name}' of an operation");
                errors.push(Diagnostic::new(
                    107,
                    message,
                    site.file,
                    site.node.place,
                    format!("{path}.inputs.{name}"),
                ));
            }
            None => {}
        }
    }
    inputs.extend(given);
    Merged {
        implementation,
        inputs,
        options,
    }
}

/// A template's operation: with the type's implementation it only overrides inputs and options, with another one it stands
/// for itself.
fn over(declared: &TypeOperation, node: &Node, site: &Site<'_>, path: &str, errors: &mut Vec<Diagnostic>) -> Merged {
    let own = read_operation(node, site.file, path, errors);
    let inputs: Map<String, Value> = node
        .get("inputs")
        .and_then(Node::as_map)
        .unwrap_or_default()
        .iter()
        .map(|(key, value)| (key.key_text(), value.to_json()))
        .collect();
    let written = node.get("implementation").is_some() || matches!(node.kind, Kind::Str(_));
    if written && own.implementation != declared.implementation {
        return Merged {
            implementation: own.implementation,
            inputs,
            options: own.options,
        };
    }
    let mut options = declared.options.clone();
    options.extend(own.options.into_iter().filter(|(_, value)| !value.is_null()));
    complete(
        declared,
        inputs,
        options,
        declared.implementation.clone(),
        site,
        path,
        errors,
    )
}

/// Finds who runs an implementation: a script of the blueprint, or a function of a plugin.
fn implement(
    operation: Merged,
    site: &Site<'_>,
    path: &str,
    plugins: &Plugins<'_>,
    errors: &mut Vec<Diagnostic>,
) -> Value {
    let Merged {
        implementation,
        mut inputs,
        options,
    } = operation;
    let option = |key: &str| options.get(key).cloned().unwrap_or(Value::Null);
    let (plugin, function, executor) = if implementation.is_empty() {
        inputs = Map::new();
        (String::new(), String::new(), Value::Null)
    } else if is_script(&implementation, plugins) {
        let key = if implementation.contains('\n') {
            "script_source"
        } else {
            "script_path"
        };
        inputs.insert(key.into(), Value::String(implementation.clone()));
        let executor = options.get("executor").cloned().unwrap_or_else(|| "auto".into());
        ("script".to_owned(), "script_runner.tasks.run".to_owned(), executor)
    } else if let Some((plugin, executor)) = plugin_of(&implementation, plugins) {
        let executor = options.get("executor").cloned().unwrap_or_else(|| executor.into());
        (
            plugin.to_owned(),
            implementation[plugin.len() + 1..].to_owned(),
            executor,
        )
    } else {
        let hint = crate::diagnostic::suggestion(&implementation, plugins.executors.keys().map(String::as_str));
        let message = format!(
            "Could not extract plugin or script from operation mapping '{implementation}': no such file in the blueprint, and no plugin of that name{hint}"
        );
        errors.push(Diagnostic::new(site.code, message, site.file, site.node.place, path));
        (String::new(), String::new(), Value::Null)
    };
    json!({
        "plugin": plugin, "operation": function, "executor": executor, "inputs": inputs, "has_intrinsic_functions": false,
        "max_retries": option("max_retries"), "retry_interval": option("retry_interval"), "timeout": option("timeout"),
        "timeout_recoverable": option("timeout_recoverable"),
    })
}

fn is_script(implementation: &str, plugins: &Plugins<'_>) -> bool {
    implementation.contains("://") || implementation.contains('\n') || plugins.resolver.has_file(implementation)
}

fn plugin_of<'a>(implementation: &str, plugins: &'a Plugins<'_>) -> Option<(&'a str, &'a str)> {
    let found = plugins.executors.iter().find(|(name, _)| {
        implementation
            .strip_prefix(name.as_str())
            .is_some_and(|rest| rest.starts_with('.'))
    });
    found.map(|(name, executor)| (name.as_str(), executor.as_str()))
}
