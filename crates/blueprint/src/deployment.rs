//! From a plan and inputs to a deployment plan (spec/dsl.md, section 16).

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::Plan;
use crate::functions::{DEPTH_MAX, EvaluationContext, EvaluationError, Storage, call, has_functions, run};
use crate::parse::is_containment;
use crate::types::fits;

/// Gives the random parts of ids.
pub trait IdSource {
    /// Six of a–z0–9.
    fn suffix(&mut self) -> String;
}

/// What a deployment is made from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeploymentRequest {
    /// Values by input.
    pub inputs: Map<String, Value>,
}

/// Why no deployment can be made of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeploymentError {
    /// Inputs without value or default.
    #[error("Required inputs {0} were not specified - expected inputs: {1}")]
    MissingInputs(String, String),
    /// Values for inputs that the blueprint does not declare.
    #[error("Unknown input(s) {0} specified - expected inputs: {1}")]
    UnknownInputs(String, String),
    /// A value of the wrong type.
    #[error(
        "Property type validation failed in 'inputs.{0}': the defined type is '{1}', yet it was assigned another value"
    )]
    WrongType(String, String),
    /// A function without a value.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// A circle of containments, or a relationship that leads nowhere.
    #[error("{0}")]
    Topology(String),
}

/// Nodes with evaluated values, and their instances.
#[derive(Debug, Clone, PartialEq)]
pub struct DeploymentPlan {
    /// Values by input.
    pub inputs: Value,
    /// As in the plan, evaluated as far as possible.
    pub nodes: Vec<Value>,
    /// `id`, `node_id`, `index`, `host_id`?, `relationships`, `scaling_groups`.
    pub instances: Vec<Value>,
    /// With what is left for later.
    pub outputs: Value,
    /// With what is left for later.
    pub capabilities: Value,
}

/// Makes the deployment plan.
///
/// # Errors
/// See [`DeploymentError`]; nothing is half done.
pub fn deployment_plan(
    plan: &Plan,
    request: &DeploymentRequest,
    ids: &mut dyn IdSource,
) -> Result<DeploymentPlan, DeploymentError> {
    let plan = plan.as_json();
    let inputs = take_inputs(&plan["inputs"], &request.inputs)?;
    let nodes = plan["nodes"].as_array().cloned().unwrap_or_default();
    let early = Early {
        inputs: &inputs,
        properties: nodes
            .iter()
            .map(|node| (name_of(node), node["properties"].clone()))
            .collect(),
    };
    let nodes = nodes
        .iter()
        .map(|node| early.node(node))
        .collect::<Result<Vec<_>, _>>()?;
    let instances = expand(&nodes, ids)?;
    let late = |section: &str| early.partly(&plan[section], &EvaluationContext::default());
    let (outputs, capabilities) = (late("outputs")?, late("capabilities")?);
    Ok(DeploymentPlan {
        inputs: Value::Object(inputs),
        nodes,
        instances,
        outputs,
        capabilities,
    })
}

fn name_of(node: &Value) -> String {
    node["name"].as_str().unwrap_or_default().to_owned()
}

fn take_inputs(declared: &Value, given: &Map<String, Value>) -> Result<Map<String, Value>, DeploymentError> {
    let empty = Map::new();
    let declared = declared.as_object().unwrap_or(&empty);
    let names = |names: Vec<&String>| {
        names
            .iter()
            .map(|name| format!("'{name}'"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let expected = names(declared.keys().collect());
    let unknown: Vec<&String> = given.keys().filter(|name| !declared.contains_key(*name)).collect();
    if !unknown.is_empty() {
        return Err(DeploymentError::UnknownInputs(names(unknown), expected));
    }
    let mut values = Map::new();
    let mut missing = Vec::new();
    for (name, schema) in declared {
        let default = schema.get("default").filter(|default| !default.is_null());
        let optional = schema.get("required") == Some(&Value::Bool(false));
        let Some(value) = given
            .get(name)
            .or(default)
            .cloned()
            .or_else(|| optional.then_some(Value::Null))
        else {
            missing.push(name);
            continue;
        };
        let wanted = schema.get("type").and_then(Value::as_str);
        if !value.is_null() && !fits(wanted, &value) {
            return Err(DeploymentError::WrongType(
                name.clone(),
                wanted.unwrap_or_default().to_owned(),
            ));
        }
        values.insert(name.clone(), value);
    }
    if missing.is_empty() {
        Ok(values)
    } else {
        Err(DeploymentError::MissingInputs(names(missing), expected))
    }
}

/// What is known before there are instances: inputs and properties. A node stands for its instances.
struct Early<'a> {
    inputs: &'a Map<String, Value>,
    properties: HashMap<String, Value>,
}

impl Early<'_> {
    fn node(&self, node: &Value) -> Result<Value, EvaluationError> {
        let own = Some(name_of(node));
        let of_node = EvaluationContext {
            self_id: own.clone(),
            ..EvaluationContext::default()
        };
        let mut node = node.clone();
        node["properties"] = self.partly(&node["properties"], &of_node)?;
        node["operations"] = self.operations(&node["operations"], &of_node)?;
        for relationship in node["relationships"].as_array_mut().into_iter().flatten() {
            let target = relationship["target_id"].as_str().map(str::to_owned);
            let between = EvaluationContext {
                self_id: None,
                source_id: own.clone(),
                target_id: target,
            };
            for side in ["source_operations", "target_operations"] {
                relationship[side] = self.operations(&relationship[side], &between)?;
            }
        }
        Ok(node)
    }

    fn operations(&self, operations: &Value, context: &EvaluationContext) -> Result<Value, EvaluationError> {
        let mut operations = operations.clone();
        for (_, operation) in operations.as_object_mut().into_iter().flatten() {
            let inputs = self.partly(&operation["inputs"], context)?;
            operation["has_intrinsic_functions"] = Value::Bool(has_functions(&inputs));
            operation["inputs"] = inputs;
        }
        Ok(operations)
    }

    /// Evaluates the calls that need no instances, and leaves the others as they are.
    fn partly(&self, value: &Value, context: &EvaluationContext) -> Result<Value, EvaluationError> {
        self.partly_at(value, context, 0)
    }

    fn partly_at(&self, value: &Value, context: &EvaluationContext, depth: usize) -> Result<Value, EvaluationError> {
        if depth > DEPTH_MAX {
            return Err(EvaluationError::TooDeep);
        }
        let inner = |value: &Value| self.partly_at(value, context, depth + 1);
        if let Some((name, argument)) = call(value) {
            if matches!(name, "get_attribute" | "get_secret" | "get_capability") {
                return Ok(value.clone());
            }
            let argument = inner(argument)?;
            if has_functions(&argument) {
                return Ok(Value::Object(Map::from_iter([(name.to_owned(), argument)])));
            }
            // What it gives may be a call again, which may have to wait.
            return inner(&run(name, &argument, context, self)?);
        }
        match value {
            Value::Array(items) => items.iter().map(inner).collect::<Result<Vec<_>, _>>().map(Value::Array),
            Value::Object(map) => {
                let entries = map.iter().map(|(key, value)| Ok((key.clone(), inner(value)?)));
                entries
                    .collect::<Result<Map<_, _>, EvaluationError>>()
                    .map(Value::Object)
            }
            plain => Ok(plain.clone()),
        }
    }
}

impl Storage for Early<'_> {
    fn input(&self, name: &str) -> Option<Value> {
        self.inputs.get(name).cloned()
    }

    fn node_properties(&self, node: &str) -> Option<Value> {
        self.properties.get(node).cloned()
    }

    fn node_of(&self, instance: &str) -> Option<String> {
        Some(instance.to_owned())
    }

    fn runtime_properties(&self, _: &str) -> Option<Value> {
        None
    }

    fn instances_of(&self, node: &str) -> Vec<String> {
        vec![node.to_owned()]
    }

    fn related(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn secret(&self, _: &str) -> Option<String> {
        None
    }
}

/// An instance in the making.
struct Instance {
    id: String,
    node: usize,
    /// Index of the containing instance.
    parent: Option<usize>,
    host: Option<usize>,
}

/// A node's instances are as many as it wants in each instance of its container.
fn expand(nodes: &[Value], ids: &mut dyn IdSource) -> Result<Vec<Value>, DeploymentError> {
    let by_name: HashMap<String, usize> = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| (name_of(node), index))
        .collect();
    let container = |node: &Value| {
        let list = node["relationships"].as_array()?;
        let containment = list.iter().find(|relationship| is_containment(relationship))?;
        by_name.get(containment["target_id"].as_str()?).copied()
    };
    let mut instances: Vec<Instance> = Vec::new();
    let mut of_node: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for node in contained_last(nodes, &container)? {
        let parents: Vec<Option<usize>> = match container(&nodes[node]) {
            None => vec![None],
            Some(container) => of_node
                .get(&container)
                .into_iter()
                .flatten()
                .map(|index| Some(*index))
                .collect(),
        };
        let count = nodes[node]["capabilities"]["scalable"]["properties"]["current_instances"]
            .as_u64()
            .unwrap_or(1);
        let is_host = nodes[node]["is_host"] == Value::Bool(true);
        for parent in parents {
            for _ in 0..count {
                let index = instances.len();
                let above = parent.and_then(|parent| instances[parent].host);
                let host = above.or(is_host.then_some(index));
                let id = format!("{}_{}", name_of(&nodes[node]), ids.suffix());
                instances.push(Instance { id, node, parent, host });
                of_node.entry(node).or_default().push(index);
            }
        }
    }
    let mut result: Vec<(usize, Value)> = Vec::with_capacity(instances.len());
    for indexes in of_node.values() {
        for (number, index) in indexes.iter().enumerate() {
            let instance = &instances[*index];
            let relationships = relate(instance, nodes, &instances, &of_node, &by_name)?;
            let host = instance.host.map(|host| instances[host].id.clone());
            result.push((
                instance.node,
                json!({
                    "id": instance.id, "node_id": name_of(&nodes[instance.node]), "index": number + 1, "host_id": host,
                    "relationships": relationships, "scaling_groups": [],
                }),
            ));
        }
    }
    result.sort_by_key(|(node, _)| *node);
    Ok(result.into_iter().map(|(_, instance)| instance).collect())
}

/// Nodes in an order in which containers come before what they contain.
fn contained_last(
    nodes: &[Value],
    container: &impl Fn(&Value) -> Option<usize>,
) -> Result<Vec<usize>, DeploymentError> {
    let depth = |start: usize| {
        let mut depth = 0;
        let mut current = start;
        while let Some(next) = container(&nodes[current]) {
            depth += 1;
            current = next;
            if depth > nodes.len() {
                let name = name_of(&nodes[start]);
                return Err(DeploymentError::Topology(format!("node {name} is contained in itself")));
            }
        }
        Ok(depth)
    };
    let mut order = (0..nodes.len())
        .map(|node| Ok((depth(node)?, node)))
        .collect::<Result<Vec<_>, DeploymentError>>()?;
    order.sort_unstable();
    Ok(order.into_iter().map(|(_, node)| node).collect())
}

fn relate(
    instance: &Instance,
    nodes: &[Value],
    instances: &[Instance],
    of_node: &BTreeMap<usize, Vec<usize>>,
    by_name: &HashMap<String, usize>,
) -> Result<Vec<Value>, DeploymentError> {
    let mut related = Vec::new();
    for relationship in nodes[instance.node]["relationships"].as_array().into_iter().flatten() {
        let target_name = relationship["target_id"].as_str().unwrap_or_default();
        let all = by_name
            .get(target_name)
            .and_then(|target| of_node.get(target))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let targets: Vec<usize> = if is_containment(relationship) {
            instance.parent.into_iter().collect()
        } else {
            match relationship["properties"]["connection_type"].as_str() {
                Some("all_to_all") => all.to_vec(),
                Some("all_to_one") => all
                    .iter()
                    .min_by_key(|index| &instances[**index].id)
                    .copied()
                    .into_iter()
                    .collect(),
                other => {
                    let message = format!("{other:?} is no connection type: all_to_all or all_to_one is");
                    return Err(DeploymentError::Topology(message));
                }
            }
        };
        for target in targets {
            related.push(json!({
                "type": relationship["type"], "target_name": target_name, "target_id": instances[target].id,
            }));
        }
    }
    Ok(related)
}
