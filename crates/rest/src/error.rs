//! Errors as clients know them (spec/rest-api.md, section 3): the one place that maps them.

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use conclave_auth::AuthError;
use conclave_blueprint::{Class, Fault};
use conclave_executor::StartError;
use conclave_filesync::FileSyncError;
use conclave_store::StoreError;
use serde_json::json;

use crate::state::ClusterError;

/// An error answer.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_parameters_error", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    pub(crate) fn illegal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "illegal_action_error", message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict_error", message)
    }

    /// Another code for a conflict that means something special here.
    pub(crate) fn conflict_as(self, code: &'static str) -> Self {
        if self.status == StatusCode::CONFLICT {
            Self {
                status: StatusCode::BAD_REQUEST,
                code,
                ..self
            }
        } else {
            self
        }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        tracing::error!(message, "request failed; this is a defect");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_server_error", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"message": self.message, "error_code": self.code, "server_traceback": null});
        (self.status, Json(body)).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NotFound(_) => Self::not_found(message),
            StoreError::Conflict(text) => Self::conflict(text),
            StoreError::BadQuery(text) => Self::bad(text),
            StoreError::Unavailable(_) | StoreError::UnknownOutcome => Self::unavailable(message),
            StoreError::Fenced(_) => Self::conflict(message),
            StoreError::Internal(_) => Self::internal(message),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let message = error.to_string();
        match error {
            AuthError::Unauthorized(_) => Self::new(StatusCode::UNAUTHORIZED, "unauthorized_error", message),
            AuthError::Forbidden(_) => Self::new(StatusCode::FORBIDDEN, "forbidden_error", message),
            AuthError::Store(error) => error.into(),
        }
    }
}

impl From<ClusterError> for ApiError {
    fn from(error: ClusterError) -> Self {
        let message = error.to_string();
        match error {
            ClusterError::UnknownNode(_) => Self::not_found(message),
            ClusterError::Refused(_) => Self::illegal(message),
            ClusterError::Unavailable(_) => Self::unavailable(message),
        }
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        let bad = |code| Self::new(StatusCode::BAD_REQUEST, code, message.clone());
        match error {
            StartError::UnknownWorkflow { .. } => bad("nonexistent_workflow_error"),
            StartError::Parameters(_) => bad("illegal_execution_parameters_error"),
            StartError::Running(_) => bad("existing_running_execution_error"),
            StartError::Illegal(_) => bad("illegal_action_error"),
            StartError::NotResumable(text) => Self::conflict(text),
            StartError::Store(error) => error.into(),
        }
    }
}

impl From<FileSyncError> for ApiError {
    fn from(error: FileSyncError) -> Self {
        let message = error.to_string();
        match error {
            FileSyncError::NotFound(_) => Self::not_found(message),
            FileSyncError::Refused(..) | FileSyncError::Path { .. } => Self::bad(message),
            FileSyncError::Conflict(_) => Self::conflict(message),
            FileSyncError::TooFewCopies { .. }
            | FileSyncError::Consensus(_)
            | FileSyncError::ContentMissing(_)
            | FileSyncError::Unsettled(_)
            | FileSyncError::DiskFull { .. }
            | FileSyncError::ForeignRoot { .. }
            | FileSyncError::CutOff => Self::unavailable(message),
            _ => Self::internal(message),
        }
    }
}

/// What is wrong with a deployment that is to be made, or with a function that is to be evaluated.
impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        let code = match fault.class {
            Class::MissingRequiredInput => "missing_required_deployment_input_error",
            Class::UnknownInput => "unknown_deployment_input_error",
            Class::InputEvaluation | Class::Parsing | Class::Logic => "deployment_input_evaluation_error",
            Class::Constraint => "constraint_error",
            Class::UnknownSecret | Class::UnsupportedGetSecret => "unknown_deployment_secret_error",
            Class::IllegalConnectedToConnectionType
            | Class::UnsupportedRelationship
            | Class::IllegalAllToOneState
            | Class::UnsupportedAllToOneInGroup
            | Class::Limit => "deployment_creation_error",
            _ => "functions_evaluation_error",
        };
        Self::new(StatusCode::BAD_REQUEST, code, fault.message)
    }
}

pub(crate) async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is no {} here", uri.path()))
}

pub(crate) async fn wrong_method(uri: Uri) -> ApiError {
    let message = format!("{} does not take this method", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed_error", message)
}
