//! A deployment's rows as functions and operations see them.

use std::collections::HashMap;

use conclave_blueprint::{EvaluationContext, EvaluationError, Storage, evaluate};
use conclave_operations::{End, InstanceView, NodeView, OperationCall, OperationContext, Subject};
use conclave_store::{ClaimedExecution, DeploymentRows};
use conclave_types::OperationId;
use conclave_workflow::OperationTask;
use serde_json::{Map, Value, json};

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
    pub fn evaluate(&self, value: &Value, context: &EvaluationContext) -> Result<Value, EvaluationError> {
        evaluate(value, context, self)
    }

    /// What an operation's run needs to know.
    pub(crate) fn call(
        &self,
        id: OperationId,
        task: &OperationTask,
        claim: &ClaimedExecution,
    ) -> Result<OperationCall, EvaluationError> {
        let context = match &task.relationship {
            None => EvaluationContext {
                self_id: Some(task.instance.clone()),
                ..EvaluationContext::default()
            },
            Some(ends) => EvaluationContext {
                self_id: None,
                source_id: Some(ends.source.clone()),
                target_id: Some(ends.target.clone()),
            },
        };
        let inputs = if task.has_functions {
            self.evaluate(&task.inputs, &context)?
        } else {
            task.inputs.clone()
        };
        let subject = match &task.relationship {
            None => Subject::NodeInstance(Box::new(self.end(&task.instance, &context)?)),
            Some(ends) => Subject::Relationship {
                source: Box::new(self.end(&ends.source, &context)?),
                target: Box::new(self.end(&ends.target, &context)?),
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

    fn end(&self, instance_id: &str, context: &EvaluationContext) -> Result<End, EvaluationError> {
        let unknown = || EvaluationError::Function(format!("there is no node instance {instance_id}"));
        let instance = self.instances.get(instance_id).ok_or_else(unknown)?;
        let node = self.nodes.get(text(instance, "node_id")).ok_or_else(unknown)?;
        let own = EvaluationContext {
            self_id: Some(instance_id.to_owned()),
            ..context.clone()
        };
        let evaluated = |value: &Value| -> Result<Map<String, Value>, EvaluationError> {
            Ok(self.evaluate(value, &own)?.as_object().cloned().unwrap_or_default())
        };
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
                properties: evaluated(&node["properties"])?,
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

impl Storage for DeploymentData {
    fn input(&self, name: &str) -> Option<Value> {
        self.inputs.get(name).cloned()
    }

    fn node_properties(&self, node: &str) -> Option<Value> {
        self.nodes.get(node).map(|node| node["properties"].clone())
    }

    fn node_of(&self, instance: &str) -> Option<String> {
        self.instances
            .get(instance)
            .map(|instance| text(instance, "node_id").to_owned())
    }

    fn runtime_properties(&self, instance: &str) -> Option<Value> {
        self.instances
            .get(instance)
            .map(|instance| instance["runtime_properties"].clone())
    }

    fn instances_of(&self, node: &str) -> Vec<String> {
        self.instance_ids
            .iter()
            .filter(|id| self.node_of(id).as_deref() == Some(node))
            .cloned()
            .collect()
    }

    fn related(&self, instance: &str) -> Vec<String> {
        let relationships = self
            .instances
            .get(instance)
            .and_then(|instance| instance["relationships"].as_array());
        relationships
            .into_iter()
            .flatten()
            .map(|related| text(related, "target_id").to_owned())
            .collect()
    }

    fn secret(&self, _: &str) -> Option<String> {
        None
    }
}
