//! Which instances stay, and how many come, in each container.

use rustc_hash::{FxHashMap as HashMap, FxHashSet as HashSet};

use super::request::{Change, Changes};
use super::world::World;
use crate::topology::{Existing, Graph, Instance, VertexId};
use crate::{Fault, Text};

/// The instances that there are, by what they lie in, and what is wanted of them.
pub(super) struct Stock<'s> {
    graph: &'s Graph<'s>,
    /// By vertex, all of it; and by vertex and container, what lies there.
    all: HashMap<VertexId, Vec<Existing>>,
    inside: HashMap<(VertexId, Text), Vec<Existing>>,
    wanted: HashMap<VertexId, &'s Change>,
    /// By instance, the group instances that it is in.
    groups: HashMap<Text, Vec<Text>>,
}

impl<'s> Stock<'s> {
    pub(super) fn new(graph: &'s Graph<'s>, before: &World, instances: &[Instance], changes: &'s Changes) -> Self {
        let mut stock = Self {
            graph,
            all: HashMap::default(),
            inside: HashMap::default(),
            wanted: HashMap::default(),
            groups: HashMap::default(),
        };
        for body in before.bodies() {
            // A template that is gone takes its instances with it.
            let Some(vertex) = graph.vertex(&body.name) else {
                continue;
            };
            let existing = Existing {
                id: body.id.clone(),
                host: body.host.clone(),
            };
            for link in &body.links {
                stock
                    .inside
                    .entry((vertex, link.to.clone()))
                    .or_default()
                    .push(existing.clone());
            }
            stock.all.entry(vertex).or_default().push(existing);
        }
        for (name, change) in &changes.0 {
            stock.wanted.extend(graph.vertex(name).map(|vertex| (vertex, change)));
        }
        for instance in instances {
            let groups = instance.scaling_groups.iter().map(|group| group.id.clone()).collect();
            stock.groups.insert(instance.id.clone(), groups);
        }
        stock
    }

    /// What stays of a vertex in an instance of its container, and how many are to come.
    pub(super) fn of(&mut self, vertex: VertexId, parent: Option<&Text>) -> Result<(Vec<Existing>, u64), Fault> {
        let there = match parent {
            Some(parent) => self.inside.remove(&(vertex, parent.clone())),
            None => self.all.remove(&vertex),
        }
        .unwrap_or_default();
        let count = there.len() as u64;
        let Some(change) = self.wanted.get(&vertex) else {
            return Ok((there, self.graph.vertices[vertex].count.saturating_sub(count)));
        };
        if change.instances > count {
            return Ok((there, change.instances - count));
        }
        Ok((self.remaining(there, change), 0))
    }

    /// What remains: first those go that are asked to, then the youngest that nobody asked to keep, then the youngest.
    fn remaining(&self, mut there: Vec<Existing>, change: &Change) -> Vec<Existing> {
        let ids: HashSet<&Text> = there.iter().map(|existing| &existing.id).collect();
        let meant = |hints: &[Text]| {
            let mut meant: Vec<Text> = Vec::new();
            for hint in hints {
                if ids.contains(hint) {
                    meant.push(hint.clone());
                } else if let Some(groups) = self.groups.get(hint) {
                    meant.extend(groups.iter().filter(|group| ids.contains(group)).cloned());
                }
            }
            meant
        };
        let (remove, keep) = (meant(&change.remove), meant(&change.keep));
        let keep: HashSet<Text> = keep.into_iter().collect();
        let mut surplus = (there.len() as u64).saturating_sub(change.instances);
        let mut gone: HashSet<Text> = HashSet::default();
        for id in remove {
            if surplus > 0 && gone.insert(id) {
                surplus -= 1;
            }
        }
        for spare in [true, false] {
            for existing in there.iter().rev() {
                if surplus > 0 && !(spare && keep.contains(&existing.id)) && gone.insert(existing.id.clone()) {
                    surplus -= 1;
                }
            }
        }
        there.retain(|existing| !gone.contains(&existing.id));
        there
    }
}
