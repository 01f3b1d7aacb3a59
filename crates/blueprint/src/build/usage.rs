//! Which plugins nodes use, and where they must be installed (spec/dsl.md, section 10).

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use conclave_yaml::Text;

use super::context::Context;
use super::resolve::Plugins;
use super::template_relationships::Targets;
use super::types::place_of;
use crate::Fault;
use crate::plan::{Node, Operations, Plugin, PluginList};

const CENTRAL: &str = "central_deployment_agent";
const HOST_AGENT: &str = "host_agent";

type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<rustc_hash::FxHasher>>;
/// A plugin's name, and where it runs.
type Use = (Text, Text);

/// Lists of plugins, each made once.
struct Lists<'p> {
    plugins: &'p Plugins<'p>,
    by_uses: FastMap<Vec<Use>, PluginList>,
    /// By address of operations that are shared.
    by_operations: FastMap<usize, Arc<Vec<Use>>>,
}

impl Lists<'_> {
    /// The plugins that operations use. The operations must live as long as this does, as they are known by their address.
    fn uses(&mut self, operations: &Operations) -> Arc<Vec<Use>> {
        if operations.is_empty() {
            return Arc::default();
        }
        let make = || {
            let mut uses: Vec<Use> = operations
                .iter()
                .filter(|(_, operation)| !operation.plugin.is_empty())
                .map(|(_, operation)| {
                    (
                        operation.plugin.clone(),
                        operation.executor.as_str().unwrap_or_default().into(),
                    )
                })
                .collect();
            uses.sort_unstable();
            uses.dedup();
            Arc::new(uses)
        };
        self.by_operations
            .entry(operations.address())
            .or_insert_with(make)
            .clone()
    }

    fn list(&mut self, uses: Vec<Use>) -> PluginList {
        let plugins = self.plugins;
        let make = |uses: &Vec<Use>| {
            let plugin = |(name, executor): &Use| {
                let mut fields = plugins.get(name)?.0.clone();
                fields.insert("executor", executor);
                Some(Plugin(fields))
            };
            Arc::new(uses.iter().filter_map(plugin).collect())
        };
        if let Some(known) = self.by_uses.get(&uses) {
            return known.clone();
        }
        let list: PluginList = make(&uses);
        self.by_uses.insert(uses, list.clone());
        list
    }
}

/// Sets the plugin lists of all nodes.
pub(super) fn set_plugins(
    context: &mut Context<'_>,
    nodes: &mut [Node],
    targets: &Targets,
    is_host: &[bool],
    plugins: &Plugins<'_>,
) {
    let mut lists = Lists {
        plugins,
        by_uses: FastMap::default(),
        by_operations: FastMap::default(),
    };
    let mut uses: Vec<Vec<Use>> = nodes
        .iter()
        .map(|node| (*lists.uses(&node.operations)).clone())
        .collect();
    for (at, node) in nodes.iter().enumerate() {
        for relationship in &node.relationships {
            uses[at].extend(lists.uses(&relationship.source_operations).iter().cloned());
            if let Some(target) = targets.get(&relationship.target_id) {
                let incoming = lists.uses(&relationship.target_operations);
                for one in incoming.iter() {
                    if !uses[target].contains(one) {
                        uses[target].push(one.clone());
                    }
                }
            }
        }
    }
    let mut on_hosts: FastMap<Text, BTreeMap<Text, Use>> = FastMap::default();
    for (node, mut uses) in nodes.iter_mut().zip(uses) {
        uses.sort_unstable();
        uses.dedup();
        let central = uses
            .iter()
            .filter(|(_, executor)| &**executor == CENTRAL)
            .cloned()
            .collect();
        node.deployment_plugins_to_install = lists.list(central);
        for one in uses.iter().filter(|(_, executor)| &**executor == HOST_AGENT) {
            match &node.host_id {
                Some(host) => {
                    on_hosts
                        .entry(host.clone())
                        .or_default()
                        .insert(one.0.clone(), one.clone());
                }
                None => report_homeless(context, &node.name, &one.0),
            }
        }
        node.plugins = lists.list(uses);
    }
    for (node, _) in nodes.iter_mut().zip(is_host).filter(|(_, is_host)| **is_host) {
        let uses = on_hosts.remove(&node.name).unwrap_or_default().into_values().collect();
        node.plugins_to_install = Some(lists.list(uses));
    }
}

fn report_homeless(context: &mut Context<'_>, node: &str, plugin: &str) {
    let message = format!(
        "node '{node}' has no relationship which makes it contained within a host and it has a plugin '{plugin}' with \
         '{HOST_AGENT}' as an executor. These types of plugins must be installed on a host"
    );
    let place = place_of(context, "node_templates", node);
    context.fail(Fault::logic(24, message, format!("node_templates.{node}")), place);
}

/// The plugins of a whole plan.
pub(super) struct WholePlan {
    pub(super) deployment: PluginList,
    pub(super) host_agent: PluginList,
}

/// One plugin per name, of all nodes.
pub(super) fn whole_plan(nodes: &[Node]) -> WholePlan {
    let mut deployment: BTreeMap<String, Plugin> = BTreeMap::new();
    let mut host_agent: BTreeMap<String, Plugin> = BTreeMap::new();
    let mut last: Option<&PluginList> = None;
    for node in nodes {
        // Neighbours often have the same list.
        if !last.is_some_and(|last| Arc::ptr_eq(last, &node.deployment_plugins_to_install)) {
            take(&mut deployment, &node.deployment_plugins_to_install);
        }
        last = Some(&node.deployment_plugins_to_install);
        if let Some(plugins) = &node.plugins_to_install {
            take(&mut host_agent, plugins);
        }
    }
    let list = |plugins: BTreeMap<String, Plugin>| Arc::new(plugins.into_values().collect());
    WholePlan {
        deployment: list(deployment),
        host_agent: list(host_agent),
    }
}

fn take(into: &mut BTreeMap<String, Plugin>, plugins: &PluginList) {
    for plugin in plugins.iter() {
        if !into.contains_key(plugin.name()) {
            into.insert(plugin.name().to_owned(), plugin.clone());
        }
    }
}
