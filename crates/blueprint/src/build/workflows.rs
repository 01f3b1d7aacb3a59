//! Workflows (spec/dsl.md, section 13).

use std::collections::HashSet;
use std::sync::Arc;

use conclave_yaml::{Node, Text};

use super::context::Context;
use super::data_types::DataTypes;
use super::properties::{Kind, Schemas, to_map};
use super::resolve::{Plugins, Subject, empty_mapping, report};
use crate::document::Entry;
use crate::plan::PluginList;
use crate::{Class, Fault, Map, Value};

const SECTION: &str = "workflows";

/// The workflows of a plan.
pub(super) struct Workflows {
    pub(super) entries: Map,
    /// The plugins that they use, one per name.
    pub(super) plugins: PluginList,
}

/// Reads all workflows.
pub(super) fn build(context: &mut Context<'_>, data_types: &DataTypes, plugins: &Plugins<'_>) -> Workflows {
    let mut entries = Map::new();
    let mut used = Vec::new();
    let mut known = HashSet::new();
    for (name, entry) in context.sound_entries(SECTION) {
        let Some((plugin, workflow)) = read(context, data_types, plugins, name, entry) else {
            continue;
        };
        entries.insert(name.clone(), workflow);
        if known.insert(plugin.clone()) {
            used.extend(plugins.get(&plugin).cloned());
        }
    }
    Workflows {
        entries,
        plugins: Arc::new(used),
    }
}

fn read(
    context: &mut Context<'_>,
    data_types: &DataTypes,
    plugins: &Plugins<'_>,
    name: &Text,
    entry: &Entry,
) -> Option<(Text, Map)> {
    let node = &entry.value;
    let path = format!("{SECTION}.{name}");
    if node.is_null() {
        let message = format!("'{name}' key is required but it is currently missing");
        context.fail(Fault::coded(Class::Format, 1, message, path), entry.key.place);
        return None;
    }
    let mapping = node.as_text().or_else(|| node.get("mapping")?.as_text())?;
    let place = node.get("mapping").map_or(node.place, |mapping| mapping.place);
    let mut parameters = parameters(context, data_types, node, name, &path);
    let cascading = node.get("is_cascading").map_or(Value::Bool(false), Value::from);
    let rules = node.get("availability_rules").map_or(Value::Null, Value::from);
    check_rules(context, node, &path);
    if context.report_held(SECTION, name) {
        return None;
    }
    if mapping.is_empty() {
        context.fail(empty_mapping(name), place);
        return None;
    }
    let subject = Subject {
        kind: "workflow",
        name,
        code: 21,
        path: &path,
    };
    let call = match plugins.call(mapping, &parameters, subject) {
        Ok(call) => call,
        Err(fault) => {
            report(context, fault, place);
            return None;
        }
    };
    if let Some(input) = call.script_input {
        let script = Map::from_iter([
            ("default", Value::from(mapping)),
            ("description", "Workflow script executed by the script plugin".into()),
        ]);
        parameters.insert(input, script);
    }
    let workflow = Map::from_iter([
        ("plugin", Value::from(&call.plugin)),
        ("operation", Value::from(&call.function)),
        ("parameters", parameters.into()),
        ("is_cascading", cascading),
        ("availability_rules", rules),
    ]);
    Some((call.plugin, workflow))
}

fn parameters(context: &mut Context<'_>, data_types: &DataTypes, node: &Node, name: &Text, path: &str) -> Map {
    let schemas = Schemas {
        types: &data_types.types,
        kind: Kind::Parameter,
    };
    let properties = schemas.read_all(context, node.get("parameters"), name, &format!("{path}.parameters"));
    to_map(&properties)
}

fn check_rules(context: &mut Context<'_>, node: &Node, path: &str) {
    const STATES: [&str; 3] = ["all", "partial", "none"];
    let active = node
        .get("availability_rules")
        .and_then(|rules| rules.get("node_instances_active"))
        .and_then(Node::as_seq)
        .unwrap_or_default();
    for value in active {
        let state = value.as_str().unwrap_or_default();
        if !STATES.contains(&state) {
            let message = format!(
                "Invalid definition of 'node_instances_active' availability rule: '{}'. Allowed values: {}",
                value.to_json(),
                STATES.join(", ")
            );
            let path = format!("{path}.availability_rules.node_instances_active");
            context.fail_name(Fault::logic(103, message, path), value.place, state, STATES);
        }
    }
}
