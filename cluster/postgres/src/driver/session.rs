//! Questions to the local server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conclave_catalog::database::Lsn;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use super::layout::{COPY_PORT, LOCAL_PORT, Layout};
use crate::DatabaseError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that does not answer its own driver within this is not known to be well.
const OBSERVE_TIMEOUT: Duration = Duration::from_millis(500);
const PROMOTE_LIMIT: Duration = Duration::from_secs(30);
const PROMOTE_POLL: Duration = Duration::from_millis(4);

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) in_recovery: bool,
    pub(crate) lsn: Lsn,
    pub(crate) timeline: u32,
    /// Standby: the end of the last whole record that it holds and has applied.
    pub(crate) replayed: Lsn,
    /// Whether log comes in.
    pub(crate) receiving: bool,
    /// Whether somebody is there to receive, even if nothing comes in.
    pub(crate) receiver: bool,
    /// Whether it has received anything since its start. Before, the end of its log is known only once all of it is replayed.
    pub(crate) has_received: bool,
    pub(crate) system_id: String,
    /// Standbys that stream from here, by name.
    pub(crate) standbys: BTreeSet<String>,
}

/// A connection to the local server.
pub(crate) struct Session {
    client: Client,
    /// Asked ten times a second: parsed and planned once a connection.
    observe: OnceCell<Statement>,
}

/// A standby's timeline is the highest of which it holds log: what it receives now, else what lies in its folder. The control
/// file alone will not do: it learns of a timeline when pages are written, long after log of it was acknowledged. Timelines
/// are never used twice, so that a higher one is always a later one.
const OBSERVE: &str = "
    SELECT pg_is_in_recovery(),
        CASE WHEN pg_is_in_recovery()
            THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_flush_lsn() END::text,
        CASE WHEN pg_is_in_recovery()
            THEN greatest(
                (SELECT received_tli FROM pg_stat_wal_receiver),
                (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                (SELECT timeline_id FROM pg_control_checkpoint()))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
        EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
        (SELECT system_identifier::text FROM pg_control_system()),
        ARRAY(SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'),
        pg_last_wal_receive_lsn() IS NOT NULL,
        EXISTS (SELECT FROM pg_stat_wal_receiver),
        pg_last_wal_replay_lsn()::text";

impl Session {
    /// Connects; the second value resolves when the connection is lost, which is how a crash is noticed at once.
    pub(crate) async fn connect(
        layout: &Layout,
        password: &str,
        database: &str,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), DatabaseError> {
        Self::connect_to(layout, LOCAL_PORT, password, database).await
    }

    /// Connects to the server that feeds this one.
    pub(crate) async fn connect_upstream(
        layout: &Layout,
        password: &str,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), DatabaseError> {
        Self::connect_to(layout, COPY_PORT, password, "postgres").await
    }

    async fn connect_to(
        layout: &Layout,
        port: u16,
        password: &str,
        database: &str,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), DatabaseError> {
        let mut config = Config::new();
        config
            .host_path(&layout.socket_dir)
            .port(port)
            .user("conclave")
            .password(password)
            .dbname(database)
            .application_name("conclave driver")
            .options("-c statement_timeout=0")
            .connect_timeout(CONNECT_TIMEOUT);
        let connecting = config.connect(NoTls);
        let (client, connection) = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| DatabaseError::Timeout("connecting to the server"))?
            .map_err(DatabaseError::query("connect"))?;
        let ended = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the server was lost");
            }
        };
        let session = Self {
            client,
            observe: OnceCell::new(),
        };
        Ok((session, ended))
    }

    /// The timeline of a primary, which its control file knows from then on; `None` when this is a standby.
    pub(crate) async fn prepare_as_source(&self) -> Result<Option<u32>, DatabaseError> {
        let sql = "SELECT timeline, known FROM
            (SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE
                ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline) here,
            (SELECT timeline_id AS known FROM pg_control_checkpoint()) file";
        let row = self
            .client
            .query_one(sql, &[])
            .await
            .map_err(DatabaseError::query("ask the upstream"))?;
        let (timeline, known): (Option<i32>, i32) = (row.get(0), row.get(1));
        if timeline.is_some_and(|timeline| known < timeline) {
            self.checkpoint().await?;
        }
        Ok(timeline.and_then(|timeline| u32::try_from(timeline).ok()))
    }

    async fn observe(&self) -> Result<Row, tokio_postgres::Error> {
        let statement = self.observe.get_or_try_init(|| self.client.prepare(OBSERVE)).await?;
        self.client.query_one(statement, &[]).await
    }

    pub(crate) async fn facts(&self) -> Result<Facts, DatabaseError> {
        let row = tokio::time::timeout(OBSERVE_TIMEOUT, self.observe())
            .await
            .map_err(|_| DatabaseError::Timeout("observing the local server"))?
            .map_err(DatabaseError::query("observe"))?;
        let lsn: Option<String> = row.get(1);
        let lsn = lsn.as_deref().unwrap_or("0/0").parse().unwrap_or_default();
        let replayed: Option<String> = row.get(8);
        let timeline: Option<i32> = row.get(2);
        let standbys: Vec<String> = row.get(5);
        Ok(Facts {
            in_recovery: row.get(0),
            lsn,
            timeline: timeline.and_then(|timeline| u32::try_from(timeline).ok()).unwrap_or(0),
            replayed: replayed.and_then(|text| text.parse().ok()).unwrap_or_default(),
            receiving: row.get(3),
            has_received: row.get(6),
            receiver: row.get(7),
            system_id: row.get(4),
            standbys: standbys.into_iter().collect(),
        })
    }

    /// Roles and database of a new cluster.
    pub(crate) async fn create_roles(&self, replication_password: &str) -> Result<(), DatabaseError> {
        let quoted = replication_password.replace('\'', "''");
        let role = format!("CREATE ROLE conclave_replication LOGIN REPLICATION PASSWORD '{quoted}'");
        self.execute_unless_exists("create the replication role", &role).await?;
        self.execute_unless_exists("create the database", "CREATE DATABASE conclave")
            .await
    }

    async fn execute_unless_exists(&self, what: &'static str, statement: &str) -> Result<(), DatabaseError> {
        match self.client.batch_execute(statement).await {
            Ok(()) => Ok(()),
            Err(error)
                if error
                    .as_db_error()
                    .is_some_and(|db| matches!(db.code().code(), "42710" | "42P04")) =>
            {
                Ok(())
            }
            Err(error) => Err(DatabaseError::query(what)(error)),
        }
    }

    pub(crate) async fn reload(&self) -> Result<(), DatabaseError> {
        self.client
            .batch_execute("SELECT pg_reload_conf()")
            .await
            .map_err(DatabaseError::query("reload"))
    }

    /// The quorum in force, as the server shows it.
    pub(crate) async fn synchronous_standby_names(&self) -> Result<String, DatabaseError> {
        let row = self
            .client
            .query_one("SHOW synchronous_standby_names", &[])
            .await
            .map_err(DatabaseError::query("show the quorum"))?;
        Ok(row.get(0))
    }

    /// How many clients other than this process's own sessions are connected, and how many of them are in the middle of something.
    pub(crate) async fn clients(&self) -> Result<(i64, i64), DatabaseError> {
        let sql = "SELECT count(*), count(*) FILTER (WHERE state IS DISTINCT FROM 'idle') FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
                AND application_name NOT IN ('conclave driver', 'conclave archiver')";
        let row = self
            .client
            .query_one(sql, &[])
            .await
            .map_err(DatabaseError::query("count the clients"))?;
        Ok((row.get(0), row.get(1)))
    }

    /// Ends every client but this one.
    pub(crate) async fn end_clients(&self) -> Result<(), DatabaseError> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        self.client
            .batch_execute(sql)
            .await
            .map_err(DatabaseError::query("end the clients"))
    }

    /// Primary: who receives, by name, and how many bytes of log behind.
    pub(crate) async fn lags(&self) -> Result<Vec<(String, i64)>, DatabaseError> {
        let sql = "SELECT application_name, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), flush_lsn)::bigint
            FROM pg_stat_replication WHERE flush_lsn IS NOT NULL ORDER BY 1";
        let rows = self.client.query(sql, &[]).await;
        let rows = rows.map_err(DatabaseError::query("look how far the standbys are"))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// What the server runs with, of these; what waits for a restart; and whether it is a standby that has stopped to apply the
    /// log.
    pub(crate) async fn parameters(
        &self,
        names: &[&str],
        in_recovery: bool,
    ) -> Result<(BTreeMap<String, u64>, Vec<String>, bool), DatabaseError> {
        let sql = "SELECT name, setting, pending_restart, name = ANY($1) FROM pg_settings
            WHERE name = ANY($1) OR pending_restart ORDER BY name";
        let rows = self.client.query(sql, &[&names]).await;
        let rows = rows.map_err(DatabaseError::query("look at the parameters"))?;
        let (mut running, mut pending) = (BTreeMap::new(), Vec::new());
        for row in rows {
            let (name, setting, waits, asked): (String, &str, bool, bool) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            match setting.parse() {
                Ok(number) if asked => {
                    running.insert(name, number);
                }
                _ if waits => pending.push(name),
                _ => {}
            }
        }
        if !in_recovery {
            return Ok((running, pending, false));
        }
        let row = self
            .client
            .query_one("SELECT pg_get_wal_replay_pause_state() = 'paused'", &[])
            .await
            .map_err(DatabaseError::query("look whether the log is applied"))?;
        Ok((running, pending, row.get(0)))
    }

    /// The end of the log that is on disk.
    pub(crate) async fn flushed(&self) -> Result<Lsn, DatabaseError> {
        let row = self
            .client
            .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .await
            .map_err(DatabaseError::query("read the end of the log"))?;
        let text: String = row.get(0);
        text.parse()
            .map_err(|error: conclave_catalog::database::MalformedLsn| DatabaseError::Unexpected(error.to_string()))
    }

    /// Promotes; `false` when that takes too long. The server's own wait looks ten times a second, which clients would feel.
    pub(crate) async fn promote(&self) -> Result<bool, DatabaseError> {
        self.client
            .batch_execute("SELECT pg_promote(false)")
            .await
            .map_err(DatabaseError::query("promote"))?;
        let end = Instant::now() + PROMOTE_LIMIT;
        while Instant::now() < end {
            let row = self
                .client
                .query_one("SELECT pg_is_in_recovery()", &[])
                .await
                .map_err(DatabaseError::query("wait for the promotion"))?;
            if !row.get::<_, bool>(0) {
                return Ok(true);
            }
            tokio::time::sleep(PROMOTE_POLL).await;
        }
        Ok(false)
    }

    pub(crate) async fn checkpoint(&self) -> Result<(), DatabaseError> {
        self.client
            .batch_execute("CHECKPOINT")
            .await
            .map_err(DatabaseError::query("checkpoint"))
    }

    /// Writes the epoch and returns once the quorum has flushed it. An error or a lost wait is an unknown outcome and is
    /// simply repeated: the row says nothing but that its epoch could be acknowledged.
    pub(crate) async fn write_marker(&self, epoch: u64) -> Result<(), DatabaseError> {
        let epoch = i64::try_from(epoch).map_err(|_| DatabaseError::Unexpected("the epoch is too large".into()))?;
        self.client
            .batch_execute(
                "CREATE SCHEMA IF NOT EXISTS conclave_ha; CREATE TABLE IF NOT EXISTS conclave_ha.marker (
                    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton), epoch bigint NOT NULL)",
            )
            .await
            .map_err(DatabaseError::query("create the marker"))?;
        self.client
            .execute(
                "INSERT INTO conclave_ha.marker (epoch) VALUES ($1)
                 ON CONFLICT (singleton) DO UPDATE SET epoch = excluded.epoch",
                &[&epoch],
            )
            .await
            .map_err(DatabaseError::query("write the marker"))?;
        Ok(())
    }
}
