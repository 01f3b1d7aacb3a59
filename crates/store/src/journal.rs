//! How executions advance: claims, stored graphs, transitions.
//!
//! Every write is conditional on the owner epoch, which grows with each change of owner: what a deposed owner writes
//! matches no row and is refused as [`StoreError::Fenced`]. The states, results and events of one step stand in one
//! transaction.

use conclave_types::{EventRecord, ExecutionId, ExecutionStatus, GraphId, OperationId, OperationState};
use futures::Stream;
use serde_json::Value;
use tokio_postgres::{AsyncMessage, NoTls, Transaction as Sql};
use uuid::Uuid;

use crate::events::insert_events;
use crate::executions::{CHANNEL, status};
use crate::{Store, StoreError};

/// An execution that this manager owns from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedExecution {
    /// Its id.
    pub id: ExecutionId,
    /// The epoch to write under.
    pub owner_epoch: i64,
    /// Its tenant.
    pub tenant: String,
    /// The deployment's id.
    pub deployment: String,
    /// The blueprint's id.
    pub blueprint: String,
    /// The workflow.
    pub workflow: String,
    /// Its parameters.
    pub parameters: Value,
    /// Its status at the claim.
    pub status: ExecutionStatus,
    /// Whether a user resumed it.
    pub resume: bool,
    /// Whether nothing is really done.
    pub is_dry_run: bool,
    /// Seconds.
    pub wait_after_fail: i32,
    /// Who started it.
    pub creator: String,
}

/// A task of a stored graph.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredOperation {
    /// Its id.
    pub id: OperationId,
    /// For people.
    pub name: String,
    /// The kind of task.
    pub type_name: String,
    /// Its state.
    pub state: OperationState,
    /// What must be gone before it is ready.
    pub dependencies: Vec<OperationId>,
    /// All else.
    pub parameters: Value,
}

/// A task's change of state.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Which task.
    pub operation: OperationId,
    /// Its new state.
    pub state: OperationState,
    /// What it gave.
    pub result: Option<Value>,
    /// What went wrong.
    pub error: Option<Value>,
}

/// A node instance's change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceChange {
    /// Which instance.
    pub id: String,
    /// Its new state.
    pub state: String,
}

/// What a workflow is planned from.
#[derive(Debug, Clone, PartialEq)]
pub struct DeploymentRows {
    /// The nodes, as the API shows them.
    pub nodes: Vec<Value>,
    /// The instances, as the API shows them.
    pub instances: Vec<Value>,
    /// The deployment, as the API shows it.
    pub deployment: Value,
}

impl Store {
    /// Active executions whose owner is none of `live`, with their present owner epochs.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn executions_ownerless(&self, live: &[String]) -> Result<Vec<(ExecutionId, i64)>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT id, owner_epoch FROM executions
            WHERE status NOT IN ('terminated', 'failed', 'cancelled', 'queued', 'scheduled')
                AND NOT is_system_workflow AND (owner IS NULL OR NOT owner = ANY($1)) ORDER BY created_at";
        let rows = client.query(sql, &[&live]).await.map_err(StoreError::reading)?;
        Ok(rows
            .into_iter()
            .map(|row| (ExecutionId(row.get(0)), row.get(1)))
            .collect())
    }

    /// Makes `me` the owner, if the epoch is still `seen`; `None` when somebody was faster.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn execution_claim(
        &self,
        id: ExecutionId,
        seen: i64,
        me: &str,
    ) -> Result<Option<ClaimedExecution>, StoreError> {
        let client = self.client().await?;
        let sql = "UPDATE executions e SET owner = $3, owner_epoch = owner_epoch + 1
            FROM deployments d, blueprints b, users u
            WHERE e.id = $1 AND e.owner_epoch = $2 AND d.row_id = e.deployment_row_id AND b.row_id = d.blueprint_row_id
                AND u.id = e.created_by
            RETURNING e.owner_epoch, e.tenant_name, d.id, b.id, e.workflow_id, e.parameters, e.status, e.resume, e.is_dry_run,
                e.wait_after_fail, u.username";
        let row = client
            .query_opt(sql, &[&id.0, &seen, &me])
            .await
            .map_err(StoreError::writing)?;
        row.map(|row| {
            Ok(ClaimedExecution {
                id,
                owner_epoch: row.get(0),
                tenant: row.get(1),
                deployment: row.get(2),
                blueprint: row.get(3),
                workflow: row.get(4),
                parameters: row.get(5),
                status: status(row.get(6))?,
                resume: row.get(7),
                is_dry_run: row.get(8),
                wait_after_fail: row.get(9),
                creator: row.get(10),
            })
        })
        .transpose()
    }

    /// Gives up the ownership, so that another manager takes over at once.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn execution_release(&self, claim: &ClaimedExecution) -> Result<(), StoreError> {
        let client = self.client().await?;
        let sql = "WITH released AS (
                UPDATE executions SET owner = NULL, owner_epoch = owner_epoch + 1 WHERE id = $1 AND owner_epoch = $2 RETURNING id)
            SELECT pg_notify($3, id::text) FROM released";
        client
            .execute(sql, &[&claim.id.0, &claim.owner_epoch, &CHANNEL])
            .await
            .map_err(StoreError::writing)?;
        Ok(())
    }

    /// The status of an execution, if this claim still holds.
    ///
    /// # Errors
    /// [`StoreError::Fenced`].
    pub async fn execution_status_owned(&self, claim: &ClaimedExecution) -> Result<ExecutionStatus, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT status FROM executions WHERE id = $1 AND owner_epoch = $2";
        let row = client
            .query_opt(sql, &[&claim.id.0, &claim.owner_epoch])
            .await
            .map_err(StoreError::reading)?;
        status(row.ok_or(StoreError::Fenced(claim.id))?.get(0))
    }

    /// Nodes, instances and deployment of an execution.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the deployment is gone.
    pub async fn deployment_rows_get(&self, tenant: &str, deployment: &str) -> Result<DeploymentRows, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT object FROM api_deployments WHERE tenant_name = $1 AND id = $2";
        let row = client
            .query_opt(sql, &[&tenant, &deployment])
            .await
            .map_err(StoreError::reading)?;
        let found =
            row.ok_or_else(|| StoreError::NotFound(format!("Requested `Deployment` with ID `{deployment}`")))?;
        let mut lists = Vec::new();
        for (view, order) in [("api_nodes", "position"), ("api_node_instances", "node_id, index")] {
            let sql =
                format!("SELECT object FROM {view} WHERE tenant_name = $1 AND deployment_id = $2 ORDER BY {order}");
            let rows = client
                .query(&sql, &[&tenant, &deployment])
                .await
                .map_err(StoreError::reading)?;
            lists.push(rows.into_iter().map(|row| row.get(0)).collect());
        }
        let instances = lists.pop().unwrap_or_default();
        Ok(DeploymentRows {
            nodes: lists.pop().unwrap_or_default(),
            instances,
            deployment: found.get(0),
        })
    }

    /// The tasks of an execution's graph, in its order; empty when none is stored.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn graph_get(&self, execution: ExecutionId, name: &str) -> Result<Vec<StoredOperation>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT o.id, o.name, o.type, o.state, o.dependencies, o.parameters FROM operations o
            JOIN tasks_graphs g ON g.id = o.tasks_graph_id WHERE g.execution_id = $1 AND g.name = $2 ORDER BY o.position";
        let rows = client
            .query(sql, &[&execution.0, &name])
            .await
            .map_err(StoreError::reading)?;
        rows.into_iter()
            .map(|row| {
                let dependencies: Vec<Uuid> = row.get(4);
                let state: &str = row.get(3);
                Ok(StoredOperation {
                    id: OperationId(row.get(0)),
                    name: row.get(1),
                    type_name: row.get(2),
                    state: state.parse().map_err(|error: conclave_types::UnknownOperationState| {
                        StoreError::Internal(error.to_string())
                    })?,
                    dependencies: dependencies.into_iter().map(OperationId).collect(),
                    parameters: row.get(5),
                })
            })
            .collect()
    }

    /// Stores a new graph, marks the execution started, and its first events: whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]; [`StoreError::Conflict`] when the graph is stored already.
    pub async fn graph_create(
        &self,
        claim: &ClaimedExecution,
        name: &str,
        tasks: &[StoredOperation],
        events: &[EventRecord],
    ) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        fence(&transaction, claim).await?;
        let graph = GraphId(Uuid::now_v7());
        transaction
            .execute(
                "INSERT INTO tasks_graphs (id, execution_id, name) VALUES ($1, $2, $3)",
                &[&graph.0, &claim.id.0, &name],
            )
            .await
            .map_err(StoreError::writing)?;
        insert_operations(&transaction, graph.0, 0, tasks).await?;
        let counted = tasks
            .iter()
            .filter(|task| task.type_name == "RemoteWorkflowTask")
            .count();
        let started = "UPDATE executions SET status = CASE WHEN status = 'pending' THEN 'started' ELSE status END,
                started_at = coalesce(started_at, now()), total_operations = $2 WHERE id = $1";
        let counted = i32::try_from(counted).unwrap_or(i32::MAX);
        transaction
            .execute(started, &[&claim.id.0, &counted])
            .await
            .map_err(StoreError::writing)?;
        insert_events(&transaction, events).await?;
        transaction.commit().await.map_err(StoreError::writing)
    }

    /// Stores one step: new states, results, retries, instance states and events, in one transaction.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another manager owns the execution by now.
    pub async fn transitions_commit(
        &self,
        claim: &ClaimedExecution,
        graph_name: &str,
        transitions: &[Transition],
        retries: &[StoredOperation],
        instances: &[InstanceChange],
        events: &[EventRecord],
    ) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        fence(&transaction, claim).await?;
        update_operations(&transaction, claim, transitions).await?;
        if !retries.is_empty() {
            let sql =
                "SELECT g.id, count(o.id)::int FROM tasks_graphs g LEFT JOIN operations o ON o.tasks_graph_id = g.id
                WHERE g.execution_id = $1 AND g.name = $2 GROUP BY g.id";
            let row = transaction
                .query_one(sql, &[&claim.id.0, &graph_name])
                .await
                .map_err(StoreError::writing)?;
            insert_operations(&transaction, row.get(0), row.get(1), retries).await?;
        }
        let ids: Vec<&str> = instances.iter().map(|change| change.id.as_str()).collect();
        let states: Vec<&str> = instances.iter().map(|change| change.state.as_str()).collect();
        if !ids.is_empty() {
            let sql = "UPDATE node_instances i SET state = r.state, version = version + 1
                FROM unnest($2::text[], $3::text[]) AS r (id, state) WHERE i.tenant_name = $1 AND i.id = r.id";
            transaction
                .execute(sql, &[&claim.tenant, &ids, &states])
                .await
                .map_err(StoreError::writing)?;
        }
        insert_events(&transaction, events).await?;
        transaction.commit().await.map_err(StoreError::writing)
    }

    /// Ends an execution, with its last events.
    ///
    /// # Errors
    /// [`StoreError::Fenced`].
    pub async fn execution_finish(
        &self,
        claim: &ClaimedExecution,
        to: ExecutionStatus,
        error: Option<&str>,
        events: &[EventRecord],
    ) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        fence(&transaction, claim).await?;
        insert_events(&transaction, events).await?;
        let sql = "UPDATE executions SET status = $2, error = $3, ended_at = now(), owner = NULL,
                started_at = coalesce(started_at, now()) WHERE id = $1";
        transaction
            .execute(sql, &[&claim.id.0, &to.as_str(), &error])
            .await
            .map_err(StoreError::writing)?;
        transaction.commit().await.map_err(StoreError::writing)
    }

    /// Ids of executions that changed, as they are announced. It ends when the connection is lost.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while there is no primary.
    pub async fn executions_listen(
        &self,
    ) -> Result<impl Stream<Item = ExecutionId> + Send + Unpin + 'static, StoreError> {
        use futures::StreamExt;
        let (client, mut connection) = self
            .config()
            .connect(NoTls)
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let mut messages = Box::pin(futures::stream::poll_fn(move |context| {
            connection.poll_message(context)
        }));
        let listening = format!("LISTEN {CHANNEL}");
        {
            // The connection works only while its messages are read.
            let mut listen = std::pin::pin!(client.batch_execute(&listening));
            loop {
                tokio::select! {
                    outcome = &mut listen => { outcome.map_err(StoreError::reading)?; break; }
                    message = messages.next() => if message.is_none() {
                        return Err(StoreError::Unavailable("the connection was lost".into()));
                    },
                }
            }
        }
        let announced = messages
            .take_while(|message| futures::future::ready(message.is_ok()))
            .filter_map(move |message| {
                let _keeps_the_session = &client;
                let id = match message {
                    Ok(AsyncMessage::Notification(notification)) => notification.payload().parse().ok(),
                    _ => None,
                };
                futures::future::ready(id)
            });
        Ok(Box::pin(announced))
    }
}

/// Locks the execution for this transaction, if the claim still holds.
async fn fence(transaction: &Sql<'_>, claim: &ClaimedExecution) -> Result<(), StoreError> {
    let sql = "SELECT 1 FROM executions WHERE id = $1 AND owner_epoch = $2 FOR UPDATE";
    let row = transaction
        .query_opt(sql, &[&claim.id.0, &claim.owner_epoch])
        .await
        .map_err(StoreError::reading)?;
    row.map(drop).ok_or(StoreError::Fenced(claim.id))
}

async fn update_operations(
    transaction: &Sql<'_>,
    claim: &ClaimedExecution,
    transitions: &[Transition],
) -> Result<(), StoreError> {
    if transitions.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = transitions.iter().map(|transition| transition.operation.0).collect();
    let states: Vec<&str> = transitions.iter().map(|transition| transition.state.as_str()).collect();
    let results: Vec<Option<&Value>> = transitions
        .iter()
        .map(|transition| transition.result.as_ref())
        .collect();
    let errors: Vec<Option<&Value>> = transitions.iter().map(|transition| transition.error.as_ref()).collect();
    let sql = "WITH changed AS (
            UPDATE operations o SET state = r.state, result = r.result, error = r.error,
                claim_epoch = CASE WHEN r.state = 'started' THEN $6 ELSE o.claim_epoch END
            FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::jsonb[]) AS r (id, state, result, error)
            WHERE o.id = r.id RETURNING o.type, o.state)
        UPDATE executions SET finished_operations = finished_operations + (
            SELECT count(*) FROM changed WHERE type = 'RemoteWorkflowTask' AND state IN ('succeeded', 'failed')) WHERE id = $5";
    transaction
        .execute(
            sql,
            &[&ids, &states, &results, &errors, &claim.id.0, &claim.owner_epoch],
        )
        .await
        .map_err(StoreError::writing)?;
    Ok(())
}

async fn insert_operations(
    transaction: &Sql<'_>,
    graph: Uuid,
    first_position: i32,
    tasks: &[StoredOperation],
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = tasks.iter().map(|task| task.id.0).collect();
    let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    let types: Vec<&str> = tasks.iter().map(|task| task.type_name.as_str()).collect();
    let states: Vec<&str> = tasks.iter().map(|task| task.state.as_str()).collect();
    // An array of arrays of different lengths cannot be unnested: the ids travel as JSON.
    let dependencies: Vec<Value> = tasks
        .iter()
        .map(|task| {
            task.dependencies
                .iter()
                .map(|id| Value::String(id.to_string()))
                .collect()
        })
        .collect();
    let parameters: Vec<&Value> = tasks.iter().map(|task| &task.parameters).collect();
    let sql = "INSERT INTO operations (tasks_graph_id, position, id, name, type, state, dependencies, parameters)
        SELECT $1, $2::int + r.position, r.id, r.name, r.type, r.state,
            ARRAY(SELECT jsonb_array_elements_text(r.dependencies)::uuid), r.parameters
        FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::jsonb[])
            WITH ORDINALITY AS r (id, name, type, state, dependencies, parameters, position)";
    transaction
        .execute(
            sql,
            &[
                &graph,
                &first_position,
                &ids,
                &names,
                &types,
                &states,
                &dependencies,
                &parameters,
            ],
        )
        .await
        .map_err(StoreError::writing)?;
    Ok(())
}
