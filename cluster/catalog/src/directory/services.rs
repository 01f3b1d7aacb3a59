//! The catalog: nodes, the services on them and their checks (spec/consul-api.md, sections 7 and 8).
//!
//! Members of the cluster are in it by themselves, each with the service `consul` and the check `serfHealth`; other
//! nodes are registered from outside. Each query has an index of its own, so that a change wakes those alone who look
//! at what it changed: per node, per service, and one for each kind of list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::checks::{Check, CheckSpec, CheckStatus, cut_output};
use crate::NodeId;

/// An address and a port under another name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceAddress {
    /// Host.
    pub address: String,
    /// Port.
    pub port: u16,
}

/// What a client registers as a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique on its node.
    pub id: String,
    /// What it is.
    pub name: String,
    /// For finding it.
    pub tags: Vec<String>,
    /// Where it is; the node's address when empty.
    pub address: String,
    /// Where it is.
    pub port: u16,
    /// The client's own.
    pub meta: BTreeMap<String, String>,
    /// Other addresses.
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Share of requests while it passes, and while it warns.
    pub weights: (u32, u32),
    /// Whether others may change its tags.
    pub enable_tag_override: bool,
}

/// A service on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// As registered.
    pub spec: ServiceSpec,
    /// When it was made.
    pub create_index: u64,
    /// When it was changed last.
    pub modify_index: u64,
}

/// What a client registers as a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeSpec {
    /// A UUID, or nothing.
    pub id: String,
    /// Where it is.
    pub address: String,
    /// Other addresses.
    pub tagged_addresses: BTreeMap<String, String>,
    /// The client's own.
    pub meta: BTreeMap<String, String>,
}

/// A node with everything on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogNode {
    /// Its name, unique.
    pub name: Arc<str>,
    /// As registered.
    pub spec: NodeSpec,
    /// Which member of the cluster it is; none when it was registered from outside.
    pub member: Option<NodeId>,
    /// By id.
    pub services: OrdMap<Arc<str>, Arc<Service>>,
    /// By id.
    pub checks: OrdMap<Arc<str>, Arc<Check>>,
    /// When it was made.
    pub create_index: u64,
    /// When its own facts were changed last.
    pub modify_index: u64,
    /// When anything on it was changed last.
    pub index: u64,
}

impl CatalogNode {
    /// The checks of the node as a whole, and those of one service.
    pub fn checks_of<'a>(&'a self, service_id: &'a str) -> impl Iterator<Item = &'a Arc<Check>> {
        let concerns = move |check: &&Arc<Check>| check.service_id.as_deref().is_none_or(|id| id == service_id);
        self.checks.values().filter(concerns)
    }

    fn names_of(&self, service_id: Option<&str>) -> Vec<Arc<str>> {
        let concerned = self
            .services
            .iter()
            .filter(|(id, _)| service_id.is_none_or(|service| &***id == service));
        concerned
            .map(|(_, service)| Arc::from(service.spec.name.as_str()))
            .collect()
    }
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// The last change of an instance, of its checks, or of its node.
    pub index: u64,
    /// Node and service id of each instance.
    pub instances: BTreeSet<(Arc<str>, Arc<str>)>,
}

/// The catalog.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Services {
    nodes: OrdMap<Arc<str>, Arc<CatalogNode>>,
    by_name: OrdMap<Arc<str>, Arc<ServiceEntry>>,
    nodes_index: u64,
    services_index: u64,
    checks_index: u64,
    /// The last time that a service's last instance, or a node, went.
    gone_index: u64,
}

/// A check that has just turned critical.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TurnedCritical {
    pub(super) node: Arc<str>,
    pub(super) check: Arc<str>,
}

impl Services {
    /// By name.
    pub fn nodes(&self) -> &OrdMap<Arc<str>, Arc<CatalogNode>> {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&Arc<CatalogNode>> {
        self.nodes.get(name)
    }

    /// Services by name.
    pub fn by_name(&self) -> &OrdMap<Arc<str>, Arc<ServiceEntry>> {
        &self.by_name
    }

    /// The instances of a service, with their nodes.
    pub fn instances(&self, name: &str) -> impl Iterator<Item = (&Arc<CatalogNode>, &Arc<Service>)> {
        let pairs = self.by_name.get(name).into_iter().flat_map(|entry| &entry.instances);
        pairs.filter_map(|(node, id)| {
            let node = self.nodes.get(node)?;
            Some((node, node.services.get(id)?))
        })
    }

    /// The last change of the list of nodes.
    pub fn nodes_index(&self) -> u64 {
        self.nodes_index
    }

    /// The last change of the list of services.
    pub fn services_index(&self) -> u64 {
        self.services_index
    }

    /// The last change of any check.
    pub fn checks_index(&self) -> u64 {
        self.checks_index
    }

    /// The index of a query of one service.
    pub fn index_of_service(&self, name: &str) -> u64 {
        self.by_name.get(name).map_or(self.gone_index, |entry| entry.index)
    }

    /// The index of a query of one node.
    pub fn index_of_node(&self, name: &str) -> u64 {
        self.nodes.get(name).map_or(self.gone_index, |node| node.index)
    }

    /// Changes a node and what is on it, and marks every query that shows it.
    fn edit(&mut self, index: u64, name: &str, edit: impl FnOnce(&mut CatalogNode)) {
        let Some(shared) = self.nodes.get_mut(name) else { return };
        let node = Arc::make_mut(shared);
        edit(node);
        node.index = index;
    }

    fn mark_services(&mut self, index: u64, names: Vec<Arc<str>>) {
        for name in names {
            if let Some(entry) = self.by_name.get_mut(&name) {
                Arc::make_mut(entry).index = index;
            }
        }
    }

    pub(super) fn put_node(&mut self, index: u64, name: &str, spec: NodeSpec, member: Option<NodeId>) {
        match self.nodes.get(name) {
            Some(node) if node.spec == spec && node.member == member => return,
            Some(node) => {
                let names = node.names_of(None);
                self.edit(index, name, |node| {
                    node.spec = spec;
                    node.member = member;
                    node.modify_index = index;
                });
                self.mark_services(index, names);
            }
            None => {
                let name: Arc<str> = Arc::from(name);
                let node = CatalogNode {
                    name: Arc::clone(&name),
                    spec,
                    member,
                    services: OrdMap::new(),
                    checks: OrdMap::new(),
                    create_index: index,
                    modify_index: index,
                    index,
                };
                self.nodes.insert(name, Arc::new(node));
            }
        }
        self.nodes_index = index;
    }

    pub(super) fn remove_node(&mut self, index: u64, name: &str) {
        let Some(node) = self.nodes.get(name).cloned() else {
            return;
        };
        for service in node.services.values() {
            self.forget_instance(index, &service.spec.name, name, &service.spec.id);
            self.services_index = index;
        }
        if !node.checks.is_empty() {
            self.checks_index = index;
        }
        self.nodes.remove(name);
        self.nodes_index = index;
        self.gone_index = index;
    }

    pub(super) fn put_service(&mut self, index: u64, node: &str, spec: ServiceSpec) {
        let Some(found) = self.nodes.get(node) else { return };
        let old = found.services.get(spec.id.as_str()).cloned();
        if old.as_ref().is_some_and(|old| old.spec == spec) {
            return;
        }
        if let Some(old) = old.as_ref().filter(|old| old.spec.name != spec.name) {
            let name = old.spec.name.clone();
            self.forget_instance(index, &name, node, &spec.id);
        }
        let (id, name): (Arc<str>, Arc<str>) = (Arc::from(spec.id.as_str()), Arc::from(spec.name.as_str()));
        let service = Service {
            spec,
            create_index: old.map_or(index, |old| old.create_index),
            modify_index: index,
        };
        self.edit(index, node, |node| {
            node.services.insert(Arc::clone(&id), Arc::new(service));
        });
        let entry = Arc::make_mut(self.by_name.entry(name).or_default());
        entry.index = index;
        entry.instances.insert((Arc::from(node), id));
        self.services_index = index;
    }

    /// Its checks have gone before.
    pub(super) fn remove_service(&mut self, index: u64, node: &str, id: &str) {
        let Some(service) = self.nodes.get(node).and_then(|node| node.services.get(id)).cloned() else {
            return;
        };
        self.edit(index, node, |node| {
            node.services.remove(id);
        });
        self.forget_instance(index, &service.spec.name, node, id);
        self.services_index = index;
    }

    fn forget_instance(&mut self, index: u64, name: &str, node: &str, id: &str) {
        let Some(shared) = self.by_name.get_mut(name) else {
            return;
        };
        let entry = Arc::make_mut(shared);
        entry.index = index;
        entry.instances.remove(&(Arc::from(node), Arc::from(id)));
        if entry.instances.is_empty() {
            self.by_name.remove(name);
            self.gone_index = index;
        }
    }

    pub(super) fn put_check(&mut self, index: u64, node: &str, spec: CheckSpec) -> Option<TurnedCritical> {
        let found = self.nodes.get(node)?;
        let old = found.checks.get(spec.id.as_str()).cloned();
        let known = old.as_ref().map(|old| (old.status, old.output.clone()));
        let since = |status| status_index(index, old.as_deref(), status);
        let (status, output) = match (spec.status, known) {
            (None, Some(known)) => known,
            (given, _) => (given.unwrap_or(CheckStatus::Critical), cut_output(spec.output)),
        };
        let check = Check {
            id: Arc::from(spec.id.as_str()),
            name: spec.name,
            notes: spec.notes,
            status,
            output,
            service_id: spec.service_id.map(Arc::from),
            definition: spec.definition,
            create_index: old.as_ref().map_or(index, |old| old.create_index),
            modify_index: index,
            status_index: since(status),
        };
        self.set_check(index, node, old, check)
    }

    pub(super) fn update_check(
        &mut self,
        index: u64,
        node: &str,
        id: &str,
        status: CheckStatus,
        output: String,
    ) -> Option<TurnedCritical> {
        let old = Arc::clone(self.nodes.get(node)?.checks.get(id)?);
        let check = Check {
            status,
            output: cut_output(output),
            modify_index: index,
            status_index: status_index(index, Some(&old), status),
            ..(*old).clone()
        };
        self.set_check(index, node, Some(old), check)
    }

    fn set_check(&mut self, index: u64, node: &str, old: Option<Arc<Check>>, check: Check) -> Option<TurnedCritical> {
        let unchanged = |old: &Arc<Check>| {
            let same_index = Check {
                modify_index: old.modify_index,
                ..check.clone()
            };
            **old == same_index
        };
        if old.as_ref().is_some_and(unchanged) {
            return None;
        }
        let names = self.nodes.get(node)?.names_of(check.service_id.as_deref());
        let turned = check.status == CheckStatus::Critical && old.is_none_or(|old| old.status != CheckStatus::Critical);
        let turned = turned.then(|| TurnedCritical {
            node: Arc::from(node),
            check: Arc::clone(&check.id),
        });
        self.edit(index, node, |node| {
            node.checks.insert(Arc::clone(&check.id), Arc::new(check));
        });
        self.mark_services(index, names);
        self.checks_index = index;
        turned
    }

    pub(super) fn remove_check(&mut self, index: u64, node: &str, id: &str) -> bool {
        let Some(found) = self.nodes.get(node) else {
            return false;
        };
        let Some(check) = found.checks.get(id) else {
            return false;
        };
        let names = found.names_of(check.service_id.as_deref());
        self.edit(index, node, |node| {
            node.checks.remove(id);
        });
        self.mark_services(index, names);
        self.checks_index = index;
        true
    }
}

fn status_index(index: u64, old: Option<&Check>, status: CheckStatus) -> u64 {
    let same = old.filter(|old| old.status == status);
    same.map_or(index, |old| old.status_index)
}
