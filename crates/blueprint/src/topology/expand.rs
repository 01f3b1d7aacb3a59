//! From templates and groups to instances of them, container by container.

use rustc_hash::FxHashSet as HashSet;

use super::graph::{Graph, VertexId};
use super::instance::{GroupInstance, IdSource, Instance, InstanceRelationship};
use crate::{Class, Fault, Text};

/// The most instances that an expansion may give. Containers multiply, so a few lines could ask for billions.
const INSTANCES_MAX: usize = 1_000_000;
/// How often an id that is in use is drawn again.
const DRAWS_MAX: usize = 1_000;

/// An instance of a template or group.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) id: Text,
    pub(crate) vertex: VertexId,
    /// What it lies in.
    pub(crate) parent: Option<usize>,
    /// What it, and all that lies in it, runs on.
    pub(crate) host: Option<Text>,
}

/// An instance that is there already.
#[derive(Debug, Clone)]
pub(crate) struct Existing {
    pub(crate) id: Text,
    pub(crate) host: Option<Text>,
}

/// All instances of all templates and groups.
#[derive(Debug, Default)]
pub(crate) struct Expansion {
    /// What contains comes before what is contained.
    pub(crate) placed: Vec<Placed>,
    /// By vertex, positions in `placed`.
    pub(crate) of_vertex: Vec<Vec<usize>>,
}

/// Which instances of a vertex stay in an instance of its container, and how many there are to be besides.
pub(crate) type Stock<'a> = dyn FnMut(VertexId, Option<&Text>) -> Result<(Vec<Existing>, u64), Fault> + 'a;

/// Expands templates and groups.
///
/// `stock` says, for a vertex in an instance of its container, which instances stay and how many there are to be besides.
///
/// # Errors
/// When there are more instances than this implementation takes, or `ids` gives the same ids again and again.
pub(crate) fn expand(
    graph: &Graph<'_>,
    stock: &mut Stock<'_>,
    taken: HashSet<Text>,
    ids: &mut dyn IdSource,
) -> Result<Expansion, Fault> {
    let mut expansion = Expansion {
        placed: Vec::new(),
        of_vertex: vec![Vec::new(); graph.vertices.len()],
    };
    let mut draw = Draw { taken, ids };
    for vertex in &graph.order {
        let parents: Vec<Option<usize>> = match graph.vertices[*vertex].parents.as_slice() {
            [] => vec![None],
            parents => parents
                .iter()
                .flat_map(|parent| expansion.of_vertex[*parent].iter().copied().map(Some))
                .collect(),
        };
        for parent in parents {
            let id = parent.map(|parent| &expansion.placed[parent].id);
            let (kept, added) = stock(*vertex, id)?;
            expansion.place(graph, *vertex, parent, kept, added, &mut draw)?;
        }
    }
    Ok(expansion)
}

struct Draw<'i> {
    taken: HashSet<Text>,
    ids: &'i mut dyn IdSource,
}

impl Draw<'_> {
    fn id(&mut self, name: &str) -> Result<Text, Fault> {
        for _ in 0..DRAWS_MAX {
            let id = Text::from(format!("{name}_{}", self.ids.suffix()));
            if self.taken.insert(id.clone()) {
                return Ok(id);
            }
        }
        let message = format!("no free id was found for another instance of '{name}'");
        Err(Fault::new(Class::Limit, message, format!("nodes.{name}")))
    }
}

impl Expansion {
    fn place(
        &mut self,
        graph: &Graph<'_>,
        vertex: VertexId,
        parent: Option<usize>,
        kept: Vec<Existing>,
        added: u64,
        draw: &mut Draw<'_>,
    ) -> Result<(), Fault> {
        let name = &graph.vertices[vertex].name;
        let added = usize::try_from(added).unwrap_or(usize::MAX);
        if self.placed.len().saturating_add(kept.len()).saturating_add(added) > INSTANCES_MAX {
            let message = format!("there are more than {INSTANCES_MAX} instances with those of '{name}'");
            return Err(Fault::new(Class::Limit, message, format!("nodes.{name}")));
        }
        for existing in kept {
            self.push(Placed {
                id: existing.id,
                vertex,
                parent,
                host: existing.host,
            });
        }
        let above = parent.and_then(|parent| self.placed[parent].host.clone());
        let is_host = graph.vertices[vertex]
            .node
            .is_some_and(|node| node.host_id.as_ref() == Some(name));
        for _ in 0..added {
            let id = draw.id(name)?;
            let host = above.clone().or_else(|| is_host.then(|| id.clone()));
            self.push(Placed {
                id,
                vertex,
                parent,
                host,
            });
        }
        Ok(())
    }

    fn push(&mut self, placed: Placed) {
        self.of_vertex[placed.vertex].push(self.placed.len());
        self.placed.push(placed);
    }

    /// The instance of `group` that an instance lies in.
    pub(crate) fn group_of(&self, instance: usize, group: VertexId) -> Option<usize> {
        let mut current = self.placed[instance].parent;
        while let Some(above) = current {
            if self.placed[above].vertex == group {
                return Some(above);
            }
            current = self.placed[above].parent;
        }
        None
    }

    /// The groups between an instance and its container, and the container.
    pub(crate) fn surroundings(&self, graph: &Graph<'_>, instance: usize) -> (Vec<GroupInstance>, Option<usize>) {
        let mut groups = Vec::new();
        let mut current = self.placed[instance].parent;
        while let Some(above) = current {
            let placed = &self.placed[above];
            let vertex = &graph.vertices[placed.vertex];
            if !vertex.is_group() {
                return (groups, Some(above));
            }
            groups.push(GroupInstance {
                name: vertex.name.clone(),
                id: placed.id.clone(),
            });
            current = placed.parent;
        }
        (groups, None)
    }

    /// The instance as it is stored, with the relationships to `targets`: positions of template relationships and of instances,
    /// in the order of the positions; its containment is added. None for the instance of a group.
    pub(crate) fn instance(&self, graph: &Graph<'_>, instance: usize, targets: &[(usize, usize)]) -> Option<Instance> {
        let placed = &self.placed[instance];
        let vertex = &graph.vertices[placed.vertex];
        let node = vertex.node?;
        let (scaling_groups, container) = self.surroundings(graph, instance);
        let relate = |position: usize, target: usize| {
            let relationship = node.relationships.get(position)?;
            let target = &self.placed[target];
            Some(InstanceRelationship {
                type_name: relationship.type_name.clone(),
                // Not what the relationship says: a group whose members lie in different containers is in each of them.
                target_name: graph.vertices[target.vertex].name.clone(),
                target_id: target.id.clone(),
            })
        };
        let mut relationships = Vec::with_capacity(targets.len() + 1);
        let mut containment = vertex.containment.zip(container);
        for (position, target) in targets {
            if let Some((own, container)) = containment.filter(|(own, _)| own < position) {
                relationships.extend(relate(own, container));
                containment = None;
            }
            relationships.extend(relate(*position, *target));
        }
        if let Some((own, container)) = containment {
            relationships.extend(relate(own, container));
        }
        Some(Instance {
            id: placed.id.clone(),
            node_id: vertex.name.clone(),
            // A template whose host is lost on the way to its instances keeps the host's name, as in the original.
            host_id: placed.host.clone().or_else(|| node.host_id.clone()),
            relationships,
            scaling_groups,
        })
    }
}
