//! What a blueprint becomes: the plan of spec/dsl.md, section 15, typed where code decides on it and free where it only
//! carries values.
//!
//! Everything in it is cheap to clone: node templates of one type share properties, operations and plugins, so that a plan of
//! 50,000 templates costs little more than what the templates themselves say. It is serialised to, and read back from, the JSON
//! that managers store and clients see.

use std::hash::BuildHasherDefault;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{Map, Text, Value};

/// A finished plan.
///
/// Every section is present; what a blueprint does not say is an empty mapping, list or null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The version of the language that the main file names.
    pub version: Version,
    /// A text, or null.
    pub description: Value,
    /// A free mapping, or null.
    pub metadata: Value,
    /// Schemas by name; only the keys that are written.
    pub inputs: Map,
    /// Node templates, in the order of the document.
    pub nodes: Vec<Node>,
    /// Relationship types by name: `properties`, `source_interfaces`, `target_interfaces`, `name`, `type_hierarchy`, `derived_from`?
    pub relationships: Map,
    /// By name: `derived_from`, `description`, `version`, `properties`.
    pub data_types: Map,
    /// By name: `plugin`, `operation`, `parameters`, `is_cascading`, `availability_rules`.
    pub workflows: Map,
    /// By name: `source`, `properties`.
    pub policy_types: Map,
    /// By name: `source`, `parameters`.
    pub policy_triggers: Map,
    /// Scaling policies by name: `type`, `properties`, `targets`.
    pub policies: Map,
    /// By name: `members`, `policies`.
    pub groups: Map,
    /// Groups that a scaling policy targets, by name: `members`, `properties`.
    pub scaling_groups: Map,
    /// By name: `value`, `description`?
    pub outputs: Map,
    /// By name: `value`, `description`?
    pub capabilities: Map,
    /// By key: `values`.
    pub labels: Map,
    /// By key: `values`.
    pub blueprint_labels: Map,
    /// Any values by name.
    pub resource_tags: Map,
    /// Empty, or with `default_schedules` at least.
    pub deployment_settings: Map,
    /// Those that run on the manager, one per name.
    pub deployment_plugins_to_install: PluginList,
    /// Those of all workflows.
    pub workflow_plugins_to_install: PluginList,
    /// Those that run on hosts, one per name.
    pub host_agent_plugins_to_install: PluginList,
    /// Ids of the `blueprint:` imports, with repeats.
    pub imported_blueprints: Vec<Text>,
    /// Ids of imported blueprints by name space.
    pub namespaces_mapping: Map,
    /// What the blueprint asks of its surroundings: `parent_capabilities`, `secrets`.
    pub requirements: Map,
}

/// The version of the language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// As written.
    pub raw: Text,
    /// The family: `cloudify_dsl`.
    pub definitions_name: Text,
    /// Major and minor.
    pub definitions_version: (u32, u32),
}

impl Default for Version {
    fn default() -> Self {
        Self {
            raw: "cloudify_dsl_1_0".into(),
            definitions_name: "cloudify_dsl".into(),
            definitions_version: (1, 0),
        }
    }
}

/// A node template with its type merged in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The name of the template.
    pub name: Text,
    /// The same again, as clients expect it.
    pub id: Text,
    /// The node type.
    #[serde(rename = "type")]
    pub type_name: Text,
    /// From the root type to the own one.
    pub type_hierarchy: Arc<Vec<Text>>,
    /// Type defaults with the template's values.
    pub properties: Map,
    /// By interface and operation: the merged operations before they are resolved against plugins.
    #[serde(default)]
    pub interfaces: Map,
    /// By `interface.operation`, and by the operation's name where one interface only has it.
    pub operations: Operations,
    /// In the order of the text.
    pub relationships: Vec<Relationship>,
    /// How many instances there may be.
    pub capabilities: Capabilities,
    /// Empty or with `deploy`.
    #[serde(default)]
    pub instances: Map,
    /// Plugins of its operations, of its relationships' source operations and of incoming relationships' target operations.
    pub plugins: PluginList,
    /// Those of them that run on the manager.
    pub deployment_plugins_to_install: PluginList,
    /// Host types only: those that run on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugins_to_install: Option<PluginList>,
    /// The nearest host up the containers, the node itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<Text>,
}

impl Node {
    /// The properties of the capability `scalable`: `default_instances`, `min_instances`, `max_instances`, `current_instances`,
    /// `planned_instances`, each a whole number or, before inputs are known, a call.
    pub fn scalable(&self) -> &Map {
        &self.capabilities.scalable.properties
    }

    /// Whether the type or one of its ancestors is `name`.
    pub fn is_a(&self, name: &str) -> bool {
        self.type_hierarchy.iter().any(|ancestor| &**ancestor == name)
    }
}

/// The capabilities of a node template.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The only one there is.
    pub scalable: Scalable,
}

/// See [`Node::scalable`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scalable {
    /// See [`Node::scalable`].
    pub properties: Map,
}

/// A relationship of a node template.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Relationship {
    /// The relationship type.
    #[serde(rename = "type")]
    pub type_name: Text,
    /// The name of the target's template.
    pub target_id: Text,
    /// From the root type to the own one.
    pub type_hierarchy: Arc<Vec<Text>>,
    /// Type defaults with the template's values.
    pub properties: Map,
    /// As [`Node::interfaces`].
    #[serde(default)]
    pub source_interfaces: Map,
    /// As [`Node::interfaces`].
    #[serde(default)]
    pub target_interfaces: Map,
    /// What runs at the source, as [`Node::operations`].
    pub source_operations: Operations,
    /// What runs at the target, as [`Node::operations`].
    pub target_operations: Operations,
}

impl Relationship {
    /// Whether the type or one of its ancestors is `name`.
    pub fn is_a(&self, name: &str) -> bool {
        self.type_hierarchy.iter().any(|ancestor| &**ancestor == name)
    }
}

/// Operations by name; shared by all that have the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Operations(Arc<IndexMap<Text, Arc<Operation>, BuildHasherDefault<rustc_hash::FxHasher>>>);

impl Operations {
    /// The operation of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Operation>> {
        self.0.get(name)
    }

    /// In order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Text, &Arc<Operation>)> {
        self.0.iter()
    }

    /// Sets the operation of that name; copies the names first where they are shared.
    pub fn insert(&mut self, name: Text, operation: Arc<Operation>) {
        Arc::make_mut(&mut self.0).insert(name, operation);
    }

    /// The operations, to be changed in place through [`Arc::make_mut`]; copies the names first where they are shared.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&Text, &mut Arc<Operation>)> {
        Arc::make_mut(&mut self.0).iter_mut()
    }

    /// The number of names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both are one and the same in memory: what was computed for one holds for the other.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where they lie in memory, by which what was found out about them can be remembered while they live.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
}

impl FromIterator<(Text, Arc<Operation>)> for Operations {
    fn from_iter<I: IntoIterator<Item = (Text, Arc<Operation>)>>(operations: I) -> Self {
        Self(Arc::new(operations.into_iter().collect()))
    }
}

/// What runs when an operation is called. One that does nothing has empty texts for plugin and operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// The plugin's name.
    pub plugin: Text,
    /// The function within the plugin.
    pub operation: Text,
    /// `central_deployment_agent`, `host_agent`, `auto`, or null.
    pub executor: Value,
    /// Arguments by name.
    pub inputs: Map,
    /// Whether a call that only a running deployment can answer is left in the inputs.
    pub has_intrinsic_functions: bool,
    /// A whole number, −1 for endless, null for the manager's default.
    pub max_retries: Value,
    /// Seconds, null for the manager's default.
    pub retry_interval: Value,
    /// Seconds, or null.
    pub timeout: Value,
    /// A truth value, or null.
    pub timeout_recoverable: Value,
    /// Types of inputs whose type was written into their value; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs_types: Option<Map>,
}

impl Operation {
    /// One that does nothing.
    pub fn no_op() -> Self {
        Self {
            plugin: "".into(),
            operation: "".into(),
            executor: Value::Null,
            inputs: Map::new(),
            has_intrinsic_functions: false,
            max_retries: Value::Null,
            retry_interval: Value::Null,
            timeout: Value::Null,
            timeout_recoverable: Value::Null,
            inputs_types: None,
        }
    }

    /// Whether it does nothing.
    pub fn is_no_op(&self) -> bool {
        self.plugin.is_empty() && self.operation.is_empty()
    }
}

/// Plugins, shared by all that have the same.
pub type PluginList = Arc<Vec<Plugin>>;

/// A plugin as the plan lists it: all fields of spec/dsl.md, section 10, and `name`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Plugin(pub Map);

impl Plugin {
    /// Its name.
    pub fn name(&self) -> &str {
        self.text("name")
    }

    /// Where it runs.
    pub fn executor(&self) -> &str {
        self.text("executor")
    }

    fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Plan {
    /// As the JSON that managers store and clients see.
    pub fn to_json(&self) -> serde_json::Value {
        // Mappings have texts for keys and every number is finite or marked, which is all that could fail.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Takes what [`Plan::to_json`] gave. Sections that are missing (older managers wrote fewer) are empty.
    ///
    /// # Errors
    /// When it is no plan.
    pub fn from_json(json: &serde_json::Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(json)
    }

    /// The node template of that name. Linear; index the nodes where many are asked for.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| &*node.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_comes_back_from_its_json() {
        let mut plan = Plan::default();
        let mut operations = Operations::default();
        operations.insert("i.create".into(), Arc::new(Operation::no_op()));
        plan.nodes.push(Node {
            name: "a".into(),
            id: "a".into(),
            operations,
            plugins: Arc::new(vec![Plugin(Map::from_iter([
                ("name", "p"),
                ("executor", "host_agent"),
            ]))]),
            ..Node::default()
        });
        plan.inputs
            .insert("x", Map::from_iter([("default", Value::Float(1.5))]));
        let json = plan.to_json();
        assert_eq!(
            json["nodes"][0]["operations"]["i.create"]["executor"],
            serde_json::Value::Null
        );
        assert_eq!(json["version"]["definitions_version"], serde_json::json!([1, 0]));
        assert_eq!(Plan::from_json(&json).unwrap(), plan);
        assert!(Plan::from_json(&serde_json::json!({"nodes": 3})).is_err());
    }
}
