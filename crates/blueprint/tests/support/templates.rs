//! Plans made in code.

use conclave_blueprint::Plan;
use serde_json::{Value, json};

/// A node template in the making.
#[derive(Debug, Clone)]
pub struct Template {
    pub name: String,
    pub count: i64,
    pub is_host: bool,
    pub container: Option<String>,
    pub connected: Vec<String>,
}

impl Template {
    pub fn new(name: &str, count: i64) -> Self {
        Self {
            name: name.to_owned(),
            count,
            is_host: false,
            container: None,
            connected: Vec::new(),
        }
    }

    fn to_json(&self) -> Value {
        let relationship = |family: &str, target: &str| {
            json!({
                "type": format!("cloudify.relationships.{family}"), "target_id": target,
                "type_hierarchy": ["cloudify.relationships.depends_on", format!("cloudify.relationships.{family}")],
                "properties": {"connection_type": "all_to_all"}, "source_operations": {}, "target_operations": {},
            })
        };
        let contained = self.container.iter().map(|target| relationship("contained_in", target));
        let connected = self.connected.iter().map(|target| relationship("connected_to", target));
        let relationships: Vec<Value> = contained.chain(connected).collect();
        let mut node = json!({
            "name": self.name, "id": self.name, "type": "t", "type_hierarchy": ["t"], "properties": {},
            "operations": {}, "relationships": relationships, "plugins": [], "deployment_plugins_to_install": [],
            "capabilities": {"scalable": {"properties": {"current_instances": self.count}}},
        });
        if self.is_host {
            node["host_id"] = self.name.as_str().into();
        }
        node
    }
}

/// A plan of these templates and scaling groups: name, members, number of instances.
pub fn plan(templates: &[Template], groups: &[(&str, Vec<&str>, i64)]) -> Plan {
    let nodes: Vec<Value> = templates.iter().map(Template::to_json).collect();
    let groups: serde_json::Map<String, Value> = groups
        .iter()
        .map(|(name, members, count)| {
            (
                (*name).to_owned(),
                json!({"members": members, "properties": {"current_instances": count}}),
            )
        })
        .collect();
    Plan::from_json(&json!({"nodes": nodes, "scaling_groups": groups})).expect("it is a plan")
}
