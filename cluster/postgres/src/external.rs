//! A PostgreSQL that somebody else looks after: a managed service, Citus, an existing Patroni cluster.
//!
//! Nothing is started, promoted or configured here. The proxy leads to it, with TLS if a CA is named, and a watcher says how it is.

use std::path::PathBuf;
use std::time::Duration;

use conclave_net::{NetError, OutsideConnector};
use conclave_runtime::{Shutdown, Tasks};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use crate::DatabaseError;
use crate::network::{Clients, STOPPING, Talk, farewell, serve, tell_refused};

const LOOK_PERIOD: Duration = Duration::from_secs(1);
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a new client waits for a database that does not answer: it may be changing its primary.
const WAIT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(200);
/// The oldest that the manager's schema works with.
const VERSION_MIN: i32 = 130_000;
/// "SSLRequest" and "GSSENCRequest" of PostgreSQL's protocol, each with the length before it, and what refuses them.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
const NO: u8 = b'N';
const YES: u8 = b'S';

/// Where it is, and who the manager is to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalOptions {
    /// Its host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The manager's role: it owns the database.
    pub user: String,
    /// That role's password.
    pub password: String,
    /// The database.
    pub database: String,
    /// The authorities that its certificate is verified by (PEM); without it there is no TLS.
    pub ca_file: Option<PathBuf>,
}

/// How it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExternalStatus {
    /// `external`, where other clusters' nodes say what their server is.
    pub role: &'static str,
    /// Host and port.
    pub address: String,
    /// Whether connections to it are encrypted and its certificate verified.
    pub tls: bool,
    /// Its version, as it says it.
    pub version: Option<String>,
    /// Whether it takes writes.
    pub writable: bool,
    /// How long a question took last, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Why it is of no use now.
    pub cause: Option<String>,
}

/// The database that is watched. Cheap to clone.
#[derive(Clone)]
pub struct ExternalDatabase {
    status: watch::Receiver<ExternalStatus>,
    clients: Clients,
}

impl ExternalDatabase {
    /// Starts proxy and watcher.
    ///
    /// # Errors
    /// When the authorities cannot be read, or the proxy's address is not known.
    pub fn start(options: ExternalOptions, proxy: TcpListener, tasks: &Tasks) -> Result<Self, DatabaseError> {
        let tls = match &options.ca_file {
            Some(file) => Some(OutsideConnector::trusting_file(file)?),
            None => None,
        };
        let way = Way {
            host: options.host.clone(),
            port: options.port,
            tls,
        };
        let (status, shown) = watch::channel(ExternalStatus {
            role: "external",
            address: format!("{}:{}", options.host, options.port),
            tls: way.tls.is_some(),
            version: None,
            writable: false,
            latency_ms: None,
            cause: Some("it has not been asked yet".into()),
        });
        let address = proxy
            .local_addr()
            .map_err(DatabaseError::file("listen on", "the proxy's address"))?;
        let clients = Clients::new();
        let accepting = accept(way, proxy, clients.clone(), tasks.clone());
        tasks.spawn("external database proxy", accepting);
        let watcher = Watcher {
            options,
            proxy: address,
            status,
            link: None,
        };
        tasks.spawn("external database watcher", watcher.run(tasks.shutdown()));
        Ok(Self { status: shown, clients })
    }

    /// Lets nobody in through this node any more, and everybody finish the transaction that he is in.
    pub async fn drain(&self) {
        self.clients.drain(crate::DRAIN_LIMIT).await;
    }

    /// How it is.
    pub fn status(&self) -> ExternalStatus {
        self.status.borrow().clone()
    }
}

/// The way there.
#[derive(Clone)]
struct Way {
    host: String,
    port: u16,
    tls: Option<OutsideConnector>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Way {
    async fn reach(&self) -> Result<Box<dyn Stream>, String> {
        let reaching = async {
            let failed = |error: std::io::Error| format!("{}:{}: {error}", self.host, self.port);
            let mut stream = TcpStream::connect((self.host.as_str(), self.port))
                .await
                .map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let Some(tls) = &self.tls else {
                return Ok(Box::new(stream) as Box<dyn Stream>);
            };
            stream.write_all(&SSL_REQUEST).await.map_err(failed)?;
            if stream.read_u8().await.map_err(failed)? != YES {
                return Err(format!(
                    "{}:{} does not speak TLS, and a CA is configured",
                    self.host, self.port
                ));
            }
            let stream = tls.wrap(&self.host, stream).await;
            let stream = stream.map_err(|error: NetError| error.to_string())?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, reaching)
            .await
            .unwrap_or_else(|_| Err(format!("{}:{} does not answer", self.host, self.port)))
    }
}

async fn accept(way: Way, listener: TcpListener, clients: Clients, tasks: Tasks) {
    let shutdown = tasks.shutdown();
    while let Some(accepted) = shutdown.run_until(listener.accept()).await {
        let Ok((client, _)) = accepted else { continue };
        if client.set_nodelay(true).is_err() {
            continue;
        }
        let (way, clients, shutdown) = (way.clone(), clients.clone(), shutdown.clone());
        tasks.spawn("external database connection", async move {
            // A client that leaves is an end like any other.
            let _left = shutdown.run_until(lead(&way, client, &clients, &shutdown)).await;
        });
    }
}

async fn lead(way: &Way, mut client: TcpStream, clients: &Clients, shutdown: &Shutdown) -> std::io::Result<()> {
    let _entered = clients.enter();
    let mut start = [0; 8];
    loop {
        client.read_exact(&mut start).await?;
        if start != SSL_REQUEST && start != GSS_REQUEST {
            break;
        }
        // On this machine there is nothing to hide; the way to the database is encrypted from here on.
        client.write_u8(NO).await?;
    }
    let end = Instant::now() + WAIT;
    loop {
        if clients.is_stopping() {
            tell_refused(&mut client, STOPPING).await;
            return Ok(());
        }
        match way.reach().await {
            Ok(mut server) => {
                server.write_all(&start).await?;
                let mut talk = Talk::default();
                talk.ask(&start);
                let never = std::future::pending();
                let leaves = serve((&mut client, talk), &mut server, clients, None, never, shutdown).await;
                drop(server);
                if let Some(why) = leaves {
                    farewell(&mut client, why).await;
                }
                return Ok(());
            }
            Err(why) if Instant::now() >= end => {
                tell_refused(&mut client, &why).await;
                return Ok(());
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

struct Watcher {
    options: ExternalOptions,
    /// It looks the way that everybody else goes.
    proxy: std::net::SocketAddr,
    status: watch::Sender<ExternalStatus>,
    link: Option<Client>,
}

impl Watcher {
    async fn run(mut self, shutdown: Shutdown) {
        loop {
            let Some(seen) = shutdown
                .run_until(tokio::time::timeout(LOOK_TIMEOUT, self.look()))
                .await
            else {
                return;
            };
            let seen = seen.unwrap_or_else(|_| Err("it does not answer".into()));
            if seen.is_err() {
                self.link = None;
            }
            self.status.send_modify(|status| match seen {
                Ok((version, number, writable, latency)) => {
                    status.cause = if !writable {
                        Some("it takes no writes: the address leads to a standby, or it is read-only".into())
                    } else if number < VERSION_MIN {
                        Some(format!("version {version} is older than 13, the oldest that works"))
                    } else {
                        None
                    };
                    (status.version, status.writable) = (Some(version), writable);
                    status.latency_ms = Some(latency.as_secs_f64() * 1000.0);
                }
                Err(why) => {
                    (status.writable, status.latency_ms) = (false, None);
                    status.cause = Some(why);
                }
            });
            if !shutdown.sleep(LOOK_PERIOD).await {
                return;
            }
        }
    }

    async fn look(&mut self) -> Result<(String, i32, bool, Duration), String> {
        if self.link.as_ref().is_none_or(Client::is_closed) {
            self.link = Some(self.connect().await?);
        }
        let link = self.link.as_ref().ok_or("it is not connected")?;
        let sql = "SELECT current_setting('server_version'), current_setting('server_version_num')::int,
            NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'";
        let asked = Instant::now();
        let row = link.query_one(sql, &[]).await.map_err(|error| shown(&error))?;
        Ok((row.get(0), row.get(1), row.get(2), asked.elapsed()))
    }

    async fn connect(&self) -> Result<Client, String> {
        let mut config = tokio_postgres::Config::new();
        config
            .host(self.proxy.ip().to_string())
            .port(self.proxy.port())
            .user(&self.options.user)
            .password(&self.options.password)
            .dbname(&self.options.database)
            .application_name("conclave watcher");
        let (client, connection) = config.connect(NoTls).await.map_err(|error| shown(&error))?;
        Tasks::new("external database").spawn("watcher session", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the watcher's session has ended");
            }
        });
        Ok(client)
    }
}

fn shown(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |db| db.message().to_owned())
}
