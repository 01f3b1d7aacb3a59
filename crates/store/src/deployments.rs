//! Deployments with their nodes and node instances.

use conclave_types::ExecutionId;
use serde_json::Value;

use crate::events::insert_system_execution;
use crate::{Store, StoreError};

/// A deployment to be created, whole.
#[derive(Debug, Clone)]
pub struct NewDeployment {
    /// Its tenant.
    pub tenant: String,
    /// Its id, unique in the tenant.
    pub id: String,
    /// What people call it.
    pub display_name: String,
    /// The blueprint's id.
    pub blueprint: String,
    /// private, tenant or global.
    pub visibility: String,
    /// The user's row.
    pub creator: i32,
    /// From the blueprint.
    pub description: Option<String>,
    /// Evaluated parts of the deployment plan, by the names of the API's fields.
    pub inputs: Value,
    /// See [`Self::inputs`].
    pub outputs: Value,
    /// See [`Self::inputs`].
    pub capabilities: Value,
    /// See [`Self::inputs`].
    pub workflows: Value,
    /// See [`Self::inputs`].
    pub groups: Value,
    /// See [`Self::inputs`].
    pub scaling_groups: Value,
    /// As the API shows them.
    pub labels: Value,
    /// Whether functions are evaluated when they are asked for only.
    pub runtime_only_evaluation: bool,
    /// The execution that clients follow the creation by.
    pub create_execution: ExecutionId,
    /// In the order of the plan.
    pub nodes: Vec<NewNode>,
    /// All of them.
    pub instances: Vec<NewInstance>,
}

/// A node of a new deployment.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// The node template's name.
    pub id: String,
    /// Its type.
    pub type_name: String,
    /// Root first.
    pub type_hierarchy: Value,
    /// The node that hosts it.
    pub host_id: Option<String>,
    /// Evaluated.
    pub properties: Value,
    /// By name.
    pub operations: Value,
    /// In the order of the text.
    pub relationships: Value,
    /// That it uses.
    pub plugins: Value,
    /// On its host.
    pub plugins_to_install: Value,
    /// current, planned, deploy, min, max.
    pub numbers: [i32; 5],
}

/// A node instance of a new deployment.
#[derive(Debug, Clone)]
pub struct NewInstance {
    /// Unique in the tenant.
    pub id: String,
    /// Its node.
    pub node_id: String,
    /// From 1 within its node.
    pub index: i32,
    /// The instance that hosts it.
    pub host_id: Option<String>,
    /// To other instances.
    pub relationships: Value,
    /// From the innermost outwards.
    pub scaling_groups: Value,
}

impl Store {
    /// Stores a deployment with nodes, instances and the ended execution of its creation: whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the blueprint, [`StoreError::Conflict`] when the id is taken.
    pub async fn deployment_create(&self, new: &NewDeployment) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        let find =
            "SELECT row_id FROM blueprints WHERE id = $2 AND (tenant_name = $1 OR visibility = 'global') FOR SHARE";
        let blueprint = transaction
            .query_opt(find, &[&new.tenant, &new.blueprint])
            .await
            .map_err(StoreError::reading)?;
        let blueprint_row: i64 = blueprint
            .map(|row| row.get(0))
            .ok_or_else(|| StoreError::NotFound(format!("Requested `Blueprint` with ID `{}`", new.blueprint)))?;
        let insert = "INSERT INTO deployments (tenant_name, id, display_name, blueprint_row_id, visibility, created_by,
                description, inputs, outputs, capabilities, workflows, groups, scaling_groups, labels,
                runtime_only_evaluation, create_execution_id)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) RETURNING row_id";
        let exists = |error: tokio_postgres::Error| match StoreError::writing(error) {
            StoreError::Conflict(_) => StoreError::Conflict(format!(
                "deployment with id={} already exists on tenant `{}`",
                new.id, new.tenant
            )),
            other => other,
        };
        let row = transaction
            .query_one(
                insert,
                &[
                    &new.tenant,
                    &new.id,
                    &new.display_name,
                    &blueprint_row,
                    &new.visibility,
                    &new.creator,
                    &new.description,
                    &new.inputs,
                    &new.outputs,
                    &new.capabilities,
                    &new.workflows,
                    &new.groups,
                    &new.scaling_groups,
                    &new.labels,
                    &new.runtime_only_evaluation,
                    &new.create_execution.0,
                ],
            )
            .await
            .map_err(exists)?;
        let deployment_row: i64 = row.get(0);
        insert_nodes(&transaction, deployment_row, &new.nodes).await?;
        insert_instances(&transaction, &new.tenant, deployment_row, &new.instances).await?;
        let workflow = "create_deployment_environment";
        insert_system_execution(
            &transaction,
            new.create_execution,
            &new.tenant,
            Some(deployment_row),
            Some(&new.blueprint),
            workflow,
            new.creator,
        )
        .await?;
        transaction.commit().await.map_err(StoreError::writing)
    }

    /// Deletes a deployment, unless instances are alive or an execution runs; `force` skips the look at the instances.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::Conflict`] with what is in the way.
    pub async fn deployment_delete(&self, tenant: &str, id: &str, force: bool) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        let find = "SELECT row_id FROM deployments WHERE tenant_name = $1 AND id = $2 FOR UPDATE";
        let row = transaction
            .query_opt(find, &[&tenant, &id])
            .await
            .map_err(StoreError::reading)?;
        let row_id: i64 = row
            .map(|row| row.get(0))
            .ok_or_else(|| StoreError::NotFound(format!("Requested `Deployment` with ID `{id}`")))?;
        let running = "SELECT id::text FROM executions WHERE deployment_row_id = $1
            AND status NOT IN ('terminated', 'failed', 'cancelled') LIMIT 1";
        if let Some(row) = transaction
            .query_opt(running, &[&row_id])
            .await
            .map_err(StoreError::reading)?
        {
            let execution: String = row.get(0);
            return Err(StoreError::Conflict(format!(
                "execution {execution} of deployment {id} is active"
            )));
        }
        let live = "SELECT string_agg(id, ', ') FROM node_instances
            WHERE deployment_row_id = $1 AND state NOT IN ('uninitialized', 'deleted')";
        let alive: Option<String> = transaction
            .query_one(live, &[&row_id])
            .await
            .map_err(StoreError::reading)?
            .get(0);
        if let Some(alive) = alive.filter(|_| !force) {
            return Err(StoreError::Conflict(format!(
                "deployment {id} has live nodes: {alive}; uninstall it first, or use force"
            )));
        }
        transaction
            .execute("DELETE FROM deployments WHERE row_id = $1", &[&row_id])
            .await
            .map_err(StoreError::writing)?;
        transaction.commit().await.map_err(StoreError::writing)
    }
}

async fn insert_nodes(
    transaction: &tokio_postgres::Transaction<'_>,
    deployment_row: i64,
    nodes: &[NewNode],
) -> Result<(), StoreError> {
    let column = |field: fn(&NewNode) -> &str| -> Vec<&str> { nodes.iter().map(field).collect() };
    let json = |field: fn(&NewNode) -> &Value| -> Vec<&Value> { nodes.iter().map(field).collect() };
    let number = |index: usize| -> Vec<i32> { nodes.iter().map(|node| node.numbers[index]).collect() };
    let hosts: Vec<Option<&str>> = nodes.iter().map(|node| node.host_id.as_deref()).collect();
    let sql = "INSERT INTO nodes (deployment_row_id, id, position, type, type_hierarchy, host_id, properties, operations,
            relationships, plugins, plugins_to_install, number_of_instances, planned_number_of_instances,
            deploy_number_of_instances, min_number_of_instances, max_number_of_instances)
        SELECT $1, r.id, r.position, r.type, r.hierarchy, r.host, r.properties, r.operations, r.relationships, r.plugins,
            r.to_install, r.current, r.planned, r.deploy, r.least, r.most
        FROM unnest($2::text[], $3::text[], $4::jsonb[], $5::text[], $6::jsonb[], $7::jsonb[], $8::jsonb[], $9::jsonb[],
            $10::jsonb[], $11::int[], $12::int[], $13::int[], $14::int[], $15::int[])
            WITH ORDINALITY AS r (id, type, hierarchy, host, properties, operations, relationships, plugins, to_install,
                current, planned, deploy, least, most, position)";
    transaction
        .execute(
            sql,
            &[
                &deployment_row,
                &column(|node| &node.id),
                &column(|node| &node.type_name),
                &json(|node| &node.type_hierarchy),
                &hosts,
                &json(|node| &node.properties),
                &json(|node| &node.operations),
                &json(|node| &node.relationships),
                &json(|node| &node.plugins),
                &json(|node| &node.plugins_to_install),
                &number(0),
                &number(1),
                &number(2),
                &number(3),
                &number(4),
            ],
        )
        .await
        .map_err(StoreError::writing)?;
    Ok(())
}

async fn insert_instances(
    transaction: &tokio_postgres::Transaction<'_>,
    tenant: &str,
    deployment_row: i64,
    instances: &[NewInstance],
) -> Result<(), StoreError> {
    let ids: Vec<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
    let nodes: Vec<&str> = instances.iter().map(|instance| instance.node_id.as_str()).collect();
    let indexes: Vec<i32> = instances.iter().map(|instance| instance.index).collect();
    let hosts: Vec<Option<&str>> = instances.iter().map(|instance| instance.host_id.as_deref()).collect();
    let relationships: Vec<&Value> = instances.iter().map(|instance| &instance.relationships).collect();
    let groups: Vec<&Value> = instances.iter().map(|instance| &instance.scaling_groups).collect();
    let sql = "INSERT INTO node_instances (tenant_name, deployment_row_id, id, node_id, index, host_id, relationships,
            scaling_groups)
        SELECT $1, $2, r.* FROM unnest($3::text[], $4::text[], $5::int[], $6::text[], $7::jsonb[], $8::jsonb[]) AS r";
    transaction
        .execute(
            sql,
            &[
                &tenant,
                &deployment_row,
                &ids,
                &nodes,
                &indexes,
                &hosts,
                &relationships,
                &groups,
            ],
        )
        .await
        .map_err(StoreError::writing)?;
    Ok(())
}
