//! Blueprints.

use conclave_types::ExecutionId;
use serde_json::Value;

use crate::events::insert_system_execution;
use crate::{Store, StoreError};

/// A blueprint whose files are in place and whose plan is known.
#[derive(Debug, Clone)]
pub struct NewBlueprint {
    /// Its tenant.
    pub tenant: String,
    /// Its id, unique in the tenant.
    pub id: String,
    /// private, tenant or global.
    pub visibility: String,
    /// The user's row.
    pub creator: i32,
    /// The YAML file that was parsed.
    pub main_file_name: String,
    /// From the blueprint.
    pub description: Option<String>,
    /// The parsed plan.
    pub plan: Value,
    /// As the API shows them.
    pub labels: Value,
    /// The execution that clients follow the upload by.
    pub upload_execution: ExecutionId,
}

impl Store {
    /// Whether the tenant has a blueprint of this id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn blueprint_exists(&self, tenant: &str, id: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql =
            "SELECT EXISTS (SELECT FROM blueprints WHERE id = $2 AND (tenant_name = $1 OR visibility = 'global'))";
        Ok(client
            .query_one(sql, &[&tenant, &id])
            .await
            .map_err(StoreError::reading)?
            .get(0))
    }

    /// Whether the tenant's blueprint of this id is shown to all tenants.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn blueprint_is_global(&self, tenant: &str, id: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT EXISTS (SELECT FROM blueprints WHERE tenant_name = $1 AND id = $2 AND visibility = 'global')";
        let found = client.query_one(sql, &[&tenant, &id]).await;
        Ok(found.map_err(StoreError::reading)?.get(0))
    }

    /// Stores a blueprint in state `uploaded`, with the ended execution of its upload: whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the id is taken.
    pub async fn blueprint_create(&self, new: &NewBlueprint) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        insert_system_execution(
            &transaction,
            new.upload_execution,
            &new.tenant,
            None,
            Some(&new.id),
            "upload_blueprint",
            new.creator,
        )
        .await?;
        let sql =
            "INSERT INTO blueprints (tenant_name, id, visibility, created_by, main_file_name, description, plan, state,
                labels, upload_execution_id) VALUES ($1, $2, $3, $4, $5, $6, $7, 'uploaded', $8, $9)";
        let exists = |error: tokio_postgres::Error| match StoreError::writing(error) {
            StoreError::Conflict(_) => StoreError::Conflict(format!(
                "blueprint with id={} already exists on tenant `{}`",
                new.id, new.tenant
            )),
            other => other,
        };
        transaction
            .execute(
                sql,
                &[
                    &new.tenant,
                    &new.id,
                    &new.visibility,
                    &new.creator,
                    &new.main_file_name,
                    &new.description,
                    &new.plan,
                    &new.labels,
                    &new.upload_execution.0,
                ],
            )
            .await
            .map_err(exists)?;
        transaction.commit().await.map_err(StoreError::writing)
    }

    /// The plan of a blueprint.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such blueprint.
    pub async fn blueprint_plan_get(&self, tenant: &str, id: &str) -> Result<Value, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT plan FROM blueprints WHERE id = $2 AND (tenant_name = $1 OR visibility = 'global')";
        let row = client
            .query_opt(sql, &[&tenant, &id])
            .await
            .map_err(StoreError::reading)?;
        let plan: Option<Value> = row.and_then(|row| row.get(0));
        plan.ok_or_else(|| StoreError::NotFound(format!("Requested `Blueprint` with ID `{id}`")))
    }

    /// Deletes a blueprint that no deployment uses.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::Conflict`] when deployments use it.
    pub async fn blueprint_delete(&self, tenant: &str, id: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        let deleted = client
            .execute(
                "DELETE FROM blueprints WHERE tenant_name = $1 AND id = $2",
                &[&tenant, &id],
            )
            .await
            .map_err(StoreError::writing)?;
        if deleted == 0 {
            return Err(StoreError::NotFound(format!("Requested `Blueprint` with ID `{id}`")));
        }
        Ok(())
    }
}
