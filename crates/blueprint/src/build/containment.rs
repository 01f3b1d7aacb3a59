//! Who contains whom: circles of relationships, and hosts (spec/dsl.md, section 8).

use super::context::Context;
use super::order::{circle_text, order};
use super::template_relationships::{CONTAINED_IN, Targets};
use super::types::place_of;
use crate::Fault;
use crate::plan::Node;

/// No node may lead back to itself, whatever the relationships on the way.
pub(super) fn report_circles(context: &mut Context<'_>, nodes: &[Node], targets: &Targets) {
    let edges: Vec<Vec<usize>> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let target_of = |relationship: &crate::plan::Relationship| targets.get(&relationship.target_id);
            node.relationships
                .iter()
                .filter_map(target_of)
                .filter(|target| *target != at)
                .collect()
        })
        .collect();
    for circle in order(&edges).circles {
        let message = circle_text(&circle, |at| &nodes[at].name);
        let name = &nodes[circle[0]].name;
        let place = place_of(context, "node_templates", name);
        context.fail(Fault::logic(100, message, format!("node_templates.{name}")), place);
    }
}

/// The position of the node that contains another one.
pub(super) fn container(node: &Node, targets: &Targets) -> Option<usize> {
    let contained = node
        .relationships
        .iter()
        .find(|relationship| relationship.is_a(CONTAINED_IN))?;
    targets.get(&contained.target_id)
}

/// Sets each node's host: itself, or the host of its container.
pub(super) fn hosts(nodes: &mut [Node], targets: &Targets, is_host: &[bool]) {
    let containers: Vec<Option<usize>> = nodes.iter().map(|node| container(node, targets)).collect();
    let mut is_visited = vec![false; nodes.len()];
    for start in 0..nodes.len() {
        let mut chain = Vec::new();
        let mut at = start;
        let host = loop {
            if let Some(host) = &nodes[at].host_id {
                break Some(host.clone());
            }
            if is_host[at] {
                break Some(nodes[at].name.clone());
            }
            // Whoever was here before found no host, or goes round in a circle, which is reported already.
            if std::mem::replace(&mut is_visited[at], true) {
                break None;
            }
            chain.push(at);
            match containers[at] {
                Some(next) => at = next,
                None => break None,
            }
        };
        let Some(host) = host else { continue };
        nodes[at].host_id = Some(host.clone());
        for below in chain {
            nodes[below].host_id = Some(host.clone());
        }
    }
}
