//! Boxes in boxes: nodes and scaling groups by what they lie in.

use conclave_blueprint::plan::Node;
use conclave_blueprint::{Plan, Value};
use rustc_hash::FxHashMap as HashMap;

const CONTAINED_IN: &str = "cloudify.relationships.contained_in";

/// A box, by position: nodes come first, then scaling groups; the last one is the whole picture.
pub(crate) type BoxId = usize;

/// An arrow between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrow {
    pub(crate) source: BoxId,
    pub(crate) target: BoxId,
    /// Its position among the source's relationships.
    pub(crate) position: usize,
}

/// What lies in what, and the arrows.
#[derive(Debug)]
pub(crate) struct Tree {
    /// By box; the whole picture has none.
    pub(crate) parents: Vec<Option<BoxId>>,
    /// By box, in the order of the plan.
    pub(crate) children: Vec<Vec<BoxId>>,
    /// Every box, outer ones before what lies in them; the whole picture first.
    pub(crate) order: Vec<BoxId>,
    pub(crate) arrows: Vec<Arrow>,
    /// How many boxes are nodes.
    pub(crate) nodes: usize,
    depths: Vec<usize>,
}

impl Tree {
    pub(crate) fn new(plan: &Plan) -> Self {
        let nodes = plan.nodes.len();
        let root = nodes + plan.scaling_groups.len();
        let names: HashMap<&str, BoxId> = plan
            .nodes
            .iter()
            .map(|node| &*node.name)
            .chain(plan.scaling_groups.keys().map(|name| &**name))
            .enumerate()
            .map(|(id, name)| (name, id))
            .collect();
        let container = |node: &Node| {
            let containment = node
                .relationships
                .iter()
                .find(|relationship| relationship.is_a(CONTAINED_IN))?;
            names.get(&*containment.target_id).copied()
        };
        let mut parents: Vec<Option<BoxId>> = plan.nodes.iter().map(container).collect();
        parents.resize(root, None);
        put_into_groups(plan, &names, &mut parents);
        let mut tree = Self {
            parents: Vec::new(),
            children: vec![Vec::new(); root + 1],
            order: Vec::with_capacity(root + 1),
            arrows: Vec::new(),
            nodes,
            depths: vec![0; root + 1],
        };
        for parent in &mut parents {
            parent.get_or_insert(root);
        }
        parents.push(None);
        break_circles(&mut parents, root);
        for (id, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                tree.children[*parent].push(id);
            }
        }
        tree.order.push(root);
        let mut next = 0;
        while let Some(id) = tree.order.get(next).copied() {
            next += 1;
            for child in &tree.children[id] {
                tree.depths[*child] = tree.depths[id] + 1;
                tree.order.push(*child);
            }
        }
        tree.parents = parents;
        tree.find_arrows(plan, &names);
        tree
    }

    fn find_arrows(&mut self, plan: &Plan, names: &HashMap<&str, BoxId>) {
        for (source, node) in plan.nodes.iter().enumerate() {
            for (position, relationship) in node.relationships.iter().enumerate() {
                let target = names.get(&*relationship.target_id).copied();
                if let Some(target) = target.filter(|target| *target != source && !relationship.is_a(CONTAINED_IN)) {
                    self.arrows.push(Arrow {
                        source,
                        target,
                        position,
                    });
                }
            }
        }
    }

    /// The whole picture.
    pub(crate) fn root(&self) -> BoxId {
        self.children.len() - 1
    }

    /// Whether the box is a scaling group.
    pub(crate) fn is_group(&self, id: BoxId) -> bool {
        (self.nodes..self.root()).contains(&id)
    }

    /// The box around both ends, and what lies directly in it towards each; nothing if one lies in the other.
    pub(crate) fn siblings(&self, arrow: Arrow) -> Option<(BoxId, BoxId, BoxId)> {
        let (mut source, mut target) = (arrow.source, arrow.target);
        let up = |id: BoxId| self.parents[id].unwrap_or(id);
        while self.depths[source] > self.depths[target] {
            source = up(source);
        }
        while self.depths[target] > self.depths[source] {
            target = up(target);
        }
        if source == target {
            return None;
        }
        while self.parents[source] != self.parents[target] {
            (source, target) = (up(source), up(target));
        }
        Some((up(source), source, target))
    }
}

/// A group lies where its members lie; members whose container is another one stay outside of it.
fn put_into_groups(plan: &Plan, names: &HashMap<&str, BoxId>, parents: &mut [Option<BoxId>]) {
    let nodes = plan.nodes.len();
    let members: Vec<Vec<BoxId>> = plan
        .scaling_groups
        .values()
        .map(|group| {
            let members = group.get("members").and_then(Value::as_list).unwrap_or_default();
            members
                .iter()
                .filter_map(|member| names.get(member.as_str()?).copied())
                .collect()
        })
        .collect();
    // Inner groups before outer ones: a group is done once all groups among its members are.
    let mut done = vec![false; members.len()];
    for _ in 0..members.len() {
        let ready = |index: &usize| !done[*index] && members[*index].iter().all(|id| *id < nodes || done[*id - nodes]);
        let Some(index) = (0..members.len()).find(ready) else {
            break;
        };
        done[index] = true;
        let group = nodes + index;
        let Some(first) = members[index].first() else { continue };
        let container = parents[*first];
        for member in &members[index] {
            if parents[*member] == container && Some(*member) != container {
                parents[*member] = Some(group);
            }
        }
        parents[group] = container;
    }
}

/// Puts what contains itself, which no parsed plan has, into the whole picture.
fn break_circles(parents: &mut [Option<BoxId>], root: BoxId) {
    // 0: not seen; otherwise the walk that saw it.
    let mut seen = vec![0_usize; parents.len()];
    for start in 0..parents.len() {
        let mut current = start;
        while seen[current] == 0 {
            seen[current] = start + 1;
            match parents[current] {
                Some(parent) => current = parent,
                None => break,
            }
        }
        if seen[current] == start + 1 && parents[current].is_some() {
            parents[current] = Some(root);
        }
    }
}
