//! Connections.

use std::time::Duration;

use conclave_runtime::Backoff;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::{Config, NoTls};

use crate::StoreError;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Serialises migrations of managers that start together. Any number that nobody else uses.
const MIGRATION_LOCK: i64 = 0x434f_4e43_4c41_5645;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the database is.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Address of this node's proxy.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Database.
    pub database: String,
    /// Most connections at once.
    pub connections: usize,
    /// How long a caller waits for a connection while there is no primary.
    pub patience: Duration,
    /// While true, nobody gets a connection: the primary is about to be another, as planned, and what would be begun now
    /// would be cut off.
    pub hold: watch::Receiver<bool>,
}

/// A handle on the record. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    config: Config,
    patience: Duration,
    hold: watch::Receiver<bool>,
}

impl Store {
    /// A store that connects when it is first used.
    ///
    /// # Errors
    /// When the options are contradictory.
    pub fn open(options: &StoreOptions) -> Result<Self, StoreError> {
        let mut config = Config::new();
        config
            .host(&options.host)
            .port(options.port)
            .user(&options.user)
            .password(&options.password)
            .dbname(&options.database)
            .application_name("conclave manager")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(5));
        // A connection to a primary that was deposed is cut by the proxy; it must not be handed out once more.
        let manager = Manager::from_config(
            config.clone(),
            NoTls,
            ManagerConfig {
                recycling_method: RecyclingMethod::Verified,
            },
        );
        let pool = Pool::builder(manager)
            .max_size(options.connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(options.patience))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(Duration::from_secs(2)))
            .build()
            .map_err(|error| StoreError::Internal(error.to_string()))?;
        Ok(Self {
            pool,
            config,
            patience: options.patience,
            hold: options.hold.clone(),
        })
    }

    /// A connection; waits through a failover until the patience is over.
    pub(crate) async fn client(&self) -> Result<Object, StoreError> {
        let end = Instant::now() + self.patience;
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        loop {
            let mut hold = self.hold.clone();
            // A closed channel holds nobody: its owner has ended, and this process with it.
            if let Err(_elapsed) = tokio::time::timeout_at(end, hold.wait_for(|hold| !hold)).await {
                return Err(StoreError::Unavailable("the primary is being changed".into()));
            }
            let error = match tokio::time::timeout_at(end, self.pool.get()).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error)) => error.to_string(),
                Err(_) => return Err(StoreError::Unavailable("no connection in time".into())),
            };
            if Instant::now() >= end {
                return Err(StoreError::Unavailable(error));
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// How long a caller waits while there is no primary.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether nobody in this process has a connection at the moment.
    pub fn is_quiet(&self) -> bool {
        let status = self.pool.status();
        status.size == status.available
    }

    /// Whether the database answers now, without patience.
    pub async fn is_ready(&self) -> bool {
        let look = async {
            let client = self.pool.get().await.ok()?;
            // In one round trip: it is asked all the time.
            client.batch_execute("SELECT 1").await.ok()
        };
        matches!(tokio::time::timeout(Duration::from_secs(1), look).await, Ok(Some(())))
    }

    /// Brings the schema to this program's version. Managers that start together take turns.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while there is no primary.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        client
            .execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK])
            .await
            .map_err(StoreError::reading)?;
        let outcome = embedded::migrations::runner().run_async(&mut **client.as_mut()).await;
        client
            .execute("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK])
            .await
            .map_err(StoreError::reading)?;
        outcome
            .map(drop)
            .map_err(|error| StoreError::Internal(format!("migration: {error}")))
    }

    /// A connection of its own, outside the pool, for LISTEN.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }
}
