//! The other deployments that a deployment names: the calls of `get_capability` in its plan.

use rustc_hash::FxHashMap as HashMap;
use serde_json::json;

use crate::functions::{EarlyContext, FunctionName, each_call, each_spot};
use crate::topology::Instance;
use crate::{Class, Fault, Plan, Text, Value};

/// A call that names another deployment, in one of the contexts that it is evaluated in.
#[derive(Debug, Clone, PartialEq)]
pub struct Dependency {
    /// The place of the call, and `.get_capability`.
    pub function_identifier: Text,
    /// The other deployment's id, unless a function gives it.
    pub target: Option<Value>,
    /// What the call names: an id or a function.
    pub target_expression: Value,
    /// The instance that SELF means.
    pub self_id: Option<Text>,
    /// The ends that SOURCE and TARGET mean.
    pub ends: Option<(Text, Text)>,
}

impl Dependency {
    /// `function_identifier`, `target_deployment` and `context`.
    pub fn to_json(&self) -> serde_json::Value {
        let target = self.target.as_ref().map(Value::to_json);
        let mut context = serde_json::Map::new();
        if let Some(id) = &self.self_id {
            context.insert("self".into(), json!(**id));
        }
        if let Some((source, target)) = &self.ends {
            context.insert("source".into(), json!(**source));
            context.insert("target".into(), json!(**target));
        }
        json!({
            "function_identifier": *self.function_identifier,
            "target_deployment": [target, self.target_expression.to_json()],
            "context": context,
        })
    }
}

/// A call of `get_capability` in a plan.
pub(super) struct Naming {
    place: Text,
    target: Value,
    literal: bool,
    whose: Whose,
}

enum Whose {
    Nobody,
    Node(Text),
    Relationship {
        source: Text,
        target: Text,
        type_name: Text,
    },
}

/// The calls in the scanned places of a plan with evaluated functions.
pub(super) fn find(plan: &Plan) -> Vec<Naming> {
    let mut found = Vec::new();
    each_spot(plan, &mut |spot| {
        each_call(spot.values, &spot.place, &mut |_, call, place| {
            if call.name != FunctionName::GetCapability {
                return;
            }
            let Some(target) = call.argument.as_list().and_then(<[Value]>::first) else {
                return;
            };
            let name = |node: usize| plan.nodes.get(node).map(|node| node.name.clone());
            let whose = match (spot.context, spot.relationship) {
                (EarlyContext::Node { node, .. }, _) => name(node).map(Whose::Node),
                (EarlyContext::Relationship { source, .. }, Some(relationship)) => {
                    name(source).map(|source| Whose::Relationship {
                        source,
                        target: relationship.target_id.clone(),
                        type_name: relationship.type_name.clone(),
                    })
                }
                _ => None,
            };
            found.push(Naming {
                place: format!("{place}.{}", call.name).into(),
                target: target.clone(),
                literal: !crate::functions::is_call(target),
                whose: whose.unwrap_or(Whose::Nobody),
            });
        });
    });
    found
}

/// The calls in each context that they are evaluated in: once for each instance of the node that they belong to.
///
/// # Errors
/// When an instance lacks the relationship that a call belongs to: its target has no instances, or another relationship to the
/// same target took its place.
pub(super) fn of_instances(calls: &[Naming], instances: &[Instance]) -> Result<Vec<Dependency>, Fault> {
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    let mut by_node: HashMap<&str, Vec<&Instance>> = HashMap::default();
    for instance in instances {
        by_node.entry(&instance.node_id).or_default().push(instance);
    }
    let of_node = |node: &str| by_node.get(node).map(Vec::as_slice).unwrap_or_default();
    let mut dependencies = Vec::new();
    for call in calls {
        let bare = Dependency {
            function_identifier: call.place.clone(),
            target: call.literal.then(|| call.target.clone()),
            target_expression: call.target.clone(),
            self_id: None,
            ends: None,
        };
        match &call.whose {
            Whose::Nobody => dependencies.push(bare),
            Whose::Node(node) => dependencies.extend(of_node(node).iter().map(|instance| Dependency {
                self_id: Some(instance.id.clone()),
                ..bare.clone()
            })),
            Whose::Relationship {
                source,
                target,
                type_name,
            } => {
                for instance in of_node(source) {
                    let relationship = instance.relationships.iter().find(|relationship| {
                        relationship.target_name == *target && relationship.type_name == *type_name
                    });
                    let target = relationship
                        .map(|relationship| relationship.target_id.clone())
                        .ok_or_else(|| {
                            let message = format!("'{}' has no relationship {type_name} to '{target}'", instance.id);
                            Fault::new(Class::Key, message, call.place.to_string())
                        })?;
                    dependencies.push(Dependency {
                        self_id: Some(instance.id.clone()),
                        ends: Some((instance.id.clone(), target)),
                        ..bare.clone()
                    });
                }
            }
        }
    }
    Ok(dependencies)
}
