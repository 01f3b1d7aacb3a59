//! What functions read at run time.

use std::sync::Arc;

use crate::{Class, Fault, Map, Text, Value};

/// A node as it is stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoredNode {
    /// The template's name.
    pub id: Text,
    /// Its properties; values may hold calls.
    pub properties: Map,
    /// The node that contains it: the target of a relationship derived from `cloudify.relationships.contained_in`.
    pub container: Option<Text>,
}

/// A node instance as it is stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoredInstance {
    /// Its id.
    pub id: Text,
    /// The node that it is one of.
    pub node_id: Text,
    /// Its number among those of its node.
    pub index: Option<i64>,
    /// What its operations stored; values may hold calls.
    pub runtime_properties: Map,
    /// Target node and target instance of each of its relationships.
    pub relationships: Vec<(Text, Text)>,
    /// Name and id of the scaling groups that it is in, from the innermost to its container.
    pub scaling_groups: Vec<(Text, Text)>,
}

/// What functions read at run time. The REST API and the workflow engine each bring their own.
///
/// Every method may fail with a fault of its own when the store does.
pub trait Storage {
    /// An input's value.
    ///
    /// # Errors
    /// When the store fails.
    fn input(&self, name: &str) -> Result<Option<Value>, Fault>;

    /// A node.
    ///
    /// # Errors
    /// When there is none ([`not_found`]).
    fn node(&self, id: &str) -> Result<Arc<StoredNode>, Fault>;

    /// The instances of a node, in order of their indexes; none for a node that does not exist.
    ///
    /// # Errors
    /// When the store fails.
    fn instances_of(&self, node: &str) -> Result<Vec<Arc<StoredInstance>>, Fault>;

    /// A node instance.
    ///
    /// # Errors
    /// When there is none ([`not_found`]).
    fn instance(&self, id: &str) -> Result<Arc<StoredInstance>, Fault>;

    /// A secret; nothing if there is none of that name.
    ///
    /// # Errors
    /// When the store fails.
    fn secret(&self, name: &str) -> Result<Option<Text>, Fault>;

    /// The evaluated value of another deployment's capability.
    ///
    /// # Errors
    /// When there is none.
    fn capability(&self, deployment: &str, name: &str) -> Result<Value, Fault> {
        Err(not_found(&format!("capability '{name}' of deployment"), deployment))
    }

    /// What `get_group_capability` gives for its arguments.
    ///
    /// # Errors
    /// When there is no such group or capability.
    fn group_capability(&self, path: &[Value]) -> Result<Value, Fault> {
        Err(not_found(
            "deployment group",
            &path.first().map(Value::to_string).unwrap_or_default(),
        ))
    }

    /// The values of a label of this deployment, in order.
    ///
    /// # Errors
    /// When it has no such label.
    fn label(&self, key: &str) -> Result<Vec<Text>, Fault> {
        Err(not_found("label", key))
    }

    /// The deployment that is this one's environment: the value of its label `csys-obj-parent`.
    ///
    /// # Errors
    /// When it has none.
    fn environment(&self) -> Result<Text, Fault> {
        let parent = self.label("csys-obj-parent")?.into_iter().next();
        parent.ok_or_else(|| not_found("label", "csys-obj-parent"))
    }

    /// A fact of the system, of those that `get_sys` knows.
    ///
    /// # Errors
    /// When there is none.
    fn sys(&self, entity: &str, property: &str) -> Result<Value, Fault> {
        Err(not_found("system property", &format!("{entity} {property}")))
    }

    /// Id and name of the deployments that use this one.
    ///
    /// # Errors
    /// When the store fails.
    fn consumers(&self) -> Result<Vec<(Text, Text)>, Fault> {
        Ok(Vec::new())
    }
}

/// The fault of something that is not stored.
pub fn not_found(what: &str, name: &str) -> Fault {
    Fault::new(Class::NotFound, format!("{what} '{name}' was not found"), "")
}
