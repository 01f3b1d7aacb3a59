//! Refusals, in the shape that Cloudify's clients know (spec/rest-api.md, section 3).

use axum::Json;
use axum::response::{IntoResponse, Response};
use conclave_archive::ArchiveError;
use conclave_auth::AuthError;
use conclave_filesync::FileSyncError;
use conclave_store::StoreError;
use http::StatusCode;
use serde_json::json;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileServerError {
    /// There is nothing, or nothing that anybody may see.
    #[error("{0} was not found")]
    NotFound(String),
    /// The path names a folder and the request a file.
    #[error("{0} is a folder: with a slash at its end it is listed")]
    IsFolder(String),
    /// Nobody may write there.
    #[error("{0} cannot be written: only the files of deployments can")]
    ReadOnly(String),
    /// The body is not what it has to be.
    #[error("the upload was refused, and nothing was changed: {0}")]
    BadUpload(String),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Files(#[from] FileSyncError),
    /// The node's own disk refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl FileServerError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    fn status(&self) -> (StatusCode, &'static str) {
        const NOT_FOUND: (StatusCode, &str) = (StatusCode::NOT_FOUND, "not_found_error");
        const BAD: (StatusCode, &str) = (StatusCode::BAD_REQUEST, "bad_parameters_error");
        const UNAVAILABLE: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable");
        const DEFECT: (StatusCode, &str) = (StatusCode::INTERNAL_SERVER_ERROR, "internal_server_error");
        match self {
            Self::NotFound(_) | Self::IsFolder(_) | Self::Files(FileSyncError::NotFound(_)) => NOT_FOUND,
            Self::ReadOnly(_) | Self::Auth(AuthError::Forbidden(_)) => (StatusCode::FORBIDDEN, "forbidden_error"),
            Self::Auth(AuthError::Unauthorized(_)) => (StatusCode::UNAUTHORIZED, "unauthorized_error"),
            Self::Auth(AuthError::Store(error)) | Self::Store(error) => match error {
                StoreError::NotFound(_) => NOT_FOUND,
                StoreError::Unavailable(_) | StoreError::UnknownOutcome => UNAVAILABLE,
                _ => DEFECT,
            },
            Self::Archive(ArchiveError::System { source, .. }) if is_full(source) => UNAVAILABLE,
            Self::BadUpload(_) | Self::Archive(_) => BAD,
            Self::Files(error) => match error {
                FileSyncError::Path { .. } | FileSyncError::Refused(..) => BAD,
                FileSyncError::Conflict(_) => (StatusCode::CONFLICT, "conflict_error"),
                FileSyncError::TooFewCopies { .. }
                | FileSyncError::Consensus(_)
                | FileSyncError::ContentMissing(_)
                | FileSyncError::DiskFull { .. }
                | FileSyncError::CutOff => UNAVAILABLE,
                _ => DEFECT,
            },
            Self::System { source, .. } if is_full(source) => UNAVAILABLE,
            Self::System { .. } => DEFECT,
        }
    }
}

/// Somebody else has taken the room that was there a moment ago.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

impl IntoResponse for FileServerError {
    fn into_response(self) -> Response {
        let (status, code) = self.status();
        let message = self.to_string();
        if status.is_server_error() {
            tracing::warn!(message, "a request of the file server failed");
        }
        let body = json!({"message": message, "error_code": code, "server_traceback": null});
        (status, Json(body)).into_response()
    }
}
