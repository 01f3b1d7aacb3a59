//! Node types (spec/dsl.md, section 8), and what node and relationship types have in common.

use std::sync::Arc;

use conclave_yaml::{Node, Place, Text};

use super::context::Context;
use super::data_types::{DataTypes, check_written};
use super::interfaces::{self, Interface, InterfaceReader, Interfaces};
use super::order::{circle_text, order};
use super::properties::{Kind, Schemas, inherit};
use crate::document::{Entry, Named};
use crate::schema::Properties;
use crate::{Class, Fault};

/// Part of the names of all types that are hosts, or derived from one.
const HOST: &str = "cloudify.nodes.Compute";

/// A node type with all that it inherits.
pub(super) struct NodeType {
    pub(super) name: Text,
    pub(super) hierarchy: Arc<Vec<Text>>,
    pub(super) properties: Arc<Properties>,
    runtime_properties: Arc<Properties>,
    pub(super) interfaces: Interfaces,
    pub(super) is_host: bool,
}

/// Node types by name, without those that are at fault.
pub(super) type NodeTypes = Named<Arc<NodeType>>;

/// The entries of a section of types, parents before children. Circles are reported and left out.
pub(super) fn ordered_types<'a>(context: &mut Context<'a>, section: &'static str) -> Vec<(&'a Text, &'a Entry)> {
    let entries = context.sound_entries(section);
    let mut positions: Named<usize> = Named::default();
    for (at, (name, _)) in entries.iter().enumerate() {
        positions.insert((*name).clone(), at);
    }
    let parent = |entry: &Entry| positions.get(entry.value.get("derived_from")?.as_str()?).copied();
    let edges: Vec<Vec<usize>> = entries
        .iter()
        .map(|(_, entry)| parent(entry).into_iter().collect())
        .collect();
    let ordered = order(&edges);
    for circle in &ordered.circles {
        let message = circle_text(circle, |at| entries[at].0);
        let (name, entry) = entries[circle[0]];
        context.fail(Fault::logic(100, message, format!("{section}.{name}")), entry.key.place);
    }
    ordered.order.into_iter().map(|at| entries[at]).collect()
}

/// A type that says nothing at all, which the original stumbles over.
pub(super) fn is_empty_type(context: &mut Context<'_>, section: &str, name: &str, entry: &Entry) -> bool {
    if !entry.value.is_null() {
        return false;
    }
    let message = format!("the type '{name}' is expected to be a dictionary: write '{{}}' where it adds nothing");
    context.fail(
        Fault::new(Class::Key, message, format!("{section}.{name}")),
        entry.key.place,
    );
    true
}

/// The parent that a type names. `Err` when there is none of that name, or it is at fault itself.
pub(super) fn parent_of<'t, T>(
    context: &mut Context<'_>,
    section: &'static str,
    what: &str,
    name: &str,
    node: &Node,
    known: &'t Named<Arc<T>>,
) -> Result<Option<&'t Arc<T>>, ()> {
    let Some(parent) = node.get("derived_from").filter(|parent| !parent.is_null()) else {
        return Ok(None);
    };
    let parent_name = parent.as_str().unwrap_or_default();
    if let Some(found) = known.get(parent_name) {
        return Ok(Some(found));
    }
    if !context.has(section, parent_name) {
        let message =
            format!("Missing definition for {what} '{parent_name}' which is declared as derived by {what} '{name}'");
        let fault = Fault::logic(103, message, format!("{section}.{name}.derived_from"));
        let names: Vec<&str> = context.names(section).collect();
        context.fail_name(fault, parent.place, parent_name, names);
    }
    Err(())
}

/// From the root type to the own one.
pub(super) fn hierarchy(parent: Option<&Arc<Vec<Text>>>, name: &Text) -> Arc<Vec<Text>> {
    let mut hierarchy = parent.map_or_else(Vec::new, |parent| (**parent).clone());
    hierarchy.push(name.clone());
    Arc::new(hierarchy)
}

/// Properties with those that are inherited.
pub(super) fn read_properties(
    context: &mut Context<'_>,
    data_types: &DataTypes,
    node: &Node,
    key: &str,
    name: &Text,
    path: &str,
    parent: Option<&Arc<Properties>>,
) -> Arc<Properties> {
    let schemas = Schemas {
        types: &data_types.types,
        kind: Kind::Property,
    };
    check_written(context, node.get(key), path);
    let own = schemas.read_all(context, node.get(key), name, &format!("{path}.{key}"));
    match parent {
        Some(parent) if own.is_empty() => parent.clone(),
        Some(parent) => Arc::new(inherit(parent, own, &data_types.types)),
        None => Arc::new(own),
    }
}

/// Interfaces with those that are inherited.
pub(super) fn read_interfaces(
    context: &mut Context<'_>,
    data_types: &DataTypes,
    node: &Node,
    key: &str,
    path: &str,
    parent: Option<&Interfaces>,
) -> Interfaces {
    let reader = InterfaceReader {
        schemas: Some(&data_types.types),
    };
    let own: Named<Interface> = reader.read(context, node.get(key), &format!("{path}.{key}"));
    match parent {
        Some(parent) => interfaces::inherit(parent, own),
        None => Arc::new(own),
    }
}

/// Reads all node types.
pub(super) fn build_node_types(context: &mut Context<'_>, data_types: &DataTypes) -> NodeTypes {
    const SECTION: &str = "node_types";
    let mut types = NodeTypes::default();
    for (name, entry) in ordered_types(context, SECTION) {
        if is_empty_type(context, SECTION, name, entry) {
            continue;
        }
        let Ok(parent) = parent_of(context, SECTION, "type", name, &entry.value, &types) else {
            continue;
        };
        let path = format!("{SECTION}.{name}");
        let faults = context.report.count();
        let parts = |context: &mut Context<'_>, key, parent: Option<&Arc<Properties>>| {
            read_properties(context, data_types, &entry.value, key, name, &path, parent)
        };
        let properties = parts(context, "properties", parent.map(|parent| &parent.properties));
        let runtime_properties = parts(
            context,
            "runtime_properties",
            parent.map(|parent| &parent.runtime_properties),
        );
        let inherited = parent.map(|parent| &parent.interfaces);
        let interfaces = read_interfaces(context, data_types, &entry.value, "interfaces", &path, inherited);
        context.report_held(SECTION, name);
        if context.report.count() > faults {
            continue;
        }
        let node_type = NodeType {
            name: name.clone(),
            hierarchy: hierarchy(parent.map(|parent| &parent.hierarchy), name),
            is_host: name.contains(HOST) || parent.is_some_and(|parent| parent.is_host),
            properties,
            runtime_properties,
            interfaces,
        };
        types.insert(name.clone(), Arc::new(node_type));
    }
    types
}

/// Where an element's name stands.
pub(super) fn place_of(context: &Context<'_>, section: &str, name: &str) -> Place {
    context
        .entries(section)
        .and_then(|entries| entries.get(name))
        .map_or_else(Place::default, |entry| entry.key.place)
}
