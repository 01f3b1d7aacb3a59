//! A deployment's nodes and instances, as workflows look at them.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::graph::{OperationTask, RelationshipSide, TaskKind};

/// Nodes and instances as the API shows them (spec/rest-api.md, section 9).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Topology {
    nodes: HashMap<String, Value>,
    /// By id, in the order of the plan.
    instances: BTreeMap<usize, Value>,
    positions: HashMap<String, usize>,
}

/// An instance's relationship.
pub(crate) struct Related<'t> {
    pub(crate) target: &'t str,
    pub(crate) target_node: &'t str,
    /// The node's relationship that it comes from.
    declared: &'t Value,
}

impl Topology {
    /// A topology of these objects.
    pub fn new(nodes: &[Value], instances: &[Value]) -> Self {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Self {
            nodes: nodes.iter().map(|node| (text(node, "id"), node.clone())).collect(),
            positions: instances
                .iter()
                .enumerate()
                .map(|(at, instance)| (text(instance, "id"), at))
                .collect(),
            instances: instances.iter().cloned().enumerate().collect(),
        }
    }

    /// The ids of all instances, in the order of the plan.
    pub fn instance_ids(&self) -> impl Iterator<Item = &str> {
        self.instances.values().filter_map(|instance| instance["id"].as_str())
    }

    fn instance(&self, id: &str) -> Option<&Value> {
        self.instances.get(self.positions.get(id)?)
    }

    pub(crate) fn node_of(&self, instance: &str) -> &str {
        self.instance(instance)
            .and_then(|instance| instance["node_id"].as_str())
            .unwrap_or_default()
    }

    pub(crate) fn state_of(&self, instance: &str) -> &str {
        self.instance(instance)
            .and_then(|instance| instance["state"].as_str())
            .unwrap_or("uninitialized")
    }

    pub(crate) fn types_of(&self, instance: &str) -> impl Iterator<Item = &str> {
        let node = self.nodes.get(self.node_of(instance));
        node.and_then(|node| node["type_hierarchy"].as_array())
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    /// In the order of the text; two relationships to one node's instances stay apart.
    pub(crate) fn relationships(&self, instance: &str) -> Vec<Related<'_>> {
        let declared = self
            .nodes
            .get(self.node_of(instance))
            .and_then(|node| node["relationships"].as_array());
        let own = self
            .instance(instance)
            .and_then(|instance| instance["relationships"].as_array());
        let declaration = |relationship: &Value| {
            declared.into_iter().flatten().find(|declared| {
                declared["target_id"] == relationship["target_name"] && declared["type"] == relationship["type"]
            })
        };
        own.into_iter()
            .flatten()
            .filter_map(|relationship| {
                Some(Related {
                    target: relationship["target_id"].as_str()?,
                    target_node: relationship["target_name"].as_str()?,
                    declared: declaration(relationship)?,
                })
            })
            .collect()
    }

    /// The call of an instance's operation; none when the operation does nothing.
    pub(crate) fn operation(&self, instance: &str, name: &str) -> Option<OperationTask> {
        let node = self.nodes.get(self.node_of(instance))?;
        operation_task(&node["operations"][name], name, instance, self.node_of(instance), None)
    }

    /// The calls of a relationship's operation, on both of its ends.
    pub(crate) fn relationship_operations(&self, source: &str, related: &Related<'_>, name: &str) -> Vec<TaskKind> {
        let side = |key: &str, is_target: bool| {
            let ends = RelationshipSide {
                source: source.into(),
                target: related.target.into(),
                is_target,
            };
            let instance = if is_target { related.target } else { source };
            let call = operation_task(
                &related.declared[key][name],
                name,
                instance,
                self.node_of(instance),
                Some(ends),
            )?;
            Some(TaskKind::Operation(Box::new(call)))
        };
        [side("source_operations", false), side("target_operations", true)]
            .into_iter()
            .flatten()
            .collect()
    }
}

fn operation_task(
    stored: &Value,
    name: &str,
    instance: &str,
    node: &str,
    relationship: Option<RelationshipSide>,
) -> Option<OperationTask> {
    let function = stored["operation"].as_str().filter(|function| !function.is_empty())?;
    Some(OperationTask {
        operation: name.to_owned(),
        instance: instance.to_owned(),
        node: node.to_owned(),
        relationship,
        plugin: stored["plugin"].as_str().unwrap_or_default().to_owned(),
        function: function.to_owned(),
        executor: stored["executor"]
            .as_str()
            .unwrap_or("central_deployment_agent")
            .to_owned(),
        inputs: stored["inputs"].clone(),
        has_functions: stored["has_intrinsic_functions"] == Value::Bool(true),
        max_retries: stored["max_retries"].as_i64(),
        retry_interval: stored["retry_interval"].as_f64(),
        timeout: stored["timeout"].as_f64(),
        timeout_recoverable: stored["timeout_recoverable"] == Value::Bool(true),
        ignore_failure: false,
        retry_number: 0,
        retried_task: None,
        execute_after_ms: 0,
    })
}
