//! What one world has that the other has not.

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap as HashMap, FxHashSet as HashSet};

use super::world::{Body, Link, World};
use super::{Mark, Modified};
use crate::Text;

/// The bodies to be listed, in order, with their mark and the links that are listed with them.
#[derive(Default)]
struct Selection<'w> {
    chosen: IndexMap<&'w Text, (&'w Body, Option<Mark>, Vec<&'w Link>), FxBuildHasher>,
}

impl<'w> Selection<'w> {
    fn entry(&mut self, body: &'w Body) -> &mut (&'w Body, Option<Mark>, Vec<&'w Link>) {
        self.chosen.entry(&body.id).or_insert((body, None, Vec::new()))
    }

    /// The instances with the relationships that are listed, and what contains those that are in groups.
    fn into_list(self, world: &World) -> Vec<Modified> {
        let mut containers: IndexMap<Text, &Body, FxBuildHasher> = IndexMap::default();
        let mut list = Vec::with_capacity(self.chosen.len());
        for (body, mark, links) in self.chosen.values() {
            if body.is_group {
                continue;
            }
            let relationships = links.iter().filter_map(|link| link.shown.clone()).collect::<Vec<_>>();
            for relationship in &relationships {
                let id = &relationship.target_id;
                if let Some(container) = world.get(id).filter(|_| !self.chosen.contains_key(id)) {
                    containers.insert(id.clone(), container);
                }
            }
            list.push(Modified {
                instance: body.instance(relationships),
                mark: *mark,
            });
        }
        list.extend(containers.values().map(|body| Modified {
            instance: body.instance(Vec::new()),
            mark: None,
        }));
        list
    }
}

/// The bodies that `world` has and `other` has not, with all their links, and those that they are linked with, with the links
/// between.
pub(super) fn one_sided(world: &World, other: &World, mark: Mark) -> Vec<Modified> {
    let own: HashSet<&Text> = world.ids().filter(|id| other.get(id).is_none()).collect();
    let mut selection = Selection::default();
    if own.is_empty() {
        return Vec::new();
    }
    for body in world.bodies() {
        if own.contains(&body.id) {
            let entry = selection.entry(body);
            entry.1 = Some(mark);
            entry.2 = body.links.iter().collect();
            for target in body.links.iter().filter_map(|link| world.get(&link.to)) {
                selection.entry(target);
            }
        } else {
            let links: Vec<&Link> = body.links.iter().filter(|link| own.contains(&link.to)).collect();
            if !links.is_empty() {
                selection.entry(body).2 = links;
            }
        }
    }
    selection.into_list(world)
}

/// The bodies that both worlds have whose links in `world` are not all in `other`, with those that are not, and their targets.
pub(super) fn changed_relationships(world: &World, other: &World, mark: Mark) -> Vec<Modified> {
    let mut selection = Selection::default();
    let mut known: HashMap<&Text, ()> = HashMap::default();
    for body in world.bodies() {
        let Some(counterpart) = other.get(&body.id) else {
            continue;
        };
        known.clear();
        known.extend(counterpart.links.iter().map(|link| (&link.to, ())));
        let links: Vec<&Link> = body.links.iter().filter(|link| !known.contains_key(&link.to)).collect();
        if links.is_empty() {
            continue;
        }
        for target in links.iter().filter_map(|link| world.get(&link.to)) {
            selection.entry(target);
        }
        let entry = selection.entry(body);
        entry.1 = Some(mark);
        entry.2 = links;
    }
    selection.into_list(world)
}
