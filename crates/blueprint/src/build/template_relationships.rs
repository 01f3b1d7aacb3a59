//! Relationships of node templates (spec/dsl.md, section 8).

use std::collections::HashMap;
use std::sync::Arc;

use conclave_yaml::{Node as Yaml, Place, Text};

use super::bases::{Base, Resolver};
use super::context::Context;
use super::data_types::DataTypes;
use super::relationships::{RelationshipType, RelationshipTypes};
use super::resolve::Plugins;
use super::templates::{Path, complete_properties, read_interfaces};
use crate::plan::{Node, Relationship};
use crate::schema::Completion;
use crate::{Fault, Map, Value};

const SECTION: &str = "node_templates";
/// Whose operation runs before the source's.
const LIFECYCLE: &str = "cloudify.relationships.depends_on_lifecycle_operation";
/// What puts one node into another.
pub(super) const CONTAINED_IN: &str = "cloudify.relationships.contained_in";

type FastMap<K, V> = HashMap<K, V, std::hash::BuildHasherDefault<rustc_hash::FxHasher>>;

/// Positions of nodes by name.
pub(super) struct Targets(FastMap<Text, usize>);

impl Targets {
    pub(super) fn new(nodes: &[Node]) -> Self {
        Self(
            nodes
                .iter()
                .enumerate()
                .map(|(at, node)| (node.name.clone(), at))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<usize> {
        self.0.get(name).copied()
    }
}

/// What relationships of a type share.
struct TypeParts {
    relationship_type: Arc<RelationshipType>,
    source: Base,
    target: Base,
    defaults: Option<Map>,
}

/// Reads relationships of templates.
pub(super) struct RelationshipReader<'t> {
    data_types: &'t DataTypes,
    known: &'t RelationshipTypes,
    resolver: Resolver<'t>,
    types: FastMap<Text, TypeParts>,
}

impl<'t> RelationshipReader<'t> {
    pub(super) fn new(data_types: &'t DataTypes, plugins: &'t Plugins<'t>, known: &'t RelationshipTypes) -> Self {
        Self {
            data_types,
            known,
            resolver: Resolver::new(plugins, 19),
            types: FastMap::default(),
        }
    }

    /// Reads all relationships of a template. Those at fault are left out.
    pub(super) fn read_all(
        &mut self,
        context: &mut Context<'_>,
        name: &str,
        node: &Yaml,
        place: Place,
    ) -> Vec<Relationship> {
        let items = node.get("relationships").and_then(Yaml::as_seq).unwrap_or_default();
        let mut relationships: Vec<Relationship> = Vec::with_capacity(items.len());
        let mut containers: Vec<&Yaml> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(relationship) = self.read(context, name, index, item, place) else {
                continue;
            };
            if relationship.is_a(CONTAINED_IN) {
                containers.push(item);
            }
            relationships.push(relationship);
        }
        if let [_, second, ..] = containers[..] {
            let message = format!(
                "Node '{name}' has more than one relationship that is derived from '{CONTAINED_IN}' relationship"
            );
            context.fail(
                Fault::logic(112, message, format!("{SECTION}.{name}.relationships")),
                second.place,
            );
        }
        relationships
    }

    fn read(
        &mut self,
        context: &mut Context<'_>,
        name: &str,
        index: usize,
        item: &Yaml,
        place: Place,
    ) -> Option<Relationship> {
        let path = || format!("{SECTION}.{name}.relationships.{index}");
        if item.is_null() {
            let fault = Fault::coded(
                crate::Class::Format,
                1,
                "a relationship has a type and a target",
                path(),
            );
            context.fail(fault, item.place);
            return None;
        }
        let (type_node, target_node) = (item.get("type")?, item.get("target")?);
        let (type_name, target) = (type_node.as_text()?, target_node.as_text()?);
        self.check_target(context, name, target, target_node.place, &path);
        self.find_type(context, name, type_name, type_node.place, &path)?;
        let parts = self.types.get(type_name)?;
        let properties = self.properties(context, parts, name, item, target, &path);
        let own_path = format!("{name}.relationships.{index}");
        let own_path = Path { name: &own_path };
        let mut side = |base: &Base, key: &str| {
            let own = read_interfaces(context, item, key, &own_path);
            let place = if item.place.line > 0 { item.place } else { place };
            self.resolver.resolve(context, base, &own, &own_path.of(key), place)
        };
        let source = side(&parts.source, "source_interfaces");
        let targets = side(&parts.target, "target_interfaces");
        Some(Relationship {
            type_name: parts.relationship_type.name.clone(),
            target_id: target.clone(),
            type_hierarchy: parts.relationship_type.hierarchy.clone(),
            properties,
            source_interfaces: source.shown,
            target_interfaces: targets.shown,
            source_operations: source.operations,
            target_operations: targets.operations,
        })
    }

    fn check_target(
        &self,
        context: &mut Context<'_>,
        name: &str,
        target: &str,
        place: Place,
        path: &dyn Fn() -> String,
    ) {
        if target == name {
            let message = format!(
                "A relationship instance under node '{name}' illegally declares the source node as the target node"
            );
            context.fail(Fault::logic(23, message, format!("{}.target", path())), place);
        } else if !context.has(SECTION, target) {
            let message =
                format!("A relationship instance under node '{name}' declares an undefined target node '{target}'");
            let known: Vec<&str> = context.names(SECTION).collect();
            context.fail_name(
                Fault::logic(25, message, format!("{}.target", path())),
                place,
                target,
                known,
            );
        }
    }

    /// Sees to it that the type's parts are there.
    fn find_type(
        &mut self,
        context: &mut Context<'_>,
        name: &str,
        type_name: &Text,
        place: Place,
        path: &dyn Fn() -> String,
    ) -> Option<()> {
        if self.types.contains_key(type_name) {
            return Some(());
        }
        let Some(relationship_type) = self.known.get(type_name) else {
            if !context.has("relationships", type_name) {
                let message = format!(
                    "A relationship instance under node '{name}' declares an undefined relationship type '{type_name}'"
                );
                let known: Vec<&str> = context.names("relationships").collect();
                context.fail_name(
                    Fault::logic(26, message, format!("{}.type", path())),
                    place,
                    type_name,
                    known,
                );
            }
            return None;
        };
        let mut completion = Completion::new(&self.data_types.types, false);
        let defaults = completion.properties(&context.empty, &relationship_type.properties, None);
        let base = |interfaces, side| {
            self.resolver
                .base(interfaces, &format!("relationships.{type_name}.{side}"))
        };
        let parts = TypeParts {
            source: base(&relationship_type.source_interfaces, "source_interfaces"),
            target: base(&relationship_type.target_interfaces, "target_interfaces"),
            defaults: completion.faults.is_empty().then_some(defaults),
            relationship_type: relationship_type.clone(),
        };
        self.types.insert(type_name.clone(), parts);
        Some(())
    }

    fn properties(
        &self,
        context: &mut Context<'_>,
        parts: &TypeParts,
        name: &str,
        item: &Yaml,
        target: &str,
        path: &dyn Fn() -> String,
    ) -> Map {
        let written = item.get("properties").filter(|properties| !properties.is_null());
        if &*parts.relationship_type.name == LIFECYCLE && !check_lifecycle(context, name, item, target, written, path) {
            return context.empty.clone();
        }
        let is_empty = written.is_none_or(|node| node.as_map().is_some_and(<[_]>::is_empty));
        if let Some(defaults) = parts.defaults.as_ref().filter(|_| is_empty) {
            return defaults.clone();
        }
        let owner = || format!("'{name}' node relationship");
        let path = || format!("{}.properties", path());
        let schema = &parts.relationship_type.properties;
        complete_properties(context, self.data_types, schema, written, &owner, &path, item.place)
    }
}

/// The relationship names an operation that the target's template has.
fn check_lifecycle(
    context: &mut Context<'_>,
    name: &str,
    item: &Yaml,
    target: &str,
    written: Option<&Yaml>,
    path: &dyn Fn() -> String,
) -> bool {
    let operation = written.and_then(|properties| properties.get("operation"));
    let Some(operation) = operation.filter(|operation| Value::from(*operation).is_truthy()) else {
        let message =
            format!("For '{name}' node, please supply '{LIFECYCLE}' with a defined lifecycle operation target");
        context.fail(Fault::logic(215, message, format!("{}.properties", path())), item.place);
        return false;
    };
    let lifecycle = context
        .entries(SECTION)
        .and_then(|templates| templates.get(target))
        .and_then(|template| template.value.get("interfaces"))
        .and_then(|interfaces| interfaces.get("cloudify.interfaces.lifecycle"));
    let wanted = operation.as_str().unwrap_or_default();
    if lifecycle.is_some_and(|lifecycle| lifecycle.get(wanted).is_some()) {
        return true;
    }
    if context.has(SECTION, target) {
        let message = format!(
            "Please define '{}' operation in the target node '{target}' for '{name}' node's '{LIFECYCLE}' relationship",
            operation.key_text()
        );
        context.fail(
            Fault::logic(216, message, format!("{}.properties.operation", path())),
            operation.place,
        );
    }
    false
}
