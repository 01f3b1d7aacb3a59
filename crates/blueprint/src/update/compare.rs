//! What two plans differ in.

use std::sync::Arc;

use rustc_hash::FxHashMap as HashMap;

use super::Deployed;
use super::step::{Action, EntityType, Part, Step};
use crate::plan::{Node, Operations, Plugin, Relationship};
use crate::{Map, Plan, Text, Value};

const CONTAINED_IN: &str = "cloudify.relationships.contained_in";

fn way(parts: &[&str]) -> Vec<Part> {
    parts.iter().map(|part| Part::Name((*part).into())).collect()
}

/// Every difference, in the order of the new plan; what is gone comes after what is there.
pub(super) fn steps(deployed: &Deployed<'_>, plan: &Plan) -> Vec<Step> {
    let mut steps = Vec::new();
    if plan.description != *deployed.description {
        steps.push(Step::new(
            Action::Modify,
            EntityType::Description,
            way(&["description"]),
        ));
    }
    let old: HashMap<&str, &Node> = deployed.nodes.iter().map(|node| (&*node.name, node)).collect();
    let new: HashMap<&str, &Node> = plan.nodes.iter().map(|node| (&*node.name, node)).collect();
    compare_plugins(&plan.nodes, &old, &mut steps);
    compare_nodes(deployed, plan, &old, &new, &mut steps);
    for (action, name) in compare_maps(&plan.outputs, deployed.outputs, |new, old| new == old) {
        steps.push(Step::new(action, EntityType::Output, way(&["outputs", &name])));
    }
    for (action, name) in compare_maps(&plan.workflows, deployed.workflows, |new, old| new == old) {
        steps.push(Step::new(action, EntityType::Workflow, way(&["workflows", &name])));
    }
    for (action, name) in compare_maps(&plan.groups, deployed.groups, is_same_group) {
        steps.push(Step::new(action, EntityType::Group, way(&["groups", &name])).unsupported());
    }
    steps
}

fn compare_maps(new: &Map, old: &Map, is_same: impl Fn(&Value, &Value) -> bool) -> Vec<(Action, Text)> {
    if new.is_same(old) {
        return Vec::new();
    }
    let mut changes = Vec::new();
    for (name, value) in new.iter() {
        match old.get(name) {
            None => changes.push((Action::Add, name.clone())),
            Some(before) if !is_same(value, before) => changes.push((Action::Modify, name.clone())),
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    changes.extend(gone.map(|name| (Action::Remove, name.clone())));
    changes
}

fn is_same_group(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_map(), old.as_map()) else {
        return new == old;
    };
    let members = |group: &Map| {
        let members = group.get("members").and_then(Value::as_list).unwrap_or_default();
        let mut names: Vec<&str> = members.iter().filter_map(Value::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(Text::from).collect::<Vec<_>>()
    };
    let rest = |group: &Map| {
        let mut rest = group.clone();
        rest.remove("members");
        rest
    };
    members(new) == members(old) && rest(new) == rest(old)
}

/// Plugins that nodes get, or get with other fields. New nodes bring theirs with them, and a plugin that is no longer needed
/// stays.
fn compare_plugins(nodes: &[Node], old: &HashMap<&str, &Node>, steps: &mut Vec<Step>) {
    let mut compare = |section: &str, node: &Node, new: &[Plugin], before: &[Plugin]| {
        for plugin in new {
            let before = before
                .iter()
                .find(|other| other.name() == plugin.name() && other.executor() == plugin.executor());
            let action = match before {
                Some(before) if before == plugin => continue,
                Some(_) => Action::Modify,
                None => Action::Add,
            };
            steps.push(Step::new(
                action,
                EntityType::Plugin,
                way(&[section, &node.name, plugin.name()]),
            ));
        }
    };
    let existing = || nodes.iter().filter_map(|node| Some((node, *old.get(&*node.name)?)));
    for (node, before) in existing() {
        let list = |node: &Node| node.plugins_to_install.clone().unwrap_or_default();
        compare("plugins_to_install", node, &list(node), &list(before));
    }
    for (node, before) in existing() {
        if !Arc::ptr_eq(&node.plugins, &before.plugins) {
            compare("plugins", node, &node.plugins, &before.plugins);
        }
    }
}

fn compare_nodes(
    deployed: &Deployed<'_>,
    plan: &Plan,
    old: &HashMap<&str, &Node>,
    new: &HashMap<&str, &Node>,
    steps: &mut Vec<Step>,
) {
    for node in &plan.nodes {
        let Some(before) = old.get(&*node.name) else {
            steps.push(Step::new(Action::Add, EntityType::Node, way(&["nodes", &node.name])));
            continue;
        };
        // A node of another type, or in another container, is another node.
        if node.type_name != before.type_name || container(node) != container(before) {
            steps.push(Step::new(Action::Modify, EntityType::Node, way(&["nodes", &node.name])).unsupported());
            continue;
        }
        compare_operations(
            &node.operations,
            &before.operations,
            &way(&["nodes", &node.name, "operations"]),
            steps,
        );
        compare_relationships(node, before, steps);
        for (action, name) in compare_maps(&node.properties, &before.properties, |new, old| new == old) {
            let id = way(&["nodes", &node.name, "properties", &name]);
            steps.push(Step::new(action, EntityType::Property, id));
        }
    }
    for node in deployed.nodes.iter().filter(|node| !new.contains_key(&*node.name)) {
        steps.push(Step::new(Action::Remove, EntityType::Node, way(&["nodes", &node.name])));
    }
}

fn container(node: &Node) -> Option<&Text> {
    let containment = node
        .relationships
        .iter()
        .find(|relationship| relationship.is_a(CONTAINED_IN));
    containment.map(|relationship| &relationship.target_id)
}

fn compare_operations(new: &Operations, old: &Operations, base: &[Part], steps: &mut Vec<Step>) {
    if new.is_same(old) {
        return;
    }
    let mut add = |action: Action, name: &Text| {
        let mut id = base.to_vec();
        id.push(Part::Name(name.clone()));
        steps.push(Step::new(action, EntityType::Operation, id));
    };
    for (name, operation) in new.iter() {
        match old.get(name) {
            None => add(Action::Add, name),
            Some(before) if !Arc::ptr_eq(before, operation) && before != operation => add(Action::Modify, name),
            Some(_) => {}
        }
    }
    for (name, _) in old.iter().filter(|(name, _)| new.get(name).is_none()) {
        add(Action::Remove, name);
    }
}

/// The positions of relationships by type and target; of several with the same, the first is matched with the first.
fn positions(node: &Node) -> HashMap<(&Text, &Text), Vec<usize>> {
    let mut positions: HashMap<_, Vec<usize>> = HashMap::default();
    for (index, relationship) in node.relationships.iter().enumerate() {
        positions.entry(key(relationship)).or_default().push(index);
    }
    positions
}

fn key(relationship: &Relationship) -> (&Text, &Text) {
    (&relationship.type_name, &relationship.target_id)
}

fn compare_relationships(node: &Node, before: &Node, steps: &mut Vec<Step>) {
    let at = |indexes: &[usize]| {
        let mut id = way(&["nodes", &node.name, "relationships"]);
        id.extend(indexes.iter().copied().map(Part::Index));
        id
    };
    let (old, new) = (positions(before), positions(node));
    let mut seen: HashMap<_, usize> = HashMap::default();
    for (index, relationship) in node.relationships.iter().enumerate() {
        let count = seen.entry(key(relationship)).or_insert(0);
        let matching = old
            .get(&key(relationship))
            .and_then(|positions| positions.get(*count))
            .copied();
        *count += 1;
        let Some(old_index) = matching else {
            steps.push(Step::new(Action::Add, EntityType::Relationship, at(&[index])));
            continue;
        };
        if old_index != index {
            steps.push(Step::new(
                Action::Modify,
                EntityType::Relationship,
                at(&[old_index, index]),
            ));
        }
        let before = &before.relationships[old_index];
        for (section, new, old) in [
            (
                "source_operations",
                &relationship.source_operations,
                &before.source_operations,
            ),
            (
                "target_operations",
                &relationship.target_operations,
                &before.target_operations,
            ),
        ] {
            let mut base = at(&[index]);
            base.push(Part::Name(section.into()));
            compare_operations(new, old, &base, steps);
        }
        for (action, name) in compare_maps(&relationship.properties, &before.properties, |new, old| new == old) {
            let mut id = at(&[index]);
            id.extend(way(&["properties", &name]));
            steps.push(Step::new(action, EntityType::Property, id).unsupported());
        }
    }
    let mut seen: HashMap<_, usize> = HashMap::default();
    for (index, relationship) in before.relationships.iter().enumerate() {
        let count = seen.entry(key(relationship)).or_insert(0);
        let is_there = new
            .get(&key(relationship))
            .is_some_and(|positions| positions.len() > *count);
        *count += 1;
        if !is_there {
            steps.push(Step::new(Action::Remove, EntityType::Relationship, at(&[index])));
        }
    }
}
