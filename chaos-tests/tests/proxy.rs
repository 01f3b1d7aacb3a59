//! What clients of PostgreSQL see of the way to the primary: every program works through it, and a failover is a pause.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use conclave_chaos_tests::drill::DISK_MEBIBYTES;
use conclave_chaos_tests::frozen::Frozen;
use conclave_chaos_tests::hosts::Hosts;
use conclave_chaos_tests::ledger::Access;
use conclave_chaos_tests::{TestCluster, python_program, within};
use tokio_postgres::error::SqlState;

const LONG: Duration = Duration::from_secs(60);
/// An election, and what the machine is busy with.
const SOON: Duration = Duration::from_secs(10);
/// The node whose clients wait for a primary no longer than that.
const ASKED: u8 = 3;
const SHORT_WAIT: Duration = Duration::from_secs(4);

/// One of PostgreSQL's programs through a node's proxy.
fn client(access: &Access, number: u8, program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .env("PGHOST", access.address(number))
        .env("PGUSER", conclave_postgres::USER)
        .env("PGPASSWORD", access.password())
        .env("PGDATABASE", "postgres")
        .output();
    output.unwrap()
}

fn must(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn primary(test: &TestCluster, asked: u8) -> u8 {
    let look = || async {
        let status = test.client(asked).get_status("/v1/cluster/status").await.ok()?;
        u8::try_from(status["database"]["primary"].as_u64()?).ok()
    };
    within(LONG, look).await.unwrap()
}

/// Waits until a connection that does nothing is cut.
async fn cut(client: &tokio_postgres::Client) -> Instant {
    let closed = within(SOON, || async { client.is_closed().then_some(()) }).await;
    assert!(closed.is_some(), "a connection to a deposed primary lives on");
    Instant::now()
}

fn programs_work(access: &Access) {
    for number in 1..=3 {
        let shown = must(&client(
            access,
            number,
            "psql",
            &[
                "--no-psqlrc",
                "--tuples-only",
                "--no-align",
                "--command=SELECT 6 * 7, pg_is_in_recovery()",
            ],
        ));
        assert_eq!(shown.trim(), "42|f");
    }
    must(&client(access, 2, "pgbench", &["--initialize", "--scale=1", "--quiet"]));
    let shown = must(&client(access, 3, "pgbench", &["--client=4", "--transactions=25"]));
    assert!(shown.contains("100/100"), "{shown}");
    let python = python_program("consul-clients", "python");
    let shown = must(&client(access, 1, python.to_str().unwrap(), &["-c", PSYCOPG]));
    assert_eq!(shown.trim(), "1000");
}

/// What programs in Python do: parameters, a cursor that stays at the server, a copy in each direction, a rollback.
const PSYCOPG: &str = r"
import psycopg
with psycopg.connect('') as connection:
    connection.execute('CREATE TABLE snakes (n int PRIMARY KEY, name text)')
    with connection.cursor() as cursor:
        with cursor.copy('COPY snakes FROM STDIN') as copy:
            for n in range(1000):
                copy.write_row((n, f'name {n}'))
    connection.commit()
    with connection.cursor(name='at-the-server') as cursor:
        cursor.itersize = 100
        cursor.execute('SELECT n FROM snakes WHERE n < %s ORDER BY n', (500,))
        assert [n for (n,) in cursor] == list(range(500))
    try:
        connection.execute('INSERT INTO snakes VALUES (%s, NULL)', (7,))
    except psycopg.errors.UniqueViolation:
        connection.rollback()
with psycopg.connect('') as connection:
    with connection.cursor().copy('COPY snakes TO STDOUT') as copy:
        print(sum(1 for row in copy.rows()))
";

/// A commit whose wait is cancelled is on no standby yet: the client is not told that it is done, whichever node it came through.
async fn a_cancelled_commit_is_no_success(test: &TestCluster, access: &Access) {
    let primary = primary(test, 1).await;
    let others = [primary % 3 + 1, (primary + 1) % 3 + 1];
    let watcher = access.locally(primary).await.unwrap();
    watcher.batch_execute("CREATE TABLE cancelled (n int)").await.unwrap();
    for (n, number) in (0i32..).zip([primary, others[0]]) {
        let client = access.through(number).await.unwrap();
        let cancel = client.cancel_token();
        let mut frozen = Frozen::default();
        for other in others {
            frozen.freeze_postgres(test.cluster.postmaster(other).unwrap());
        }
        let interrupted = async {
            let waits = within(SOON, || async {
                let sql =
                    "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'INSERT INTO cancelled%'";
                let waiting = watcher.query(sql, &[]).await.ok()?;
                (waiting.len() == 1).then_some(())
            });
            assert!(waits.await.is_some(), "the commit waits for a standby");
            cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let row: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&n];
        let insert = client.execute("INSERT INTO cancelled VALUES ($1)", &row);
        let (outcome, ()) = tokio::join!(tokio::time::timeout(LONG, insert), interrupted);
        let outcome = outcome.expect("it ends");
        let error = outcome.expect_err("nobody but the primary has it");
        assert_eq!(error.code(), Some(&SqlState::TRANSACTION_RESOLUTION_UNKNOWN), "{error}");
        frozen.resume();
        all_well(test).await;
    }
}

async fn a_failover_is_a_pause(test: &TestCluster, hosts: &Hosts, access: &Access) {
    let deposed = primary(test, 1).await;
    let survivor = deposed % 3 + 1;
    let (here, there) = (
        access.through(deposed).await.unwrap(),
        access.through(survivor).await.unwrap(),
    );
    let begun = Instant::now();
    hosts.isolate(deposed);
    // It is asked for before anybody knows that there is no primary, or while one is looked for, or after that.
    let connected = within(LONG, || async {
        let client = access.through(survivor).await.ok()?;
        let sql = "CREATE TABLE IF NOT EXISTS waited (n int); INSERT INTO waited VALUES (1)";
        tokio::time::timeout(Duration::from_secs(1), client.batch_execute(sql))
            .await
            .ok()?
            .ok()
    });
    assert!(connected.await.is_some(), "clients come to the new primary");
    let open = Instant::now();
    let (there, here) = (cut(&there).await, cut(&here).await);
    eprintln!(
        "cut off: writes through a survivor after {} ms, the old connection there cut after {} ms, at the old primary after {} ms",
        open.duration_since(begun).as_millis(),
        there.duration_since(begun).as_millis(),
        here.duration_since(begun).as_millis(),
    );

    // The lonely node says what it is, in a way that a client's library shows and a program can tell.
    let refused = within(SOON, || async {
        let asked = Instant::now();
        let error = access.through(deposed).await.err()?;
        let said = error.as_db_error()?.message().to_owned();
        let code = error.code().cloned();
        said.contains("cut off from the majority")
            .then_some((code, asked.elapsed()))
    });
    let (code, took) = refused.await.expect("a node that is cut off says so");
    assert_eq!(code, Some(SqlState::CANNOT_CONNECT_NOW));
    eprintln!("the node that is alone refuses after {} ms", took.as_millis());
    let shown = client(access, deposed, "psql", &["--no-psqlrc", "--command=SELECT 1"]);
    let said = String::from_utf8_lossy(&shown.stderr);
    assert!(
        said.contains("FATAL:  this node is cut off from the majority"),
        "{said}"
    );
    hosts.mend();
}

/// Lets new clients of that node wait for a shorter time.
async fn configure(test: &TestCluster, number: u8) {
    let file = test.cluster.layout().node(number).config_file();
    let config = std::fs::read_to_string(&file).unwrap();
    let wait = format!("{config}database:\n  client_wait: {}\n", SHORT_WAIT.as_secs());
    std::fs::write(&file, wait).unwrap();
    test.cluster.manager(number).unwrap().stop(LONG).await;
    test.cluster.start(number).await.unwrap();
    all_well(test).await;
}

async fn all_well(test: &TestCluster) {
    for number in 1..=3 {
        let healthy = test.cluster.wait_healthy(number, LONG).await;
        healthy.unwrap_or_else(|error| test.fail(&error));
    }
}

/// With one server left of three there can be no primary, and there is a majority of managers: a failover that does not end.
async fn the_wait_is_bounded(test: &TestCluster, access: &Access) {
    let primary = primary(test, ASKED).await;
    let mut frozen = Frozen::default();
    for number in [primary, primary % 3 + 1] {
        frozen.freeze_postgres(test.cluster.postmaster(number).unwrap());
    }
    let refused = within(LONG, || async {
        let asked = Instant::now();
        // What still came through to the frozen server is cut without a word, once that is found out.
        let answer = tokio::time::timeout(LONG, access.through(ASKED)).await.ok()?;
        let code = answer.err()?.code().cloned()?;
        Some((code, asked.elapsed()))
    });
    let (code, took) = refused.await.expect("a client is told that there is no primary");
    assert_eq!(code, SqlState::CANNOT_CONNECT_NOW);
    eprintln!("no primary: refused after {} ms", took.as_millis());
    assert!(
        took >= SHORT_WAIT && took < SHORT_WAIT + Duration::from_secs(4),
        "{took:?}"
    );
}

#[test]
fn programs_work_and_failovers_are_pauses() {
    let Some(hosts) = Hosts::new(3) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let test = TestCluster::on(&hosts, DISK_MEBIBYTES).await;
        let access = Access::new(&test.cluster);
        configure(&test, ASKED).await;
        programs_work(&access);
        a_cancelled_commit_is_no_success(&test, &access).await;
        a_failover_is_a_pause(&test, &hosts, &access).await;
        all_well(&test).await;
        the_wait_is_bounded(&test, &access).await;
        all_well(&test).await;
    });
}
