//! The canonical form of plans and deployment plans.

use serde_json::{Map, Value, json};

use super::instances::instances;
use super::text::text;

/// What a deployment plan takes over from the plan, and what is not repeated for that reason.
const UNCHANGED: [&str; 17] = [
    "version",
    "description",
    "metadata",
    "relationships",
    "data_types",
    "policy_types",
    "policy_triggers",
    "workflows",
    "groups",
    "blueprint_labels",
    "resource_tags",
    "imported_blueprints",
    "namespaces_mapping",
    "requirements",
    "deployment_plugins_to_install",
    "workflow_plugins_to_install",
    "host_agent_plugins_to_install",
];
const NODE_PLUGINS: [&str; 3] = ["plugins", "plugins_to_install", "deployment_plugins_to_install"];
const PLAN_PLUGINS: [&str; 3] = [
    "deployment_plugins_to_install",
    "workflow_plugins_to_install",
    "host_agent_plugins_to_install",
];

/// The canonical form of a plan. `compact` shortens what real blueprints repeat.
pub fn plan(plan: &Value, compact: bool) -> Value {
    let mut result = plan.clone();
    let mut nodes: Vec<Value> = plan["nodes"].as_array().cloned().unwrap_or_default();
    nodes.sort_by(|left, right| left["id"].as_str().cmp(&right["id"].as_str()));
    let mut table = Map::new();
    for node in &mut nodes {
        for key in NODE_PLUGINS {
            sort_plugins(node, key);
        }
        if compact {
            shorten(node, &mut table);
        }
    }
    result["nodes"] = nodes.into();
    if compact {
        result["$plugins"] = table.into();
    }
    for key in PLAN_PLUGINS {
        sort_plugins(&mut result, key);
    }
    for section in ["groups", "scaling_groups"] {
        for group in result[section].as_object_mut().into_iter().flat_map(Map::values_mut) {
            sort_texts(&mut group["members"]);
        }
    }
    sort_texts(&mut result["imported_blueprints"]);
    for list in result["requirements"]
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut)
    {
        sort_texts(list);
    }
    if let Some(map) = result.as_object_mut() {
        map.remove("node_instances");
        map.remove("inter_deployment_functions");
    }
    result
}

fn sort_texts(list: &mut Value) {
    if let Some(items) = list.as_array_mut() {
        items.sort_by_key(text);
    }
}

fn sort_plugins(holder: &mut Value, key: &str) {
    let name = |plugin: &Value, key: &str| plugin[key].as_str().unwrap_or_default().to_owned();
    if let Some(list) = holder.get_mut(key).and_then(Value::as_array_mut) {
        list.sort_by_key(|plugin| (name(plugin, "name"), name(plugin, "executor")));
    }
}

/// Leaves the interfaces out, writes repeated operations short and plugins as references into `table`.
fn shorten(node: &mut Value, table: &mut Map<String, Value>) {
    if let Some(map) = node.as_object_mut() {
        map.remove("interfaces");
    }
    shorten_operations(node, "operations");
    for relationship in node["relationships"].as_array_mut().into_iter().flatten() {
        if let Some(map) = relationship.as_object_mut() {
            map.remove("source_interfaces");
            map.remove("target_interfaces");
        }
        shorten_operations(relationship, "source_operations");
        shorten_operations(relationship, "target_operations");
    }
    for key in NODE_PLUGINS {
        for plugin in node.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            let part = |key: &str| plugin[key].as_str().unwrap_or_default().to_owned();
            let reference = format!("{}|{}", part("name"), part("executor"));
            table.insert(reference.clone(), std::mem::replace(plugin, reference.into()));
        }
    }
}

fn no_op() -> Value {
    json!({
        "plugin": "", "operation": "", "executor": null, "inputs": {}, "has_intrinsic_functions": false,
        "max_retries": null, "retry_interval": null, "timeout": null, "timeout_recoverable": null,
    })
}

fn shorten_operations(holder: &mut Value, key: &str) {
    let Some(operations) = holder.get_mut(key).and_then(Value::as_object_mut) else {
        return;
    };
    let no_op = no_op();
    let mut short = Map::new();
    for (name, operation) in operations.iter() {
        let ending = format!(".{name}");
        let mut same = operations
            .iter()
            .filter(|(other, value)| other.ends_with(&ending) && *value == operation);
        let written = match (same.next(), same.next()) {
            (Some((full, _)), None) => format!("={full}").into(),
            _ if *operation == no_op => "-".into(),
            _ => operation.clone(),
        };
        short.insert(name.clone(), written);
    }
    *operations = short;
}

/// Replaces large sections by the digests of their canonical texts, as expectations do.
pub fn with_digests(mut plan: Value) -> Value {
    const SECTIONS: [&str; 5] = [
        "relationships",
        "data_types",
        "workflows",
        "policy_types",
        "policy_triggers",
    ];
    const CHARACTERS_MIN: usize = 1_500;
    for key in SECTIONS {
        let Some(section) = plan.get_mut(key) else { continue };
        let text = text(section);
        if text.chars().count() >= CHARACTERS_MIN {
            *section = json!({"$fragment": super::colour::digest_of(&text)});
        }
    }
    plan
}

/// The canonical form of a deployment plan that was made from `original`: what it changes, and its instances.
pub fn deployment(original: &Value, deployment: &Value) -> Value {
    let before = plan(original, true);
    let after = plan(deployment, true);
    let mut result = Map::new();
    for (key, value) in after.as_object().into_iter().flatten() {
        if !UNCHANGED.contains(&key.as_str()) && key != "nodes" && key != "$plugins" {
            result.insert(key.clone(), value.clone());
        }
    }
    let old = before["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut changed = Map::new();
    for node in after["nodes"].as_array().into_iter().flatten() {
        let old = old
            .binary_search_by(|other| other["id"].as_str().cmp(&node["id"].as_str()))
            .ok()
            .map(|at| &old[at]);
        let fields: Map<String, Value> = node
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| old.and_then(|old| old.get(*key)) != Some(*value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if let (false, Some(id)) = (fields.is_empty(), node["id"].as_str()) {
            changed.insert(id.to_owned(), fields.into());
        }
    }
    result.insert("nodes_changed".into(), changed.into());
    let list = deployment["node_instances"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let renamed = instances(list);
    result.insert("node_instances".into(), renamed.value.into());
    let mut functions = deployment["inter_deployment_functions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for function in &mut functions {
        for id in function["context"]
            .as_object_mut()
            .into_iter()
            .flat_map(Map::values_mut)
        {
            if let Some(new) = id.as_str().and_then(|id| renamed.ids.get(id)) {
                *id = new.as_str().into();
            }
        }
    }
    functions.sort_by_key(text);
    result.insert("inter_deployment_functions".into(), functions.into());
    result.into()
}
