//! Node templates (spec/dsl.md, section 8).

use std::collections::HashMap;
use std::sync::Arc;

use conclave_yaml::{Node as Yaml, Place, Text};

use super::bases::{Base, Resolver};
use super::containment::{hosts, report_circles};
use super::context::Context;
use super::data_types::DataTypes;
use super::interfaces::{Interface, InterfaceReader};
use super::order::order;
use super::relationships::RelationshipTypes;
use super::resolve::Plugins;
use super::template_relationships::{RelationshipReader, Targets};
use super::types::{NodeType, NodeTypes};
use super::{scalable, usage};
use crate::document::{Entry, Named};
use crate::plan::{Capabilities, Node, Scalable};
use crate::schema::{Completion, Properties};
use crate::{Class, Fault, Map, Value};

const SECTION: &str = "node_templates";

/// What templates of a node type share.
struct TypeParts {
    node_type: Arc<NodeType>,
    base: Base,
    /// The properties of a template that gives none, if that is in order.
    defaults: Option<Map>,
}

/// Reads all node templates.
pub(super) fn build(
    context: &mut Context<'_>,
    data_types: &DataTypes,
    plugins: &Plugins<'_>,
    node_types: &NodeTypes,
    relationship_types: &RelationshipTypes,
) -> Vec<Node> {
    let mut reader = TemplateReader {
        data_types,
        node_types,
        resolver: Resolver::new(plugins, 10),
        relationships: RelationshipReader::new(data_types, plugins, relationship_types),
        types: HashMap::default(),
        default_capabilities: Capabilities {
            scalable: Scalable {
                properties: scalable::defaults(),
            },
        },
        no_plugins: Arc::default(),
    };
    let entries = context.sound_entries(SECTION);
    for (name, entry) in entries.iter().rev() {
        reader.find_type(context, name, &entry.value);
    }
    let mut made: Vec<Option<(Node, bool)>> = Vec::new();
    made.resize_with(entries.len(), || None);
    for at in reading_order(&entries) {
        let (name, entry) = entries[at];
        made[at] = reader.read(context, name, entry);
        if made[at].is_none() {
            context.mark_broken(SECTION, name.clone());
        }
    }
    let (mut nodes, hosts_by_type): (Vec<Node>, Vec<bool>) = made.into_iter().flatten().unzip();
    let targets = Targets::new(&nodes);
    report_circles(context, &nodes, &targets);
    hosts(&mut nodes, &targets, &hosts_by_type);
    usage::set_plugins(context, &mut nodes, &targets, &hosts_by_type, plugins);
    nodes
}

/// Targets of relationships before what has the relationships, and circles last.
fn reading_order(entries: &[(&Text, &Entry)]) -> Vec<usize> {
    let positions: HashMap<&str, usize> = entries
        .iter()
        .enumerate()
        .map(|(at, (name, _))| (&***name, at))
        .collect();
    let edges: Vec<Vec<usize>> = entries
        .iter()
        .map(|(_, entry)| {
            let relationships = entry
                .value
                .get("relationships")
                .and_then(Yaml::as_seq)
                .unwrap_or_default();
            let target = |item: &Yaml| positions.get(item.get("target")?.as_str()?).copied();
            let mut targets: Vec<usize> = relationships.iter().filter_map(target).collect();
            targets.sort_unstable();
            targets
        })
        .collect();
    let mut reading = order(&edges).order;
    let mut is_read = vec![false; entries.len()];
    reading.iter().for_each(|at| is_read[*at] = true);
    reading.extend((0..entries.len()).filter(|at| !is_read[*at]));
    reading
}

struct TemplateReader<'t> {
    data_types: &'t DataTypes,
    node_types: &'t NodeTypes,
    resolver: Resolver<'t>,
    relationships: RelationshipReader<'t>,
    types: HashMap<Text, TypeParts, std::hash::BuildHasherDefault<rustc_hash::FxHasher>>,
    default_capabilities: Capabilities,
    no_plugins: crate::plan::PluginList,
}

impl TemplateReader<'_> {
    /// Reads one template; with whether its type is that of a host. None when it cannot be made sense of.
    fn read(&mut self, context: &mut Context<'_>, name: &Text, entry: &Entry) -> Option<(Node, bool)> {
        let (node, place) = (&entry.value, entry.key.place);
        let path = Path { name };
        if node.is_null() {
            let message = format!("the node template '{name}' has no type");
            context.fail(Fault::coded(Class::Format, 1, message, path.of("type")), place);
            return None;
        }
        let type_name = node.get("type").and_then(Yaml::as_text)?;
        let parts = self.types.get(type_name)?;
        let properties = self.properties(context, parts, name, node, place);
        let (capabilities, instances) = self.capabilities(context, name, node, place);
        let own = read_interfaces(context, node, "interfaces", &path);
        let relationships = self.relationships.read_all(context, name, node, place);
        if context.report_held(SECTION, name) {
            return None;
        }
        let resolved = self
            .resolver
            .resolve(context, &parts.base, &own, &path.of("interfaces"), place);
        let node_type = &parts.node_type;
        let node = Node {
            name: name.clone(),
            id: name.clone(),
            type_name: node_type.name.clone(),
            type_hierarchy: node_type.hierarchy.clone(),
            properties,
            interfaces: resolved.shown,
            operations: resolved.operations,
            relationships,
            capabilities,
            instances,
            plugins: self.no_plugins.clone(),
            deployment_plugins_to_install: self.no_plugins.clone(),
            plugins_to_install: None,
            host_id: None,
        };
        Some((node, node_type.is_host))
    }

    /// Sees to it that the type's parts are there.
    fn find_type(&mut self, context: &mut Context<'_>, name: &str, node: &Yaml) -> Option<()> {
        let path = Path { name };
        let type_node = node.get("type")?;
        let type_name = type_node.as_text()?;
        if self.types.contains_key(type_name) {
            return Some(());
        }
        let Some(node_type) = self.node_types.get(type_name) else {
            if !context.has("node_types", type_name) {
                let message = format!("Could not locate node type: '{type_name}' of node '{name}'");
                let known: Vec<&str> = context.names("node_types").collect();
                context.fail_name(
                    Fault::logic(7, message, path.of("type")),
                    type_node.place,
                    type_name,
                    known,
                );
            }
            return None;
        };
        let mut completion = Completion::new(&self.data_types.types, false);
        let defaults = completion.properties(&context.empty, &node_type.properties, None);
        let parts = TypeParts {
            base: self
                .resolver
                .base(&node_type.interfaces, &format!("node_types.{type_name}.interfaces")),
            defaults: completion.faults.is_empty().then_some(defaults),
            node_type: node_type.clone(),
        };
        self.types.insert(type_name.clone(), parts);
        Some(())
    }

    fn properties(&self, context: &mut Context<'_>, parts: &TypeParts, name: &str, node: &Yaml, place: Place) -> Map {
        let written = node.get("properties").filter(|properties| !properties.is_null());
        let is_empty = written.is_none_or(|node| node.as_map().is_some_and(<[_]>::is_empty));
        if let Some(defaults) = parts.defaults.as_ref().filter(|_| is_empty) {
            return defaults.clone();
        }
        let owner = || format!("'{name}' node");
        let path = || format!("{SECTION}.{name}.properties");
        complete_properties(
            context,
            self.data_types,
            &parts.node_type.properties,
            written,
            &owner,
            &path,
            place,
        )
    }

    fn capabilities(&self, context: &mut Context<'_>, name: &str, node: &Yaml, place: Place) -> (Capabilities, Map) {
        let deploy = node.get("instances").and_then(|instances| instances.entry("deploy"));
        let capabilities = node.entry("capabilities").filter(|(_, value)| !value.is_null());
        let instances = match deploy {
            Some((_, count)) => Map::from_iter([("deploy", Value::from(count))]),
            None => context.empty.clone(),
        };
        let scaled = |properties| Capabilities {
            scalable: Scalable { properties },
        };
        let result = match (deploy, capabilities) {
            (None, None) => self.default_capabilities.clone(),
            (Some((key, count)), None) => {
                let value = Value::from(count);
                if value.as_i64().is_some_and(|count| count < 0) {
                    let path = format!("{SECTION}.{name}.instances.deploy");
                    let message = "deploy instances must be a non-negative number";
                    context.fail(Fault::coded(Class::Format, 1, message, path), key.place);
                }
                scaled(scalable::of_deploy(value))
            }
            (Some(_), Some((key, _))) => {
                let message = format!(
                    "Node '{name}' defines both instances.deploy and capabilities.scalable (Note: instances.deploy is deprecated)"
                );
                context.fail(
                    Fault::logic(209, message, format!("{SECTION}.{name}.capabilities")),
                    key.place,
                );
                self.default_capabilities.clone()
            }
            (None, Some((_, value))) => {
                let properties = value.get("scalable").and_then(|scalable| scalable.get("properties"));
                let path = format!("{SECTION}.{name}.capabilities.scalable.properties");
                scaled(scalable::read(context, properties, &path, place))
            }
        };
        (result, instances)
    }
}

/// The dotted path of a template, made only where it is shown.
pub(super) struct Path<'n> {
    pub(super) name: &'n str,
}

impl Path<'_> {
    pub(super) fn of(&self, part: &str) -> String {
        format!("{SECTION}.{}.{part}", self.name)
    }
}

/// The interfaces that a template or its relationship writes.
pub(super) fn read_interfaces(context: &mut Context<'_>, node: &Yaml, key: &str, path: &Path<'_>) -> Named<Interface> {
    match node.get(key).filter(|interfaces| !interfaces.is_null()) {
        None => Named::default(),
        Some(interfaces) => InterfaceReader { schemas: None }.read(context, Some(interfaces), &path.of(key)),
    }
}

/// Values over defaults, with everything that does not fit reported.
pub(super) fn complete_properties(
    context: &mut Context<'_>,
    data_types: &DataTypes,
    schema: &Properties,
    written: Option<&Yaml>,
    owner: &dyn Fn() -> String,
    path: &dyn Fn() -> String,
    place: Place,
) -> Map {
    let given = match written.map(Value::from) {
        Some(Value::Map(map)) => map,
        _ => context.empty.clone(),
    };
    let mut completion = Completion::new(&data_types.types, false);
    let completed = completion.properties(&given, schema, None);
    if !completion.faults.is_empty() {
        let faults = std::mem::take(&mut completion.faults);
        context.fail_properties(faults, &owner(), &path(), written, place);
    }
    completed
}
