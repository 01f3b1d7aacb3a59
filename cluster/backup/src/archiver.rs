//! Archives the primary's log, segment by segment, while this node's server is the primary.
//!
//! Segments are read from the server's own folder; a slot of its own keeps them there until they are archived, as far as
//! `max_slot_wal_keep_size` lets it: an archive that cannot be reached costs a gap, never the primary. Only a node whose server is
//! open in the rule's epoch archives, and looks again before each segment. A deposed primary that had not noticed could add no
//! more than whole segments of its own timeline, whose number nobody else has, and nothing is ever overwritten.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use conclave_catalog::database::Lsn;
use conclave_postgres::coordinator::Role;
use conclave_postgres::{Database, LocalServer};
use conclave_runtime::{Shutdown, Tasks, clock};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use crate::depot::offload;
use crate::manifest::lsn;
use crate::plan::next;
use crate::wal::{History, Segment, history_name};
use crate::{BackupError, Depot};

/// The slot that keeps the log which is not archived yet.
const SLOT: &str = "conclave_archive";
const TICK: Duration = Duration::from_millis(500);
const GAP_LOOK: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// So many gaps are remembered for the status.
const GAPS_SHOWN: usize = 10;

/// How archiving goes, for the status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArchiveStatus {
    /// Whether this node archives: its server is the primary.
    pub active: bool,
    /// The primary's timeline.
    pub timeline: u32,
    /// The log before this position is archived.
    #[serde(with = "lsn")]
    pub archived_until: Lsn,
    /// When that was last moved.
    pub archived_at: Option<jiff::Timestamp>,
    /// Segments that were removed before they were archived: no backup from before them can be used beyond them. Forgotten when there
    /// is a backup from after them.
    pub gaps: Vec<String>,
    /// Why it does not go on.
    pub trouble: Option<String>,
}

/// Starts the task.
pub fn start_archiver(depot: Depot, database: Database, tasks: &Tasks) -> watch::Receiver<ArchiveStatus> {
    let (status, shown) = watch::channel(ArchiveStatus::default());
    let task = Task {
        depot,
        server: database.local().clone(),
        database,
        status,
        link: None,
        known: None,
        slot_dropped: false,
        gap: None,
    };
    tasks.spawn("log archiver", task.run(tasks.shutdown()));
    shown
}

struct Task {
    depot: Depot,
    database: Database,
    server: LocalServer,
    status: watch::Sender<ArchiveStatus>,
    link: Option<Client>,
    /// What the archive holds of the timeline of this epoch.
    known: Option<Known>,
    /// Since this server is a standby.
    slot_dropped: bool,
    /// The end of the last gap, and when a backup from after it was last looked for.
    gap: Option<(Lsn, Instant)>,
}

struct Known {
    epoch: u64,
    system_id: String,
    history: History,
    archived: Option<Segment>,
}

impl Task {
    async fn run(mut self, shutdown: Shutdown) {
        loop {
            let outcome = match self.database.serves() {
                Some(epoch) => {
                    self.slot_dropped = false;
                    shutdown.run_until(self.archive(epoch)).await
                }
                None => shutdown.run_until(self.rest()).await,
            };
            match outcome {
                None => return,
                Some(Ok(())) => self.report(|status| status.trouble = None),
                Some(Err(error)) => {
                    (self.link, self.known) = (None, None);
                    let text = error.to_string();
                    if self.status.borrow().trouble.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "the log is not archived; it is tried again");
                    }
                    self.report(|status| status.trouble = Some(text));
                }
            }
            if !shutdown.sleep(TICK).await {
                return;
            }
        }
    }

    fn report(&self, change: impl FnOnce(&mut ArchiveStatus)) {
        let mut next = self.status.borrow().clone();
        change(&mut next);
        self.status.send_if_modified(|old| {
            let changed = *old != next;
            *old = next;
            changed
        });
    }

    async fn query<T>(
        &self,
        what: &'static str,
        asking: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, BackupError> {
        tokio::time::timeout(QUERY_TIMEOUT, asking)
            .await
            .map_err(|_| BackupError::Timeout(what))?
            .map_err(BackupError::query(what))
    }

    async fn connect(&mut self) -> Result<&Client, BackupError> {
        if self.link.as_ref().is_none_or(Client::is_closed) {
            self.link = Some(connect(&self.server).await?);
        }
        self.link
            .as_ref()
            .ok_or(BackupError::Timeout("connecting to the server"))
    }

    /// A standby's slot would keep log that the primary archives.
    async fn rest(&mut self) -> Result<(), BackupError> {
        self.known = None;
        self.report(|status| status.active = false);
        if self.slot_dropped || self.database.status().observation.role != Role::Standby {
            self.link = None;
            return Ok(());
        }
        self.connect().await?;
        if let Some(link) = &self.link {
            let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
            self.query("drop the archive's slot", link.query(sql, &[&SLOT])).await?;
        }
        (self.link, self.slot_dropped) = (None, true);
        Ok(())
    }

    async fn archive(&mut self, epoch: u64) -> Result<(), BackupError> {
        self.connect().await?;
        if self.known.as_ref().is_none_or(|known| known.epoch != epoch) {
            self.known = Some(self.begin(epoch).await?);
        }
        loop {
            let (Some(link), Some(known)) = (&self.link, &self.known) else {
                return Ok(());
            };
            let sql = "SELECT pg_current_wal_flush_lsn()::text";
            let row = self.query("read the end of the log", link.query_one(sql, &[])).await?;
            let flushed = parse_lsn(row.get(0))?;
            let folder = self.server.data.join("pg_wal");
            let present = segments_in(&folder)?;
            let Some(next) = next(&known.history, known.archived, &present, flushed) else {
                return self.look_for_gap_closed().await;
            };
            if self.database.serves() != Some(epoch) {
                return Ok(());
            }
            let Some(content) = read_segment(&folder, next.segment).await? else {
                continue;
            };
            self.depot.put_segment(&known.system_id, next.segment, content).await?;
            let sql = "SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)";
            let end = next.segment.end().to_string();
            let advanced = self
                .query("advance the archive's slot", link.execute(sql, &[&SLOT, &end]))
                .await;
            if let Err(error) = advanced {
                // It was invalidated while the archive could not be reached.
                tracing::info!(%error, "the archive's slot is made anew");
                self.renew_slot().await?;
            }
            self.archived(next.segment, next.lost);
        }
    }

    fn archived(&mut self, segment: Segment, lost: Option<(u64, u64)>) {
        let Some(known) = &mut self.known else { return };
        known.archived = Some(segment);
        if lost.is_some() {
            self.gap = Some((segment.start(), Instant::now()));
        }
        let lost = lost.map(|(first, last)| {
            let name = |number| known.history.segment(number).name();
            format!("{} to {}", name(first), name(last))
        });
        if let Some(lost) = &lost {
            tracing::warn!(
                lost,
                "log was removed before it was archived; a new backup is needed to restore to any later point"
            );
        }
        let timeline = known.history.timeline;
        self.report(|status| {
            status.active = true;
            status.timeline = timeline;
            status.archived_until = segment.end();
            status.archived_at = Some(clock::now());
            status.gaps.extend(lost);
            let surplus = status.gaps.len().saturating_sub(GAPS_SHOWN);
            status.gaps.drain(..surplus);
        });
    }

    /// A gap matters until there is a backup from after it.
    async fn look_for_gap_closed(&mut self) -> Result<(), BackupError> {
        let (Some((end, looked)), Some(known)) = (self.gap, &self.known) else {
            return Ok(());
        };
        if looked.elapsed() < GAP_LOOK {
            return Ok(());
        }
        let contents = self.depot.contents(&known.system_id).await?;
        let mut backups = contents.inventory.backups.values();
        if backups.any(|backup| backup.start_lsn >= end) {
            self.gap = None;
            self.report(|status| status.gaps.clear());
        } else {
            self.gap = Some((end, Instant::now()));
        }
        Ok(())
    }

    async fn renew_slot(&self) -> Result<(), BackupError> {
        let Some(link) = &self.link else { return Ok(()) };
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
        self.query("drop the archive's slot", link.query(drop, &[&SLOT]))
            .await?;
        let create = "SELECT pg_create_physical_replication_slot($1, true)";
        self.query("create the archive's slot", link.query(create, &[&SLOT]))
            .await
            .map(drop_rows)
    }

    /// What the archive holds already, with the histories of this timeline's ancestors.
    async fn begin(&self, epoch: u64) -> Result<Known, BackupError> {
        let link = self
            .link
            .as_ref()
            .ok_or(BackupError::Timeout("connecting to the server"))?;
        let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()),
            ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,
            (SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1)";
        let row = self.query("look at the log", link.query_one(sql, &[&SLOT])).await?;
        let (system_id, timeline): (String, i32) = (row.get(0), row.get(1));
        let slot: Option<String> = row.get(2);
        if slot.is_none_or(|status| status == "lost") {
            self.renew_slot().await?;
        }
        let timeline = u32::try_from(timeline).unwrap_or(0);
        let folder = self.server.data.join("pg_wal");
        let history = archive_histories(&self.depot, &system_id, timeline, &folder).await?;
        let contents = self.depot.contents(&system_id).await?;
        let archived = history.last_of(&contents.inventory.segments);
        self.report(|status| {
            status.active = true;
            status.timeline = timeline;
            status.archived_until = archived.map_or(Lsn(0), Segment::end);
            status.archived_at = contents.archived_at;
        });
        Ok(Known {
            epoch,
            system_id,
            history,
            archived,
        })
    }
}

fn drop_rows(_: Vec<tokio_postgres::Row>) {}

/// Archives the histories of a timeline and of its ancestors, as far as they are there.
async fn archive_histories(
    depot: &Depot,
    system_id: &str,
    timeline: u32,
    folder: &Path,
) -> Result<History, BackupError> {
    let text_of = |timeline: u32| std::fs::read_to_string(folder.join(history_name(timeline))).unwrap_or_default();
    let history = History::parse(timeline, &text_of(timeline));
    let ancestors = history.ancestors.iter().map(|(ancestor, _)| *ancestor);
    for known in ancestors.chain([timeline]) {
        let text = text_of(known);
        if !text.is_empty() {
            depot.put_history(system_id, known, Bytes::from(text)).await?;
        }
    }
    Ok(history)
}

fn segments_in(folder: &Path) -> Result<BTreeSet<Segment>, BackupError> {
    let mut segments = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(BackupError::file("list", folder))? {
        let name = entry.map_err(BackupError::file("list", folder))?.file_name();
        segments.extend(name.to_str().and_then(Segment::parse));
    }
    Ok(segments)
}

/// A whole segment; `None` when the server has given the file another name meanwhile, and may be writing to it.
async fn read_segment(folder: &Path, segment: Segment) -> Result<Option<Bytes>, BackupError> {
    let path: PathBuf = folder.join(segment.name());
    let from = path.clone();
    let read = offload(move || {
        let mut file = std::fs::File::open(&from)?;
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut content)?;
        let opened = file.metadata()?;
        let there = std::fs::metadata(&from)?;
        let same = (opened.dev(), opened.ino()) == (there.dev(), there.ino());
        Ok(same.then(|| Bytes::from(content)))
    });
    match read.await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map_err(BackupError::file("read", path)),
    }
}

fn parse_lsn(text: &str) -> Result<Lsn, BackupError> {
    text.parse()
        .map_err(|error: conclave_catalog::database::MalformedLsn| BackupError::Nothing(error.to_string()))
}

async fn connect(server: &LocalServer) -> Result<Client, BackupError> {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(&server.socket_dir)
        .port(server.port)
        .user(conclave_postgres::USER)
        .password(&server.password)
        .dbname("postgres")
        .application_name("conclave archiver")
        .options("-c statement_timeout=0")
        .connect_timeout(CONNECT_TIMEOUT);
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls));
    let (client, connection) = connecting
        .await
        .map_err(|_| BackupError::Timeout("connecting to the server"))?
        .map_err(BackupError::query("connect"))?;
    Tasks::new("log archiver").spawn("archiver session", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the archiver's session has ended");
        }
    });
    Ok(client)
}
