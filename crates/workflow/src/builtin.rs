//! The built-in workflows (spec/workflows.md, sections 7 and 8).

use std::collections::{HashMap, HashSet};

use conclave_types::OperationId;
use serde_json::Value;

use crate::graph::{Graph, IdSource, Sequence, TaskKind};
use crate::lifecycle::{install, uninstall};
use crate::topology::Topology;

/// A workflow and its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkflowCall {
    /// The mapping's function, such as `cloudify.plugins.workflows.install`.
    pub function: String,
    /// Merged with the defaults.
    pub parameters: Value,
}

/// Why a workflow cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// It is none of the built-in ones that this manager has.
    #[error("workflow function {0} is not offered by this manager")]
    Unknown(String),
    /// A parameter is missing or makes no sense.
    #[error("{0}")]
    Parameter(String),
    /// Instances wait for each other.
    #[error("node instances depend on each other in a circle: {0}")]
    Circle(String),
}

/// Plans a workflow over a deployment.
///
/// # Errors
/// See [`PlanError`].
pub fn plan(call: &WorkflowCall, topology: &Topology, ids: &mut dyn IdSource) -> Result<Graph, PlanError> {
    let chosen = chosen_instances(&call.parameters, topology);
    let ignore_failure = call.parameters["ignore_failure"] == Value::Bool(true);
    let mut graph = Graph::default();
    match call.function.rsplit('.').next().unwrap_or_default() {
        "install" => {
            install_all(topology, &chosen, &mut graph, ids, &[])?;
        }
        "uninstall" => {
            uninstall_all(topology, &chosen, ignore_failure, &mut graph, ids)?;
        }
        "execute_operation" => {
            let operation = call.parameters["operation"].as_str().filter(|name| !name.is_empty());
            let operation = operation.ok_or_else(|| PlanError::Parameter("parameter 'operation' is missing".into()))?;
            execute_all(
                topology,
                &chosen,
                operation,
                &call.parameters["operation_kwargs"],
                &mut graph,
                ids,
            );
        }
        action @ ("start" | "stop") => {
            let operation = format!("cloudify.interfaces.lifecycle.{action}");
            execute_all(
                topology,
                &chosen,
                &operation,
                &call.parameters["operation_parms"],
                &mut graph,
                ids,
            );
        }
        _ => return Err(PlanError::Unknown(call.function.clone())),
    }
    Ok(graph)
}

/// Instances that match every filter; an empty filter matches all.
fn chosen_instances<'t>(parameters: &Value, topology: &'t Topology) -> Vec<&'t str> {
    let list = |key: &str| -> HashSet<String> {
        let items = parameters[key].as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (nodes, instances, types) = (list("node_ids"), list("node_instance_ids"), list("type_names"));
    topology
        .instance_ids()
        .filter(|id| nodes.is_empty() || nodes.contains(topology.node_of(id)))
        .filter(|id| instances.is_empty() || instances.contains(*id))
        .filter(|id| types.is_empty() || topology.types_of(id).any(|name| types.contains(name)))
        .collect()
}

/// Targets before sources: an instance waits for all that it has relationships to.
fn in_order<'t>(topology: &'t Topology, chosen: &[&'t str]) -> Result<Vec<(&'t str, Vec<&'t str>)>, PlanError> {
    let set: HashSet<&str> = chosen.iter().copied().collect();
    let targets: HashMap<&str, Vec<&str>> = chosen
        .iter()
        .map(|id| {
            let related = topology.relationships(id).into_iter().map(|related| related.target);
            (*id, related.filter(|target| set.contains(target)).collect())
        })
        .collect();
    let mut order = Vec::with_capacity(chosen.len());
    let mut done: HashSet<&str> = HashSet::new();
    let mut waiting: Vec<&str> = chosen.to_vec();
    while !waiting.is_empty() {
        let (ready, rest): (Vec<&str>, Vec<&str>) = waiting
            .iter()
            .partition(|id| targets[*id].iter().all(|target| done.contains(target)));
        if ready.is_empty() {
            return Err(PlanError::Circle(rest.join(", ")));
        }
        done.extend(&ready);
        order.extend(ready.into_iter().map(|id| (id, targets[id].clone())));
        waiting = rest;
    }
    Ok(order)
}

fn install_all(
    topology: &Topology,
    chosen: &[&str],
    graph: &mut Graph,
    ids: &mut dyn IdSource,
    after: &[OperationId],
) -> Result<(), PlanError> {
    let mut ends: HashMap<&str, Vec<OperationId>> = HashMap::new();
    for (instance, targets) in in_order(topology, chosen)? {
        let mut before: Vec<OperationId> = targets.iter().flat_map(|target| ends[target].clone()).collect();
        before.extend(after);
        before.sort_unstable();
        before.dedup();
        let end = install(topology, instance, graph, ids, before);
        ends.insert(instance, end);
    }
    Ok(())
}

fn uninstall_all(
    topology: &Topology,
    chosen: &[&str],
    ignore_failure: bool,
    graph: &mut Graph,
    ids: &mut dyn IdSource,
) -> Result<(), PlanError> {
    let order = in_order(topology, chosen)?;
    let mut sources: HashMap<&str, Vec<&str>> = HashMap::new();
    for (instance, targets) in &order {
        for target in targets {
            sources.entry(target).or_default().push(instance);
        }
    }
    let mut ends: HashMap<&str, Vec<OperationId>> = HashMap::new();
    for (instance, _) in order.iter().rev() {
        let before = sources
            .get(instance)
            .into_iter()
            .flatten()
            .flat_map(|source| ends[source].clone())
            .collect();
        let end = uninstall(topology, instance, ignore_failure, graph, ids, before);
        ends.insert(instance, end);
    }
    Ok(())
}

/// One operation on every chosen instance that has it, between two events.
fn execute_all(
    topology: &Topology,
    chosen: &[&str],
    operation: &str,
    inputs: &Value,
    graph: &mut Graph,
    ids: &mut dyn IdSource,
) {
    for instance in chosen {
        let Some(mut call) = topology.operation(instance, operation) else {
            continue;
        };
        if let (Some(own), Some(more)) = (call.inputs.as_object_mut(), inputs.as_object()) {
            own.extend(more.clone());
        }
        let node = topology.node_of(instance).to_owned();
        let event = |message: String| TaskKind::NodeEvent {
            instance: (*instance).into(),
            node: node.clone(),
            message,
        };
        let mut sequence = Sequence::new(graph, ids, Vec::new());
        sequence.add(vec![event(format!("Starting operation {operation}"))]);
        sequence.add(vec![TaskKind::Operation(Box::new(call))]);
        sequence.add(vec![event(format!("Finished operation {operation}"))]);
    }
}
