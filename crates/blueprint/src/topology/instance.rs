//! Node instances.

use serde::Deserialize;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::Text;

/// Gives the random parts of ids.
pub trait IdSource {
    /// Six characters of a–z and 0–9, different from call to call but for chance.
    fn suffix(&mut self) -> String;
}

/// An instance of a node template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Instance {
    /// `<template>_<suffix>`; opaque, templates have underscores in their names too.
    pub id: Text,
    /// The name of the template.
    pub node_id: Text,
    /// The instance that it runs on: the first one met from the outermost container inwards that is a host.
    #[serde(default)]
    pub host_id: Option<Text>,
    /// In the order of the template's relationships.
    #[serde(default)]
    pub relationships: Vec<InstanceRelationship>,
    /// The groups between the instance and its container, from the innermost outwards; none is told apart from no group.
    #[serde(default)]
    pub scaling_groups: Vec<GroupInstance>,
}

/// A relationship of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, Deserialize)]
pub struct InstanceRelationship {
    /// The relationship type.
    #[serde(rename = "type")]
    pub type_name: Text,
    /// The target's template.
    pub target_name: Text,
    /// The target.
    pub target_id: Text,
}

/// An instance of a scaling group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, Deserialize)]
pub struct GroupInstance {
    /// The group.
    pub name: Text,
    /// The id of this instance of it.
    pub id: Text,
}

impl Instance {
    fn entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("name", &self.node_id)?;
        map.serialize_entry("node_id", &self.node_id)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("relationships", &self.relationships)?;
        if let Some(host) = &self.host_id {
            map.serialize_entry("host_id", host)?;
        }
        if !self.scaling_groups.is_empty() {
            map.serialize_entry("scaling_groups", &self.scaling_groups)?;
        }
        Ok(())
    }

    /// Serialises it with one more entry.
    pub(crate) fn serialize_with<S: Serializer>(
        &self,
        serializer: S,
        extra: Option<(&str, &str)>,
    ) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.entries(&mut map)?;
        if let Some((key, value)) = extra {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// As the plan of a deployment has it: `name`, `node_id`, `id`, `relationships`, and `host_id` and `scaling_groups` where there
/// are any.
impl Serialize for Instance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize_with(serializer, None)
    }
}
