//! Updates of a deployment: what two plans differ in, as steps (spec/rest-api.md, "Deployment update"; spec/workflows.md,
//! section 10).
//!
//! A step says add, remove or modify of the outermost thing that differs: a node that is added is one step, whatever it has. The
//! instances that come and go are [`crate::modification::modify`]'s business, with the nodes of both plans.

mod compare;
mod order;
mod step;

use crate::plan::Node;
use crate::{Map, Plan, Value};

pub use step::{Action, EntityType, Part, Step};

/// What is deployed now, as far as updates look at it.
#[derive(Debug, Clone, Copy)]
pub struct Deployed<'d> {
    /// The nodes as they are stored.
    pub nodes: &'d [Node],
    /// The blueprint's description, or null.
    pub description: &'d Value,
    /// By name.
    pub outputs: &'d Map,
    /// By name.
    pub workflows: &'d Map,
    /// By name.
    pub groups: &'d Map,
}

impl<'d> From<&'d Plan> for Deployed<'d> {
    fn from(plan: &'d Plan) -> Self {
        Self {
            nodes: &plan.nodes,
            description: &plan.description,
            outputs: &plan.outputs,
            workflows: &plan.workflows,
            groups: &plan.groups,
        }
    }
}

/// What an update does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// What can be carried out, in the order in which it is to be.
    pub steps: Vec<Step>,
    /// What no update can do: a node of another type or in another container, other relationship properties, other groups.
    pub unsupported: Vec<Step>,
}

impl Update {
    /// Compares what is deployed with a new plan whose functions are evaluated.
    pub fn between(deployed: &Deployed<'_>, plan: &Plan) -> Self {
        let (mut steps, unsupported): (Vec<_>, Vec<_>) =
            compare::steps(deployed, plan).into_iter().partition(Step::is_supported);
        order::sort(&mut steps, &plan.nodes);
        Self { steps, unsupported }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn node(name: &str, fields: Json) -> Json {
        let mut node = json!({
            "name": name, "id": name, "type": "t", "type_hierarchy": ["t"], "properties": {}, "operations": {},
            "relationships": [], "capabilities": {"scalable": {"properties": {}}}, "plugins": [],
            "deployment_plugins_to_install": [],
        });
        for (key, value) in fields.as_object().into_iter().flatten() {
            node[key] = value.clone();
        }
        node
    }

    fn relationship(type_name: &str, target: &str) -> Json {
        json!({
            "type": type_name, "target_id": target, "type_hierarchy": [type_name], "properties": {},
            "source_operations": {}, "target_operations": {},
        })
    }

    fn steps(old: Json, new: Json) -> (Vec<String>, Vec<String>) {
        let plan = |json: &Json| Plan::from_json(json).unwrap();
        let (old, new) = (plan(&old), plan(&new));
        let update = Update::between(&(&old).into(), &new);
        let shown = |steps: Vec<Step>| steps.iter().map(ToString::to_string).collect();
        (shown(update.steps), shown(update.unsupported))
    }

    #[test]
    fn equal_plans_need_no_steps() {
        let plan = json!({"nodes": [node("a", json!({"properties": {"p": 1}}))], "outputs": {"o": {"value": 1}}});
        assert_eq!(steps(plan.clone(), plan), (vec![], vec![]));
    }

    #[test]
    fn targets_are_added_before_sources_and_removals_come_first() {
        let old = json!({"nodes": [node("old", json!({}))]});
        let new = json!({"nodes": [
            node("a", json!({"relationships": [relationship("connected", "b")]})),
            node("b", json!({"relationships": [relationship("connected", "c")]})),
            node("c", json!({})),
        ], "description": "new"});
        let (steps, _) = steps(old, new);
        assert_eq!(
            steps,
            [
                "remove nodes:old",
                "add nodes:c",
                "add nodes:b",
                "add nodes:a",
                "modify description"
            ]
        );
    }

    #[test]
    fn parts_of_nodes_are_compared() {
        let old = json!({"nodes": [node("a", json!({
            "properties": {"same": 1, "gone": 1, "other": 1},
            "relationships": [relationship("r", "x"), relationship("r", "y"), relationship("s", "x")],
        })), node("x", json!({})), node("y", json!({}))]});
        let mut changed = relationship("r", "y");
        changed["properties"] = json!({"p": 1});
        let new = json!({"nodes": [node("a", json!({
            "properties": {"same": 1, "new": 1, "other": 1.0},
            "relationships": [changed, relationship("r", "x"), relationship("t", "y")],
            "plugins": [{"name": "p", "executor": "host_agent"}],
        })), node("x", json!({})), node("y", json!({}))]});
        let (steps, unsupported) = steps(old, new);
        assert_eq!(
            steps,
            [
                "remove nodes:a:relationships:[2]",
                "remove nodes:a:properties:gone",
                "add nodes:a:relationships:[2]",
                "add plugins:a:p",
                "add nodes:a:properties:new",
                "modify nodes:a:relationships:[1]:[0]",
                "modify nodes:a:relationships:[0]:[1]",
                "modify nodes:a:properties:other",
            ]
        );
        assert_eq!(unsupported, ["add nodes:a:relationships:[0]:properties:p"]);
    }

    #[test]
    fn another_type_or_container_is_not_supported() {
        let contained =
            |target: &str| json!({"relationships": [relationship("cloudify.relationships.contained_in", target)]});
        let old = json!({"nodes": [node("a", contained("x")), node("x", json!({})), node("y", json!({}))]});
        let new = json!({"nodes": [node("a", contained("y")), node("x", json!({"type": "u"})), node("y", json!({}))]});
        assert_eq!(
            steps(old, new),
            (vec![], vec!["modify nodes:a".to_owned(), "modify nodes:x".to_owned()])
        );
    }

    #[test]
    fn members_of_groups_have_no_order() {
        let old = json!({"groups": {"g": {"members": ["a", "b"]}, "h": {"members": ["a"]}}});
        let new = json!({"groups": {"g": {"members": ["b", "a"]}, "h": {"members": ["b"]}}});
        assert_eq!(steps(old, new), (vec![], vec!["modify groups:h".to_owned()]));
    }
}
