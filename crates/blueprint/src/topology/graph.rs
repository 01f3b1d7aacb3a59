//! How templates and scaling groups lie in each other, and which templates are connected.

use rustc_hash::{FxHashMap as HashMap, FxHashSet as HashSet};

use crate::plan::{Node, Relationship};
use crate::{Class, Fault, Map, Text, Value};

/// A template or group, by position: templates come first.
pub(crate) type VertexId = usize;

const DEPENDS_ON: &str = "cloudify.relationships.depends_on";
const CONNECTED_TO: &str = "cloudify.relationships.connected_to";
const CONTAINED_IN: &str = "cloudify.relationships.contained_in";

/// What the expansion has to know of a node template, whether it comes out of a plan or out of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Template<'p> {
    pub(crate) node: &'p Node,
    /// How many instances there are to be in each container.
    pub(crate) count: u64,
}

impl<'p> Template<'p> {
    /// The template of a plan whose functions are evaluated.
    ///
    /// # Errors
    /// When the number of instances is no number.
    pub(crate) fn new(node: &'p Node) -> Result<Self, Fault> {
        let count = count_of(node.scalable(), &["nodes", &node.name, "capabilities", "scalable"])?;
        Ok(Self { node, count })
    }
}

fn count_of(properties: &Map, path: &[&str]) -> Result<u64, Fault> {
    let value = properties.get("current_instances");
    let count = match value {
        // Below zero is none, as there is nothing that could be taken away.
        Some(Value::Int(count)) => Some(u64::try_from(*count).unwrap_or(0)),
        Some(Value::BigInt(digits)) => Some(if digits.starts_with('-') { 0 } else { u64::MAX }),
        Some(Value::Bool(count)) => Some(u64::from(*count)),
        // The cast saturates, and what is no number becomes zero.
        Some(Value::Float(count)) => Some(*count as u64),
        _ => None,
    };
    count.ok_or_else(|| {
        let shown = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        let message = format!("the number of instances is {shown}, which is no number");
        Fault::new(Class::Type, message, path.join("."))
    })
}

/// A template or a scaling group.
#[derive(Debug)]
pub(crate) struct Vertex<'p> {
    pub(crate) name: Text,
    /// None for a group.
    pub(crate) node: Option<&'p Node>,
    /// How many instances there are to be in each container.
    pub(crate) count: u64,
    /// What it lies in: nothing, one vertex, or several for a group whose members lie in different containers.
    pub(crate) parents: Vec<VertexId>,
    /// The relationship by which it is contained, by position: through its groups where it is in any.
    pub(crate) containment: Option<usize>,
}

impl Vertex<'_> {
    pub(crate) fn is_group(&self) -> bool {
        self.node.is_none()
    }
}

/// A relationship that contains nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    pub(crate) source: VertexId,
    pub(crate) target: VertexId,
    /// Its position among the source's relationships.
    pub(crate) position: usize,
    /// Whether all source instances have one and the same target instance.
    pub(crate) to_one: bool,
}

/// Templates and groups.
#[derive(Debug)]
pub(crate) struct Graph<'p> {
    pub(crate) vertices: Vec<Vertex<'p>>,
    /// In the order of the templates and their relationships.
    pub(crate) connections: Vec<Connection>,
    /// Every vertex, what contains before what is contained.
    pub(crate) order: Vec<VertexId>,
    connected: HashSet<(VertexId, VertexId)>,
    by_name: HashMap<Text, VertexId>,
    /// By vertex: the innermost group around it, and how many there are.
    groups: Vec<(Option<VertexId>, usize)>,
}

impl<'p> Graph<'p> {
    /// Puts templates and groups together.
    ///
    /// # Errors
    /// When a relationship or group names what is not there, a relationship is of none of the three known families, or has an
    /// unknown connection type.
    pub(crate) fn new(templates: &[Template<'p>], groups: &Map) -> Result<Self, Fault> {
        let mut graph = Self {
            vertices: Vec::with_capacity(templates.len() + groups.len()),
            connections: Vec::new(),
            order: Vec::new(),
            connected: HashSet::default(),
            groups: Vec::new(),
            by_name: HashMap::default(),
        };
        for template in templates {
            graph.add(template.node.name.clone(), Some(template.node), template.count);
        }
        for (name, group) in groups.iter() {
            let empty = Map::new();
            let properties = group.get("properties").and_then(Value::as_map).unwrap_or(&empty);
            let count = count_of(properties, &["scaling_groups", name, "properties"])?;
            graph.add(name.clone(), None, count);
        }
        graph.put_into_groups(groups)?;
        for source in 0..templates.len() {
            graph.relate(source)?;
        }
        graph.order = graph.containers_first()?;
        graph.find_groups();
        Ok(graph)
    }

    fn add(&mut self, name: Text, node: Option<&'p Node>, count: u64) {
        self.by_name.insert(name.clone(), self.vertices.len());
        self.vertices.push(Vertex {
            name,
            node,
            count,
            parents: Vec::new(),
            containment: None,
        });
    }

    /// The vertex of that name.
    pub(crate) fn vertex(&self, name: &str) -> Option<VertexId> {
        self.by_name.get(name).copied()
    }

    /// Whether a relationship, or a membership, leads from one to the other without a group between.
    pub(crate) fn has_edge(&self, source: VertexId, target: VertexId) -> bool {
        self.vertices[source].parents.contains(&target) || self.connected.contains(&(source, target))
    }

    /// The vertex of that name, which a relationship or group names.
    fn named(&self, name: &str, path: &str) -> Result<VertexId, Fault> {
        self.vertex(name)
            .ok_or_else(|| Fault::new(Class::Key, format!("there is no node or group '{name}'"), path))
    }

    fn put_into_groups(&mut self, groups: &Map) -> Result<(), Fault> {
        for (name, group) in groups.iter() {
            let path = format!("scaling_groups.{name}.members");
            let outer = self.named(name, &path)?;
            for member in group.get("members").and_then(Value::as_list).unwrap_or_default() {
                let member = self.named(member.as_str().unwrap_or_default(), &path)?;
                // In two groups: the later one counts, which no parsed blueprint has.
                self.vertices[member].parents = vec![outer];
            }
        }
        Ok(())
    }

    /// Takes a template's relationships. Of two to the same target the later one counts; one of containment whose source is in a
    /// group leads to that group, and so does not compete with others.
    fn relate(&mut self, source: VertexId) -> Result<(), Fault> {
        let Some(node) = self.vertices[source].node else {
            return Ok(());
        };
        let group = self.vertices[source].parents.first().copied();
        let mut by_target: Vec<(VertexId, usize)> = Vec::with_capacity(node.relationships.len());
        let mut seen: HashMap<VertexId, usize> = HashMap::default();
        for (position, relationship) in node.relationships.iter().enumerate() {
            let path = || format!("nodes.{}.relationships[{position}]", node.name);
            let target = self.named(&relationship.target_id, &path())?;
            if let (true, Some(group)) = (relationship.is_a(CONTAINED_IN), group) {
                self.contain_group(group, target)?;
                self.vertices[source].containment = Some(position);
                continue;
            }
            match seen.get(&target) {
                Some(index) => by_target[*index] = (target, position),
                None => {
                    seen.insert(target, by_target.len());
                    by_target.push((target, position));
                }
            }
        }
        by_target.sort_unstable_by_key(|(_, position)| *position);
        for (target, position) in by_target {
            let relationship = &node.relationships[position];
            if relationship.is_a(CONTAINED_IN) {
                self.vertices[source].containment = Some(position);
                self.vertices[source].parents = vec![target];
            } else if relationship.is_a(CONNECTED_TO) || relationship.is_a(DEPENDS_ON) {
                let path = || format!("nodes.{}.relationships[{position}]", node.name);
                let to_one = is_to_one(relationship, &path)?;
                self.connected.insert((source, target));
                self.connections.push(Connection {
                    source,
                    target,
                    position,
                    to_one,
                });
            } else {
                let message = format!(
                    "'{}' is none of depends_on, connected_to, contained_in",
                    relationship.type_name
                );
                let path = format!("nodes.{}.relationships[{position}]", node.name);
                return Err(Fault::new(Class::UnsupportedRelationship, message, path));
            }
        }
        Ok(())
    }

    /// Puts the outermost group around `group` into `container`.
    fn contain_group(&mut self, group: VertexId, container: VertexId) -> Result<(), Fault> {
        let mut top = group;
        let mut steps = 0;
        while let Some(outer) = self.vertices[top]
            .parents
            .iter()
            .copied()
            .find(|outer| self.vertices[*outer].is_group())
        {
            top = outer;
            steps += 1;
            if steps > self.vertices.len() {
                return Err(circle(&self.vertices[group].name));
            }
        }
        if !self.vertices[top].parents.contains(&container) {
            self.vertices[top].parents.push(container);
        }
        Ok(())
    }

    /// The vertices in an order in which what contains comes before what is contained.
    ///
    /// # Errors
    /// When something contains itself.
    fn containers_first(&self) -> Result<Vec<VertexId>, Fault> {
        let mut waiting: Vec<usize> = self.vertices.iter().map(|vertex| vertex.parents.len()).collect();
        let mut children: Vec<Vec<VertexId>> = vec![Vec::new(); self.vertices.len()];
        for (id, vertex) in self.vertices.iter().enumerate() {
            for parent in &vertex.parents {
                children[*parent].push(id);
            }
        }
        let mut order: Vec<VertexId> = (0..self.vertices.len()).filter(|id| waiting[*id] == 0).collect();
        let mut next = 0;
        while let Some(id) = order.get(next).copied() {
            next += 1;
            for child in &children[id] {
                waiting[*child] -= 1;
                if waiting[*child] == 0 {
                    order.push(*child);
                }
            }
        }
        if order.len() < self.vertices.len() {
            let stuck = waiting.iter().position(|waiting| *waiting > 0).unwrap_or_default();
            return Err(circle(&self.vertices[stuck].name));
        }
        Ok(order)
    }

    fn find_groups(&mut self) {
        let mut groups = vec![(None, 0); self.vertices.len()];
        for id in &self.order {
            let Some(parent) = self.vertices[*id].parents.first().copied() else {
                continue;
            };
            let (above, count) = groups[parent];
            groups[*id] = if self.vertices[parent].is_group() {
                (Some(parent), count + 1)
            } else {
                (above, count)
            };
        }
        self.groups = groups;
    }

    /// The innermost group that both lie in, directly or through what contains them.
    pub(crate) fn shared_group(&self, one: VertexId, other: VertexId) -> Option<VertexId> {
        let (mut one, mut other) = (self.groups[one], self.groups[other]);
        loop {
            match (one.0, other.0) {
                (Some(left), Some(right)) if left == right => return Some(left),
                (Some(left), Some(_)) if one.1 >= other.1 => one = self.groups[left],
                (Some(_), Some(right)) => other = self.groups[right],
                _ => return None,
            }
        }
    }
}

fn is_to_one(relationship: &Relationship, path: &dyn Fn() -> String) -> Result<bool, Fault> {
    match relationship.properties.get("connection_type").and_then(Value::as_str) {
        Some("all_to_all") => Ok(false),
        Some("all_to_one") => Ok(true),
        _ => {
            let message = "the connection type is neither all_to_all nor all_to_one";
            Err(Fault::new(Class::IllegalConnectedToConnectionType, message, path()))
        }
    }
}

fn circle(name: &str) -> Fault {
    Fault::logic(100, format!("'{name}' contains itself"), format!("nodes.{name}"))
}
