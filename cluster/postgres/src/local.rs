//! This node's own server, for those in this process that look after it beside the driver.

use std::path::PathBuf;

/// How to reach this node's server without the proxy, and where it lies. Whoever uses it must ask [`crate::Database::serves`]
/// whether the server is the primary.
#[derive(Debug, Clone)]
pub struct LocalServer {
    /// The folder of its Unix socket.
    pub socket_dir: PathBuf,
    /// The port that names the socket.
    pub port: u16,
    /// The password of [`crate::USER`].
    pub password: String,
    /// Its data directory.
    pub data: PathBuf,
}
