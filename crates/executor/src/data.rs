//! A deployment's rows as functions and operations see them.

use std::collections::HashMap;
use std::sync::Arc;

use conclave_blueprint::functions::{
    EvaluationContext, Storage, StoredInstance, StoredNode, evaluate, evaluate_node, not_found,
};
use conclave_blueprint::{Fault, Text, Value as PlanValue};
use conclave_operations::{End, InstanceView, NodeView, OperationCall, OperationContext, Subject};
use conclave_store::{ClaimedExecution, DeploymentRows};
use conclave_types::OperationId;
use conclave_workflow::OperationTask;
use serde_json::{Value, json};

/// Nodes, instances and inputs of a deployment, by id.
pub struct DeploymentData {
    nodes: HashMap<String, Value>,
    instances: HashMap<String, Value>,
    /// In the order of the record.
    instance_ids: Vec<String>,
    inputs: Value,
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

impl DeploymentData {
    /// Takes the rows.
    pub fn new(rows: DeploymentRows) -> Self {
        let by_id = |rows: Vec<Value>| rows.into_iter().map(|row| (text(&row, "id").to_owned(), row)).collect();
        Self {
            instance_ids: rows.instances.iter().map(|row| text(row, "id").to_owned()).collect(),
            nodes: by_id(rows.nodes),
            instances: by_id(rows.instances),
            inputs: rows.deployment["inputs"].clone(),
        }
    }

    /// Evaluates the calls in a value.
    ///
    /// # Errors
    /// When a call has no value.
    pub fn evaluate(&self, value: &Value, context: &EvaluationContext) -> Result<Value, Fault> {
        Ok(evaluate(&PlanValue::from(value), context, self)?.to_json())
    }

    /// What an operation's run needs to know.
    pub(crate) fn call(
        &self,
        id: OperationId,
        task: &OperationTask,
        claim: &ClaimedExecution,
    ) -> Result<OperationCall, Fault> {
        let context = match &task.relationship {
            None => EvaluationContext {
                self_id: Some(task.instance.clone()),
                self_node: self.node_of(&task.instance),
                ..EvaluationContext::default()
            },
            Some(ends) => EvaluationContext {
                source_id: Some(ends.source.clone()),
                target_id: Some(ends.target.clone()),
                source_node: self.node_of(&ends.source),
                target_node: self.node_of(&ends.target),
                ..EvaluationContext::default()
            },
        };
        let inputs = if task.has_functions {
            self.evaluate(&task.inputs, &context)?
        } else {
            task.inputs.clone()
        };
        let subject = match &task.relationship {
            None => Subject::NodeInstance(Box::new(self.end(&task.instance)?)),
            Some(ends) => Subject::Relationship {
                source: Box::new(self.end(&ends.source)?),
                target: Box::new(self.end(&ends.target)?),
            },
        };
        let fields = json!({
            "task_id": id.to_string(), "task_name": task.function, "execution_id": claim.id.to_string(),
            "workflow_id": claim.workflow, "workflow_parameters": claim.parameters, "deployment_id": claim.deployment,
            "blueprint_id": claim.blueprint, "tenant": {"name": claim.tenant}, "node_id": task.instance,
            "node_name": task.node, "execution_creator_username": claim.creator,
            "operation": {"name": task.operation, "retry_number": task.retry_number, "max_retries": task.max_retries},
            "timeout": task.timeout, "timeout_recoverable": task.timeout_recoverable,
        });
        Ok(OperationCall {
            context: OperationContext {
                task_id: Some(id.to_string()),
                task_name: task.function.clone(),
                execution_id: Some(claim.id.to_string()),
                deployment_id: Some(claim.deployment.clone()),
                blueprint_id: Some(claim.blueprint.clone()),
                tenant: Some(claim.tenant.clone()),
                operation_name: Some(task.operation.clone()),
                timeout: task.timeout,
                timeout_recoverable: task.timeout_recoverable,
                execution_env: Vec::new(),
                fields: fields.as_object().cloned().unwrap_or_default(),
            },
            inputs: inputs.as_object().cloned().unwrap_or_default(),
            subject,
        })
    }

    fn end(&self, instance_id: &str) -> Result<End, Fault> {
        let unknown = || not_found("node instance", instance_id);
        let instance = self.instances.get(instance_id).ok_or_else(unknown)?;
        let node = self.nodes.get(text(instance, "node_id")).ok_or_else(unknown)?;
        let properties = json!({"id": node["id"], "name": node["id"], "properties": node["properties"]});
        let properties = match PlanValue::from(&properties) {
            PlanValue::Map(node) => evaluate_node(&node, Some(instance_id), self)?,
            _ => conclave_blueprint::Map::new(),
        };
        let properties = properties.get("properties").map(PlanValue::to_json).unwrap_or_default();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let host_id = instance["host_id"].as_str().map(str::to_owned);
        let host = host_id.as_ref().and_then(|id| self.instances.get(id));
        let host_ip = host.and_then(|host| {
            let property = || {
                self.nodes
                    .get(text(host, "node_id"))
                    .and_then(|node| node["properties"]["ip"].as_str())
            };
            host["runtime_properties"]["ip"]
                .as_str()
                .or_else(property)
                .map(str::to_owned)
        });
        Ok(End {
            node: NodeView {
                id: text(node, "id").to_owned(),
                type_name: text(node, "type").to_owned(),
                type_hierarchy: list(&node["type_hierarchy"])
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
                properties: properties.as_object().cloned().unwrap_or_default(),
                number_of_instances: node["number_of_instances"]
                    .as_u64()
                    .and_then(|n| u32::try_from(n).ok())
                    .unwrap_or(1),
            },
            instance: InstanceView {
                id: instance_id.to_owned(),
                version: instance["version"]
                    .as_i64()
                    .and_then(|n| i32::try_from(n).ok())
                    .unwrap_or(0),
                index: instance["index"]
                    .as_i64()
                    .and_then(|n| i32::try_from(n).ok())
                    .unwrap_or(1),
                host_id,
                host_ip,
                runtime_properties: instance["runtime_properties"].as_object().cloned().unwrap_or_default(),
                system_properties: instance["system_properties"].as_object().cloned().unwrap_or_default(),
                relationships: list(&instance["relationships"]),
                scaling_groups: list(&instance["scaling_groups"]),
            },
        })
    }
}

impl DeploymentData {
    fn node_of(&self, instance: &str) -> Option<String> {
        let instance = self.instances.get(instance)?;
        Some(text(instance, "node_id").to_owned())
    }
}

fn shared(value: &Value, key: &str) -> Text {
    text(value, key).into()
}

fn map(value: &Value) -> conclave_blueprint::Map {
    PlanValue::from(value).as_map().cloned().unwrap_or_default()
}

fn pairs(list: &Value, first: &str, second: &str) -> Vec<(Text, Text)> {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| (shared(item, first), shared(item, second))).collect()
}

impl Storage for DeploymentData {
    fn input(&self, name: &str) -> Result<Option<PlanValue>, Fault> {
        Ok(self.inputs.get(name).map(PlanValue::from))
    }

    fn node(&self, id: &str) -> Result<Arc<StoredNode>, Fault> {
        const CONTAINED_IN: &str = "cloudify.relationships.contained_in";
        let node = self.nodes.get(id).ok_or_else(|| not_found("node", id))?;
        let relationships = node["relationships"].as_array().into_iter().flatten();
        let mut containing = relationships.filter(|relationship| {
            let hierarchy = relationship["type_hierarchy"].as_array();
            hierarchy.is_some_and(|hierarchy| hierarchy.iter().any(|name| name == CONTAINED_IN))
        });
        Ok(Arc::new(StoredNode {
            id: id.into(),
            properties: map(&node["properties"]),
            container: containing.next().map(|relationship| shared(relationship, "target_id")),
        }))
    }

    fn instances_of(&self, node: &str) -> Result<Vec<Arc<StoredInstance>>, Fault> {
        let ids = self.instance_ids.iter();
        ids.filter(|id| {
            self.instances
                .get(*id)
                .is_some_and(|instance| text(instance, "node_id") == node)
        })
        .map(|id| self.instance(id))
        .collect()
    }

    fn instance(&self, id: &str) -> Result<Arc<StoredInstance>, Fault> {
        let instance = self.instances.get(id).ok_or_else(|| not_found("node instance", id))?;
        Ok(Arc::new(StoredInstance {
            id: id.into(),
            node_id: shared(instance, "node_id"),
            index: instance["index"].as_i64(),
            runtime_properties: map(&instance["runtime_properties"]),
            relationships: pairs(&instance["relationships"], "target_name", "target_id"),
            scaling_groups: pairs(&instance["scaling_groups"], "name", "id"),
        }))
    }

    fn secret(&self, _: &str) -> Result<Option<Text>, Fault> {
        Ok(None)
    }
}
