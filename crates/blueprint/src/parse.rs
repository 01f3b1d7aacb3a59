//! The plan of a blueprint (spec/dsl.md, section 15).

use conclave_yaml::Node;
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::diagnostic::suggestion;
use crate::document::{Document, Entry, load};
use crate::functions::validate;
use crate::operations::{Plugins, Site, resolve};
use crate::types::{Types, Where, instantiate, schema_of};
use crate::{Diagnostic, Resolver};

const CONTAINED_IN: &str = "cloudify.relationships.contained_in";
const COMPUTE: &str = "cloudify.nodes.Compute";

/// A parsed blueprint, as the original's clients know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan(Value);

impl Plan {
    /// A plan that was stored.
    pub fn from_json(json: Value) -> Self {
        Self(json)
    }

    /// As it is stored.
    pub fn as_json(&self) -> &Value {
        &self.0
    }
}

/// Parses the blueprint whose main file is `main`.
///
/// # Errors
/// Every fault that could be found; the first is the one to show where only one fits.
pub fn parse(main: &str, resolver: &dyn Resolver) -> Result<Plan, Vec<Diagnostic>> {
    let document = load(main, resolver)?;
    let mut parser = Parser {
        document: &document,
        resolver,
        errors: Vec::new(),
    };
    let plan = parser.plan();
    if parser.errors.is_empty() {
        validate(&plan, &document, &mut parser.errors);
    }
    if parser.errors.is_empty() {
        Ok(Plan(plan))
    } else {
        Err(parser.errors)
    }
}

struct Parser<'a> {
    document: &'a Document,
    resolver: &'a dyn Resolver,
    errors: Vec<Diagnostic>,
}

impl Parser<'_> {
    fn plan(&mut self) -> Value {
        let document = self.document;
        let node_types = Types::derive(document, "node_types", &["interfaces"], &mut self.errors);
        let sides = ["source_interfaces", "target_interfaces"];
        let relationship_types = Types::derive(document, "relationships", &sides, &mut self.errors);
        let executors = document
            .section("plugins")
            .map(|(name, entry)| (name.to_owned(), text(&entry.node, "executor").unwrap_or_default()))
            .collect();
        let plugins = Plugins {
            executors,
            resolver: self.resolver,
        };
        let nodes = self.nodes(&node_types, &relationship_types, &plugins);
        let version = document
            .version
            .rsplit('_')
            .next()
            .and_then(|minor| minor.parse::<u32>().ok())
            .unwrap_or(0);
        json!({
            "version": {"raw": document.version, "definitions_name": "cloudify_dsl", "definitions_version": [1, version]},
            "description": document.description,
            "metadata": document.metadata.as_ref().map(Node::to_json),
            "inputs": self.inputs(),
            "nodes": nodes,
            "workflows": self.workflows(&plugins),
            "outputs": self.values("outputs"),
            "capabilities": self.values("capabilities"),
            "labels": self.plain("labels"),
            "groups": self.plain("groups"),
            "relationships": {}, "data_types": {}, "policy_types": {}, "policy_triggers": {}, "policies": {},
            "scaling_groups": {}, "blueprint_labels": {}, "resource_tags": {}, "deployment_settings": {},
            "deployment_plugins_to_install": [], "workflow_plugins_to_install": [], "host_agent_plugins_to_install": [],
            "imported_blueprints": [], "namespaces_mapping": {},
            "requirements": {"parent_capabilities": [], "secrets": []},
        })
    }

    fn plain(&self, section: &str) -> Value {
        Value::Object(
            self.document
                .section(section)
                .map(|(name, entry)| (name.to_owned(), entry.node.to_json()))
                .collect(),
        )
    }

    fn inputs(&mut self) -> Value {
        let mut inputs = Map::new();
        for (name, entry) in self.document.section("inputs") {
            let schema = schema_of(&entry.node);
            if let Some(default) = &schema.default
                && !default.is_null()
                && !crate::types::fits(schema.type_name.as_deref(), default)
            {
                let wanted = schema.type_name.as_deref().unwrap_or_default();
                let message = format!("the default of input {name} is {default}, which is no {wanted}");
                self.errors.push(Diagnostic::new(
                    105,
                    message,
                    &entry.file,
                    entry.node.place,
                    format!("inputs.{name}"),
                ));
            }
            let json = entry.node.to_json();
            inputs.insert(name.to_owned(), if json.is_null() { json!({}) } else { json });
        }
        Value::Object(inputs)
    }

    /// Outputs and capabilities: a value is required.
    fn values(&mut self, section: &str) -> Value {
        let mut values = Map::new();
        for (name, entry) in self.document.section(section) {
            if entry.node.get("value").is_none() {
                let message = format!("'value' key is required but it is currently missing in {section}.{name}");
                self.errors.push(Diagnostic::new(
                    1,
                    message,
                    &entry.file,
                    entry.node.place,
                    format!("{section}.{name}"),
                ));
            }
            values.insert(name.to_owned(), entry.node.to_json());
        }
        Value::Object(values)
    }

    fn workflows(&mut self, plugins: &Plugins<'_>) -> Value {
        let mut workflows = Map::new();
        for (name, entry) in self.document.section("workflows") {
            let mapping = entry
                .node
                .as_str()
                .map(str::to_owned)
                .or_else(|| text(&entry.node, "mapping"))
                .unwrap_or_default();
            let plugin = plugins
                .executors
                .keys()
                .find(|plugin| mapping.starts_with(&format!("{plugin}.")));
            let Some(plugin) = plugin else {
                let message = format!("Could not extract plugin from workflow mapping '{mapping}' of workflow {name}");
                self.errors.push(Diagnostic::new(
                    21,
                    message,
                    &entry.file,
                    entry.node.place,
                    format!("workflows.{name}"),
                ));
                continue;
            };
            let parameters = entry.node.get("parameters").map_or(json!({}), Node::to_json);
            workflows.insert(
                name.to_owned(),
                json!({
                    "plugin": plugin, "operation": mapping[plugin.len() + 1..], "parameters": parameters, "is_cascading": false,
                    "availability_rules": null,
                }),
            );
        }
        Value::Object(workflows)
    }

    fn nodes(&mut self, types: &Types, relationship_types: &Types, plugins: &Plugins<'_>) -> Vec<Value> {
        let mut nodes: IndexMap<String, Value> = IndexMap::new();
        for (name, entry) in self.document.section("node_templates") {
            if let Some(node) = self.node(name, entry, types, relationship_types, plugins) {
                nodes.insert(name.to_owned(), node);
            }
        }
        let hosts: Vec<Option<String>> = nodes.keys().map(|name| host_of(name, &nodes)).collect();
        for (node, host) in nodes.values_mut().zip(hosts) {
            if let (Some(host), Some(fields)) = (host, node.as_object_mut()) {
                fields.insert("host_id".into(), Value::String(host));
            }
        }
        nodes.into_values().collect()
    }

    fn node(
        &mut self,
        name: &str,
        entry: &Entry,
        types: &Types,
        relationships: &Types,
        plugins: &Plugins<'_>,
    ) -> Option<Value> {
        let path = format!("node_templates.{name}");
        let node = &entry.node;
        let type_node = node.get("type");
        let type_name = type_node.and_then(Node::as_str).unwrap_or_default();
        let Some(of_type) = types.by_name.get(type_name) else {
            let hint = suggestion(type_name, types.by_name.keys().map(String::as_str));
            let message = format!("Could not locate node type: '{type_name}'{hint}");
            let place = type_node.map_or(node.place, |node| node.place);
            self.errors
                .push(Diagnostic::new(7, message, &entry.file, place, format!("{path}.type")));
            return None;
        };
        let place = Where {
            file: &entry.file,
            node,
            path: format!("{path}.properties"),
        };
        let properties = instantiate(&of_type.properties, node.get("properties"), &place, &mut self.errors);
        let site = Site {
            file: &entry.file,
            node,
            path: format!("{path}.interfaces"),
            code: 10,
        };
        let operations = resolve(
            of_type.operations("interfaces"),
            node.get("interfaces"),
            &site,
            plugins,
            &mut self.errors,
        );
        let items = node.get("relationships").and_then(Node::as_seq).unwrap_or_default();
        let related: Vec<Value> = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| {
                self.relationship(
                    name,
                    entry,
                    item,
                    &format!("{path}.relationships[{index}]"),
                    relationships,
                    plugins,
                )
            })
            .collect();
        let containers = related
            .iter()
            .filter(|relationship| is_containment(relationship))
            .count();
        if containers > 1 {
            let message = format!("Node {name} has more than one relationship that is derived from {CONTAINED_IN}");
            self.errors.push(Diagnostic::new(
                112,
                message,
                &entry.file,
                node.place,
                format!("{path}.relationships"),
            ));
        }
        let count = self.instances(node, entry, &path);
        let is_host = of_type.hierarchy.iter().any(|name| name.contains(COMPUTE));
        Some(json!({
            "name": name, "id": name, "type": type_name, "type_hierarchy": of_type.hierarchy, "properties": properties,
            "operations": operations, "relationships": related, "is_host": is_host,
            "capabilities": {"scalable": {"properties": {
                "min_instances": 0, "max_instances": -1, "default_instances": count, "current_instances": count,
                "planned_instances": count}}},
            "instances": if node.get("instances").is_some() { json!({"deploy": count}) } else { json!({}) },
            "plugins": [], "deployment_plugins_to_install": [], "plugins_to_install": [],
        }))
    }

    fn instances(&mut self, node: &Node, entry: &Entry, path: &str) -> i64 {
        let deploy = node.get("instances").and_then(|instances| instances.get("deploy"));
        let scalable = node
            .get("capabilities")
            .and_then(|all| all.get("scalable"))
            .and_then(|own| own.get("properties"));
        let wanted = deploy.or_else(|| scalable.and_then(|properties| properties.get("default_instances")));
        let Some(wanted) = wanted else { return 1 };
        match wanted.to_json().as_i64() {
            Some(count) if count >= 0 => count,
            _ => {
                let message = format!("{} is no number of instances", wanted.key_text());
                self.errors.push(Diagnostic::new(
                    1,
                    message,
                    &entry.file,
                    wanted.place,
                    format!("{path}.instances.deploy"),
                ));
                1
            }
        }
    }

    fn relationship(
        &mut self,
        source: &str,
        entry: &Entry,
        item: &Node,
        path: &str,
        types: &Types,
        plugins: &Plugins<'_>,
    ) -> Option<Value> {
        let type_name = text(item, "type").unwrap_or_default();
        let target = text(item, "target").unwrap_or_default();
        let Some(of_type) = types.by_name.get(&type_name) else {
            let hint = suggestion(&type_name, types.by_name.keys().map(String::as_str));
            let message = format!("A relationship of node {source} has the undefined type '{type_name}'{hint}");
            self.errors.push(Diagnostic::new(
                26,
                message,
                &entry.file,
                item.place,
                format!("{path}.type"),
            ));
            return None;
        };
        if target == source || self.document.entry("node_templates", &target).is_none() {
            let (code, message) = if target == source {
                (23, format!("Node {source} has a relationship to itself"))
            } else {
                let hint = suggestion(&target, self.document.section("node_templates").map(|(name, _)| name));
                (
                    25,
                    format!("A relationship of node {source} leads to the undefined node '{target}'{hint}"),
                )
            };
            self.errors.push(Diagnostic::new(
                code,
                message,
                &entry.file,
                item.place,
                format!("{path}.target"),
            ));
            return None;
        }
        let place = Where {
            file: &entry.file,
            node: item,
            path: format!("{path}.properties"),
        };
        let properties = instantiate(&of_type.properties, item.get("properties"), &place, &mut self.errors);
        let mut side = |key: &str| {
            let site = Site {
                file: &entry.file,
                node: item,
                path: format!("{path}.{key}"),
                code: 19,
            };
            resolve(of_type.operations(key), item.get(key), &site, plugins, &mut self.errors)
        };
        Some(json!({
            "type": type_name, "target_id": target, "type_hierarchy": of_type.hierarchy, "properties": properties,
            "source_operations": side("source_interfaces"), "target_operations": side("target_interfaces"),
        }))
    }
}

fn text(node: &Node, key: &str) -> Option<String> {
    node.get(key)?.as_str().map(str::to_owned)
}

pub(crate) fn is_containment(relationship: &Value) -> bool {
    relationship["type_hierarchy"]
        .as_array()
        .is_some_and(|types| types.iter().any(|name| name == CONTAINED_IN))
}

/// The nearest host: the node itself or a container of it. Containments that lead in a circle host nothing.
fn host_of(name: &str, nodes: &IndexMap<String, Value>) -> Option<String> {
    let mut current = name.to_owned();
    for _ in 0..=nodes.len() {
        let node = nodes.get(&current)?;
        if node["is_host"] == Value::Bool(true) {
            return Some(current);
        }
        let container = node["relationships"]
            .as_array()?
            .iter()
            .find(|relationship| is_containment(relationship))?;
        current = container["target_id"].as_str()?.to_owned();
    }
    None
}
