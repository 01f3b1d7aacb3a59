//! Making a backup: copied, verified by PostgreSQL's own program, sent, read back, and only then given its manifest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conclave_catalog::database::Lsn;
use conclave_runtime::clock;

use crate::manifest::{Manifest, PostgresManifest, VERSION, Verified};
use crate::programs::{Programs, control_value, run};
use crate::{BackupError, Depot, pack};

const COPY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// What a backup is made of, and by whom.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// PostgreSQL's programs.
    pub programs: Programs,
    /// Where the primary is reached.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who may replicate.
    pub user: String,
    /// That user's password.
    pub password: String,
    /// A folder for the copy, as large as the data directory. It is made, and removed at the end.
    pub spool: PathBuf,
    /// The cluster's identity.
    pub cluster_id: String,
    /// This node's name.
    pub node_name: String,
    /// Whether to read it back from where it is kept.
    pub verify: bool,
}

/// Makes a backup.
///
/// # Errors
/// When copying, verifying or sending fails; what has been sent then is never taken for a backup.
pub async fn create(depot: &Depot, options: &CreateOptions) -> Result<Manifest, BackupError> {
    let spool = Spool::make(options)?;
    let made = copy_and_send(depot, options, &spool).await;
    spool.remove()?;
    made
}

/// The folder of a copy that is being made.
struct Spool {
    folder: PathBuf,
}

impl Spool {
    fn make(options: &CreateOptions) -> Result<Self, BackupError> {
        use std::os::unix::fs::PermissionsExt;
        let folder = options.spool.clone();
        let spool = Self { folder };
        spool.remove()?;
        let folder = &spool.folder;
        std::fs::create_dir_all(folder).map_err(BackupError::file("create", folder))?;
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder, private).map_err(BackupError::file("protect", folder))?;
        options.programs.account.own(folder)?;
        Ok(spool)
    }

    fn remove(&self) -> Result<(), BackupError> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(BackupError::file("remove", &self.folder)(error))
            }
            _ => Ok(()),
        }
    }
}

async fn copy_and_send(depot: &Depot, options: &CreateOptions, spool: &Spool) -> Result<Manifest, BackupError> {
    let began_at = clock::now();
    let data = spool.folder.join("data");
    copy(options, &spool.folder, &data).await?;
    verify(&options.programs, &spool.folder, &data).await?;
    let (timeline, start_lsn, end_lsn) = range(&data)?;
    let mut controldata = options.programs.command("pg_controldata", &spool.folder);
    controldata.arg(&data);
    let control = run("pg_controldata", controldata, LOOK_TIMEOUT).await?;
    let system_id = control_value(&control, "Database system identifier").unwrap_or_default();
    let version_file = data.join("PG_VERSION");
    let version = std::fs::read_to_string(&version_file).map_err(BackupError::file("read", &version_file))?;
    // Two that begin in the same second: the later one waits for its name.
    let mut id = name(began_at);
    let mut number = 1;
    while !depot.begin(system_id, &id).await? {
        number += 1;
        id = format!("{}-{number}", name(began_at));
    }
    let parts = pack::send(depot, system_id, &id, &data).await?;
    let manifest = Manifest {
        version: VERSION,
        id,
        system_id: system_id.to_owned(),
        cluster_id: options.cluster_id.clone(),
        made_by: options.node_name.clone(),
        postgres_version: version.trim().to_owned(),
        began_at,
        ended_at: clock::now(),
        timeline,
        start_lsn,
        end_lsn,
        bytes: size(&data)?,
        parts,
    };
    if options.verify {
        pack::check(depot, &manifest).await?;
    }
    depot.complete(&manifest).await?;
    if options.verify {
        depot.set_verified(&manifest, &Verified { at: clock::now() }).await?;
    }
    Ok(manifest)
}

/// Copies the primary, with the log that makes the copy usable by itself.
async fn copy(options: &CreateOptions, folder: &Path, data: &Path) -> Result<(), BackupError> {
    let passfile = folder.join("passfile");
    let line = format!("*:*:*:{}:{}\n", options.user, options.password);
    write_private(&passfile, &line)?;
    options.programs.account.own(&passfile)?;
    let mut command = options.programs.command("pg_basebackup", folder);
    command
        .env("PGPASSFILE", &passfile)
        .arg("--pgdata")
        .arg(data)
        .args(["--host", &options.host, "--port", &options.port.to_string()])
        .args(["--username", &options.user, "--no-password"])
        .args([
            "--wal-method=stream",
            "--checkpoint=fast",
            "--manifest-checksums=SHA256",
        ]);
    run("pg_basebackup", command, COPY_TIMEOUT).await.map(drop)
}

/// Has PostgreSQL compare a copy with its own manifest: every file, every checksum, and the log that it needs.
pub(crate) async fn verify(programs: &Programs, folder: &Path, data: &Path) -> Result<(), BackupError> {
    let mut command = programs.command("pg_verifybackup", folder);
    command.arg("--quiet").arg(data);
    run("pg_verifybackup", command, COPY_TIMEOUT).await.map(drop)
}

fn range(data: &Path) -> Result<(u32, Lsn, Lsn), BackupError> {
    let file = data.join("backup_manifest");
    let text = std::fs::read(&file).map_err(BackupError::file("read", &file))?;
    let malformed = |reason: String| BackupError::Damaged {
        what: file.display().to_string(),
        reason,
    };
    let manifest: PostgresManifest = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    let lsn = |text: &str| text.parse::<Lsn>().map_err(|error| malformed(error.to_string()));
    // More than one when the copy was made of a standby whose primary changed meanwhile.
    match (manifest.ranges.first(), manifest.ranges.last()) {
        (Some(first), Some(last)) => Ok((last.timeline, lsn(&first.start)?, lsn(&last.end)?)),
        _ => Err(malformed("it names no log".into())),
    }
}

fn name(at: jiff::Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn size(path: &Path) -> Result<u64, BackupError> {
    let meta = path.symlink_metadata().map_err(BackupError::file("look at", path))?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path).map_err(BackupError::file("list", path))? {
        sum += size(&entry.map_err(BackupError::file("list", path))?.path())?;
    }
    Ok(sum)
}

pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), BackupError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        options.open(path)?.write_all(text.as_bytes())
    };
    write().map_err(BackupError::file("write", path))
}
