//! What a modification is asked to do.

use indexmap::IndexMap;

use crate::{Class, Fault, Map, Text, Value};

/// What is wanted of a node or group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// How many instances there are to be in each container.
    pub instances: u64,
    /// Instances to be removed before others: of the node, or of a member of the group.
    pub remove: Vec<Text>,
    /// Instances to be kept as long as others can be removed.
    pub keep: Vec<Text>,
}

/// What is wanted, by node or group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes(pub IndexMap<Text, Change>);

impl Changes {
    /// Reads what clients send: by name `instances`, `removed_ids_include_hint`, `removed_ids_exclude_hint`.
    ///
    /// # Errors
    /// When a number is missing or negative, or a hint is no list of texts.
    pub fn from_values(modified: &Map) -> Result<Self, Fault> {
        let mut changes = IndexMap::with_capacity(modified.len());
        for (name, wanted) in modified.iter() {
            let wrong = |what: &str| {
                let message = format!("the modification of '{name}' {what}");
                Fault::new(Class::Value, message, name.to_string())
            };
            let ids = |key: &str| match wanted.get(key) {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(Value::List(ids)) => {
                    let ids: Option<Vec<Text>> = ids.iter().map(|id| id.as_str().map(Into::into)).collect();
                    ids.ok_or_else(|| wrong("has a hint that names no instance"))
                }
                Some(_) => Err(wrong("has a hint that is no list")),
            };
            let count = wanted.get("instances").and_then(Value::as_i64);
            let instances = count
                .and_then(|count| u64::try_from(count).ok())
                .ok_or_else(|| wrong("lacks a number of instances"))?;
            let change = Change {
                instances,
                remove: ids("removed_ids_include_hint")?,
                keep: ids("removed_ids_exclude_hint")?,
            };
            changes.insert(name.clone(), change);
        }
        Ok(Self(changes))
    }
}
