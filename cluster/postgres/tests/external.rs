//! A PostgreSQL that the test starts and looks after: the cluster only leads to it and says how it is.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use conclave_net::{CertificateAuthority, bind, new_key_and_request};
use conclave_postgres::{ExternalDatabase, ExternalOptions, ExternalStatus};
use conclave_runtime::Tasks;
use conclave_runtime::account::Account;
use conclave_testkit::{TestPostgres, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::{Client, NoTls};

/// Has the server speak TLS with a certificate of its own authority; the authority's file.
async fn encrypt(postgres: &TestPostgres, folder: &Path) -> std::path::PathBuf {
    let authority = CertificateAuthority::create("elsewhere").unwrap();
    let (key, request) = new_key_and_request("db").unwrap();
    let certificate = authority.sign(&request, "elsewhere", 1, "db", "127.0.0.1").unwrap();
    let account = Account::for_children("postgres").unwrap();
    for (name, text) in [("server.crt", &certificate), ("server.key", &key)] {
        let path = postgres.data_dir().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        account.own(&path).unwrap();
    }
    let direct = connect(postgres.port).await.unwrap();
    direct.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    // Whoever comes without TLS is refused from now on.
    let access = postgres.data_dir().join("pg_hba.conf");
    std::fs::write(&access, "hostssl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    direct.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let file = folder.join("ca.pem");
    std::fs::write(&file, authority.certificate_pem()).unwrap();
    file
}

async fn connect(port: u16) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user(TestPostgres::USER)
        .password(TestPostgres::PASSWORD)
        .dbname(TestPostgres::DATABASE);
    let (client, connection) = config.connect(NoTls).await?;
    Tasks::new("test").spawn("connection", async move {
        let _ended = connection.await;
    });
    Ok(client)
}

async fn watch(postgres: &TestPostgres, ca_file: Option<&Path>, tasks: &Tasks) -> (ExternalDatabase, u16) {
    let proxy = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let port = proxy.local_addr().unwrap().port();
    let options = ExternalOptions {
        host: "127.0.0.1".into(),
        port: postgres.port,
        user: TestPostgres::USER.into(),
        password: TestPostgres::PASSWORD.into(),
        database: TestPostgres::DATABASE.into(),
        ca_file: ca_file.map(Path::to_owned),
    };
    (ExternalDatabase::start(options, proxy, tasks).unwrap(), port)
}

fn seen(database: &ExternalDatabase, what: &str, is: impl Fn(&ExternalStatus) -> bool) -> ExternalStatus {
    wait_until(what, || is(&database.status()));
    database.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ones_database_is_led_to_and_watched() {
    conclave_net::install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let postgres = TestPostgres::start().await;
    let ca_file = encrypt(&postgres, folder.path()).await;
    let tasks = Tasks::new("test");
    let (database, port) = watch(&postgres, Some(&ca_file), &tasks).await;
    let status = seen(&database, "the first look", |status| status.cause.is_none());
    assert!(
        status.writable && status.tls && status.latency_ms.is_some(),
        "{status:?}"
    );
    assert!(
        status
            .version
            .is_some_and(|version| version.starts_with(char::is_numeric))
    );

    let client = connect(port).await.unwrap();
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert!(
        row.get::<_, bool>(0),
        "the way there is encrypted, although the client is not"
    );
    // libpq asks for TLS first; it is told to go on without.
    let mut raw = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    raw.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    assert_eq!(raw.read_u8().await.unwrap(), b'N');

    // One that is read-only is of no use, and is noticed.
    let set = "ALTER SYSTEM SET default_transaction_read_only = on";
    client.batch_execute(set).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let status = seen(&database, "the read-only database", |status| !status.writable);
    assert!(status.cause.as_ref().unwrap().contains("no writes"), "{status:?}");

    // With the wrong authority, and without TLS where it is asked for, nobody gets there.
    let other = folder.path().join("other.pem");
    let authority = CertificateAuthority::create("another").unwrap();
    std::fs::write(&other, authority.certificate_pem()).unwrap();
    let (stranger, _) = watch(&postgres, Some(&other), &tasks).await;
    let (plain, _) = watch(&postgres, None, &tasks).await;
    let refused = |status: &ExternalStatus| {
        status
            .cause
            .as_ref()
            .is_some_and(|cause| !cause.contains("not been asked"))
    };
    assert!(!seen(&stranger, "the refused certificate", refused).writable);
    assert!(!seen(&plain, "the refused plain connection", refused).writable);

    drop(postgres);
    let status = seen(&database, "the loss of the database", |status| {
        status.latency_ms.is_none()
    });
    assert!(!status.writable && status.cause.is_some(), "{status:?}");
    tasks.stop(Duration::from_secs(5)).await;
}
