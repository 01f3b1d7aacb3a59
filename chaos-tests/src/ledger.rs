//! Clients that write all the time through the nodes' proxies, and what must be true of what they were told.
//!
//! Each node has a client that adds rows and one that moves money. A statement whose answer did not come is an unknown outcome:
//! it may be there at the end or not. The clients open a new connection after each failure, and never ask for the same thing
//! twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use conclave_localcluster::LocalCluster;
use conclave_net::NodeIdentity;
use conclave_runtime::{TaskHandle, Tasks};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use crate::within;

const ACCOUNTS: i64 = 10;
const START_BALANCE: i64 = 1000;
/// Between two statements of one client.
const PACE: Duration = Duration::from_millis(20);
/// A statement that takes longer is an unknown outcome.
const STATEMENT_LIMIT: Duration = Duration::from_secs(4);
/// Longer than the proxy lets a client wait for a primary.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// For whoever looks at the end, when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a cluster's database is reached.
#[derive(Clone)]
pub struct Access {
    config: Config,
    nodes: BTreeMap<u8, (String, PathBuf)>,
}

impl Access {
    /// To a cluster.
    ///
    /// # Panics
    /// When the first node's identity cannot be read.
    #[must_use]
    pub fn new(cluster: &LocalCluster) -> Self {
        let identity = conclave_consensus::identity_dir(&cluster.node(1).data_dir);
        let identity = NodeIdentity::load(&identity).expect("the identity of node1");
        let mut config = Config::new();
        config
            .user(conclave_postgres::USER)
            .password(conclave_postgres::password(&identity))
            .dbname("postgres")
            .application_name("ledger")
            .port(5432);
        let nodes = (1..).zip(cluster.nodes());
        let nodes = nodes.map(|(number, node)| (number, (node.address, node.data_dir.join("postgres/run"))));
        Self {
            config,
            nodes: nodes.collect(),
        }
    }

    /// The nodes.
    #[must_use]
    pub fn numbers(&self) -> Vec<u8> {
        self.nodes.keys().copied().collect()
    }

    /// A connection through a node's proxy.
    ///
    /// # Errors
    /// What the proxy or the server said.
    pub async fn through(&self, number: u8) -> Result<Client, tokio_postgres::Error> {
        open(&self.way_through(number)).await
    }

    /// The way through a node's proxy.
    #[must_use]
    pub fn way_through(&self, number: u8) -> Config {
        let mut config = self.config.clone();
        config.host(&self.nodes[&number].0);
        config
    }

    /// A connection to a node's own server, whatever that is.
    ///
    /// # Errors
    /// What the server said.
    pub async fn locally(&self, number: u8) -> Result<Client, tokio_postgres::Error> {
        open(&self.way_to(number)).await
    }

    /// The way to a node's own server.
    #[must_use]
    pub fn way_to(&self, number: u8) -> Config {
        let mut config = self.config.clone();
        config.host_path(&self.nodes[&number].1);
        config
    }

    /// The settings of a connection through a node's proxy, for other programs: address, user and password.
    #[must_use]
    pub fn address(&self, number: u8) -> &str {
        &self.nodes[&number].0
    }

    /// The password of the manager's own user.
    #[must_use]
    pub fn password(&self) -> String {
        String::from_utf8_lossy(self.config.get_password().unwrap_or_default()).into_owned()
    }
}

/// Opens a connection, which ends with the client.
///
/// # Errors
/// What the other side said.
pub async fn open(config: &Config) -> Result<Client, tokio_postgres::Error> {
    Ok(Link::open(config).await?.client)
}

/// A connection of which it is known how it ended.
struct Link {
    client: Client,
    /// What the server said at the end, if it said anything.
    end: TaskHandle<Option<SqlState>>,
}

impl Link {
    async fn open(config: &Config) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = config.connect(NoTls).await?;
        let end = Tasks::new("ledger").spawn("connection", async move {
            let ended = connection.await;
            ended.err().and_then(|error| error.code().cloned())
        });
        Ok(Self { client, end })
    }

    /// Whether a statement that failed with `error` is known not to have been done. A server that says that it ends the
    /// connection has done nothing of what it had not answered before; one that just ends may have.
    async fn knows(self, error: &tokio_postgres::Error) -> bool {
        if let Some(code) = error.code() {
            return *code == SqlState::ADMIN_SHUTDOWN;
        }
        drop(self.client);
        let end = tokio::time::timeout(STATEMENT_LIMIT, self.end.join()).await;
        matches!(end, Ok(Ok(Some(code))) if code == SqlState::ADMIN_SHUTDOWN)
    }
}

/// An acknowledged row.
#[derive(Debug, Clone)]
struct Acknowledged {
    id: i64,
    through: u8,
    /// The epoch that the server proved last.
    epoch: i64,
    /// Where the server's data lies: which server it was.
    server: String,
    asked: Instant,
    answered: Instant,
}

#[derive(Default)]
struct Book {
    attempted: BTreeSet<i64>,
    rows: Vec<Acknowledged>,
    transfers: Vec<i64>,
    wrong: Vec<String>,
    unknown: u64,
    last_unknown: String,
}

/// The clients.
pub struct Ledger {
    access: Access,
    shared: Arc<Shared>,
    clients: Vec<TaskHandle<()>>,
}

struct Shared {
    access: Access,
    stop: AtomicBool,
    next: AtomicI64,
    book: Mutex<Book>,
}

impl Shared {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> i64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.book().attempted.insert(id);
        id
    }
}

impl Ledger {
    /// Makes the tables and starts the clients.
    ///
    /// # Panics
    /// When a healthy cluster does not take that.
    pub async fn open(access: Access) -> Self {
        let client = access.through(1).await.expect("a healthy cluster lets clients in");
        let tables = format!(
            "CREATE SCHEMA ledger;
             CREATE TABLE ledger.rows (id bigint PRIMARY KEY);
             CREATE TABLE ledger.accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
             CREATE TABLE ledger.transfers (id bigint PRIMARY KEY, source bigint, target bigint, amount bigint);
             INSERT INTO ledger.accounts SELECT n, {START_BALANCE} FROM generate_series(1, {ACCOUNTS}) n"
        );
        client
            .batch_execute(&tables)
            .await
            .expect("a healthy cluster takes tables");
        let shared = Arc::new(Shared {
            access: access.clone(),
            stop: AtomicBool::new(false),
            next: AtomicI64::new(1),
            book: Mutex::default(),
        });
        let tasks = Tasks::new("ledger");
        let clients = access.numbers().into_iter().flat_map(|number| {
            let (rows, money) = (Arc::clone(&shared), Arc::clone(&shared));
            [
                tasks.spawn("rows", async move { work(&rows, number, Kind::Rows).await }),
                tasks.spawn("money", async move { work(&money, number, Kind::Money).await }),
            ]
        });
        let clients = clients.collect();
        Self {
            access,
            shared,
            clients,
        }
    }

    /// How the database is reached.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Waits until each of these nodes' clients was given an acknowledgement for what it asked for after `since`.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn wait_for_writes(&self, nodes: &[u8], since: Instant, limit: Duration) -> Result<(), String> {
        let seen = within(limit, || async {
            let book = self.shared.book();
            let late: BTreeSet<u8> = book
                .rows
                .iter()
                .rev()
                .take_while(|row| row.answered >= since)
                .filter(|row| row.asked >= since)
                .map(|row| row.through)
                .collect();
            nodes.iter().all(|node| late.contains(node)).then_some(())
        });
        let late = || {
            format!(
                "no acknowledged write through each of {nodes:?} within {} s",
                limit.as_secs()
            )
        };
        seen.await.ok_or_else(late)
    }

    /// The longest time since then in which no client got a row acknowledged.
    #[must_use]
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let book = self.shared.book();
        let mut times: Vec<Instant> = book
            .rows
            .iter()
            .map(|row| row.answered)
            .filter(|at| *at > since)
            .collect();
        times.sort_unstable();
        times.insert(0, since);
        let gaps = times.windows(2).map(|pair| pair[1].duration_since(pair[0]));
        gaps.max().unwrap_or_default()
    }

    /// How many statements have had no answer so far, and what their client saw of the last one.
    #[must_use]
    pub fn unknown(&self) -> (u64, String) {
        let book = self.shared.book();
        (book.unknown, book.last_unknown.clone())
    }

    /// What the clients have come to: rows and transfers acknowledged, statements without an answer.
    #[must_use]
    pub fn summary(&self) -> String {
        let book = self.shared.book();
        format!(
            "{} rows and {} transfers acknowledged, {} without an answer",
            book.rows.len(),
            book.transfers.len(),
            book.unknown
        )
    }

    /// Looks whether all that was acknowledged so far is there, and nothing that nobody asked for.
    ///
    /// # Errors
    /// What is not as it should be.
    pub async fn check(&self) -> Result<(), String> {
        let (rows, transfers) = {
            let book = self.shared.book();
            judge(&book)?;
            let rows: Vec<i64> = book.rows.iter().map(|row| row.id).collect();
            (rows, book.transfers.clone())
        };
        let client = within(PATIENCE, || async { self.access.through(1).await.ok() })
            .await
            .ok_or("the checker gets no connection")?;
        let stored = numbers(&client, "SELECT id FROM ledger.rows").await?;
        let moved = numbers(&client, "SELECT id FROM ledger.transfers").await?;
        let attempted = self.shared.book().attempted.clone();
        for (what, acknowledged, stored) in [("rows", rows, &stored), ("transfers", transfers, &moved)] {
            let lost: Vec<i64> = acknowledged.into_iter().filter(|id| !stored.contains(id)).collect();
            if !lost.is_empty() {
                return Err(format!("{} {what} were acknowledged and lost: {lost:?}", lost.len()));
            }
            let phantom: Vec<&i64> = stored.difference(&attempted).collect();
            if !phantom.is_empty() {
                return Err(format!("{what} that nobody wrote: {phantom:?}"));
            }
        }
        let sql = "SELECT count(*) FROM ledger.accounts a WHERE a.balance <> $1
            + coalesce((SELECT sum(amount)::bigint FROM ledger.transfers WHERE target = a.id), 0)
            - coalesce((SELECT sum(amount)::bigint FROM ledger.transfers WHERE source = a.id), 0)";
        let row = client
            .query_one(sql, &[&START_BALANCE])
            .await
            .map_err(|error| error.to_string())?;
        match row.get::<_, i64>(0) {
            0 => Ok(()),
            wrong => Err(format!("{wrong} balances are not what the transfers make them")),
        }
    }

    /// Ends the clients, then looks at everything once more, on every node's own server too.
    ///
    /// # Errors
    /// What is not as it should be.
    pub async fn close(&mut self) -> Result<(), String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().await.map_err(|error| error.to_string())?;
        }
        self.check().await?;
        let access = &self.access;
        let equal = || async {
            let mut seen = BTreeSet::new();
            for number in access.numbers() {
                seen.insert(fingerprint(access, number).await.ok()?);
            }
            (seen.len() == 1).then_some(())
        };
        within(PATIENCE, equal)
            .await
            .ok_or_else(|| "the nodes' servers do not come to hold the same".to_owned())
    }
}

/// What no moment of the history may show: see the messages.
fn judge(book: &Book) -> Result<(), String> {
    if let Some(wrong) = book.wrong.first() {
        return Err(wrong.clone());
    }
    let mut owners: BTreeMap<i64, &str> = BTreeMap::new();
    for row in &book.rows {
        let owner = owners.entry(row.epoch).or_insert(&row.server);
        if *owner != row.server {
            return Err(format!(
                "both {owner} and {} acknowledged in epoch {}",
                row.server, row.epoch
            ));
        }
    }
    let mut answers: Vec<(Instant, i64)> = book.rows.iter().map(|row| (row.answered, row.epoch)).collect();
    answers.sort_unstable();
    let mut highest = 0;
    for answer in &mut answers {
        highest = highest.max(answer.1);
        answer.1 = highest;
    }
    for row in &book.rows {
        let before = answers.partition_point(|(at, _)| *at < row.asked);
        let known = before.checked_sub(1).map_or(0, |last| answers[last].1);
        if row.epoch < known {
            return Err(format!(
                "row {} was asked for after an answer in epoch {known}, and acknowledged in {} by {}",
                row.id, row.epoch, row.server
            ));
        }
    }
    Ok(())
}

async fn numbers(client: &Client, sql: &str) -> Result<BTreeSet<i64>, String> {
    let rows = client.query(sql, &[]).await.map_err(|error| error.to_string())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn fingerprint(access: &Access, number: u8) -> Result<String, tokio_postgres::Error> {
    let sql = "SELECT md5(concat(
        (SELECT string_agg(id::text, ',' ORDER BY id) FROM ledger.rows), '/',
        (SELECT string_agg(t::text, ',' ORDER BY id) FROM ledger.transfers t), '/',
        (SELECT string_agg(a::text, ',' ORDER BY id) FROM ledger.accounts a)))";
    let row = access.locally(number).await?.query_one(sql, &[]).await?;
    Ok(row.get(0))
}

#[derive(Clone, Copy)]
enum Kind {
    Rows,
    Money,
}

async fn work(shared: &Shared, number: u8, kind: Kind) {
    let mut link: Option<Link> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PACE).await;
        // One that was cut while nothing was asked has failed nobody.
        let Some(mut open) = link.take().filter(|link| !link.client.is_closed()) else {
            let way = shared.access.way_through(number);
            let connecting = tokio::time::timeout(CONNECT_LIMIT, Link::open(&way));
            link = connecting.await.ok().and_then(Result::ok);
            continue;
        };
        let done = match kind {
            Kind::Rows => tokio::time::timeout(STATEMENT_LIMIT, add(shared, &open.client, number)).await,
            Kind::Money => tokio::time::timeout(STATEMENT_LIMIT, transfer(shared, &mut open.client)).await,
        };
        let why = match done {
            Ok(Ok(())) => {
                link = Some(open);
                continue;
            }
            Ok(Err(error)) if open.knows(&error).await => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        let mut book = shared.book();
        book.unknown += 1;
        book.last_unknown = why;
    }
}

async fn add(shared: &Shared, client: &Client, through: u8) -> Result<(), tokio_postgres::Error> {
    let id = shared.next();
    let asked = Instant::now();
    let sql = "INSERT INTO ledger.rows VALUES ($1)
        RETURNING (SELECT epoch FROM conclave_ha.marker), current_setting('data_directory')";
    let row = client.query_one(sql, &[&id]).await?;
    let acknowledged = Acknowledged {
        id,
        through,
        epoch: row.get(0),
        server: row.get(1),
        asked,
        answered: Instant::now(),
    };
    shared.book().rows.push(acknowledged);
    Ok(())
}

async fn transfer(shared: &Shared, client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let id = shared.next();
    let (source, target) = (id % ACCOUNTS + 1, (id / 7) % ACCOUNTS + 1);
    let amount = id % 97 + 1;
    let transaction = client.transaction().await?;
    // In one order, or they would wait for each other.
    let lock = "SELECT FROM ledger.accounts WHERE id IN ($1, $2) ORDER BY id FOR UPDATE";
    transaction.execute(lock, &[&source, &target]).await?;
    let sql = "UPDATE ledger.accounts SET balance = balance - $1 WHERE id = $2 AND balance >= $1";
    let paid = transaction.execute(sql, &[&amount, &source]).await?;
    if paid == 1 {
        let sql = "UPDATE ledger.accounts SET balance = balance + $1 WHERE id = $2";
        transaction.execute(sql, &[&amount, &target]).await?;
        let sql = "INSERT INTO ledger.transfers VALUES ($1, $2, $3, $4)";
        transaction.execute(sql, &[&id, &source, &target, &amount]).await?;
    }
    let sum = "SELECT sum(balance)::bigint, min(balance), count(*) FROM ledger.accounts";
    let row = transaction.query_one(sum, &[]).await?;
    let (sum, least, count): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    transaction.commit().await?;
    let mut book = shared.book();
    if paid == 1 {
        book.transfers.push(id);
    }
    if (sum, count) != (ACCOUNTS * START_BALANCE, ACCOUNTS) || least < 0 {
        book.wrong.push(format!(
            "transfer {id} saw {count} accounts with {sum} in all, the least {least}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, epoch: i64, server: &str, asked: Instant, answered_after: u64) -> Acknowledged {
        Acknowledged {
            id,
            through: 1,
            epoch,
            server: server.into(),
            asked,
            answered: asked + Duration::from_millis(answered_after),
        }
    }

    #[test]
    fn two_primaries_in_one_epoch_and_answers_from_the_past_are_found() {
        let zero = Instant::now();
        let later = zero + Duration::from_millis(100);
        let book = |rows: Vec<Acknowledged>| Book {
            rows,
            ..Book::default()
        };
        assert!(judge(&book(vec![row(1, 1, "a", zero, 5), row(2, 2, "b", later, 5)])).is_ok());
        let twice = judge(&book(vec![row(1, 1, "a", zero, 5), row(2, 1, "b", later, 5)]));
        assert!(twice.unwrap_err().contains("in epoch 1"));
        let past = judge(&book(vec![row(1, 2, "b", zero, 5), row(2, 1, "a", later, 5)]));
        assert!(past.unwrap_err().contains("asked for after an answer in epoch 2"));
        let overlapping = book(vec![row(1, 2, "b", zero, 5), row(2, 1, "a", zero, 500)]);
        assert!(judge(&overlapping).is_ok(), "what was under way may end late");
    }
}
