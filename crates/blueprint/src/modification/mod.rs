//! Modifications of a deployment: more or fewer instances of nodes and scaling groups (spec/dsl.md, section 17).
//!
//! [`modify`] expands the templates again around the instances that there are, and says what that adds and takes away; it is
//! also what an update of a deployment uses, whose templates are not the same before and after. [`Modification::finished`] is
//! what remains in the end.

mod choice;
mod difference;
mod request;
mod world;

use rustc_hash::FxHashMap as HashMap;
use serde::ser::{Serialize, Serializer};

use crate::plan::Node;
use crate::topology::{Graph, IdSource, Instance, Template, expand};
use crate::{Fault, Map, Text};

pub use request::{Change, Changes};

use choice::Stock;
use difference::{changed_relationships, one_sided};
use world::World;

/// What the instances are now, and what they are to be.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'s> {
    /// The templates as they are to be, with the numbers of instances that are stored, not those that are wanted.
    pub nodes: &'s [Node],
    /// The templates that the instances were made from.
    pub previous_nodes: &'s [Node],
    /// Scaling groups by name: `members`, `properties`.
    pub scaling_groups: &'s Map,
    /// The instances that there are.
    pub instances: &'s [Instance],
}

/// What is special about an instance of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It stays and gets relationships.
    Extended,
    /// It stays and loses relationships.
    Reduced,
}

impl Mark {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Extended => "extended",
            Self::Reduced => "reduced",
        }
    }
}

/// An instance of a list: with the relationships that this list is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modified {
    /// The instance.
    pub instance: Instance,
    /// None where it is only there because another one is related to it.
    pub mark: Option<Mark>,
}

impl Serialize for Modified {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.instance
            .serialize_with(serializer, self.mark.map(|mark| ("modification", mark.as_str())))
    }
}

/// What a modification adds and takes away.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Modification {
    /// New instances, with all their relationships; and those that they are related to, with the new ones.
    pub added_and_related: Vec<Modified>,
    /// Instances that stay and get relationships, with these; and their targets, unless these are new.
    pub extended_and_related: Vec<Modified>,
    /// Instances that stay and lose relationships, with these; and their targets, unless these go.
    pub reduced_and_related: Vec<Modified>,
    /// Instances that go, with all their relationships; and those that they are related to, with the ones that go.
    pub removed_and_related: Vec<Modified>,
}

/// Computes a modification.
///
/// # Errors
/// When the topology cannot be expanded, `instances` do not go with `previous_nodes`, or an `all_to_one` relationship leads to
/// several targets.
pub fn modify(situation: &Situation<'_>, changes: &Changes, ids: &mut dyn IdSource) -> Result<Modification, Fault> {
    let graph = graph_of(situation.nodes, situation.scaling_groups)?;
    let previous_graph = graph_of(situation.previous_nodes, situation.scaling_groups)?;
    let before = World::before(situation.instances, &previous_graph)?;
    let mut stock = Stock::new(&graph, &before, situation.instances, changes);
    let taken = before.ids().cloned().collect();
    let expansion = expand(&graph, &mut |vertex, parent| stock.of(vertex, parent), taken, ids)?;
    let after = World::after(&graph, expansion, &before)?;

    let added_and_related = one_sided(&after, &before, Mark::Added);
    let removed_and_related = one_sided(&before, &after, Mark::Removed);
    // What is new, or goes, is no change of relationships.
    let extended_and_related = without_marked(
        changed_relationships(&after, &before, Mark::Extended),
        &added_and_related,
    );
    let reduced_and_related = without_marked(
        changed_relationships(&before, &after, Mark::Reduced),
        &removed_and_related,
    );
    Ok(Modification {
        added_and_related,
        extended_and_related,
        reduced_and_related,
        removed_and_related,
    })
}

fn graph_of<'p>(nodes: &'p [Node], groups: &Map) -> Result<Graph<'p>, Fault> {
    let templates = nodes.iter().map(Template::new).collect::<Result<Vec<_>, _>>()?;
    Graph::new(&templates, groups)
}

fn without_marked(list: Vec<Modified>, other: &[Modified]) -> Vec<Modified> {
    let marked: rustc_hash::FxHashSet<&Text> = other
        .iter()
        .filter(|modified| modified.mark.is_some())
        .map(|modified| &modified.instance.id)
        .collect();
    list.into_iter()
        .filter(|modified| !marked.contains(&modified.instance.id))
        .collect()
}

impl Modification {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.added_and_related.is_empty()
            && self.extended_and_related.is_empty()
            && self.reduced_and_related.is_empty()
            && self.removed_and_related.is_empty()
    }

    /// The instances once it is started: new ones are there, and those that they are related to have the new relationships,
    /// next to those with the same target node.
    pub fn started(&self, before: &[Instance]) -> Vec<Instance> {
        let mut related: HashMap<&Text, &Modified> = HashMap::default();
        let mut added = Vec::new();
        for modified in &self.added_and_related {
            if modified.mark.is_some() {
                added.push(modified.instance.clone());
            } else {
                related.insert(&modified.instance.id, modified);
            }
        }
        let mut instances: Vec<Instance> = before.to_vec();
        for instance in &mut instances {
            let Some(modified) = related.get(&instance.id) else {
                continue;
            };
            for relationship in &modified.instance.relationships {
                let next_to = instance
                    .relationships
                    .iter()
                    .rposition(|own| own.target_name == relationship.target_name);
                let position = next_to.map_or(instance.relationships.len(), |position| position + 1);
                instance.relationships.insert(position, relationship.clone());
            }
        }
        instances.extend(added);
        instances
    }

    /// The instances once it is finished: those that go are gone, with every relationship to them.
    pub fn finished(&self, before: &[Instance]) -> Vec<Instance> {
        let gone: rustc_hash::FxHashSet<&Text> = self
            .removed_and_related
            .iter()
            .filter(|modified| modified.mark.is_some())
            .map(|modified| &modified.instance.id)
            .collect();
        let mut instances = self.started(before);
        instances.retain(|instance| !gone.contains(&instance.id));
        for instance in &mut instances {
            instance
                .relationships
                .retain(|relationship| !gone.contains(&relationship.target_id));
        }
        instances
    }
}
