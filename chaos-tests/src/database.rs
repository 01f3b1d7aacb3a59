//! A client of the database, through a node's proxy: a connection of its own for each statement, as an application without a pool.

use std::path::Path;
use std::time::Duration;

use conclave_consensus::identity_dir;
use conclave_net::NodeIdentity;
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// The proxy's standard port.
const PORT: u16 = 5432;
const NOT_CONNECTED: &str = "no connection: ";
/// Longer than the proxy lets a client wait for a primary.
const LIMIT: Duration = Duration::from_secs(30);

/// Says what the database says.
#[derive(Debug, Clone)]
pub struct DatabaseClient {
    config: tokio_postgres::Config,
}

impl DatabaseClient {
    /// A client of the node that keeps its data in `data_dir`.
    ///
    /// # Panics
    /// When the node has no identity.
    #[must_use]
    pub fn of(data_dir: &Path, address: &str) -> Self {
        let identity = NodeIdentity::load(&identity_dir(data_dir)).expect("the node has an identity");
        let mut config = tokio_postgres::Config::new();
        config
            .host(address)
            .port(PORT)
            .user(conclave_postgres::USER)
            .password(conclave_postgres::password(&identity))
            .dbname(conclave_postgres::DATABASE);
        Self { config }
    }

    /// Runs statements on a connection of their own; the first column of all rows.
    ///
    /// # Errors
    /// What the server or the proxy said; the outcome is unknown then, unless [`not_begun`] knows it.
    pub async fn run(&self, statements: &str) -> Result<Vec<String>, String> {
        let work = async {
            let (client, connection) = self
                .config
                .connect(NoTls)
                .await
                .map_err(|error| format!("{NOT_CONNECTED}{}", shown(&error)))?;
            let asking = async {
                let messages = client.simple_query(statements).await.map_err(|error| shown(&error))?;
                let first = |message: &SimpleQueryMessage| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                };
                Ok(messages.iter().filter_map(first).collect())
            };
            tokio::pin!(asking);
            tokio::select! {
                result = &mut asking => result,
                // The answer may have come with the end, and stands then: without one, this says so at once.
                _ended = connection => asking.await,
            }
        };
        tokio::time::timeout(LIMIT, work)
            .await
            .unwrap_or_else(|_| Err("no answer".to_owned()))
    }
}

/// Whether a failed statement is known not to have been begun: nobody was there to ask, or a node whose manager is being stopped
/// said so. It can be asked of another.
#[must_use]
pub fn not_begun(error: &str) -> bool {
    error.starts_with(NOT_CONNECTED) || error.contains("use another node")
}

fn shown(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| format!("{error:?}"), ToString::to_string)
}
