//! What functions read at run time, out of a case.

use std::sync::Arc;

use conclave_blueprint::functions::{Storage, StoredInstance, StoredNode, not_found};
use conclave_blueprint::{Fault, Map, Text, Value};
use serde_json::Value as Json;

const CONTAINED_IN: &str = "cloudify.relationships.contained_in";

/// The `storage` of an evaluation.
pub(crate) struct Stored<'c>(pub(crate) &'c Json);

fn text(value: &Json) -> Text {
    value.as_str().unwrap_or_default().into()
}

fn map(value: &Json) -> Map {
    Value::from(value).as_map().cloned().unwrap_or_default()
}

fn list<'c>(value: &'c Json, key: &str) -> &'c [Json] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn pairs(value: &Json, key: &str, first: &str, second: &str) -> Vec<(Text, Text)> {
    list(value, key)
        .iter()
        .map(|item| (text(&item[first]), text(&item[second])))
        .collect()
}

fn stored_instance(instance: &Json) -> Arc<StoredInstance> {
    Arc::new(StoredInstance {
        id: text(&instance["id"]),
        node_id: text(&instance["node_id"]),
        index: instance["index"].as_i64(),
        runtime_properties: map(&instance["runtime_properties"]),
        relationships: pairs(instance, "relationships", "target_name", "target_id"),
        scaling_groups: pairs(instance, "scaling_groups", "name", "id"),
    })
}

impl Stored<'_> {
    fn entry(&self, section: &str, keys: &[&str]) -> Result<Value, Fault> {
        let found = keys.iter().try_fold(&self.0[section], |value, key| value.get(*key));
        found
            .map(Value::from)
            .ok_or_else(|| not_found(section, &keys.join(".")))
    }
}

impl Storage for Stored<'_> {
    fn input(&self, name: &str) -> Result<Option<Value>, Fault> {
        Ok(self.0["inputs"].get(name).map(Value::from))
    }

    fn node(&self, id: &str) -> Result<Arc<StoredNode>, Fault> {
        let node = list(self.0, "nodes")
            .iter()
            .find(|node| node["id"] == id)
            .ok_or_else(|| not_found("node", id))?;
        let container = list(node, "relationships").iter().find(|relationship| {
            list(relationship, "type_hierarchy")
                .iter()
                .any(|name| name == CONTAINED_IN)
        });
        Ok(Arc::new(StoredNode {
            id: id.into(),
            properties: map(&node["properties"]),
            container: container.map(|relationship| text(&relationship["target_id"])),
        }))
    }

    fn instances_of(&self, node: &str) -> Result<Vec<Arc<StoredInstance>>, Fault> {
        let all = list(self.0, "node_instances").iter();
        Ok(all
            .filter(|instance| instance["node_id"] == node)
            .map(stored_instance)
            .collect())
    }

    fn instance(&self, id: &str) -> Result<Arc<StoredInstance>, Fault> {
        let found = list(self.0, "node_instances")
            .iter()
            .find(|instance| instance["id"] == id);
        found.map(stored_instance).ok_or_else(|| not_found("node instance", id))
    }

    fn secret(&self, name: &str) -> Result<Option<Text>, Fault> {
        Ok(self.0["secrets"].get(name).map(text))
    }

    fn capability(&self, deployment: &str, name: &str) -> Result<Value, Fault> {
        self.entry("capabilities", &[deployment, name])
    }

    fn group_capability(&self, path: &[Value]) -> Result<Value, Fault> {
        let keys: Vec<&str> = path.iter().take(2).filter_map(Value::as_str).collect();
        self.entry("group_capabilities", &keys)
    }

    fn label(&self, key: &str) -> Result<Vec<Text>, Fault> {
        let values = self.0["labels"].get(key).and_then(Json::as_array);
        values
            .map(|values| values.iter().map(text).collect())
            .ok_or_else(|| not_found("label", key))
    }

    fn sys(&self, entity: &str, property: &str) -> Result<Value, Fault> {
        self.entry("sys", &[entity, property])
    }

    fn consumers(&self) -> Result<Vec<(Text, Text)>, Fault> {
        let consumers = self.0["consumers"].as_object().into_iter().flatten();
        Ok(consumers.map(|(id, name)| (id.as_str().into(), text(name))).collect())
    }
}
