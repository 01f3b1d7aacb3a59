//! Instances and instances of groups with what links them, before a modification and after it.

use indexmap::IndexMap;
use rustc_hash::{FxBuildHasher, FxHashMap as HashMap, FxHashSet as HashSet};

use crate::topology::{
    Chosen, Connection, Expansion, Graph, GroupInstance, Instance, InstanceRelationship, Placed, connect,
};
use crate::{Class, Fault, Text};

/// A link from an instance, or an instance of a group, to another.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Where it leads: for a contained instance that is in a group, to the group.
    pub(super) to: Text,
    /// What the instance shows of it; nothing of its groups.
    pub(super) shown: Option<InstanceRelationship>,
}

/// An instance, or an instance of a group.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) id: Text,
    /// The node or group.
    pub(super) name: Text,
    pub(super) is_group: bool,
    pub(super) host: Option<Text>,
    pub(super) scaling_groups: Vec<GroupInstance>,
    /// In the order of the relationships; never two to the same body.
    pub(super) links: Vec<Link>,
}

impl Body {
    fn link(&mut self, to: Text, shown: Option<InstanceRelationship>) {
        match self.links.iter_mut().find(|link| link.to == to) {
            Some(link) => link.shown = shown,
            None => self.links.push(Link { to, shown }),
        }
    }

    /// The instance with these relationships.
    pub(super) fn instance(&self, relationships: Vec<InstanceRelationship>) -> Instance {
        Instance {
            id: self.id.clone(),
            node_id: self.name.clone(),
            host_id: self.host.clone(),
            relationships,
            scaling_groups: self.scaling_groups.clone(),
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct World {
    bodies: IndexMap<Text, Body, FxBuildHasher>,
}

impl World {
    pub(super) fn bodies(&self) -> impl Iterator<Item = &Body> {
        self.bodies.values()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &Text> {
        self.bodies.keys()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Body> {
        self.bodies.get(id)
    }

    /// The instances that there are, made from the templates of `graph`.
    pub(super) fn before(instances: &[Instance], graph: &Graph<'_>) -> Result<Self, Fault> {
        let mut world = Self::default();
        for instance in instances {
            let body = Body {
                id: instance.id.clone(),
                name: instance.node_id.clone(),
                is_group: false,
                host: instance.host_id.clone(),
                scaling_groups: instance.scaling_groups.clone(),
                links: Vec::with_capacity(instance.relationships.len()),
            };
            world.bodies.insert(instance.id.clone(), body);
            for group in &instance.scaling_groups {
                let body = world.bodies.entry(group.id.clone()).or_insert_with(|| Body {
                    id: group.id.clone(),
                    name: group.name.clone(),
                    is_group: true,
                    host: None,
                    scaling_groups: Vec::new(),
                    links: Vec::new(),
                });
                // What a group runs on is what its members run on, as the original sees it.
                body.host = instance.host_id.clone();
            }
        }
        for instance in instances {
            world.link_instance(instance, graph)?;
        }
        Ok(world)
    }

    fn link_instance(&mut self, instance: &Instance, graph: &Graph<'_>) -> Result<(), Fault> {
        let broken = |why: String| Fault::new(Class::Key, why, instance.id.to_string());
        let node = graph
            .vertex(&instance.node_id)
            .ok_or_else(|| broken(format!("'{}' is an instance of no node", instance.id)))?;
        let mut links: IndexMap<Text, Option<InstanceRelationship>, FxBuildHasher> = IndexMap::default();
        let mut container = None;
        for relationship in &instance.relationships {
            let target = graph.vertex(&relationship.target_name);
            if target.is_some_and(|target| graph.has_edge(node, target)) {
                links.insert(relationship.target_id.clone(), Some(relationship.clone()));
                continue;
            }
            // It leads through groups to what contains these.
            let group = instance.scaling_groups.first().ok_or_else(|| {
                broken(format!(
                    "'{}' has a relationship that its node does not have",
                    instance.id
                ))
            })?;
            links.insert(group.id.clone(), Some(relationship.clone()));
            container = Some(relationship.target_id.clone());
        }
        if let Some(group) = instance.scaling_groups.first() {
            links.entry(group.id.clone()).or_insert(None);
        }
        if let Some(body) = self.bodies.get_mut(&instance.id) {
            body.links = links.into_iter().map(|(to, shown)| Link { to, shown }).collect();
        }
        let outer = instance
            .scaling_groups
            .iter()
            .skip(1)
            .map(|group| group.id.clone())
            .chain(container);
        for (group, outer) in instance.scaling_groups.iter().zip(outer) {
            if let Some(body) = self.bodies.get_mut(&group.id) {
                body.link(outer, None);
            }
        }
        Ok(())
    }

    /// The instances of an expansion. A target that an `all_to_one` relationship uses stays, even if it was to go.
    pub(super) fn after(graph: &Graph<'_>, mut expansion: Expansion, before: &Self) -> Result<Self, Fault> {
        let targets = before.targets_by_relationship();
        let mut placed: HashMap<Text, usize> = expansion
            .placed
            .iter()
            .enumerate()
            .map(|(index, placed)| (placed.id.clone(), index))
            .collect();
        let mut kept: Vec<Placed> = Vec::new();
        let next = expansion.placed.len();
        let mut chosen = |connection: &Connection| {
            let [source, target] = [connection.source, connection.target].map(|vertex| &graph.vertices[vertex]);
            let relationship = source.node.and_then(|node| node.relationships.get(connection.position));
            let type_name = relationship
                .map(|relationship| relationship.type_name.clone())
                .unwrap_or_else(|| "".into());
            let Some(ids) = targets.get(&(source.name.clone(), target.name.clone(), type_name)) else {
                return Ok(Chosen::Any);
            };
            let mut ids = ids.iter();
            let (Some(id), None) = (ids.next(), ids.next()) else {
                let message = format!(
                    "Expected exactly one target id for relationship {}->{}",
                    source.name, target.name
                );
                return Err(Fault::new(
                    Class::IllegalAllToOneState,
                    message,
                    format!("nodes.{}", source.name),
                ));
            };
            let index = *placed.entry(id.clone()).or_insert_with(|| {
                let host = before.get(id).and_then(|body| body.host.clone());
                let vertex = connection.target;
                kept.push(Placed {
                    id: id.clone(),
                    vertex,
                    parent: None,
                    host,
                });
                next + kept.len() - 1
            });
            Ok(Chosen::Instance(index))
        };
        let mut ends = connect(graph, &expansion, &mut chosen)?;
        ends.resize_with(next + kept.len(), Vec::new);
        expansion.placed.extend(kept);
        let mut world = Self::default();
        for (index, placed) in expansion.placed.iter().enumerate() {
            let body = world_body(graph, &expansion, index, &ends[index], before);
            world.bodies.insert(placed.id.clone(), body);
        }
        Ok(world)
    }

    /// By source node, target node and relationship type: the targets in use.
    fn targets_by_relationship(&self) -> HashMap<(Text, Text, Text), HashSet<Text>> {
        let mut targets: HashMap<_, HashSet<Text>> = HashMap::default();
        for body in self.bodies.values() {
            for relationship in body.links.iter().filter_map(|link| link.shown.as_ref()) {
                let key = (
                    body.name.clone(),
                    relationship.target_name.clone(),
                    relationship.type_name.clone(),
                );
                targets.entry(key).or_default().insert(relationship.target_id.clone());
            }
        }
        targets
    }
}

fn world_body(graph: &Graph<'_>, expansion: &Expansion, index: usize, ends: &[(usize, usize)], before: &World) -> Body {
    let placed = &expansion.placed[index];
    let vertex = &graph.vertices[placed.vertex];
    let parent = placed.parent.map(|parent| &expansion.placed[parent]);
    let Some(instance) = expansion.instance(graph, index, ends) else {
        let links = parent.map(|parent| Link {
            to: parent.id.clone(),
            shown: None,
        });
        return Body {
            id: placed.id.clone(),
            name: vertex.name.clone(),
            is_group: true,
            host: placed.host.clone(),
            scaling_groups: Vec::new(),
            links: links.into_iter().collect(),
        };
    };
    let old = before.get(&placed.id);
    // A contained instance that is in a group is linked with the group.
    let group = parent.filter(|parent| graph.vertices[parent.vertex].is_group());
    let containment = vertex
        .containment
        .and_then(|position| vertex.node?.relationships.get(position));
    let mut links = Vec::with_capacity(instance.relationships.len() + 1);
    let mut in_group = false;
    for relationship in instance.relationships {
        let contains = containment.is_some_and(|containment| {
            containment.type_name == relationship.type_name && containment.target_id == relationship.target_name
        });
        let to = match group.filter(|_| contains && !in_group) {
            Some(group) => {
                in_group = true;
                group.id.clone()
            }
            None => relationship.target_id.clone(),
        };
        links.push(Link {
            to,
            shown: Some(relationship),
        });
    }
    if let Some(group) = group.filter(|_| !in_group) {
        links.push(Link {
            to: group.id.clone(),
            shown: None,
        });
    }
    Body {
        id: placed.id.clone(),
        name: vertex.name.clone(),
        is_group: false,
        host: old.map_or(instance.host_id, |old| old.host.clone()),
        scaling_groups: old.map_or(instance.scaling_groups, |old| old.scaling_groups.clone()),
        links,
    }
}
