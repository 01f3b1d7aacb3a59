//! Events and logs: written in batches, each record once.

use conclave_types::{EventKind, EventRecord, ExecutionId};
use serde_json::Value;
use tokio_postgres::Transaction;
use uuid::Uuid;

use crate::{Store, StoreError};

/// A record whose execution is unknown is left out, one that is stored already too.
const INSERT: &str = "
    INSERT INTO events (message_id, execution_id, tenant_name, type, reported_timestamp, event_type, logger, level, message,
        operation, node_name, node_instance_id, source_id, target_id, error_causes, manager_name, agent_name)
    SELECT r.message_id, r.execution_id, e.tenant_name, r.type, r.reported, r.event_type, r.logger, r.level, r.message,
        r.operation, r.node_name, r.node_instance_id, r.source_id, r.target_id, r.error_causes, r.manager_name, r.agent_name
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::jsonb[], $15::text[], $16::text[])
        WITH ORDINALITY AS r (message_id, execution_id, type, reported, event_type, logger, level, message, operation,
            node_name, node_instance_id, source_id, target_id, error_causes, manager_name, agent_name, position)
    JOIN executions e ON e.id = r.execution_id
    ORDER BY r.position
    ON CONFLICT (message_id) DO NOTHING";

pub(crate) async fn insert_events(transaction: &Transaction<'_>, records: &[EventRecord]) -> Result<u64, StoreError> {
    if records.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Uuid> = records.iter().map(|record| record.message_id).collect();
    let executions: Vec<Uuid> = records.iter().map(|record| record.execution_id.0).collect();
    let kinds: Vec<&str> = records.iter().map(|record| kind_name(&record.kind)).collect();
    let times: Vec<jiff::Timestamp> = records.iter().map(|record| record.reported_timestamp).collect();
    let event_types: Vec<Option<&str>> = records.iter().map(|record| event_type(&record.kind)).collect();
    let loggers: Vec<Option<&str>> = records
        .iter()
        .map(|record| logger(&record.kind).map(|(logger, _)| logger))
        .collect();
    let levels: Vec<Option<&str>> = records
        .iter()
        .map(|record| logger(&record.kind).map(|(_, level)| level))
        .collect();
    // PostgreSQL's text cannot hold NUL.
    let messages: Vec<String> = records
        .iter()
        .map(|record| record.message.replace('\0', "<NUL>"))
        .collect();
    let text = |field: fn(&EventRecord) -> &Option<String>| -> Vec<Option<&str>> {
        records.iter().map(|record| field(record).as_deref()).collect()
    };
    let causes: Vec<Option<&Value>> = records.iter().map(|record| record.error_causes.as_ref()).collect();
    transaction
        .execute(
            INSERT,
            &[
                &ids,
                &executions,
                &kinds,
                &times,
                &event_types,
                &loggers,
                &levels,
                &messages,
                &text(|record| &record.operation),
                &text(|record| &record.node_name),
                &text(|record| &record.node_instance_id),
                &text(|record| &record.source_id),
                &text(|record| &record.target_id),
                &causes,
                &text(|record| &record.manager_name),
                &text(|record| &record.agent_name),
            ],
        )
        .await
        .map_err(StoreError::writing)
}

fn kind_name(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Event { .. } => "cloudify_event",
        EventKind::Log { .. } => "cloudify_log",
    }
}

fn event_type(kind: &EventKind) -> Option<&str> {
    match kind {
        EventKind::Event { event_type } => Some(event_type),
        EventKind::Log { .. } => None,
    }
}

fn logger(kind: &EventKind) -> Option<(&str, &str)> {
    match kind {
        EventKind::Event { .. } => None,
        EventKind::Log { logger, level } => Some((logger, level)),
    }
}

/// An execution of the manager's own that has begun and ended with the change it stands for.
pub(crate) async fn insert_system_execution(
    transaction: &Transaction<'_>,
    id: ExecutionId,
    tenant: &str,
    deployment_row: Option<i64>,
    blueprint: Option<&str>,
    workflow: &str,
    creator: i32,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO executions (id, tenant_name, deployment_row_id, blueprint_id, workflow_id, status, created_by,
            started_at, ended_at, is_system_workflow) VALUES ($1, $2, $3, $4, $5, 'terminated', $6, now(), now(), true)";
    transaction
        .execute(sql, &[&id.0, &tenant, &deployment_row, &blueprint, &workflow, &creator])
        .await
        .map_err(StoreError::writing)?;
    Ok(())
}

impl Store {
    /// Stores records; those that are there already, or whose execution is unknown, are left out. Returns how many were
    /// stored.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn events_insert(&self, records: &[EventRecord]) -> Result<u64, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(StoreError::reading)?;
        let stored = insert_events(&transaction, records).await?;
        transaction.commit().await.map_err(StoreError::writing)?;
        Ok(stored)
    }

    /// Which of these executions exist.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn executions_known(&self, ids: &[ExecutionId]) -> Result<Vec<ExecutionId>, StoreError> {
        let client = self.client().await?;
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = client
            .query("SELECT id FROM executions WHERE id = ANY($1)", &[&ids])
            .await
            .map_err(StoreError::reading)?;
        Ok(rows.into_iter().map(|row| ExecutionId(row.get(0))).collect())
    }
}
