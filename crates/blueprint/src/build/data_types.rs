//! Data types (spec/dsl.md, section 7).

use std::sync::Arc;

use conclave_yaml::{Kind as NodeKind, Node, Text};

use super::context::Context;
use super::order::{circle_text, order};
use super::properties::{Kind, Schemas, inherit, to_map};
use crate::document::Named;
use crate::primitive::is_primitive;
use crate::schema::{DataTypes as Types, Properties};
use crate::{Class, Fault, Map, Value};

/// A default of a data type holds no more values than this once the defaults of its parts are filled in.
const DEFAULT_VALUES_MAX: u64 = 100_000;

/// The data types of a blueprint.
pub(super) struct DataTypes {
    pub(super) types: Types,
    shown: Map,
}

impl DataTypes {
    /// As plans show them.
    pub(super) fn to_map(&self) -> Map {
        self.shown.clone()
    }
}

/// Reads all data types, those first that others need.
pub(super) fn build(context: &mut Context<'_>) -> DataTypes {
    const SECTION: &str = "data_types";
    let entries = context.sound_entries(SECTION);
    let mut positions: Named<usize> = Named::default();
    for (at, (name, _)) in entries.iter().enumerate() {
        positions.insert((*name).clone(), at);
    }
    let edges: Vec<Vec<usize>> = entries
        .iter()
        .map(|(_, entry)| {
            components(&entry.value)
                .filter_map(|name| positions.get(name).copied())
                .collect()
        })
        .collect();
    let ordered = order(&edges);
    for circle in &ordered.circles {
        let message = circle_text(circle, |at| entries[at].0);
        let (name, entry) = entries[circle[0]];
        context.fail(Fault::logic(100, message, format!("{SECTION}.{name}")), entry.key.place);
    }
    let mut weights: Named<u64> = Named::default();
    let mut built: Named<Map> = Named::default();
    let mut types = Types::default();
    for at in ordered.order {
        let (name, entry) = entries[at];
        let faults = context.report.count();
        let properties = read(context, &types, name, &entry.value, entry.key.place);
        context.report_held(SECTION, name);
        let Some(properties) = properties else { continue };
        let weight = weigh(&properties, &weights);
        if weight > DEFAULT_VALUES_MAX {
            let message = format!("the defaults of '{name}' hold more than {DEFAULT_VALUES_MAX} values");
            context.fail(
                Fault::new(Class::Limit, message, format!("{SECTION}.{name}")),
                entry.key.place,
            );
        }
        if context.report.count() > faults {
            continue;
        }
        weights.insert(name.clone(), weight);
        let field = |key: &str| entry.value.get(key).map_or(Value::Null, Value::from);
        let shown = Map::from_iter([
            ("properties", Value::Map(to_map(&properties))),
            ("description", field("description")),
            ("derived_from", field("derived_from")),
            ("version", field("version")),
        ]);
        types.insert(name.clone(), Arc::new(properties));
        built.insert(name.clone(), shown);
    }
    let shown = entries
        .iter()
        .filter_map(|(name, _)| Some(((*name).clone(), built.get(&***name)?.clone())))
        .collect();
    DataTypes { types, shown }
}

/// The data types that one is made of: its parent, and the types of its properties.
fn components(node: &Node) -> impl Iterator<Item = &str> {
    let properties = node.get("properties").and_then(Node::as_map).unwrap_or_default();
    let types = properties.iter().filter_map(|(_, property)| property.get("type"));
    node.get("derived_from")
        .into_iter()
        .chain(types)
        .filter_map(Node::as_str)
}

fn read(
    context: &mut Context<'_>,
    types: &Types,
    name: &Text,
    node: &Node,
    place: conclave_yaml::Place,
) -> Option<Properties> {
    let path = format!("data_types.{name}");
    if node.is_null() {
        let message = format!("the data type '{name}' is expected to be a dictionary");
        context.fail(Fault::new(Class::Type, message, path), place);
        return None;
    }
    if is_primitive(name) {
        context.fail(
            Fault::logic(104, format!("Can't redefine primitive type {name}"), path),
            place,
        );
        return None;
    }
    let schemas = Schemas {
        types,
        kind: Kind::Property,
    };
    check_written(context, node.get("properties"), &path);
    let own = schemas.read_all(context, node.get("properties"), name, &format!("{path}.properties"));
    let Some(parent) = node.get("derived_from").filter(|parent| !parent.is_null()) else {
        return Some(own);
    };
    let parent_name = parent.as_str().unwrap_or_default();
    if let Some(inherited) = types.get(parent_name) {
        return Some(inherit(inherited, own, types));
    }
    if !context.has("data_types", parent_name) {
        let message = format!(
            "Missing definition for data type '{parent_name}' which is declared as derived by data type '{name}'"
        );
        let fault = Fault::logic(103, message, format!("{path}.derived_from"));
        let known: Vec<&str> = context.names("data_types").collect();
        context.fail_name(fault, parent.place, parent_name, known);
    }
    None
}

/// A property of a type must say something, if only `{}`.
pub(super) fn check_written(context: &mut Context<'_>, properties: Option<&Node>, path: &str) {
    for (key, value) in properties.and_then(Node::as_map).unwrap_or_default() {
        if value.is_null() {
            let message = format!(
                "the property '{}' has no schema: write '{{}}' where it may be anything",
                key.key_text()
            );
            let path = format!("{path}.properties.{}", key.key_text());
            context.fail(Fault::new(Class::ElementMatch, message, path), key.place);
        }
    }
}

/// How many values the defaults hold.
fn weigh(properties: &Properties, known: &Named<u64>) -> u64 {
    let one = |property: &crate::schema::Property| {
        let of_type = property.type_name.as_ref().and_then(|name| known.get(name));
        let own = property.own_default.as_ref().map_or(1, count);
        1u64.saturating_add(own).saturating_add(of_type.copied().unwrap_or(0))
    };
    properties.values().map(one).fold(1, u64::saturating_add)
}

fn count(value: &Value) -> u64 {
    match value {
        Value::List(items) => 1 + items.iter().map(count).sum::<u64>(),
        Value::Map(map) => 1 + map.values().map(count).sum::<u64>(),
        _ => 1,
    }
}

/// Whether an element is written as a mapping.
pub(super) fn is_map(node: &Node) -> bool {
    matches!(node.kind, NodeKind::Map(_))
}
