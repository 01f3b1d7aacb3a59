//! Which instance a call of `get_attribute` means (spec/dsl.md, section 14, "Run-time context").

use std::sync::Arc;

use super::call::FunctionName;
use super::engine::Site;
use super::late::{Late, LateContext, end_of, failed};
use super::python;
use super::storage::StoredInstance;
use super::walk::Place;
use crate::{Class, Fault, Text, Value};

/// How many containers may lie around each other; stored data that says more is broken.
const CONTAINERS_MAX: usize = 1_000;

type Found = Result<Option<Arc<StoredInstance>>, Fault>;

impl Late<'_> {
    /// The instance that `node` names: a node, or SELF, SOURCE, TARGET.
    ///
    /// # Errors
    /// [`Class::FunctionEvaluation`] when there is none, or no single one.
    pub(super) fn instance_for(
        &self,
        node: &str,
        path: &[Value],
        site: &Site<'_, LateContext>,
    ) -> Result<Arc<StoredInstance>, Fault> {
        match site.context {
            LateContext::Entity { id, hint, .. } => {
                if let Some(hint) = hint {
                    let hinted = self.storage.instance(hint)?;
                    if &*hinted.node_id == node {
                        return Ok(hinted);
                    }
                }
                match node {
                    "SELF" => self.instance_of(id, node, site),
                    "SOURCE" | "TARGET" => Err(no_end(node, path, site.place)),
                    _ => self.instance_of(node, node, site),
                }
            }
            LateContext::Request { ends, .. } => match node {
                "SELF" | "SOURCE" | "TARGET" => match end_of(ends, node) {
                    Some(id) => self.storage.instance(id),
                    None if node == "SELF" => self.instance_of(node, node, site),
                    None => Err(no_end(node, path, site.place)),
                },
                _ => self.instance_of(node, node, site),
            },
        }
    }

    /// The only instance of the node, or the one that the context points at. `named` is what the call says.
    fn instance_of(&self, node: &str, named: &str, site: &Site<'_, LateContext>) -> Result<Arc<StoredInstance>, Fault> {
        let all = self.storage.instances_of(node)?;
        let found = match all.as_slice() {
            [] => {
                return Err(failed(
                    FunctionName::GetAttribute,
                    format!("Node {named} has no instances."),
                ));
            }
            [only] => Some(only.clone()),
            _ => match self.by_relationship(named, &all, site)? {
                Some(found) => Some(found),
                None => self.by_group(&all, site)?,
            },
        };
        found.ok_or_else(|| {
            let why = format!(
                "More than one node instance found for node \"{named}\". Cannot resolve a node instance unambiguously."
            );
            failed(FunctionName::GetAttribute, why)
        })
    }

    /// The only one that SELF has a relationship to.
    fn by_relationship(&self, node: &str, all: &[Arc<StoredInstance>], site: &Site<'_, LateContext>) -> Found {
        let LateContext::Request { ends, .. } = site.context else {
            return Ok(None);
        };
        let Some(id) = end_of(ends, "SELF") else {
            return Ok(None);
        };
        let own = self.storage.instance(id)?;
        let mut targets = own
            .relationships
            .iter()
            .filter(|(name, _)| &**name == node)
            .map(|(_, id)| id);
        let Some(first) = targets.next() else { return Ok(None) };
        if targets.any(|other| other != first) {
            return Ok(None);
        }
        let found = all.iter().find(|instance| instance.id == *first).cloned();
        found.map(Some).ok_or_else(|| {
            let why = format!("'{id}' has a relationship to '{first}', which is no instance of '{node}'");
            failed(FunctionName::GetAttribute, why)
        })
    }

    /// The only one in the same instance of the smallest group that both are in.
    fn by_group(&self, all: &[Arc<StoredInstance>], site: &Site<'_, LateContext>) -> Found {
        let LateContext::Request { ends, .. } = site.context else {
            return Ok(None);
        };
        if let Some(id) = end_of(ends, "SELF") {
            return self.in_group_of(id, all);
        }
        let Some(source) = end_of(ends, "SOURCE") else {
            return Ok(None);
        };
        if let Some(found) = self.in_group_of(source, all)? {
            return Ok(Some(found));
        }
        match end_of(ends, "TARGET") {
            Some(target) => self.in_group_of(target, all),
            None => Ok(None),
        }
    }

    fn in_group_of(&self, id: &str, all: &[Arc<StoredInstance>]) -> Found {
        let Some(first) = all.first() else { return Ok(None) };
        let own = self.groups_around(&self.storage.instance(id)?)?;
        let theirs = self.groups_around(first)?;
        let shared = own
            .iter()
            .find(|(name, _)| theirs.iter().any(|(other, _)| other == name));
        let Some((group, group_instance)) = shared else {
            return Ok(None);
        };
        let mut found = None;
        for instance in all {
            let groups = self.groups_around(instance)?;
            let theirs = groups.iter().find(|(name, _)| name == group).map(|(_, id)| id);
            let theirs = theirs.ok_or_else(|| {
                let why = format!(
                    "'{}' is not in the group '{group}', but another instance of its node is",
                    instance.id
                );
                failed(FunctionName::GetAttribute, why)
            })?;
            if theirs == group_instance {
                if found.is_some() {
                    return Ok(None);
                }
                found = Some(instance.clone());
            }
        }
        Ok(found)
    }

    /// Name and id of every group around an instance, from the innermost outwards, those of its containers included.
    fn groups_around(&self, instance: &Arc<StoredInstance>) -> Result<Vec<(Text, Text)>, Fault> {
        let mut groups = Vec::new();
        let mut current = instance.clone();
        for _ in 0..CONTAINERS_MAX {
            groups.extend(current.scaling_groups.iter().cloned());
            let node = self.storage.node(&current.node_id)?;
            let Some(container) = &node.container else {
                return Ok(groups);
            };
            let target = current
                .relationships
                .iter()
                .find(|(name, _)| name == container)
                .map(|(_, id)| id);
            let target = target.ok_or_else(|| {
                let message = format!("'{}' has no relationship to its container '{container}'", current.id);
                Fault::new(Class::Index, message, "")
            })?;
            current = self.storage.instance(target)?;
        }
        let why = format!("'{}' lies in more than {CONTAINERS_MAX} containers", instance.id);
        Err(failed(FunctionName::GetAttribute, why))
    }
}

fn no_end(keyword: &str, path: &[Value], place: &Place<'_>) -> Fault {
    let shown = python::list_literal(path);
    let why = format!("{keyword} is missing in request context in {place} for attribute {shown}");
    failed(FunctionName::GetAttribute, why)
}
