//! Node instances.

use serde_json::Value;

use crate::{Store, StoreError};

/// What changes of a node instance; absent parts stay.
#[derive(Debug, Clone, Default)]
pub struct InstancePatch {
    /// The version that the change was made from.
    pub version: i32,
    /// Its new state.
    pub state: Option<String>,
    /// Replaces the whole object.
    pub runtime_properties: Option<Value>,
    /// Replaces the whole object.
    pub system_properties: Option<Value>,
    /// Whether a newer stored version is overwritten.
    pub force: bool,
}

impl Store {
    /// Changes an instance and returns its new version. A stored version *greater* than the one given is a conflict
    /// (spec/rest-api.md, trap 9).
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn node_instance_update(&self, tenant: &str, id: &str, patch: &InstancePatch) -> Result<i32, StoreError> {
        let client = self.client().await?;
        let sql = "UPDATE node_instances SET version = greatest(version, $3) + 1, state = coalesce($4, state),
                runtime_properties = coalesce($5, runtime_properties), system_properties = coalesce($6, system_properties)
            WHERE tenant_name = $1 AND id = $2 AND (version <= $3 OR $7) RETURNING version";
        let row = client
            .query_opt(
                sql,
                &[
                    &tenant,
                    &id,
                    &patch.version,
                    &patch.state,
                    &patch.runtime_properties,
                    &patch.system_properties,
                    &patch.force,
                ],
            )
            .await
            .map_err(StoreError::writing)?;
        if let Some(row) = row {
            return Ok(row.get(0));
        }
        let find = "SELECT version FROM node_instances WHERE tenant_name = $1 AND id = $2";
        match client
            .query_opt(find, &[&tenant, &id])
            .await
            .map_err(StoreError::reading)?
        {
            None => Err(StoreError::NotFound(format!("Requested `NodeInstance` with ID `{id}`"))),
            Some(row) => {
                let stored: i32 = row.get(0);
                Err(StoreError::Conflict(format!(
                    "Node instance update conflict [current version={stored}, update version={}]",
                    patch.version
                )))
            }
        }
    }
}
