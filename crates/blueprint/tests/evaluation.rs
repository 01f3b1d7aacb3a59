//! Evaluation of functions, when a deployment plan is made and at run time.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

#[path = "support/ids.rs"]
mod ids;

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_blueprint::deployment::{DeploymentRequest, NoSurroundings, deployment_plan};
use conclave_blueprint::functions::{
    EvaluationContext, Storage, StoredInstance, StoredNode, evaluate, evaluate_outputs, not_found,
};
use conclave_blueprint::{Class, Fault, Map, Plan, Text, Value};
use ids::Counting;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

#[derive(Default)]
struct Store {
    inputs: BTreeMap<&'static str, Value>,
    nodes: BTreeMap<&'static str, Arc<StoredNode>>,
    instances: Vec<Arc<StoredInstance>>,
    secrets: BTreeMap<&'static str, &'static str>,
}

fn map(json: Json) -> Map {
    Value::from(json).as_map().cloned().unwrap()
}

impl Store {
    fn node(mut self, name: &'static str, properties: Json) -> Self {
        let node = StoredNode {
            id: name.into(),
            properties: map(properties),
            container: None,
        };
        self.nodes.insert(name, Arc::new(node));
        self
    }

    fn instance(
        mut self,
        id: &str,
        node: &str,
        runtime: Json,
        groups: &[(&str, &str)],
        related: &[(&str, &str)],
    ) -> Self {
        let texts = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(left, right)| ((*left).into(), (*right).into()))
                .collect()
        };
        self.instances.push(Arc::new(StoredInstance {
            id: id.into(),
            node_id: node.into(),
            index: Some(1),
            runtime_properties: map(runtime),
            relationships: texts(related),
            scaling_groups: texts(groups),
        }));
        self
    }
}

impl Storage for Store {
    fn input(&self, name: &str) -> Result<Option<Value>, Fault> {
        Ok(self.inputs.get(name).cloned())
    }

    fn node(&self, id: &str) -> Result<Arc<StoredNode>, Fault> {
        self.nodes.get(id).cloned().ok_or_else(|| not_found("node", id))
    }

    fn instances_of(&self, node: &str) -> Result<Vec<Arc<StoredInstance>>, Fault> {
        Ok(self
            .instances
            .iter()
            .filter(|instance| &*instance.node_id == node)
            .cloned()
            .collect())
    }

    fn instance(&self, id: &str) -> Result<Arc<StoredInstance>, Fault> {
        let found = self.instances.iter().find(|instance| &*instance.id == id);
        found.cloned().ok_or_else(|| not_found("node instance", id))
    }

    fn secret(&self, name: &str) -> Result<Option<Text>, Fault> {
        Ok(self.secrets.get(name).map(|secret| (*secret).into()))
    }
}

fn as_self(id: &str) -> EvaluationContext {
    EvaluationContext {
        self_id: Some(id.into()),
        ..EvaluationContext::default()
    }
}

fn store() -> Store {
    Store::default()
        .node(
            "host",
            json!({"ip": "default", "loop": {"get_attribute": ["host", "loop"]}}),
        )
        .node("app", json!({"port": {"get_input": "port"}}))
        .instance("host_1", "host", json!({"ip": "10.0.0.1"}), &[("g", "g_1")], &[])
        .instance("host_2", "host", json!({"ip": "10.0.0.2"}), &[("g", "g_2")], &[])
        .instance("app_1", "app", json!({}), &[("g", "g_2")], &[])
        .instance("app_2", "app", json!({}), &[], &[("host", "host_1")])
}

fn value(json: Json, context: &EvaluationContext, store: &Store) -> Result<Json, Class> {
    evaluate(&Value::from(json), context, store)
        .map(|value| value.to_json())
        .map_err(|fault| fault.class)
}

#[test]
fn the_instance_is_found_by_group_or_relationship() {
    let store = store();
    let ip = json!({"get_attribute": ["host", "ip"]});
    assert_eq!(value(ip.clone(), &as_self("app_1"), &store), Ok(json!("10.0.0.2")));
    assert_eq!(value(ip.clone(), &as_self("app_2"), &store), Ok(json!("10.0.0.1")));
    assert_eq!(
        value(ip, &EvaluationContext::default(), &store),
        Err(Class::FunctionEvaluation)
    );
    let all = json!({"get_attributes_list": ["host", "ip"]});
    assert_eq!(
        value(all, &EvaluationContext::default(), &store),
        Ok(json!(["10.0.0.1", "10.0.0.2"]))
    );
    let all = json!({"get_attributes_dict": ["host", "ip", ["none", "k"]]});
    let expected = json!({"host_1": {"ip": "10.0.0.1", "none.k": null}, "host_2": {"ip": "10.0.0.2", "none.k": null}});
    assert_eq!(value(all, &EvaluationContext::default(), &store), Ok(expected));
}

#[test]
fn an_output_shows_why_its_instance_cannot_be_told() {
    let mut store = store();
    store.secrets.insert("known", "x");
    let outputs = map(json!({
        "a": {"value": {"get_attribute": ["host", "ip"]}},
        "b": {"value": {"get_secret": "unknown"}},
        "c": {"value": {"get_secret": "known"}},
    }));
    let evaluated = Value::from(evaluate_outputs(&outputs, &store).unwrap());
    let expected = "<ERROR: Unable to evaluate get_attribute function: More than one node instance found for node \"host\". \
                    Cannot resolve a node instance unambiguously.>";
    assert_eq!(evaluated.to_json(), json!({"a": expected, "c": "x"}));
}

#[test]
fn circles_end() {
    let circle = json!({"get_attribute": ["SELF", "loop"]});
    assert_eq!(
        value(circle, &as_self("host_1"), &store()),
        Err(Class::EvaluationRecursionLimit)
    );
}

fn plan(nodes: Json, inputs: Json) -> Plan {
    let full: Vec<Json> = nodes
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, properties)| {
            json!({
                "name": name, "id": name, "type": "t", "type_hierarchy": ["t"], "properties": properties,
                "operations": {}, "relationships": [], "plugins": [], "deployment_plugins_to_install": [],
                "capabilities": {"scalable": {"properties": {"current_instances": 1}}},
            })
        })
        .collect();
    Plan::from_json(&json!({"nodes": full, "inputs": inputs})).unwrap()
}

fn properties(nodes: Json, inputs: Json) -> Result<BTreeMap<String, Json>, Class> {
    let request = DeploymentRequest::default();
    let deployed = deployment_plan(
        &plan(nodes, inputs),
        &request,
        &NoSurroundings,
        &mut Counting::default(),
    );
    let nodes = deployed.map_err(|fault| fault.class)?.plan.nodes;
    Ok(nodes
        .into_iter()
        .map(|node| (node.name.to_string(), Value::from(node.properties).to_json()))
        .collect())
}

#[test]
fn properties_of_other_nodes_are_seen_with_their_own_eyes() {
    let nodes = json!({
        "a": {"p": {"get_property": ["b", "p"]}, "own": 1},
        "b": {"p": {"concat": [{"get_property": ["SELF", "own"]}, "-", {"get_input": ["i", "k", 0]}]}, "own": 2},
    });
    let evaluated = properties(nodes, json!({"i": {"default": {"k": [true]}}})).unwrap();
    assert_eq!(evaluated["a"], json!({"p": "2-True", "own": 1}));
}

#[test]
fn circles_of_properties_are_refused_and_one_that_names_itself_stays() {
    let circle = json!({"a": {"p": {"get_property": ["b", "p"]}}, "b": {"p": {"get_property": ["a", "p"]}}});
    assert_eq!(properties(circle, json!({})), Err(Class::EvaluationRecursionLimit));
    let own = json!({"a": {"p": {"get_property": ["SELF", "p"]}}});
    assert_eq!(properties(own.clone(), json!({})).unwrap()["a"], own["a"]);
}

#[test]
fn inputs_that_double_at_every_step_are_refused_soon() {
    let mut inputs = serde_json::Map::new();
    inputs.insert("i0".into(), json!({"default": "0123456789"}));
    for index in 1..60 {
        let inner = json!({"get_input": format!("i{}", index - 1)});
        inputs.insert(format!("i{index}"), json!({"default": {"concat": [inner, inner]}}));
    }
    let nodes = json!({"a": {"p": {"get_input": "i59"}}});
    let class = properties(nodes, inputs.into()).unwrap_err();
    assert!(
        matches!(class, Class::Limit | Class::EvaluationRecursionLimit),
        "{class:?}"
    );
    let mut inputs = serde_json::Map::new();
    inputs.insert("i0".into(), json!({"default": "x"}));
    for index in 1..22 {
        let inner = json!({"get_input": format!("i{}", index - 1)});
        inputs.insert(format!("i{index}"), json!({"default": [inner, inner, inner, inner]}));
    }
    let nodes = json!({"a": {"p": {"get_input": "i21"}}});
    let class = properties(nodes, inputs.into()).unwrap_err();
    assert!(
        matches!(class, Class::Limit | Class::EvaluationRecursionLimit),
        "{class:?}"
    );
}

#[test]
fn what_holds_no_call_is_shared_not_copied() {
    let before = plan(
        json!({"a": {"p": {"deep": [1, {"k": "v"}]}, "q": {"get_input": "i"}}}),
        json!({"i": {"default": 1}}),
    );
    let request = DeploymentRequest::default();
    let after = deployment_plan(&before, &request, &NoSurroundings, &mut Counting::default())
        .unwrap()
        .plan;
    let part = |plan: &Plan| {
        plan.nodes[0]
            .properties
            .get("p")
            .and_then(Value::as_map)
            .cloned()
            .unwrap()
    };
    assert!(part(&before).is_same(&part(&after)));
    assert_eq!(after.nodes[0].properties.get("q"), Some(&Value::Int(1)));
}

/// Any value, with many calls, good ones and bad ones.
fn any_value() -> impl Strategy<Value = Json> {
    let names = prop::sample::select(vec!["a", "b", "p", "q", "i", "SELF", "TARGET", "x"]);
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (-3..3_i64).prop_map(Json::from),
        names.prop_map(Json::from),
    ];
    leaf.prop_recursive(6, 48, 4, |inner| {
        let functions = prop::sample::select(
            conclave_blueprint::functions::FunctionName::ALL
                .map(|name| name.as_str())
                .to_vec(),
        );
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            (functions, inner.clone()).prop_map(|(name, argument)| json!({name: argument})),
            (prop::sample::select(vec!["p", "q", "type"]), inner).prop_map(|(key, value)| json!({key: value})),
        ]
    })
}

proptest! {
    #[test]
    fn no_value_makes_evaluation_panic(p in any_value(), q in any_value(), i in any_value()) {
        let nodes = json!({"a": {"p": p, "q": q}, "b": {"p": q, "q": p}});
        let inputs = json!({"i": {"default": i.clone()}, "p": {"default": p.clone()}, "q": {"default": 1}});
        let plan = plan(nodes.clone(), inputs);
        let _ = conclave_blueprint::functions::check_plan(&plan);
        let _ = conclave_blueprint::functions::requirements(&plan);
        for runtime_only in [false, true] {
            let request = DeploymentRequest { runtime_only, ..DeploymentRequest::default() };
            let _ = deployment_plan(&plan, &request, &NoSurroundings, &mut Counting::default());
        }
        let mut store = Store::default()
            .instance("a_1", "a", json!({"p": q}), &[], &[("b", "b_1")])
            .instance("b_1", "b", json!({"q": i}), &[], &[]);
        for (name, properties) in [("a", &nodes["a"]), ("b", &nodes["b"])] {
            store = store.node(name, properties.clone());
        }
        let _ = evaluate(&Value::from(&p), &as_self("a_1"), &store);
    }
}
