//! Bringing a database back to a point in time, in a folder of its own. Nothing that is in use is touched: the caller puts the result
//! in place when all of it has been proven.
//!
//! The recovery is PostgreSQL's own, in a private server on a socket in a closed folder. It ends on a new timeline whose number is
//! above all that were ever used, so that whatever is archived from then on has names of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use conclave_catalog::database::Lsn;
use conclave_runtime::Tasks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio_postgres::{Client, NoTls};

use crate::create::{verify, write_private};
use crate::manifest::Manifest;
use crate::plan::{RestorePlan, Target};
use crate::programs::{Programs, control_value, run, tail};
use crate::wal::history_name;
use crate::{BackupError, Depot, pack};

const RECOVERY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const STOP_TIMEOUT: Duration = Duration::from_secs(300);
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);
/// The private server's port: only a part of its socket's name.
const PORT: u16 = 5432;
/// What a standby's server must have at least as much of as its primary had.
const BOUND: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting"),
    ("max_worker_processes", "max_worker_processes setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
];

/// What to restore and where.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// PostgreSQL's programs.
    pub programs: Programs,
    /// A folder of its own, which is emptied first.
    pub work: PathBuf,
    /// For the private server's socket: a folder that only the server's account may enter.
    pub socket_dir: PathBuf,
    /// Up to where.
    pub target: Target,
    /// The superuser's and the other roles' passwords in the cluster that takes the database over.
    pub passwords: Vec<(String, String)>,
    /// The new timeline's number is above this one as well.
    pub above_timeline: u32,
}

/// A database that was brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Its data directory, cleanly shut down.
    pub data: PathBuf,
    /// The timeline that it has begun.
    pub timeline: u32,
    /// Up to where the log was applied.
    pub reached: Lsn,
    /// When the last transaction was committed that it holds; absent when none was after the backup.
    pub last_commit: Option<jiff::Timestamp>,
}

/// Restores by `plan`.
///
/// # Errors
/// When anything is damaged or missing, or the wanted point is not reached. What lies in the work folder then is of no use.
pub async fn restore(
    depot: &Depot,
    manifest: &Manifest,
    plan: &RestorePlan,
    options: &RestoreOptions,
) -> Result<Restored, BackupError> {
    let work = &options.work;
    clear(work)?;
    let (data, log) = (work.join("data"), work.join("log"));
    for folder in [work, &data, &log] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(folder).map_err(BackupError::file("create", folder))?;
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder, private).map_err(BackupError::file("protect", folder))?;
    }
    pack::receive(depot, manifest, &data).await?;
    options.programs.own_all(work)?;
    verify(&options.programs, work, &data).await?;
    fetch_log(depot, manifest, plan, &log).await?;
    claim_timelines(&log, plan, options)?;
    options.programs.own_all(&log)?;
    configure(&data, &log, plan, options).await?;
    let (restored, has_checksums) = recover(&data, options).await?;
    if has_checksums {
        let mut command = options.programs.command("pg_checksums", work);
        command.args(["--check", "--pgdata"]).arg(&data);
        run("pg_checksums", command, RECOVERY_TIMEOUT).await?;
    }
    std::fs::remove_dir_all(&log).map_err(BackupError::file("remove", &log))?;
    Ok(restored)
}

/// Removes what an earlier restore has left.
///
/// # Errors
/// When the file system refuses.
pub fn clear(work: &Path) -> Result<(), BackupError> {
    match std::fs::remove_dir_all(work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(BackupError::file("remove", work)(error)),
        _ => Ok(()),
    }
}

async fn fetch_log(depot: &Depot, manifest: &Manifest, plan: &RestorePlan, log: &Path) -> Result<(), BackupError> {
    let write = |name: String, content: bytes::Bytes| {
        let path = log.join(name);
        std::fs::write(&path, content).map_err(BackupError::file("write", &path))
    };
    for segment in &plan.segments {
        write(segment.name(), depot.segment(&manifest.system_id, *segment).await?)?;
    }
    if plan.timeline > 1 {
        let text = depot.history_text(&manifest.system_id, plan.timeline).await?;
        write(history_name(plan.timeline), text)?;
    }
    Ok(())
}

/// PostgreSQL takes the number after the last one whose history it finds, looking upwards from the one that it ends on.
fn claim_timelines(log: &Path, plan: &RestorePlan, options: &RestoreOptions) -> Result<(), BackupError> {
    let last = plan.last_timeline.max(options.above_timeline);
    for timeline in plan.timeline + 1..=last {
        let path = log.join(history_name(timeline));
        let text = format!("{}\t0/1\ttaken\n", plan.timeline);
        std::fs::write(&path, text).map_err(BackupError::file("write", &path))?;
    }
    Ok(())
}

async fn configure(data: &Path, log: &Path, plan: &RestorePlan, options: &RestoreOptions) -> Result<(), BackupError> {
    let mut command = options.programs.command("pg_controldata", &options.work);
    command.arg(data);
    let control = run("pg_controldata", command, LOOK_TIMEOUT).await?;
    let target = match options.target {
        Target::Latest => String::new(),
        // When the file is read PostgreSQL knows no names of time zones yet, and takes a Z for one.
        Target::Time(time) => format!(
            "recovery_target_time = '{}'\n",
            time.strftime("%Y-%m-%d %H:%M:%S%.6f+00")
        ),
        Target::Lsn(lsn) => format!("recovery_target_lsn = '{lsn}'\n"),
    };
    let bound: String = BOUND
        .iter()
        .filter_map(|(name, key)| Some(format!("{name} = {}\n", control_value(&control, key)?)))
        .collect();
    let text = format!(
        "listen_addresses = ''\nunix_socket_directories = '{socket_dir}'\nunix_socket_permissions = 0700\nport = {PORT}\n\
         restore_command = 'cp \"{log}/%f\" \"%p\"'\nrecovery_target_timeline = '{timeline}'\nrecovery_target_action = promote\n\
         synchronous_standby_names = ''\nhot_standby = off\narchive_mode = off\nlogging_collector = off\n\
         log_destination = stderr\ntimezone = UTC\npassword_encryption = 'scram-sha-256'\n{bound}{target}",
        socket_dir = options.socket_dir.display(),
        log = log.display(),
        timeline = plan.timeline,
    );
    for (name, text) in [
        ("postgresql.conf", text.as_str()),
        ("postgresql.auto.conf", ""),
        // Only the server's own account gets to the socket.
        ("pg_hba.conf", "local all all trust\n"),
        ("recovery.signal", ""),
    ] {
        let path = data.join(name);
        write_private(&path, text)?;
        options.programs.account.own(&path)?;
    }
    let standby = data.join("standby.signal");
    match std::fs::remove_file(&standby) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(BackupError::file("remove", standby)(error)),
        _ => Ok(()),
    }
}

/// Runs the private server until it has recovered and knows its new passwords, then stops it cleanly.
/// Also whether its pages have checksums.
async fn recover(data: &Path, options: &RestoreOptions) -> Result<(Restored, bool), BackupError> {
    let said = options.work.join("recovery.log");
    let output = std::fs::File::create(&said).map_err(BackupError::file("create", &said))?;
    let mut command = options.programs.command("postgres", &options.work);
    command.arg("-D").arg(data).stdout(Stdio::null()).stderr(output);
    let mut server = command.spawn().map_err(|error| BackupError::Program {
        program: "postgres",
        output: error.to_string(),
    })?;
    let working = async {
        let client = wait_recovered(&mut server, options, &said).await?;
        take_over(&client, data, options).await
    };
    let outcome = tokio::time::timeout(RECOVERY_TIMEOUT, working)
        .await
        .unwrap_or(Err(BackupError::Timeout("the recovery")));
    stop(&mut server).await?;
    let restored = outcome?;
    let mut command = options.programs.command("pg_controldata", &options.work);
    command.arg(data);
    let control = run("pg_controldata", command, LOOK_TIMEOUT).await?;
    let has_checksums = control_value(&control, "Data page checksum version") != Some("0");
    match control_value(&control, "Database cluster state") {
        Some("shut down") => Ok((restored, has_checksums)),
        state => Err(BackupError::Damaged {
            what: "the restored database".into(),
            reason: format!("it was left {}", state.unwrap_or("in an unknown state")),
        }),
    }
}

async fn stop(server: &mut Child) -> Result<(), BackupError> {
    let Some(pid) = server.id().and_then(|pid| i32::try_from(pid).ok()) else {
        return Ok(());
    };
    // It may end by itself meanwhile.
    let _ended = kill(Pid::from_raw(pid), Signal::SIGINT);
    match tokio::time::timeout(STOP_TIMEOUT, server.wait()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(BackupError::Timeout("stopping the restored database")),
    }
}

/// Connections are refused until the recovery is over.
async fn wait_recovered(server: &mut Child, options: &RestoreOptions, said: &Path) -> Result<Client, BackupError> {
    loop {
        if let Ok(Some(status)) = server.try_wait() {
            let output = tail(&std::fs::read(said).unwrap_or_default());
            return Err(if output.contains("before configured recovery target was reached") {
                BackupError::NotReached(format!(
                    "the archive holds no commit after {}, so that nothing tells that all before it is there. Without --to-time and \
                     --to-lsn all that there is comes back. PostgreSQL says: {output}",
                    options.target
                ))
            } else {
                BackupError::Program {
                    program: "postgres",
                    output: format!("{status}: {output}"),
                }
            });
        }
        if let Ok(client) = connect(options).await {
            return Ok(client);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn connect(options: &RestoreOptions) -> Result<Client, BackupError> {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(&options.socket_dir)
        .port(PORT)
        .user(conclave_postgres::USER)
        .dbname("postgres")
        .connect_timeout(LOOK_TIMEOUT);
    let (client, connection) = config.connect(NoTls).await.map_err(BackupError::query("connect"))?;
    Tasks::new("restore").spawn("restored server's session", async move {
        // The server is stopped under it.
        let _ended = connection.await;
    });
    Ok(client)
}

/// The roles get the passwords of the cluster that takes the database over.
async fn take_over(client: &Client, data: &Path, options: &RestoreOptions) -> Result<Restored, BackupError> {
    let query = BackupError::query("look at the restored database");
    let sql = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,
        coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn())::text,
        (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint";
    let row = client.query_one(sql, &[]).await.map_err(query)?;
    let (timeline, reached, last): (i32, &str, Option<i64>) = (row.get(0), row.get(1), row.get(2));
    let restored = Restored {
        data: data.to_owned(),
        timeline: u32::try_from(timeline).unwrap_or(0),
        reached: reached.parse().unwrap_or_default(),
        last_commit: last.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok()),
    };
    for (role, password) in &options.passwords {
        let (role, password) = (role.replace('"', "\"\""), password.replace('\'', "''"));
        let sql = format!("ALTER ROLE \"{role}\" PASSWORD '{password}'");
        let altering = client.batch_execute(&sql).await;
        altering.map_err(BackupError::query("give the restored database its passwords"))?;
    }
    let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_type = 'physical'";
    let dropping = client.batch_execute(slots).await;
    dropping.map_err(BackupError::query("drop the slots of the old cluster"))?;
    Ok(restored)
}
