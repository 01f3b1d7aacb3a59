//! The plan with every function evaluated that needs no running deployment.

use std::sync::Arc;

use crate::functions::{Early, EarlyContext, Engine, Place, Quiet, Scope, Site, call};
use crate::plan::{Operation, Operations};
use crate::{Fault, Map, Plan, Value};

/// Evaluates the scanned places of a plan in order: those of each node, then the sections.
///
/// What holds no call is shared with `plan`, not copied.
pub(super) fn evaluate(plan: &Plan, inputs: Map, runtime_only: bool) -> Result<Plan, Fault> {
    let mut result = plan.clone();
    let mut evaluation = Evaluation {
        early: Early::new(&plan.nodes, inputs, runtime_only),
        quiet: Quiet::default(),
    };
    for (index, node) in result.nodes.iter_mut().enumerate() {
        let name = node.name.clone();
        if let Some(properties) = evaluation
            .early
            .evaluate_properties(index, &Place::Root(&["nodes", &name, "properties"]))?
        {
            node.properties = properties;
        }
        let own = EarlyContext::Node {
            node: index,
            operation: false,
        };
        let place = Place::Root(&["nodes", &name, "capabilities", "scalable"]);
        let scalable = &mut node.capabilities.scalable.properties;
        evaluation.map(scalable, Scope::Node, own, &place)?;
        let own = EarlyContext::Node {
            node: index,
            operation: true,
        };
        evaluation.operations(&mut node.operations, Scope::Node, own, &["nodes", &name, "operations"])?;
        for relationship in &mut node.relationships {
            let target = evaluation.early.node(&relationship.target_id);
            let ends = EarlyContext::Relationship { source: index, target };
            let path = ["nodes", &name, &relationship.type_name.clone()];
            evaluation.operations(&mut relationship.source_operations, Scope::Relationship, ends, &path)?;
            evaluation.operations(&mut relationship.target_operations, Scope::Relationship, ends, &path)?;
        }
    }
    let section = Scope::Section;
    evaluation.section(&mut result.outputs, Scope::Outputs, "outputs", None)?;
    evaluation.section(
        &mut result.policies,
        section("policies"),
        "policies",
        Some("properties"),
    )?;
    evaluation.section(
        &mut result.scaling_groups,
        section("scaling_groups"),
        "scaling_groups",
        Some("properties"),
    )?;
    evaluation.section(&mut result.capabilities, section("capabilities"), "capabilities", None)?;
    evaluation.section(&mut result.labels, section("labels"), "labels", None)?;
    let place = Place::Root(&["deployment_settings"]);
    let settings = &mut result.deployment_settings;
    evaluation.map(settings, section("deployment_settings"), EarlyContext::Nobody, &place)?;
    result.inputs = evaluation.early.into_inputs();
    Ok(result)
}

struct Evaluation<'p> {
    early: Early<'p>,
    quiet: Quiet,
}

impl Evaluation<'_> {
    /// Evaluates the values of a mapping.
    fn map(&mut self, map: &mut Map, scope: Scope, context: EarlyContext, place: &Place<'_>) -> Result<(), Fault> {
        let site = Site {
            scope,
            context: &context,
            place,
            depth: 0,
            in_place: true,
        };
        if let Some(changed) = self.early.evaluate_entries(map, &site)? {
            *map = changed;
        }
        Ok(())
    }

    /// Evaluates the entries of a section, or the mapping that each has under `inner`.
    fn section(&mut self, section: &mut Map, scope: Scope, name: &str, inner: Option<&str>) -> Result<(), Fault> {
        let mut changed: Vec<(crate::Text, Value)> = Vec::new();
        for (key, entry) in section.iter() {
            let values = match inner {
                None => entry.as_map(),
                Some(inner) => entry.get(inner).and_then(Value::as_map),
            };
            let Some(values) = values else { continue };
            let mut path = vec![name, key];
            path.extend(inner);
            let mut evaluated = values.clone();
            self.map(&mut evaluated, scope, EarlyContext::Nobody, &Place::Root(&path))?;
            if evaluated.is_same(values) {
                continue;
            }
            let entry = match (inner, entry) {
                (Some(inner), Value::Map(entry)) => {
                    let mut entry = entry.clone();
                    entry.insert(inner, evaluated);
                    entry
                }
                _ => evaluated,
            };
            changed.push((key.clone(), entry.into()));
        }
        for (key, entry) in changed {
            section.insert(key, entry);
        }
        Ok(())
    }

    /// Evaluates the inputs of operations, and marks those that are left with a call for later.
    fn operations(
        &mut self,
        operations: &mut Operations,
        scope: Scope,
        context: EarlyContext,
        path: &[&str],
    ) -> Result<(), Fault> {
        if self.quiet.operations(operations) {
            return Ok(());
        }
        // An operation stands under its full and its short name: it is evaluated once.
        let mut done: Vec<(Arc<Operation>, Arc<Operation>)> = Vec::new();
        let mut changed = Vec::new();
        for (name, operation) in operations.iter() {
            if self.quiet.mapping(&operation.inputs) {
                continue;
            }
            if let Some((_, result)) = done.iter().find(|(before, _)| Arc::ptr_eq(before, operation)) {
                changed.push((name.clone(), result.clone()));
                continue;
            }
            let mut parts = path.to_vec();
            parts.extend([&**name, "inputs"]);
            let mut inputs = operation.inputs.clone();
            self.early.take_waiting();
            self.map(&mut inputs, scope, context, &Place::Root(&parts))?;
            let waiting = self.early.take_waiting() || inputs.values().any(waits);
            if inputs.is_same(&operation.inputs) && !waiting {
                continue;
            }
            let result = Arc::new(Operation {
                inputs,
                has_intrinsic_functions: operation.has_intrinsic_functions || waiting,
                ..(**operation).clone()
            });
            done.push((operation.clone(), result.clone()));
            changed.push((name.clone(), result));
        }
        for (name, operation) in changed {
            operations.insert(name, operation);
        }
        Ok(())
    }
}

/// Whether a call that needs a running deployment is left in the value, wherever it came from.
fn waits(value: &Value) -> bool {
    match value {
        Value::List(items) => items.iter().any(waits),
        Value::Map(map) => call(value).is_some_and(|call| !call.name.is_hybrid()) || map.values().any(waits),
        _ => false,
    }
}
