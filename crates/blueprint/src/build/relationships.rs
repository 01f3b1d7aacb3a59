//! Relationship types (spec/dsl.md, section 8).

use std::sync::Arc;

use conclave_yaml::Text;

use super::context::Context;
use super::data_types::DataTypes;
use super::interfaces::{self, Interfaces};
use super::properties::to_map;
use super::resolve::{Plugins, Subject, report};
use super::types::{hierarchy, is_empty_type, ordered_types, parent_of, read_interfaces, read_properties};
use crate::document::Named;
use crate::schema::Properties;
use crate::{Map, Value};

const SECTION: &str = "relationships";

/// A relationship type with all that it inherits.
pub(super) struct RelationshipType {
    pub(super) name: Text,
    pub(super) hierarchy: Arc<Vec<Text>>,
    pub(super) properties: Arc<Properties>,
    pub(super) source_interfaces: Interfaces,
    pub(super) target_interfaces: Interfaces,
    parent: Value,
}

/// Relationship types by name, without those that are at fault.
#[derive(Default)]
pub(super) struct RelationshipTypes {
    types: Named<Arc<RelationshipType>>,
    /// In the order of the text.
    names: Vec<Text>,
}

impl RelationshipTypes {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<RelationshipType>> {
        self.types.get(name)
    }

    /// As plans show them.
    pub(super) fn to_map(&self) -> Map {
        let shown = |name: &Text| {
            let of = self.types.get(name)?;
            let mut map = Map::from_iter([
                ("properties", Value::Map(to_map(&of.properties))),
                ("source_interfaces", interfaces::to_map(&of.source_interfaces).into()),
                ("target_interfaces", interfaces::to_map(&of.target_interfaces).into()),
                ("name", Value::from(&of.name)),
                ("type_hierarchy", of.hierarchy.iter().collect()),
            ]);
            if of.parent.is_truthy() {
                map.insert("derived_from", of.parent.clone());
            }
            Some((name.clone(), map))
        };
        self.names.iter().filter_map(shown).collect()
    }
}

/// Reads all relationship types. Their operations must mean something, whether they are used or not.
pub(super) fn build_types(
    context: &mut Context<'_>,
    data_types: &DataTypes,
    plugins: &Plugins<'_>,
) -> RelationshipTypes {
    let mut result = RelationshipTypes {
        names: context
            .entries(SECTION)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect(),
        ..RelationshipTypes::default()
    };
    for (name, entry) in ordered_types(context, SECTION) {
        if is_empty_type(context, SECTION, name, entry) {
            continue;
        }
        let node = &entry.value;
        let Ok(parent) = parent_of(context, SECTION, "relationship", name, node, &result.types) else {
            continue;
        };
        let path = format!("{SECTION}.{name}");
        let faults = context.report.count();
        let inherited = parent.map(|parent| &parent.properties);
        let properties = read_properties(context, data_types, node, "properties", name, &path, inherited);
        let inherited = parent.map(|parent| &parent.source_interfaces);
        let source = read_interfaces(context, data_types, node, "source_interfaces", &path, inherited);
        let inherited = parent.map(|parent| &parent.target_interfaces);
        let target = read_interfaces(context, data_types, node, "target_interfaces", &path, inherited);
        context.report_held(SECTION, name);
        check_operations(context, plugins, &source, &format!("{path}.source_interfaces"));
        check_operations(context, plugins, &target, &format!("{path}.target_interfaces"));
        if context.report.count() > faults {
            continue;
        }
        let built = RelationshipType {
            name: name.clone(),
            hierarchy: hierarchy(parent.map(|parent| &parent.hierarchy), name),
            properties,
            source_interfaces: source,
            target_interfaces: target,
            parent: node.get("derived_from").map_or(Value::Null, Value::from),
        };
        result.types.insert(name.clone(), Arc::new(built));
    }
    result
}

fn check_operations(context: &mut Context<'_>, plugins: &Plugins<'_>, interfaces: &Interfaces, path: &str) {
    for (interface, operations) in interfaces.iter() {
        for (name, raw) in operations.iter().filter(|(_, raw)| !raw.implementation.is_empty()) {
            let subject = Subject {
                kind: "operation",
                name,
                code: 19,
                path: &format!("{path}.{interface}.{name}"),
            };
            if let Err(fault) = plugins.call(&raw.implementation, &raw.inputs, subject) {
                report(context, fault, raw.place);
            }
        }
    }
}
