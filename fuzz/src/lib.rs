//! What the fuzz targets share: blueprints in memory, ids that count, a store out of JSON.

use std::collections::HashMap;
use std::sync::Arc;

use conclave_blueprint::functions::{Storage, StoredInstance, StoredNode, not_found};
use conclave_blueprint::topology::IdSource;
use conclave_blueprint::{Fault, Import, Map, Resolver, Text, Value};
use serde_json::Value as Json;

/// What stands between the files of an input.
const SEPARATOR: &str = "\n#---\n";

/// A small set of built-in types, so that inputs need not spell them out.
const TYPES: &str = "\
plugins: {script: {executor: host_agent, install: false}}
node_types:
  cloudify.nodes.Root: {}
  cloudify.nodes.Compute: {derived_from: cloudify.nodes.Root}
relationships:
  cloudify.relationships.depends_on: {properties: {connection_type: {default: all_to_all}}}
  cloudify.relationships.connected_to: {derived_from: cloudify.relationships.depends_on}
  cloudify.relationships.contained_in: {derived_from: cloudify.relationships.depends_on}
";

/// The files of an input: the main one, then `1.yaml`, `2.yaml` and so on.
pub struct Files {
    texts: HashMap<String, String>,
}

impl Files {
    pub fn new(input: &str) -> Self {
        let mut texts = HashMap::from([("types.yaml".to_owned(), TYPES.to_owned())]);
        for (index, text) in input.split(SEPARATOR).enumerate() {
            let name = if index == 0 {
                "blueprint.yaml".to_owned()
            } else {
                format!("{index}.yaml")
            };
            texts.insert(name, text.to_owned());
        }
        Self { texts }
    }

    /// The text of a file, if there is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }
}

impl Resolver for Files {
    fn locate(&self, import: Import<'_>) -> Option<String> {
        match import {
            Import::Url(path) | Import::Working(path) | Import::Beside { path, .. } | Import::Resource(path) => {
                self.texts.contains_key(path).then(|| path.to_owned())
            }
        }
    }

    fn read(&self, location: &str) -> Result<String, String> {
        self.texts
            .get(location)
            .cloned()
            .ok_or_else(|| "there is no such file".to_owned())
    }

    fn has_script(&self, _: &str, path: &str) -> bool {
        path.ends_with(".sh")
    }

    fn blueprint(&self, id: &str) -> Option<String> {
        let name = format!("{id}.yaml");
        self.texts.contains_key(&name).then_some(name)
    }
}

/// Ids that count.
#[derive(Default)]
pub struct Counting(u64);

impl IdSource for Counting {
    fn suffix(&mut self) -> String {
        self.0 += 1;
        format!("{:06}", self.0)
    }
}

/// A store out of JSON: `inputs`, `nodes`, `instances`, `secrets`, `capabilities`.
pub struct Store(pub Json);

fn map(value: &Json) -> Map {
    Value::from(value).as_map().cloned().unwrap_or_default()
}

fn text(value: &Json) -> Text {
    value.as_str().unwrap_or_default().into()
}

fn pairs(value: &Json) -> Vec<(Text, Text)> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str().into(), text(value)))
        .collect()
}

impl Storage for Store {
    fn input(&self, name: &str) -> Result<Option<Value>, Fault> {
        Ok(self.0["inputs"].get(name).map(Value::from))
    }

    fn node(&self, id: &str) -> Result<Arc<StoredNode>, Fault> {
        let node = self.0["nodes"].get(id).ok_or_else(|| not_found("node", id))?;
        let container = node["container"].as_str().map(Text::from);
        Ok(Arc::new(StoredNode {
            id: id.into(),
            properties: map(&node["properties"]),
            container,
        }))
    }

    fn instances_of(&self, node: &str) -> Result<Vec<Arc<StoredInstance>>, Fault> {
        let instances = self.0["instances"].as_object().into_iter().flatten();
        instances
            .filter(|(_, instance)| instance["node_id"] == node)
            .map(|(id, _)| self.instance(id))
            .collect()
    }

    fn instance(&self, id: &str) -> Result<Arc<StoredInstance>, Fault> {
        let instance = self.0["instances"]
            .get(id)
            .ok_or_else(|| not_found("node instance", id))?;
        Ok(Arc::new(StoredInstance {
            id: id.into(),
            node_id: text(&instance["node_id"]),
            index: instance["index"].as_i64(),
            runtime_properties: map(&instance["runtime_properties"]),
            relationships: pairs(&instance["relationships"]),
            scaling_groups: pairs(&instance["scaling_groups"]),
        }))
    }

    fn secret(&self, name: &str) -> Result<Option<Text>, Fault> {
        Ok(self.0["secrets"].get(name).map(text))
    }

    fn capability(&self, deployment: &str, name: &str) -> Result<Value, Fault> {
        let found = self.0["capabilities"]
            .get(deployment)
            .and_then(|capabilities| capabilities.get(name));
        found.map(Value::from).ok_or_else(|| not_found("capability", name))
    }
}
