//! The tree.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that one node is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Who the node is.
    pub node: NodeSection,
    /// Everything that the node keeps lies below this folder.
    pub data_dir: PathBuf,
    /// Where it listens.
    #[serde(default)]
    pub ports: Ports,
    /// Accounts of the supervised servers, used when the manager runs as root.
    #[serde(default)]
    pub accounts: Accounts,
    /// How fast the loss of the leader is noticed.
    #[serde(default)]
    pub election: Election,
    /// The way to the database.
    #[serde(default)]
    pub database: DatabaseSection,
    /// The Consul-compatible API.
    #[serde(default)]
    pub consul: ConsulSection,
    /// How workflows run.
    #[serde(default)]
    pub workflows: Workflows,
    /// What `GET /status` answers on a node that does not lead.
    #[serde(default)]
    pub status_contract: StatusContract,
    /// Folder of PostgreSQL's programs; found by version below `/usr/lib/postgresql` when absent.
    #[serde(default)]
    pub postgres_bin_dir: Option<PathBuf>,
    /// A PostgreSQL that somebody else looks after; absent: every node has one of its own, and the cluster looks after them.
    #[serde(default)]
    pub external_database: Option<ExternalDatabaseSection>,
    /// Where backups of the database are kept; absent: nowhere, and its log is not archived.
    #[serde(default)]
    pub backup: Option<BackupSection>,
    /// RabbitMQ's folder, with `plugins` in it; found by version below `/usr/lib/rabbitmq/lib` when absent.
    #[serde(default)]
    pub rabbitmq_dir: Option<PathBuf>,
    /// Log filter, such as `info,conclave_postgres=debug`.
    #[serde(default = "default_log")]
    pub log: String,
}

/// Who the node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// Unique in the cluster: letters, digits and dashes.
    pub name: String,
    /// The IP address that it listens on and is reached at.
    pub address: std::net::IpAddr,
}

/// Ports, all on the node's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    /// REST over HTTPS.
    pub rest: u16,
    /// Plain HTTP that only redirects to `rest`; absent: none.
    pub redirect: Option<u16>,
    /// REST for agents and the file server.
    pub internal: u16,
    /// AMQPS.
    pub broker: u16,
    /// Erlang distribution of this node's broker, which never speaks to another one.
    pub broker_distribution: u16,
    /// The proxy that leads to the current primary.
    pub database_proxy: u16,
    /// The relay of this node's PostgreSQL.
    pub database: u16,
    /// gRPC between nodes.
    pub peer: u16,
    /// Failure detection, UDP and TCP.
    pub gossip: u16,
    /// Cluster status API.
    pub status: u16,
    /// File contents.
    pub files: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            rest: 443,
            redirect: None,
            internal: 53333,
            broker: 5671,
            broker_distribution: 25672,
            database_proxy: 5432,
            database: 15432,
            peer: 8300,
            gossip: 8301,
            status: 8500,
            files: 22000,
        }
    }
}

/// Accounts of the supervised servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Accounts {
    /// PostgreSQL's.
    pub postgres: String,
    /// RabbitMQ's.
    pub rabbitmq: String,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            postgres: "postgres".into(),
            rabbitmq: "rabbitmq".into(),
        }
    }
}

/// Raft's timers, as profiles whose values were measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Election {
    /// Heartbeat 50 ms, election 150–300 ms.
    #[default]
    Lan,
    /// Heartbeat 100 ms, election 300–600 ms: for busy machines and slow disks.
    Cautious,
}

/// The way to the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseSection {
    /// How long a new connection waits for a primary during a failover before it is refused, in seconds.
    pub client_wait: u64,
}

impl Default for DatabaseSection {
    fn default() -> Self {
        Self { client_wait: 15 }
    }
}

impl DatabaseSection {
    /// How long a new connection waits.
    pub fn client_wait(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.client_wait)
    }
}

/// The Consul-compatible API on the status port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsulSection {
    /// Sessions with a shorter time to live are refused, in seconds. Consul's own minimum is 10.
    pub session_ttl_min: u64,
}

impl Default for ConsulSection {
    fn default() -> Self {
        Self { session_ttl_min: 10 }
    }
}

impl ConsulSection {
    /// The shortest time to live.
    pub fn session_ttl_min(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.session_ttl_min)
    }
}

/// A PostgreSQL that somebody else looks after. The same on all nodes, from the founding on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalDatabaseSection {
    /// Its host name or address. It must always lead to the primary.
    pub host: String,
    /// Its port.
    #[serde(default = "default_postgres_port")]
    pub port: u16,
    /// The manager's role, which owns the database.
    pub user: String,
    /// The file that holds that role's password, readable by the manager alone.
    pub password_file: PathBuf,
    /// The database.
    pub name: String,
    /// The authorities that its certificate is verified by (PEM); without it there is no TLS.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

fn default_postgres_port() -> u16 {
    5432
}

/// Where backups of the database are kept. The same on all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupSection {
    /// An absolute path that leads to the same directory on all nodes, or `s3://bucket/prefix`.
    pub target: String,
    /// How to reach the bucket.
    #[serde(default)]
    pub s3: S3Section,
    /// After so many seconds with something in it a segment of the log is ended and archived: what is lost with all nodes is no
    /// older.
    #[serde(default = "default_segment_seconds")]
    pub segment_seconds: u64,
}

/// An S3-compatible store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Section {
    /// `https://host:port`; Amazon's own when absent.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// Who signs them.
    pub access_key_id: String,
    /// The file that holds the secret key, readable by the manager alone.
    pub secret_access_key_file: PathBuf,
    /// The authorities that are trusted (PEM); the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// Whether an endpoint without TLS will do: whoever listens on the way sees the database then.
    pub allow_http: bool,
}

impl Default for S3Section {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".into(),
            access_key_id: String::new(),
            secret_access_key_file: PathBuf::new(),
            ca_file: None,
            allow_http: false,
        }
    }
}

fn default_segment_seconds() -> u64 {
    60
}

/// How workflows run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workflows {
    /// How often a failed operation is tried again; -1 is without end.
    pub task_retries: i64,
    /// Seconds between the tries.
    pub task_retry_interval: f64,
    /// How often a node instance's failed lifecycle is run again.
    pub subgraph_retries: i64,
    /// How many central operations run at once on this node.
    pub concurrent_operations: usize,
}

impl Default for Workflows {
    fn default() -> Self {
        Self {
            task_retries: 60,
            task_retry_interval: 15.0,
            subgraph_retries: 0,
            concurrent_operations: 16,
        }
    }
}

/// What `GET /status` answers on a node that does not lead (spec/rest-api.md, section 12.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusContract {
    /// 200 on every node that can serve.
    #[default]
    AnyNode,
    /// 400 on all but the leader, as load balancers of the 4.x managers expect.
    ActiveOnly,
}

fn default_log() -> String {
    "info".into()
}
