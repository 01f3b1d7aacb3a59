//! Executions as clients create, watch and cancel them. How they advance is in `journal.rs`.

use conclave_types::{ExecutionId, ExecutionStatus};
use serde_json::Value;

use crate::{Store, StoreError};

/// The channel on which managers are woken.
pub(crate) const CHANNEL: &str = "executions";

/// An execution to be created.
#[derive(Debug, Clone)]
pub struct NewExecution {
    /// Made by the caller, so that a repeated request is recognised.
    pub id: ExecutionId,
    /// Its tenant.
    pub tenant: String,
    /// The deployment's id.
    pub deployment: String,
    /// A workflow of the deployment.
    pub workflow: String,
    /// Merged with the workflow's defaults.
    pub parameters: Value,
    /// The user's row.
    pub creator: i32,
    /// Whether nothing is really done.
    pub is_dry_run: bool,
    /// Whether parameters that the workflow does not declare were allowed.
    pub allow_custom_parameters: bool,
    /// Whether another active execution of the deployment is no obstacle.
    pub force: bool,
    /// Seconds.
    pub wait_after_fail: i32,
    /// SHA-256 of its token, hex.
    pub token_hash: String,
}

/// An execution as the manager needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionRow {
    /// Its id.
    pub id: ExecutionId,
    /// Its tenant.
    pub tenant: String,
    /// Its status.
    pub status: ExecutionStatus,
}

pub(crate) fn status(text: &str) -> Result<ExecutionStatus, StoreError> {
    text.parse()
        .map_err(|error: conclave_types::UnknownExecutionStatus| StoreError::Internal(error.to_string()))
}

impl Store {
    /// Creates a pending execution and wakes the managers.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the deployment, [`StoreError::Conflict`] when another execution of it is active.
    pub async fn execution_create(&self, new: &NewExecution) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        // The lock on the deployment's row makes "no other is active" hold until the commit.
        let find = "SELECT row_id FROM deployments WHERE tenant_name = $1 AND id = $2 FOR UPDATE";
        let row = transaction
            .query_opt(find, &[&new.tenant, &new.deployment])
            .await
            .map_err(StoreError::reading)?;
        let deployment_row: i64 = row
            .map(|row| row.get(0))
            .ok_or_else(|| StoreError::NotFound(format!("Requested `Deployment` with ID `{}`", new.deployment)))?;
        let active = "SELECT id::text, workflow_id FROM executions WHERE deployment_row_id = $1
            AND status NOT IN ('terminated', 'failed', 'cancelled') LIMIT 1";
        let running = transaction
            .query_opt(active, &[&deployment_row])
            .await
            .map_err(StoreError::reading)?;
        if let Some(row) = running.filter(|_| !new.force) {
            let (id, workflow): (String, String) = (row.get(0), row.get(1));
            return Err(StoreError::Conflict(format!(
                "The following executions are currently running for this deployment: {id} ({workflow}). \
                 To execute this workflow anyway, pass \"force=true\" as a query parameter to this request"
            )));
        }
        let insert =
            "INSERT INTO executions (id, tenant_name, deployment_row_id, workflow_id, parameters, status, created_by,
                is_dry_run, allow_custom_parameters, wait_after_fail, token_hash)
            VALUES ($1, $2, $3, $4, $5, 'pending', $6, $7, $8, $9, $10)";
        transaction
            .execute(
                insert,
                &[
                    &new.id.0,
                    &new.tenant,
                    &deployment_row,
                    &new.workflow,
                    &new.parameters,
                    &new.creator,
                    &new.is_dry_run,
                    &new.allow_custom_parameters,
                    &new.wait_after_fail,
                    &new.token_hash,
                ],
            )
            .await
            .map_err(StoreError::writing)?;
        notify(&transaction, new.id).await?;
        transaction.commit().await.map_err(StoreError::writing)
    }

    /// An execution of a tenant.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn execution_get(&self, tenant: &str, id: ExecutionId) -> Result<ExecutionRow, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT status FROM executions WHERE tenant_name = $1 AND id = $2";
        let row = client
            .query_opt(sql, &[&tenant, &id.0])
            .await
            .map_err(StoreError::reading)?;
        let row = row.ok_or_else(|| StoreError::NotFound(format!("Requested `Execution` with ID `{id}`")))?;
        Ok(ExecutionRow {
            id,
            tenant: tenant.to_owned(),
            status: status(row.get(0))?,
        })
    }

    /// Changes the status if it is still one of `from`, and wakes the managers; `false` when it is not.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn execution_status_change(
        &self,
        id: ExecutionId,
        from: &[ExecutionStatus],
        to: ExecutionStatus,
    ) -> Result<bool, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        let from: Vec<&str> = from.iter().map(|status| status.as_str()).collect();
        let sql = "UPDATE executions SET status = $3, ended_at = CASE WHEN $4 THEN now() ELSE NULL END
            WHERE id = $1 AND status = ANY($2)";
        let changed = transaction
            .execute(sql, &[&id.0, &from, &to.as_str(), &to.is_end()])
            .await
            .map_err(StoreError::writing)?;
        notify(&transaction, id).await?;
        transaction.commit().await.map_err(StoreError::writing)?;
        Ok(changed > 0)
    }

    /// Makes an ended execution pending again, with a new token: failed and rescheduled operations that no retry has
    /// followed get back to pending, with `reset_started` those that were under way too.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn execution_resume(
        &self,
        id: ExecutionId,
        token_hash: &str,
        reset_started: bool,
    ) -> Result<bool, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        let sql =
            "UPDATE executions SET status = 'pending', ended_at = NULL, error = NULL, resume = true, token_hash = $2,
                owner = NULL, owner_epoch = owner_epoch + 1
            WHERE id = $1 AND status IN ('failed', 'cancelled')";
        let changed = transaction
            .execute(sql, &[&id.0, &token_hash])
            .await
            .map_err(StoreError::writing)?;
        let states: &[&str] = if reset_started {
            &["failed", "started", "sent", "sending"]
        } else {
            &["failed"]
        };
        let reset = "UPDATE operations o SET state = 'pending' FROM tasks_graphs g
            WHERE g.id = o.tasks_graph_id AND g.execution_id = $1 AND o.state = ANY($2)";
        transaction
            .execute(reset, &[&id.0, &states])
            .await
            .map_err(StoreError::writing)?;
        notify(&transaction, id).await?;
        transaction.commit().await.map_err(StoreError::writing)?;
        Ok(changed > 0)
    }
}

/// Wakes the managers when the transaction is committed.
pub(crate) async fn notify(transaction: &tokio_postgres::Transaction<'_>, id: ExecutionId) -> Result<(), StoreError> {
    transaction
        .execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &id.to_string()])
        .await
        .map_err(StoreError::writing)?;
    Ok(())
}
