//! The order in which steps are carried out.

use std::cmp::Reverse;

use rustc_hash::FxHashMap as HashMap;

use super::step::{Action, EntityType, Step};
use crate::Text;
use crate::plan::Node;

/// Sorts steps: removals first (relationships before nodes), then additions (nodes before relationships, targets before sources),
/// then the rest. Otherwise they keep their order.
pub(super) fn sort(steps: &mut [Step], nodes: &[Node]) {
    let orders = topology_orders(steps, nodes);
    for step in steps.iter_mut().filter(|step| is_added_node(step)) {
        let order = step.entity_name().and_then(|name| orders.get(name));
        step.topology_order = order.copied().unwrap_or_default();
    }
    steps.sort_by_key(|step| {
        let kind = match (step.action, step.entity_type) {
            (Action::Remove, EntityType::Relationship) | (Action::Add, EntityType::Node) => 0,
            (Action::Add, EntityType::Relationship) => 1,
            (Action::Remove, EntityType::Node) => 3,
            _ => 2,
        };
        (step.action, kind, Reverse(step.topology_order))
    });
}

fn is_added_node(step: &Step) -> bool {
    step.action == Action::Add && step.entity_type == EntityType::Node
}

/// Numbers the nodes that are added so that sources have lower numbers than their targets.
fn topology_orders(steps: &[Step], nodes: &[Node]) -> HashMap<Text, usize> {
    let mut sources: HashMap<&Text, usize> = steps
        .iter()
        .filter(|step| is_added_node(step))
        .filter_map(Step::entity_name)
        .map(|name| (name, 0))
        .collect();
    let added: Vec<&Node> = nodes.iter().filter(|node| sources.contains_key(&node.name)).collect();
    let by_name: HashMap<&Text, &Node> = added.iter().map(|node| (&node.name, *node)).collect();
    for relationship in added.iter().flat_map(|node| &node.relationships) {
        if let Some(count) = sources.get_mut(&relationship.target_id) {
            *count += 1;
        }
    }
    let mut ready: Vec<&Node> = added.iter().copied().filter(|node| sources[&node.name] == 0).collect();
    let mut orders = HashMap::default();
    let mut next = 0;
    while let Some(node) = ready.get(next).copied() {
        orders.insert(node.name.clone(), next);
        next += 1;
        for relationship in &node.relationships {
            let Some(count) = sources.get_mut(&relationship.target_id) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                ready.extend(by_name.get(&relationship.target_id));
            }
        }
    }
    // Nodes in a circle, which no parsed plan has, come last, in their order.
    for node in added {
        let order = orders.len();
        orders.entry(node.name.clone()).or_insert(order);
    }
    orders
}
