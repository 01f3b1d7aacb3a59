//! A real PostgreSQL is backed up to a directory and to an S3 server, and brought back to points in time.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use conclave_backup::plan::Target;
use conclave_backup::wal::{SEGMENT_BYTES, Segment};
use conclave_backup::{BackupError, CreateOptions, Depot, Manifest, Programs, RestoreOptions, create, prune, restore};
use conclave_catalog::database::Lsn;
use conclave_config::S3Section;
use conclave_net::{CertificateAuthority, HttpsClient, new_key_and_request};
use conclave_runtime::account::Account;
use conclave_testkit::{TestPostgres, free_port, wait_until};
use tokio_postgres::{Client, NoTls};

const BUCKET: &str = "backups";
const TARGET: &str = "s3://backups/conclave/one";

/// moto's server: an S3 in one process, made by `deploy/test`. Ends with this value.
struct TestS3 {
    child: std::process::Child,
    port: u16,
    dir: tempfile::TempDir,
    /// The authority that its certificate is verified by, if it speaks TLS.
    ca_file: Option<PathBuf>,
}

impl TestS3 {
    async fn start() -> Self {
        Self::launch(tempfile::tempdir().unwrap(), None).await
    }

    /// With a certificate of an authority of its own.
    async fn start_encrypted() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::create("elsewhere").unwrap();
        let (key, request) = new_key_and_request("s3").unwrap();
        let certificate = authority.sign(&request, "elsewhere", 1, "s3", "127.0.0.1").unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, authority.certificate_pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        std::fs::write(dir.path().join("certificate.pem"), certificate).unwrap();
        Self::launch(dir, Some(ca_file)).await
    }

    async fn launch(dir: tempfile::TempDir, ca_file: Option<PathBuf>) -> Self {
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
            PathBuf::from,
        );
        let program = cache.join("conclave/moto-5.2.5/bin/moto_server");
        assert!(
            program.exists(),
            "{} is not there: `deploy/test` makes it",
            program.display()
        );
        let port = free_port();
        let mut command = std::process::Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        if ca_file.is_some() {
            command.arg("--ssl-cert").arg(dir.path().join("certificate.pem"));
            command.arg("--ssl-key").arg(dir.path().join("key.pem"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self {
            child,
            port,
            dir,
            ca_file,
        };
        wait_until("the S3 server", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        started.make_bucket().await;
        started
    }

    fn endpoint(&self) -> String {
        let scheme = if self.ca_file.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The server takes any signature.
    async fn make_bucket(&self) {
        let client = HttpsClient::for_outside(self.ca_file.as_deref(), self.ca_file.is_none()).unwrap();
        let request = http::Request::put(format!("{}/{BUCKET}", self.endpoint()))
            .header(
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0",
            )
            .body(http_body_util::Full::default())
            .unwrap();
        let answer = client.send(request, Duration::from_secs(20)).await.unwrap();
        assert_eq!(answer.status, 200);
    }

    fn section(&self) -> S3Section {
        let secret = self.dir.path().join("secret");
        std::fs::write(&secret, "secret\n").unwrap();
        S3Section {
            endpoint: Some(self.endpoint()),
            access_key_id: "key".into(),
            secret_access_key_file: secret,
            ca_file: self.ca_file.clone(),
            allow_http: self.ca_file.is_none(),
            ..S3Section::default()
        }
    }

    fn depot(&self) -> Depot {
        Depot::open(TARGET, &self.section()).unwrap()
    }
}

impl Drop for TestS3 {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("cbk").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn programs() -> Programs {
    Programs {
        bin: TestPostgres::bin_dir(),
        account: Account::for_children("postgres").unwrap(),
    }
}

async fn client(port: u16) -> Client {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user(TestPostgres::USER)
        .password(TestPostgres::PASSWORD)
        .dbname(TestPostgres::DATABASE);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    conclave_runtime::Tasks::new("test").spawn("connection", async move {
        let _ended = connection.await;
    });
    client
}

/// Commits a row; the position after it, and a time at which it was there.
async fn put(client: &Client, n: i32) -> (Lsn, jiff::Timestamp) {
    client.execute("INSERT INTO t VALUES ($1)", &[&n]).await.unwrap();
    let sql = "SELECT pg_current_wal_insert_lsn()::text, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let row = client.query_one(sql, &[]).await.unwrap();
    let (lsn, micros): (&str, i64) = (row.get(0), row.get(1));
    (lsn.parse().unwrap(), jiff::Timestamp::from_microsecond(micros).unwrap())
}

/// Does what the archiver does on a node: all whole segments.
async fn archive(client: &Client, depot: &Depot, postgres: &TestPostgres, system_id: &str) -> BTreeSet<Segment> {
    let sql = "SELECT pg_walfile_name(pg_switch_wal())";
    let row = client.query_one(sql, &[]).await.unwrap();
    let last = Segment::parse(row.get(0)).unwrap();
    let mut archived = BTreeSet::new();
    for entry in std::fs::read_dir(postgres.data_dir().join("pg_wal")).unwrap() {
        let entry = entry.unwrap();
        let Some(segment) = entry.file_name().to_str().and_then(Segment::parse) else {
            continue;
        };
        if segment.number <= last.number {
            // The server may have given an old one another name meanwhile.
            let Ok(content) = std::fs::read(entry.path()) else {
                continue;
            };
            let content = Bytes::from(content);
            depot.put_segment(system_id, segment, content).await.unwrap();
            archived.insert(segment);
        }
    }
    archived
}

fn create_options(postgres: &TestPostgres, dir: &Path) -> CreateOptions {
    CreateOptions {
        programs: programs(),
        host: "127.0.0.1".into(),
        port: postgres.port,
        user: TestPostgres::USER.into(),
        password: TestPostgres::PASSWORD.into(),
        spool: dir.join("spool"),
        cluster_id: "test".into(),
        node_name: "node1".into(),
        verify: true,
    }
}

/// Restores, starts what came out, and reads it.
async fn rows_at(depot: &Depot, manifest: &Manifest, target: Target, dir: &Path) -> Result<Vec<i32>, BackupError> {
    let contents = depot.contents(&manifest.system_id).await?;
    let plan = contents.inventory.plan(target, None, None)?;
    let socket_dir = dir.join("socket");
    std::fs::create_dir_all(&socket_dir).unwrap();
    let programs = programs();
    programs.account.own(&socket_dir).unwrap();
    let options = RestoreOptions {
        programs: programs.clone(),
        work: dir.join("restore"),
        socket_dir: socket_dir.clone(),
        target,
        passwords: vec![(TestPostgres::USER.into(), "another".into())],
        above_timeline: 6,
    };
    let restored = restore(depot, &contents.inventory.backups[&plan.backup], &plan, &options).await?;
    assert_eq!(restored.timeline, 7, "above all that were used");
    let mut server = tokio::process::Command::new(programs.bin.join("postgres"));
    programs.account.apply(&mut server);
    let mut server = server
        .arg("-D")
        .arg(&restored.data)
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let socket = socket_dir.join(".s.PGSQL.5432");
    let status = restored.data.join("postmaster.pid");
    wait_until("the restored server", || {
        socket.exists() && std::fs::read_to_string(&status).is_ok_and(|text| text.contains("ready"))
    });
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(&socket_dir)
        .user(TestPostgres::USER)
        .password("another")
        .dbname("postgres");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    conclave_runtime::Tasks::new("test").spawn("connection", async move {
        let _ended = connection.await;
    });
    let found = client.query("SELECT n FROM t ORDER BY n", &[]).await.unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    server.wait().await.unwrap();
    Ok(found.iter().map(|row| row.get(0)).collect())
}

fn depot_in(folder: &Path) -> Depot {
    Depot::open(&folder.display().to_string(), &S3Section::default()).unwrap()
}

/// The whole story with one kind of depot.
async fn round_trip(depot: Depot) {
    let dir = folder();
    assert_eq!(depot.databases().await.unwrap(), Vec::<String>::new());
    let postgres = TestPostgres::start().await;
    let client = client(postgres.port).await;
    client
        .batch_execute("CREATE TABLE t (n int PRIMARY KEY)")
        .await
        .unwrap();
    put(&client, 1).await;
    let manifest = create(&depot, &create_options(&postgres, dir.path())).await.unwrap();
    let (second, at_second) = put(&client, 2).await;
    put(&client, 3).await;
    archive(&client, &depot, &postgres, &manifest.system_id).await;
    let (fourth, at_fourth) = put(&client, 4).await;
    // Only a later commit tells that all up to a time was there.
    client.batch_execute("CREATE TABLE later ()").await.unwrap();
    archive(&client, &depot, &postgres, &manifest.system_id).await;

    assert_eq!(
        depot.databases().await.unwrap(),
        std::slice::from_ref(&manifest.system_id)
    );
    let contents = depot.contents(&manifest.system_id).await.unwrap();
    assert!(contents.verified.contains_key(&manifest.id), "{contents:?}");
    let (timeline, until) = contents.inventory.covered(&manifest);
    assert!(timeline == 1 && until >= fourth, "{timeline} {until}");

    let at = |target| rows_at(&depot, &manifest, target, dir.path());
    assert_eq!(at(Target::Lsn(second)).await.unwrap(), [1, 2]);
    assert_eq!(at(Target::Time(at_second)).await.unwrap(), [1, 2]);
    assert_eq!(at(Target::Time(at_fourth)).await.unwrap(), [1, 2, 3, 4]);
    assert_eq!(at(Target::Latest).await.unwrap(), [1, 2, 3, 4]);
    let late = at(Target::Time(at_fourth + jiff::SignedDuration::from_hours(1)))
        .await
        .unwrap_err();
    assert!(matches!(late, BackupError::NotReached(_)), "{late}");
    let far = at(Target::Lsn(Lsn(until.0 + 10 * SEGMENT_BYTES))).await.unwrap_err();
    assert!(matches!(far, BackupError::MissingLog { .. }), "{far}");

    // The same again is no harm, other content is refused, and what was there stays.
    let archived = archive(&client, &depot, &postgres, &manifest.system_id).await;
    let segment = *archived.first().unwrap();
    let other = Bytes::from(vec![7; usize::try_from(SEGMENT_BYTES).unwrap()]);
    let conflict = depot
        .put_segment(&manifest.system_id, segment, other.clone())
        .await
        .unwrap_err();
    assert!(matches!(conflict, BackupError::Conflict { .. }), "{conflict}");
    assert_ne!(depot.segment(&manifest.system_id, segment).await.unwrap(), other);
    depot
        .put_history("1", 2, Bytes::from_static(b"1\t0/1\tx\n"))
        .await
        .unwrap();
    depot
        .put_history("1", 2, Bytes::from_static(b"1\t0/1\tx\n"))
        .await
        .unwrap();
    assert!(
        depot
            .put_history("1", 2, Bytes::from_static(b"1\t0/2\tx\n"))
            .await
            .is_err()
    );

    // Retention: the second backup stays, with the log that it needs.
    let newer = create(&depot, &create_options(&postgres, dir.path())).await.unwrap();
    put(&client, 5).await;
    archive(&client, &depot, &postgres, &manifest.system_id).await;
    let pruned = prune(&depot, &manifest.system_id, 1).await.unwrap();
    assert_eq!(pruned.backups, std::slice::from_ref(&manifest.id));
    assert!(pruned.segments > 0, "{pruned:?}");
    assert_eq!(
        rows_at(&depot, &newer, Target::Latest, dir.path()).await.unwrap(),
        [1, 2, 3, 4, 5]
    );
    assert!(!dir.path().join("spool").exists(), "the copy is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_comes_back_from_a_directory() {
    let dir = folder();
    let target = dir.path().join("backups");
    round_trip(depot_in(&target)).await;
    let mode = std::fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "whoever reads it has the database");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_comes_back_from_an_s3_server() {
    conclave_net::install_crypto_provider();
    let s3 = TestS3::start().await;
    round_trip(s3.depot()).await;
}

/// Every file in turn is cut short or changed; a backup whose manifest is missing is none.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_or_damaged_is_never_taken_for_a_backup() {
    let dir = folder();
    let target = dir.path().join("backups");
    let depot = depot_in(&target);
    let postgres = TestPostgres::start().await;
    let client = client(postgres.port).await;
    client
        .batch_execute("CREATE TABLE t (n int PRIMARY KEY)")
        .await
        .unwrap();
    let manifest = create(&depot, &create_options(&postgres, dir.path())).await.unwrap();
    let base = target.join(&manifest.system_id).join("base").join(&manifest.id);
    let part = base.join("data.0000");
    let whole = std::fs::read(&part).unwrap();
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for damaged in [&changed[..], &whole[..middle]] {
        std::fs::write(&part, damaged).unwrap();
        let error = rows_at(&depot, &manifest, Target::Latest, dir.path())
            .await
            .unwrap_err();
        assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
    }
    std::fs::write(&part, &whole).unwrap();
    assert_eq!(
        rows_at(&depot, &manifest, Target::Latest, dir.path()).await.unwrap(),
        Vec::<i32>::new(),
        "a backup is whole without the archive"
    );
    std::fs::remove_file(base.join("manifest.json")).unwrap();
    let contents = depot.contents(&manifest.system_id).await.unwrap();
    assert_eq!(contents.inventory.backups.len(), 0);
    assert_eq!(contents.incomplete, std::slice::from_ref(&manifest.id));
    let error = contents.inventory.plan(Target::Latest, None, None).unwrap_err();
    assert!(error.to_string().contains("there is no whole backup"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_is_spoken_to_in_tls_and_must_be_who_it_says() {
    conclave_net::install_crypto_provider();
    let s3 = TestS3::start_encrypted().await;
    let depot = s3.depot();
    let text = Bytes::from_static(b"1\t0/3000000\tno recovery target specified\n");
    depot.put_history("7", 2, text).await.unwrap();
    assert_eq!(depot.databases().await.unwrap(), ["7"]);

    // By another authority than that, or by the system's.
    let other = s3.dir.path().join("other.pem");
    let authority = CertificateAuthority::create("another").unwrap();
    std::fs::write(&other, authority.certificate_pem()).unwrap();
    let refused = async |ca_file: Option<PathBuf>| {
        let section = S3Section {
            ca_file,
            ..s3.section()
        };
        let depot = Depot::open(TARGET, &section).unwrap();
        let error = depot.databases().await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
    };
    tokio::join!(refused(Some(other)), refused(None));
    let section = S3Section {
        ca_file: Some(s3.dir.path().join("secret")),
        ..s3.section()
    };
    let error = Depot::open(TARGET, &section).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
