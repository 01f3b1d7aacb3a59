//! What a running operation may ask for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conclave_operations::{OperationServices, ServiceError};
use conclave_runtime::{Backoff, clock};
use conclave_store::{ClaimedExecution, InstancePatch, Store, StoreError};
use conclave_types::{EventKind, EventOrigin, EventRecord, OperationId};
use conclave_workflow::OperationTask;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::supervisor::{LogLine, LogOutlet, Resources};

pub(crate) struct Services {
    pub(crate) store: Store,
    pub(crate) logs: Arc<dyn LogOutlet>,
    pub(crate) resources: Arc<dyn Resources>,
    pub(crate) claim: ClaimedExecution,
    pub(crate) id: OperationId,
    pub(crate) task: OperationTask,
    pub(crate) manager: String,
    pub(crate) origin: Arc<EventOrigin>,
}

/// What the lines of an operation say of where they come from.
pub(crate) fn origin(claim: &ClaimedExecution, id: OperationId, task: &OperationTask) -> EventOrigin {
    EventOrigin {
        tenant: claim.tenant.clone(),
        blueprint_id: claim.blueprint.clone(),
        deployment_id: claim.deployment.clone(),
        workflow_id: claim.workflow.clone(),
        task_id: id,
        task_name: task.function.clone(),
        plugin: task.plugin.clone(),
    }
}

impl Services {
    fn line(&self, kind: EventKind, text: &str) -> LogLine {
        let ends = self.task.relationship.as_ref();
        let record = EventRecord {
            message: text.to_owned(),
            operation: Some(self.task.operation.clone()),
            node_name: Some(self.task.node.clone()),
            node_instance_id: Some(self.task.instance.clone()),
            source_id: ends.map(|ends| ends.source.clone()),
            target_id: ends.map(|ends| ends.target.clone()),
            manager_name: Some(self.manager.clone()),
            ..EventRecord::new(Uuid::now_v7(), self.claim.id, kind, clock::now())
        };
        LogLine {
            record,
            origin: Arc::clone(&self.origin),
        }
    }
}

#[async_trait::async_trait]
impl OperationServices for Services {
    async fn log(&self, level: &str, text: &str) {
        let kind = EventKind::Log {
            logger: format!("ctx.{}", self.id),
            level: level.to_owned(),
        };
        self.logs.send(self.line(kind, text)).await;
    }

    async fn event(&self, text: &str) {
        let kind = EventKind::Event {
            event_type: "plugin_event".into(),
        };
        self.logs.send(self.line(kind, text)).await;
    }

    async fn resource(&self, path: &str) -> Result<Bytes, ServiceError> {
        let (tenant, claim) = (&self.claim.tenant, &self.claim);
        let candidates = [
            format!("deployments/{tenant}/{}/{path}", claim.deployment),
            format!("blueprints/{tenant}/{}/{path}", claim.blueprint),
        ];
        for candidate in &candidates {
            match self.resources.read(candidate).await {
                Err(ServiceError::NotFound(_)) => {}
                found_or_failed => return found_or_failed,
            }
        }
        Err(ServiceError::NotFound(path.to_owned()))
    }

    async fn update_instance(
        &self,
        id: &str,
        version: i32,
        properties: &Map<String, Value>,
    ) -> Result<i32, ServiceError> {
        let patch = InstancePatch {
            version,
            runtime_properties: Some(Value::Object(properties.clone())),
            ..InstancePatch::default()
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut attempted = false;
        loop {
            match self.store.node_instance_update(&self.claim.tenant, id, &patch).await {
                Ok(version) => return Ok(version),
                Err(StoreError::NotFound(what)) => return Err(ServiceError::NotFound(what)),
                // Our own write, whose answer was lost, has made the version greater.
                Err(StoreError::Conflict(_)) if attempted => return Ok(version + 1),
                Err(StoreError::Conflict(_)) => return Err(ServiceError::Conflict(id.to_owned())),
                Err(StoreError::UnknownOutcome) => attempted = true,
                Err(StoreError::Unavailable(_)) => {}
                Err(other) => return Err(ServiceError::Failed(other.to_string())),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}
