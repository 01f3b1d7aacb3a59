//! Plugins, and which of them an operation or workflow means (spec/dsl.md, sections 9 and 10).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use conclave_yaml::{Place, Text};

use super::context::Context;
use super::interfaces::RawOperation;
use crate::diagnostic::nearest;
use crate::document::Named;
use crate::namespace::{DELIMITER, unprefixed};
use crate::plan::{Operation, Plugin};
use crate::resolver::Resolver;
use crate::{Class, Fault, Map, Value};

const SECTION: &str = "plugins";
const EXECUTORS: [&str; 2] = ["central_deployment_agent", "host_agent"];
/// Plugins whose names end so run scripts.
const SCRIPT: &str = "script";
const SCRIPT_PATH: &str = "script_path";
const SCRIPT_SOURCE: &str = "script_source";

/// The plugins of a blueprint, and what is known of implementations.
pub(super) struct Plugins<'a> {
    plugins: Named<Plugin>,
    /// The first one that runs scripts.
    script: Option<Text>,
    resolver: &'a dyn Resolver,
    main: &'a str,
    /// Name spaces of imported blueprints, whose scripts were checked there.
    remote_namespaces: Map,
    known: RefCell<HashMap<Text, Meaning>>,
}

/// What an implementation text means.
#[derive(Debug, Clone, PartialEq)]
enum Meaning {
    /// A script, under this input.
    Script(&'static str),
    /// A function of a plugin.
    Function {
        plugin: Text,
        function: Text,
    },
    /// Several plugins' names fit.
    Ambiguous(Vec<Text>),
    Unknown,
}

/// What an operation or workflow runs.
pub(super) struct Call {
    pub(super) plugin: Text,
    pub(super) function: Text,
    /// The input that the script goes into.
    pub(super) script_input: Option<&'static str>,
}

/// What is resolved, in the words of messages.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// `operation` or `workflow`.
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    /// The number of the fault of meaning nothing.
    pub(super) code: i32,
    pub(super) path: &'a str,
}

impl<'a> Plugins<'a> {
    pub(super) fn build(context: &mut Context<'_>, resolver: &'a dyn Resolver, main: &'a str) -> Self {
        let mut plugins = Named::default();
        for (name, entry) in context.entries(SECTION).into_iter().flatten() {
            let fields = read(context, name, entry);
            plugins.insert(name.clone(), Plugin(fields));
        }
        Self {
            script: plugins.keys().find(|name| name.ends_with(SCRIPT)).cloned(),
            plugins,
            resolver,
            main,
            remote_namespaces: context.map_value("namespaces_mapping"),
            known: RefCell::default(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Plugin> {
        self.plugins.get(name)
    }

    /// Finds out what an implementation runs. `inputs` are those that it is given.
    ///
    /// # Errors
    /// 60, 61, 91, or the subject's number, with a name that may have been meant.
    pub(super) fn call(
        &self,
        text: &Text,
        inputs: &Map,
        subject: Subject<'_>,
    ) -> Result<Call, (Fault, Option<String>)> {
        let Subject { kind, name, path, .. } = subject;
        let fail = |code, message: String| Err((Fault::logic(code, message, path), None));
        match self.meaning(text) {
            Meaning::Script(input) => {
                if let Some(given) = [SCRIPT_PATH, SCRIPT_SOURCE]
                    .into_iter()
                    .find(|key| inputs.contains_key(*key))
                {
                    return fail(
                        60,
                        format!("Cannot define '{given}' property in '{text}' for {kind} '{name}'"),
                    );
                }
                let Some(plugin) = self.script.clone() else {
                    return fail(
                        61,
                        format!(
                            "Script plugin is not defined but it is required for mapping '{text}' of {kind} '{name}'"
                        ),
                    );
                };
                let function = if kind == "workflow" {
                    "script_runner.tasks.execute_workflow"
                } else {
                    "script_runner.tasks.run"
                };
                Ok(Call {
                    plugin,
                    function: function.into(),
                    script_input: Some(input),
                })
            }
            Meaning::Function { plugin, function } => Ok(Call {
                plugin,
                function,
                script_input: None,
            }),
            Meaning::Ambiguous(candidates) => fail(
                91,
                format!(
                    "Ambiguous operation mapping. [operation={name}, plugins=[{}]]",
                    candidates.join(", ")
                ),
            ),
            Meaning::Unknown => {
                let message = format!(
                    "Could not extract plugin or a script resource is not found from {kind} mapping/script-path '{text}', \
                     which is declared for {kind} '{name}'"
                );
                let first = text.split('.').next().unwrap_or_default();
                let suggestion = nearest(first, self.plugins.keys().map(|name| &**name))
                    .map(|plugin| format!("{plugin}{}", text.strip_prefix(first).unwrap_or_default()));
                Err((Fault::logic(subject.code, message, path), suggestion))
            }
        }
    }

    fn meaning(&self, text: &Text) -> Meaning {
        if let Some(known) = self.known.borrow().get(text) {
            return known.clone();
        }
        let meaning = self.find_meaning(text);
        self.known.borrow_mut().insert(text.clone(), meaning.clone());
        meaning
    }

    fn find_meaning(&self, text: &Text) -> Meaning {
        if is_url(text) || self.resolver.has_script(self.main, &unprefixed(text)) {
            return Meaning::Script(SCRIPT_PATH);
        }
        if text.trim().contains('\n') {
            return Meaning::Script(SCRIPT_SOURCE);
        }
        let ends = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'.')
            .map(|(at, _)| at);
        let mut candidates: Vec<Text> = ends
            .filter_map(|end| self.plugins.get_key_value(&text[..end]))
            .map(|(name, _)| name.clone())
            .collect();
        match candidates.len() {
            0 => {
                let namespace = text.split_once(DELIMITER).map(|(namespace, _)| namespace);
                if namespace.is_some_and(|namespace| self.remote_namespaces.contains_key(namespace)) {
                    Meaning::Script(SCRIPT_PATH)
                } else {
                    Meaning::Unknown
                }
            }
            1 => {
                let plugin = candidates.remove(0);
                let function = text[plugin.len() + 1..].into();
                Meaning::Function { plugin, function }
            }
            _ => Meaning::Ambiguous(candidates),
        }
    }

    /// Resolves an operation.
    ///
    /// # Errors
    /// As [`Plugins::call`].
    pub(super) fn operation(
        &self,
        raw: &RawOperation,
        subject: Subject<'_>,
    ) -> Result<Operation, (Fault, Option<String>)> {
        if raw.implementation.is_empty() {
            return Ok(Operation::no_op());
        }
        let call = self.call(&raw.implementation, &raw.inputs, subject)?;
        let mut inputs = raw.inputs.clone();
        let types: Map = inputs
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.get("type")?.clone())))
            .collect();
        let mut executor = raw.executor.clone();
        if let Some(input) = call.script_input {
            inputs.insert(input, Value::from(&raw.implementation));
        }
        if !executor.is_truthy() {
            executor = match call.script_input {
                Some(_) => "auto".into(),
                None => self
                    .get(&call.plugin)
                    .map_or(Value::Null, |plugin| plugin.executor().into()),
            };
        }
        Ok(Operation {
            plugin: call.plugin,
            operation: call.function,
            executor,
            inputs,
            has_intrinsic_functions: false,
            max_retries: raw.max_retries.clone(),
            retry_interval: raw.retry_interval.clone(),
            timeout: raw.timeout.clone(),
            timeout_recoverable: raw.timeout_recoverable.clone(),
            inputs_types: (!types.is_empty()).then_some(types),
        })
    }
}

fn read(context: &mut Context<'_>, name: &Text, entry: &crate::document::Entry) -> Map {
    const FIELDS: [&str; 10] = [
        "source",
        "executor",
        "install_arguments",
        "package_name",
        "package_version",
        "supported_platform",
        "distribution",
        "distribution_version",
        "distribution_release",
        "properties_description",
    ];
    let node = &entry.value;
    let field = |key: &str| node.get(key).map_or(Value::Null, Value::from);
    let mut fields: Map = FIELDS.into_iter().map(|key| (key, field(key))).collect();
    let install = match field("install") {
        Value::Null => Value::Bool(true),
        install => install,
    };
    let properties = match field("properties") {
        Value::Null => context.empty.clone().into(),
        properties => properties,
    };
    fields.insert("install", install.clone());
    fields.insert("properties", properties);
    fields.insert("name", name);
    if context.is_broken(SECTION, name) {
        return fields;
    }
    let path = format!("{SECTION}.{name}");
    let executor = fields
        .get("executor")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if !EXECUTORS.contains(&executor.as_str()) {
        let message = format!(
            "Plugin '{name}' has an illegal 'executor' value '{executor}'; value must be either '{}' or '{}'",
            EXECUTORS[0], EXECUTORS[1]
        );
        let place = node.get("executor").map_or(entry.key.place, |node| node.place);
        context.fail_name(
            Fault::logic(18, message, format!("{path}.executor")),
            place,
            &executor,
            EXECUTORS,
        );
    }
    let is_given = |key: &str| fields.get(key).is_some_and(Value::is_truthy);
    if install.is_truthy() && !is_given("source") && !is_given("package_name") {
        let message =
            format!("Plugin '{name}' needs to be installed, but does not declare a source or package_name property");
        context.fail(Fault::logic(50, message, &*path), entry.key.place);
    }
    check_properties(context, node, &path);
    fields
}

fn check_properties(context: &mut Context<'_>, node: &conclave_yaml::Node, path: &str) {
    use crate::primitive::is_primitive;
    let properties = node
        .get("properties")
        .and_then(conclave_yaml::Node::as_map)
        .unwrap_or_default();
    for (key, property) in properties {
        let Some(type_node) = property.get("type") else {
            continue;
        };
        let Some(type_name) = type_node.as_str().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !is_primitive(type_name) && !context.has("data_types", type_name) {
            let path = format!("{path}.properties.{}.type", key.key_text());
            let known = context.type_names();
            let fault = Fault::logic(103, format!("Illegal type name '{type_name}'"), path);
            context.fail_name(fault, type_node.place, type_name, known);
        }
    }
}

/// Whether a text begins with a scheme, as the original's reader of addresses sees it: white space of lines does not count.
fn is_url(text: &str) -> bool {
    let text = text.trim_start_matches(|c: char| c <= ' ');
    let Some(colon) = text.find(':') else { return false };
    let mut scheme = text[..colon].chars().filter(|c| !matches!(c, '\t' | '\r' | '\n'));
    scheme.next().is_some_and(|first| first.is_ascii_alphabetic())
        && scheme.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Reports what resolving an implementation met.
pub(super) fn report(context: &mut Context<'_>, (fault, suggestion): (Fault, Option<String>), place: Place) {
    context.report.add_with(fault, place, suggestion);
}

/// The fault of a workflow that says nothing.
pub(super) fn empty_mapping(name: &str) -> Fault {
    let message = format!("the workflow '{name}' maps to nothing");
    Fault::new(Class::Value, message, format!("workflows.{name}"))
}

/// Operations that are shared by all that have the same.
pub(super) type SharedOperation = Arc<Operation>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_begin_with_a_scheme() {
        for text in [
            "http://x/y.sh",
            "file:///x",
            "ns--http://x",
            "plugin.module:function",
            "a\nb:c",
        ] {
            assert!(is_url(text), "{text}");
        }
        for text in ["scripts/x.sh", "p.m.f", "#!/bin/sh\necho: x", "1a:b", ":x", "echo a:b"] {
            assert!(!is_url(text), "{text}");
        }
    }
}
