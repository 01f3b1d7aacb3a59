//! The places of a plan that are looked at for calls (spec/dsl.md, section 14, "Scanned places").

use rustc_hash::{FxHashMap as HashMap, FxHashSet as HashSet};

use super::call::{Call, call, is_call};
use super::early::EarlyContext;
use super::engine::{DEPTH_MAX, Scope};
use super::walk::Place;
use crate::plan::{Node, Operations, Plan, Relationship};
use crate::{Map, Text, Value};

/// Remembers which of the mappings that nodes share hold nothing to evaluate.
///
/// Addresses are what it remembers: it must not outlive the plan that it was filled from.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    mappings: HashMap<usize, bool>,
    operations: HashSet<usize>,
}

impl Quiet {
    /// Whether no input of any operation holds a call, or is nested deeper than evaluation allows.
    pub(crate) fn operations(&mut self, operations: &Operations) -> bool {
        if operations.is_empty() || self.operations.contains(&operations.address()) {
            return true;
        }
        let quiet = operations.iter().all(|(_, operation)| self.mapping(&operation.inputs));
        if quiet {
            self.operations.insert(operations.address());
        }
        quiet
    }

    /// Whether the mapping's values hold no call and are not nested deeper than evaluation allows.
    pub(crate) fn mapping(&mut self, map: &Map) -> bool {
        if map.is_empty() {
            return true;
        }
        *self
            .mappings
            .entry(map.address())
            .or_insert_with(|| map.values().all(|value| is_quiet(value, DEPTH_MAX)))
    }
}

fn is_quiet(value: &Value, levels: usize) -> bool {
    if levels == 0 {
        return false;
    }
    match value {
        Value::List(items) => items.iter().all(|item| is_quiet(item, levels - 1)),
        Value::Map(map) => !is_call(value) && map.values().all(|value| is_quiet(value, levels - 1)),
        _ => true,
    }
}

/// A place of a plan: a mapping whose values may hold calls.
pub(crate) struct Spot<'a> {
    pub(crate) scope: Scope,
    pub(crate) context: EarlyContext,
    /// Where the context is one.
    pub(crate) relationship: Option<&'a Relationship>,
    pub(crate) place: Place<'a>,
    pub(crate) values: &'a Map,
}

/// Visits every place in order. Places that share what holds no call are left out.
pub(crate) fn each_spot(plan: &Plan, visit: &mut dyn FnMut(&Spot<'_>)) {
    let mut quiet = Quiet::default();
    let names: HashMap<&str, usize> = plan
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| (&*node.name, index))
        .collect();
    for (index, node) in plan.nodes.iter().enumerate() {
        each_spot_of_node(node, index, &names, &mut quiet, visit);
    }
    let mut section = |scope: Scope, path: &[&str], values: &Map| {
        visit(&Spot {
            scope,
            context: EarlyContext::Nobody,
            relationship: None,
            place: Place::Root(path),
            values,
        });
    };
    let inner = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_map).cloned().unwrap_or_default();
    for (name, output) in maps(&plan.outputs) {
        section(Scope::Outputs, &["outputs", name], output);
    }
    for (name, policy) in plan.policies.iter() {
        section(
            Scope::Section("policies"),
            &["policies", name, "properties"],
            &inner(policy, "properties"),
        );
    }
    for (name, group) in plan.scaling_groups.iter() {
        let scope = Scope::Section("scaling_groups");
        section(
            scope,
            &["scaling_groups", name, "properties"],
            &inner(group, "properties"),
        );
    }
    for (name, capability) in maps(&plan.capabilities) {
        section(Scope::Section("capabilities"), &["capabilities", name], capability);
    }
    for (name, label) in maps(&plan.labels) {
        section(Scope::Section("labels"), &["labels", name], label);
    }
    section(
        Scope::Section("deployment_settings"),
        &["deployment_settings"],
        &plan.deployment_settings,
    );
}

fn maps(section: &Map) -> impl Iterator<Item = (&Text, &Map)> {
    section.iter().filter_map(|(name, entry)| Some((name, entry.as_map()?)))
}

fn each_spot_of_node(
    node: &Node,
    index: usize,
    names: &HashMap<&str, usize>,
    quiet: &mut Quiet,
    visit: &mut dyn FnMut(&Spot<'_>),
) {
    let own = EarlyContext::Node {
        node: index,
        operation: false,
    };
    let mut at = |context, relationship: Option<&Relationship>, path: &[&str], values: &Map| {
        let scope = if relationship.is_some() {
            Scope::Relationship
        } else {
            Scope::Node
        };
        visit(&Spot {
            scope,
            context,
            relationship,
            place: Place::Root(path),
            values,
        });
    };
    at(own, None, &["nodes", &node.name, "properties"], &node.properties);
    at(
        own,
        None,
        &["nodes", &node.name, "capabilities", "scalable"],
        node.scalable(),
    );
    let own = EarlyContext::Node {
        node: index,
        operation: true,
    };
    for (name, inputs) in loud(&node.operations, quiet) {
        at(own, None, &["nodes", &node.name, "operations", name, "inputs"], inputs);
    }
    for relationship in &node.relationships {
        let target = names.get(&*relationship.target_id).copied();
        let ends = EarlyContext::Relationship { source: index, target };
        for operations in [&relationship.source_operations, &relationship.target_operations] {
            for (name, inputs) in loud(operations, quiet) {
                let path = ["nodes", &node.name, &relationship.type_name, name, "inputs"];
                at(ends, Some(relationship), &path, inputs);
            }
        }
    }
}

/// The inputs of those operations that hold something to evaluate.
fn loud<'p>(operations: &'p Operations, quiet: &mut Quiet) -> Vec<(&'p Text, &'p Map)> {
    if quiet.operations(operations) {
        return Vec::new();
    }
    let inputs = operations.iter().map(|(name, operation)| (name, &operation.inputs));
    inputs.filter(|(_, inputs)| !quiet.mapping(inputs)).collect()
}

/// Visits every call in the values of a mapping, outer ones first.
pub(crate) fn each_call(map: &Map, place: &Place<'_>, visit: &mut dyn FnMut(&Value, &Call<'_>, &Place<'_>)) {
    for (key, value) in map.iter() {
        each_call_in(value, &Place::Key(place, key), visit);
    }
}

fn each_call_in(value: &Value, place: &Place<'_>, visit: &mut dyn FnMut(&Value, &Call<'_>, &Place<'_>)) {
    match value {
        Value::Map(map) => {
            if let Some(call) = call(value) {
                visit(value, &call, place);
            }
            each_call(map, place, visit);
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                each_call_in(item, &Place::Item(place, index), visit);
            }
        }
        _ => {}
    }
}
