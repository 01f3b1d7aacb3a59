//! What the outside world does for a running operation.

use bytes::Bytes;
use serde_json::{Map, Value};

/// Why a service could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is no such file or instance.
    #[error("{0} was not found")]
    NotFound(String),
    /// The node instance was changed by somebody else since its version was read.
    #[error("node instance {0} was changed by somebody else meanwhile; the operation has to be run again")]
    Conflict(String),
    /// Anything else; the text says what and where.
    #[error("{0}")]
    Failed(String),
}

/// The surroundings of one operation. Implementations apply back-pressure: a call returns when its effect is in safe
/// hands, and the script waits as long.
#[async_trait::async_trait]
pub trait OperationServices: Send + Sync {
    /// Records a log line. `level` is debug, info, warning, error or critical.
    async fn log(&self, level: &str, text: &str);

    /// Records an event that the script sends (`ctx send-event`).
    async fn event(&self, text: &str);

    /// The content of a file of the deployment, else of its blueprint, else of the manager; `path` may also be an
    /// `http(s)` address.
    async fn resource(&self, path: &str) -> Result<Bytes, ServiceError>;

    /// Replaces an instance's runtime properties if it still has `version`; answers the new version.
    ///
    /// # Errors
    /// [`ServiceError::Conflict`] when it has another version. A database that is away is waited for, not reported.
    async fn update_instance(
        &self,
        instance_id: &str,
        version: i32,
        runtime_properties: &Map<String, Value>,
    ) -> Result<i32, ServiceError>;
}
