//! Scaling groups: what scaling policies target, without members that follow their containers (spec/dsl.md, section 11).

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;

use conclave_yaml::Text;

use super::containment::container;
use super::context::Context;
use super::order::order;
use super::template_relationships::Targets;
use super::types::place_of;
use crate::document::Named;
use crate::plan::Node;
use crate::{Fault, Map, Value};

type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<rustc_hash::FxHasher>>;

/// A group that a policy targets.
struct Group {
    members: Vec<Text>,
    properties: Value,
}

/// Makes the scaling groups.
pub(super) fn build(context: &mut Context<'_>, policies: &Map, groups: &Map, nodes: &[Node]) -> Map {
    let mut scaling = targeted(policies, groups);
    let Some(parents) = parents(context, &scaling) else {
        return Map::new();
    };
    if !context.report.is_clean() {
        // Who contains whom is certain only where nodes are.
        return Map::new();
    }
    let targets = Targets::new(nodes);
    let forest = Forest::new(nodes, &targets);
    check_containment(context, &scaling, &parents, &forest);
    remove_contained(&mut scaling, &parents, &forest);
    let shown = |(name, group): (Text, Group)| {
        let map = Map::from_iter([
            ("members", Value::from_iter(group.members)),
            ("properties", group.properties),
        ]);
        (name, map)
    };
    scaling.into_iter().map(shown).collect()
}

fn targeted(policies: &Map, groups: &Map) -> Named<Group> {
    let mut scaling = Named::default();
    for policy in policies.values() {
        let properties = policy.get("properties").cloned().unwrap_or_default();
        let names = policy.get("targets").and_then(Value::as_list).unwrap_or_default();
        for name in names.iter().filter_map(Value::as_str) {
            let members = groups.get(name).and_then(|group| group.get("members"));
            let members = members.and_then(Value::as_list).unwrap_or_default();
            let group = Group {
                members: members.iter().filter_map(Value::as_str).map(Text::from).collect(),
                properties: properties.clone(),
            };
            scaling.insert(name.into(), group);
        }
    }
    scaling
}

/// The one group of each member. None when there are circles, or members of several groups.
fn parents(context: &mut Context<'_>, scaling: &Named<Group>) -> Option<FastMap<Text, Text>> {
    let faults = context.report.count();
    let edges: Vec<Vec<usize>> = scaling
        .values()
        .map(|group| {
            group
                .members
                .iter()
                .filter_map(|member| scaling.get_index_of(member))
                .collect()
        })
        .collect();
    let name_of = |at: usize| scaling.get_index(at).map(|(name, _)| name.clone()).unwrap_or_default();
    for circle in order(&edges).circles {
        let names: Vec<Text> = circle.iter().map(|at| name_of(*at)).collect();
        let place = place_of(context, "groups", &names[0]);
        let message = format!("Illegal group cycles found: {}", names.join(", "));
        context.fail(Fault::logic(200, message, format!("groups.{}", names[0])), place);
    }
    let mut parents: FastMap<Text, Text> = FastMap::default();
    for (name, group) in scaling {
        for member in &group.members {
            if let Some(other) = parents.insert(member.clone(), name.clone()) {
                let message = format!(
                    "Nodes and groups cannot be members in multiple groups, but member '{member}' belongs to the following \
                     multiple groups: {other}, {name}"
                );
                let place = place_of(context, "groups", name);
                context.fail(Fault::logic(201, message, format!("groups.{name}")), place);
            }
        }
    }
    (context.report.count() == faults).then_some(parents)
}

/// Nodes with what contains them.
struct Forest<'n> {
    nodes: &'n [Node],
    positions: FastMap<Text, usize>,
    containers: Vec<Option<usize>>,
    /// The outermost container, or the node itself.
    roots: Vec<usize>,
}

impl<'n> Forest<'n> {
    fn new(nodes: &'n [Node], targets: &Targets) -> Self {
        let containers: Vec<Option<usize>> = nodes.iter().map(|node| container(node, targets)).collect();
        let mut roots: Vec<Option<usize>> = vec![None; nodes.len()];
        for start in 0..nodes.len() {
            let mut chain = Vec::new();
            let mut at = start;
            let root = loop {
                match (roots[at], containers[at]) {
                    (Some(root), _) => break root,
                    // Circles are reported elsewhere; here it is enough that they end.
                    (None, Some(next)) if chain.len() <= nodes.len() => {
                        chain.push(at);
                        at = next;
                    }
                    _ => break at,
                }
            };
            roots[at] = Some(root);
            for below in chain {
                roots[below] = Some(root);
            }
        }
        Self {
            positions: nodes
                .iter()
                .enumerate()
                .map(|(at, node)| (node.name.clone(), at))
                .collect(),
            roots: roots
                .into_iter()
                .enumerate()
                .map(|(at, root)| root.unwrap_or(at))
                .collect(),
            containers,
            nodes,
        }
    }

    /// The containers of a node, the nearest first.
    fn above(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let mut at = node;
        let mut left = self.nodes.len();
        std::iter::from_fn(move || {
            at = self.containers[at]?;
            left = left.checked_sub(1)?;
            Some(at)
        })
    }
}

/// The groups around a member, the nearest first.
fn groups_above<'p>(parents: &'p FastMap<Text, Text>, member: &str) -> Vec<&'p Text> {
    let mut groups = Vec::new();
    let mut at = parents.get(member);
    while let Some(group) = at {
        groups.push(group);
        at = parents.get(group);
    }
    groups
}

/// Nodes of one group must scale together: two of them are both uncontained, or share a container, or the outermost container
/// of a contained one is in the group too.
fn check_containment(
    context: &mut Context<'_>,
    scaling: &Named<Group>,
    parents: &FastMap<Text, Text>,
    forest: &Forest<'_>,
) {
    let outermost = |member: &str| groups_above(parents, member).last().map(|group| (*group).clone());
    let mut members: FastMap<Text, Vec<usize>> = FastMap::default();
    for member in parents.keys().filter(|member| !scaling.contains_key(&***member)) {
        let Some(at) = forest.positions.get(member) else {
            continue;
        };
        for group in groups_above(parents, member) {
            members.entry(group.clone()).or_default().push(*at);
        }
    }
    for name in scaling.keys() {
        let Some(nodes) = members.get(name) else { continue };
        let roots: HashSet<usize> = nodes.iter().map(|node| forest.roots[*node]).collect();
        if roots.len() < 2 {
            continue;
        }
        let top = outermost(name).unwrap_or_else(|| name.clone());
        let stands_alone = |node: &&usize| {
            let root = forest.roots[**node];
            root != **node && outermost(&forest.nodes[root].name).as_ref() != Some(&top)
        };
        let Some(one) = nodes
            .iter()
            .filter(stands_alone)
            .min_by_key(|node| &forest.nodes[**node].name)
        else {
            continue;
        };
        let other = nodes.iter().find(|node| forest.roots[**node] != forest.roots[*one]);
        let other = other.map_or("another", |other| &forest.nodes[*other].name);
        let message = format!(
            "Node '{}' and '{other}' belong to some shared group but they are not contained in any shared node, nor is any \
             ancestor node of theirs.",
            forest.nodes[*one].name
        );
        let place = place_of(context, "groups", name);
        context.fail(Fault::logic(202, message, format!("groups.{name}")), place);
    }
}

/// A member that is contained in another one of the same group follows that one and needs no mention. Where the container is in
/// an outer group, it is the inner group that follows.
fn remove_contained(scaling: &mut Named<Group>, parents: &FastMap<Text, Text>, forest: &Forest<'_>) {
    let mut removed: FastMap<Text, HashSet<Text>> = FastMap::default();
    for (member, direct) in parents {
        let Some(at) = forest.positions.get(member) else {
            continue;
        };
        let own = groups_above(parents, member);
        for container in forest.above(*at) {
            let name = &forest.nodes[container].name;
            if !parents.contains_key(name) {
                continue;
            }
            let others: HashSet<&Text> = groups_above(parents, name).into_iter().collect();
            let Some(shared_at) = own.iter().position(|group| others.contains(group)) else {
                continue;
            };
            let shared = own[shared_at];
            let follower = if shared == direct { member } else { own[shared_at - 1] };
            removed.entry(shared.clone()).or_default().insert(follower.clone());
        }
    }
    for (group, followers) in removed {
        if let Some(group) = scaling.get_mut(&group) {
            group.members.retain(|member| !followers.contains(member));
        }
    }
}
