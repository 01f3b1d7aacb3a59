//! Starting, cancelling and resuming executions on a user's word (spec/rest-api.md, section 10.7).

use conclave_auth::{new_secret, secret_hash};
use conclave_store::{NewExecution, StoreError};
use conclave_types::{ExecutionId, ExecutionStatus};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::supervisor::Executor;

/// A wish to run a workflow.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// Its tenant.
    pub tenant: String,
    /// The deployment's id.
    pub deployment: String,
    /// The workflow's name.
    pub workflow: String,
    /// As given.
    pub parameters: Map<String, Value>,
    /// The user's row.
    pub creator: i32,
    /// Whether nothing is really done.
    pub is_dry_run: bool,
    /// Whether parameters that the workflow does not declare are allowed.
    pub allow_custom_parameters: bool,
    /// Whether another active execution is no obstacle.
    pub force: bool,
    /// Seconds.
    pub wait_after_fail: i32,
}

/// Why an execution was not started, cancelled or resumed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The deployment has no such workflow.
    #[error("Workflow {workflow} does not exist in deployment {deployment}; existing workflows: {known}")]
    UnknownWorkflow {
        /// As asked for.
        workflow: String,
        /// Of which deployment.
        deployment: String,
        /// What there is.
        known: String,
    },
    /// Parameters are missing, unknown or of the wrong type.
    #[error("{0}")]
    Parameters(String),
    /// Another execution of the deployment is active.
    #[error("{0}")]
    Running(String),
    /// The action does not fit the execution's status.
    #[error("{0}")]
    Illegal(String),
    /// The execution cannot be resumed as it is.
    #[error("{0}")]
    NotResumable(String),
    /// The record.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(text) => Self::Running(text),
            other => Self::Store(other),
        }
    }
}

impl Executor {
    /// Creates an execution; some manager runs it from then on, whatever happens to this one.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is stored then.
    pub async fn create(&self, request: NewRequest) -> Result<ExecutionId, StartError> {
        let rows = self
            .store()
            .deployment_rows_get(&request.tenant, &request.deployment)
            .await?;
        let workflows = rows.deployment["workflows"].as_object().cloned().unwrap_or_default();
        let Some(workflow) = workflows.get(&request.workflow) else {
            return Err(StartError::UnknownWorkflow {
                workflow: request.workflow,
                deployment: request.deployment,
                known: workflows.keys().cloned().collect::<Vec<_>>().join(", "),
            });
        };
        let parameters = merge(
            &workflow["parameters"],
            request.parameters,
            request.allow_custom_parameters,
        )?;
        let id = ExecutionId(Uuid::new_v4());
        let new = NewExecution {
            id,
            tenant: request.tenant,
            deployment: request.deployment,
            workflow: request.workflow,
            parameters: Value::Object(parameters),
            creator: request.creator,
            is_dry_run: request.is_dry_run,
            allow_custom_parameters: request.allow_custom_parameters,
            force: request.force,
            wait_after_fail: request.wait_after_fail,
            token_hash: secret_hash(&new_secret(32)),
        };
        self.store().execution_create(&new).await?;
        Ok(id)
    }

    /// Asks for the end of an execution; its operations are ended too.
    ///
    /// # Errors
    /// [`StartError::Illegal`] when its status does not allow that.
    pub async fn cancel(&self, tenant: &str, id: ExecutionId, action: &str) -> Result<(), StartError> {
        use ExecutionStatus::{Cancelling, ForceCancelling, KillCancelling, Pending, Queued, Scheduled, Started};
        let (from, to): (&[ExecutionStatus], _) = match action {
            "cancel" => (&[Pending, Started, Scheduled, Queued], Cancelling),
            "force-cancel" => (&[Pending, Started, Scheduled, Queued, Cancelling], ForceCancelling),
            _ => (
                &[Pending, Started, Scheduled, Queued, Cancelling, ForceCancelling],
                KillCancelling,
            ),
        };
        let row = self.store().execution_get(tenant, id).await?;
        if !self.store().execution_status_change(id, from, to).await? {
            return Err(StartError::Illegal(format!(
                "Can't {action} execution {id} because it's in status {}",
                row.status
            )));
        }
        Ok(())
    }

    /// Lets a failed or cancelled execution go on where it ended.
    ///
    /// # Errors
    /// [`StartError::NotResumable`] when its status does not allow that.
    pub async fn resume(&self, tenant: &str, id: ExecutionId, force: bool) -> Result<(), StartError> {
        let row = self.store().execution_get(tenant, id).await?;
        if !self
            .store()
            .execution_resume(id, &secret_hash(&new_secret(32)), force)
            .await?
        {
            let verb = if force { "force-resume" } else { "resume" };
            return Err(StartError::NotResumable(format!(
                "Cannot {verb} execution: `{id}` in state: `{}`",
                row.status
            )));
        }
        Ok(())
    }
}

/// Defaults under what is given; unknown names are refused unless they were allowed, missing ones always.
fn merge(declared: &Value, given: Map<String, Value>, allow_custom: bool) -> Result<Map<String, Value>, StartError> {
    let empty = Map::new();
    let declared = declared.as_object().unwrap_or(&empty);
    let unknown: Vec<&String> = given.keys().filter(|name| !declared.contains_key(*name)).collect();
    if !unknown.is_empty() && !allow_custom {
        let names = unknown.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(StartError::Parameters(format!(
            "Workflow does not have the following parameters declared: {names}. Remove these parameters or use the flag for allowing custom parameters"
        )));
    }
    let mut merged = Map::new();
    let mut missing = Vec::new();
    for (name, schema) in declared {
        match given.get(name).or_else(|| schema.get("default")) {
            Some(value) => {
                merged.insert(name.clone(), value.clone());
            }
            None if schema.get("required") == Some(&Value::Bool(false)) => {}
            None => missing.push(name.as_str()),
        }
    }
    if !missing.is_empty() {
        return Err(StartError::Parameters(format!(
            "Workflow must be provided with the following parameters: {}",
            missing.join(", ")
        )));
    }
    merged.extend(given);
    Ok(merged)
}
