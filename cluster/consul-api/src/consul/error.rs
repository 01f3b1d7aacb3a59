//! What a call can end with other than an answer. Clients match on the texts (spec/consul-api.md, section 1), so nothing is
//! ever put before them.

use axum::response::{IntoResponse, Response};
use conclave_catalog::directory::DirectoryRefusal;
use http::{HeaderValue, StatusCode, header};

use crate::barrier::NotConfirmed;

/// Largest body of a key's value or of a registration.
pub(super) const BODY_BYTES_MAX: usize = 524_288;

/// Why a call was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("{0}")]
    BadRequest(String),
    #[error("Permission denied")]
    PermissionDenied,
    #[error("ACL not found")]
    UnknownToken,
    #[error("ACL support disabled")]
    AclDisabled,
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error(
        "Request body({0} bytes) too large, max size: {1} bytes. See https://www.consul.io/docs/agent/options.html#kv_max_value_size."
    )]
    BodyTooLarge(u64, usize),
    #[error("Transaction contains too many operations ({0} > {1})")]
    TxnTooLong(usize, usize),
    #[error("No path to datacenter")]
    OtherDatacenter,
    #[error("No cluster leader")]
    NoLeader,
    #[error(transparent)]
    Refused(#[from] DirectoryRefusal),
    #[error("{0}")]
    Failed(String),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::AclDisabled => StatusCode::UNAUTHORIZED,
            Self::PermissionDenied | Self::UnknownToken | Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::BodyTooLarge(..) | Self::TxnTooLong(..) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::OtherDatacenter | Self::NoLeader | Self::Refused(_) | Self::Failed(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

impl From<NotConfirmed> for ApiError {
    fn from(_: NotConfirmed) -> Self {
        Self::NoLeader
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        (self.status(), [(header::CONTENT_TYPE, text)], self.to_string()).into_response()
    }
}
