//! The database: the cluster's own, or one that somebody else looks after.

use anyhow::{Context, Result};
use conclave_config::NodeConfig;
use conclave_consensus::Consensus;
use conclave_net::NodeIdentity;
use conclave_postgres::{Database, DatabaseOptions, ExternalDatabase, ExternalOptions};
use conclave_runtime::Tasks;
use conclave_runtime::account::Account;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::archive;

/// Which of the two.
#[derive(Clone)]
pub(crate) enum Base {
    Own(Box<Database>),
    External(ExternalDatabase),
}

/// Who the store is to the database.
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
}

impl Base {
    /// Starts it. The last value is to be served on port 8300.
    pub(crate) fn start(
        config: &NodeConfig,
        identity: &NodeIdentity,
        proxy: TcpListener,
        relay: TcpListener,
        consensus: &Consensus,
        substrate: &Tasks,
    ) -> Result<(Self, Login, axum::Router)> {
        if let Some(external) = &config.external_database {
            let file = &external.password_file;
            let password = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            let options = ExternalOptions {
                host: external.host.clone(),
                port: external.port,
                user: external.user.clone(),
                password: password.trim().to_owned(),
                database: external.name.clone(),
                ca_file: external.ca_file.clone(),
            };
            let login = Login {
                user: options.user.clone(),
                password: options.password.clone(),
                database: options.database.clone(),
            };
            let database = ExternalDatabase::start(options, proxy, substrate)?;
            return Ok((Self::External(database), login, axum::Router::new()));
        }
        let options = DatabaseOptions {
            data_dir: config.data_dir.clone(),
            bin_dir: config.postgres_bin_dir.clone(),
            account: Account::for_children(&config.accounts.postgres)?,
            identity: identity.clone(),
            segment_age: archive::segment_age(config),
            proxy,
            relay,
            client_wait: config.database.client_wait(),
        };
        let (database, routes) = Database::start(options, consensus, substrate)?;
        let login = Login {
            user: conclave_postgres::USER.into(),
            password: conclave_postgres::password(identity),
            database: conclave_postgres::DATABASE.into(),
        };
        Ok((Self::Own(Box::new(database)), login, routes))
    }

    /// The cluster's own.
    pub(crate) fn own(&self) -> Option<&Database> {
        match self {
            Self::Own(database) => Some(database),
            Self::External(_) => None,
        }
    }

    /// Lets no client in through this node any more, and everybody finish.
    pub(crate) async fn drain(&self) {
        match self {
            Self::Own(database) => database.drain().await,
            Self::External(database) => database.drain().await,
        }
    }

    /// Whether what writes has to wait: see [`Database::holds`]. With another's database nothing is planned here.
    pub(crate) fn holds(&self, tasks: &Tasks) -> watch::Receiver<bool> {
        if let Self::Own(database) = self {
            return database.holds(tasks);
        }
        let (publish, holds) = watch::channel(false);
        let shutdown = tasks.shutdown();
        // The value never changes; its sender lives as long as whoever waits for it.
        tasks.spawn("external database", async move {
            shutdown.requested().await;
            drop(publish);
        });
        holds
    }

    /// Why it is not well, and what it says of itself.
    pub(crate) fn health(&self) -> (Option<String>, Value) {
        match self {
            Self::Own(database) => {
                let status = database.status();
                let details = serde_json::to_value(&status).unwrap_or(Value::Null);
                (status.cause, details)
            }
            Self::External(database) => {
                let status = database.status();
                let details = serde_json::to_value(&status).unwrap_or(Value::Null);
                (status.cause, details)
            }
        }
    }
}
