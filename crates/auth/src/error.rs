//! Refusals.

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// 401: who it is has not been shown. The text never says whether the user exists.
    #[error("User unauthorized: {0}")]
    Unauthorized(&'static str),
    /// 403: known, and not allowed.
    #[error("{0}")]
    Forbidden(String),
    /// The record could not be asked.
    #[error(transparent)]
    Store(#[from] conclave_store::StoreError),
}
