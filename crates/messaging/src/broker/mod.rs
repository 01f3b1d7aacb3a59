//! Supervises this node's `rabbitmq-server`.
//!
//! One task owns the server: it adopts the one that runs, or starts one, waits until it answers, watches it, and starts it
//! anew when it has ended. The server is a process in a session of its own: a manager that is killed leaves it running, and
//! the next one takes it over. The ordinary stop of the manager stops it, unless it is about to start again.
//!
//! Nothing waits for the broker. Whatever is wrong with it is in its [`BrokerStatus`], with the cause.

mod layout;
mod process;
mod settings;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conclave_net::NodeIdentity;
use conclave_runtime::account::Account;
use conclave_runtime::{Backoff, Shutdown, Tasks};
use serde::Serialize;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::access::{Access, BrokerAddress, USER, password};
use crate::connection::Session;
use crate::error::MessagingError;
use crate::topology;
use layout::{Layout, Programs};
use process::{Process, Step};
use settings::{Endpoints, Launch};

/// It takes two to ten seconds, and more on a machine that is busy.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const READY_POLL: Duration = Duration::from_millis(100);
const HOLD_MAX: Duration = Duration::from_secs(10);
const STOP_GRACE: Duration = Duration::from_secs(12);
const RESTART_FIRST: Duration = Duration::from_millis(200);
const RESTART_MOST: Duration = Duration::from_secs(30);
/// Who has run this long starts over with short delays.
const STABLE_AFTER: Duration = Duration::from_secs(60);
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// A server that runs and does not answer for this long is started anew.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What this node's broker needs.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// The node's data directory; the broker's files are in `rabbitmq` below it.
    pub data_dir: PathBuf,
    /// RabbitMQ's folder; the newest installed version when absent.
    pub rabbitmq_dir: Option<PathBuf>,
    /// The account that it runs under when this process is root's.
    pub account: String,
    /// Who the node is.
    pub identity: NodeIdentity,
    /// Where it listens.
    pub address: IpAddr,
    /// AMQP over TLS.
    pub port: u16,
    /// Erlang distribution, on the same address.
    pub distribution_port: u16,
    /// A new server is held back until this turns true, for some seconds at most: on a small machine the start of a broker
    /// takes the processors from what users wait for.
    pub after: Option<watch::Receiver<bool>>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerState {
    /// It has been started and does not answer yet.
    Starting,
    /// It takes messages.
    Running,
    /// It does not run, or does not answer; it will be tried again.
    Failed,
}

/// What the status API shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BrokerStatus {
    /// How far it is.
    pub state: BrokerState,
    /// Why it does not run.
    pub cause: Option<String>,
    /// Its process.
    pub pid: Option<i32>,
    /// How often it had to be started anew since the manager's start.
    pub restarts: u32,
    /// Milliseconds from its start to its first answer; absent when it was running already.
    pub start_ms: Option<u64>,
    /// Logs and events that wait in it.
    pub backlog: Option<u32>,
}

/// This node's broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    status: watch::Receiver<BrokerStatus>,
    address: BrokerAddress,
    kept: Arc<AtomicBool>,
}

impl Broker {
    /// Starts the task; returns at once.
    pub fn start(options: BrokerOptions, tasks: &Tasks) -> Self {
        let address = BrokerAddress {
            name: options.identity.name.clone(),
            host: options.address.to_string(),
            port: options.port,
        };
        let first = BrokerStatus {
            state: BrokerState::Starting,
            cause: None,
            pid: None,
            restarts: 0,
            start_ms: None,
            backlog: None,
        };
        let (publish, status) = watch::channel(first);
        let kept = Arc::new(AtomicBool::new(false));
        let task = Task {
            kept: Arc::clone(&kept),
            layout: Layout::new(&options.data_dir),
            access: Access::of_managers(&options.identity),
            address: address.clone(),
            options,
            status: publish,
        };
        tasks.spawn("broker", task.run(tasks.shutdown()));
        Self { status, address, kept }
    }

    /// Leaves the server running when the tasks stop: the next manager, which is about to start, adopts it unless its settings or
    /// programs have changed.
    pub fn leave_running(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Where it is.
    pub fn address(&self) -> &BrokerAddress {
        &self.address
    }

    /// How it is.
    pub fn status(&self) -> watch::Receiver<BrokerStatus> {
        self.status.clone()
    }
}

struct Task {
    options: BrokerOptions,
    layout: Layout,
    access: Access,
    address: BrokerAddress,
    status: watch::Sender<BrokerStatus>,
    kept: Arc<AtomicBool>,
}

impl Task {
    async fn run(self, shutdown: Shutdown) {
        if Process::recall(&self.layout).is_none()
            && let Some(after) = &self.options.after
        {
            let mut after = after.clone();
            let held = tokio::time::timeout(HOLD_MAX, after.wait_for(|ready| *ready));
            // Whether it is time or the others are late: now it starts.
            let _now = shutdown.run_until(held).await;
        }
        let mut backoff = Backoff::new(RESTART_FIRST, RESTART_MOST);
        loop {
            let begun = Instant::now();
            match shutdown.run_until(self.life()).await {
                None => break,
                Some(error) => {
                    let text = error.to_string();
                    tracing::warn!(error = text, "the broker failed; it is started anew");
                    self.status.send_modify(|status| {
                        status.state = BrokerState::Failed;
                        status.cause = Some(text);
                        status.backlog = None;
                        status.restarts += 1;
                    });
                }
            }
            if begun.elapsed() > STABLE_AFTER {
                backoff.reset();
            }
            if !shutdown.sleep(backoff.next_delay()).await {
                break;
            }
        }
        if let Some(process) = Process::recall(&self.layout) {
            if self.kept.load(Ordering::Relaxed) {
                tracing::info!(pid = process.pid, "rabbitmq-server is left to the next manager");
                return;
            }
            process.stop(STOP_GRACE).await;
            tracing::info!(pid = process.pid, "rabbitmq-server stopped");
        }
    }

    /// One life of the server, from adoption or start to its end; returns what ended it.
    async fn life(&self) -> MessagingError {
        let begun = Instant::now();
        let (process, child) = match self.bring_up().await {
            Ok(found) => found,
            Err(error) => return error,
        };
        self.status.send_modify(|status| {
            status.state = BrokerState::Starting;
            status.pid = Some(process.pid);
        });
        let is_new = child.is_some();
        let why = tokio::select! {
            how = end_of(&process, child) => MessagingError::Ended {
                how,
                said: self.layout.last_words(),
                log: self.layout.log_file(),
            },
            error = self.attend(begun, is_new) => {
                // It runs and does not answer.
                process.stop(STOP_GRACE).await;
                error
            }
        };
        self.status.send_modify(|status| status.pid = None);
        why
    }

    /// Adopts the running server, or starts one.
    async fn bring_up(&self) -> Result<(Process, Option<Child>), MessagingError> {
        let account = Account::for_children(&self.options.account)?;
        let programs = Programs::find(self.options.rabbitmq_dir.as_deref())?;
        let identity = &self.options.identity;
        self.layout.prepare(identity, &account)?;
        let endpoints = Endpoints {
            address: self.options.address,
            amqps: self.options.port,
            distribution: self.options.distribution_port,
        };
        let salt = salt(identity);
        let launch = Launch::new(&self.layout, &programs, endpoints, USER, &password(identity), salt);
        let running = Process::recall(&self.layout);
        match (Step::decide(running.as_ref(), &launch.fingerprint()), running) {
            (Step::Adopt, Some(process)) => {
                tracing::info!(pid = process.pid, "rabbitmq-server runs already and is adopted");
                return Ok((process, None));
            }
            (Step::Replace, Some(process)) => {
                tracing::info!(
                    pid = process.pid,
                    "rabbitmq-server runs with other settings and is started anew"
                );
                process.stop(STOP_GRACE).await;
            }
            _ => {}
        }
        let (process, child) = Process::start(&self.layout, &programs, &launch, &account)?;
        tracing::info!(pid = process.pid, account = account.name(), "rabbitmq-server started");
        Ok((process, Some(child)))
    }

    /// Waits until the server answers, and looks after it from then on; returns when it answers no more.
    async fn attend(&self, begun: Instant, is_new: bool) -> MessagingError {
        let mut patience = Instant::now() + READY_TIMEOUT;
        let mut limit = READY_TIMEOUT;
        let mut is_first = true;
        loop {
            match Session::open(&self.address, &self.access, "supervisor").await {
                Ok(session) => {
                    if std::mem::take(&mut is_first) {
                        let start_ms = u64::try_from(begun.elapsed().as_millis()).ok().filter(|_| is_new);
                        tracing::info!(start_ms, broker = %self.address, "the broker takes messages");
                        self.status.send_modify(|status| status.start_ms = start_ms);
                    }
                    let why = self.watch(&session).await;
                    tracing::warn!(why, "the connection to the broker was lost");
                    session.close().await;
                    patience = Instant::now() + SILENCE_MAX;
                    limit = SILENCE_MAX;
                }
                Err(error) => {
                    let text = format!("it does not answer yet: {error}");
                    self.status.send_if_modified(|status| {
                        let is_news = status.cause.as_ref() != Some(&text);
                        status.cause = Some(text);
                        is_news
                    });
                }
            }
            if Instant::now() >= patience {
                return MessagingError::Timeout {
                    what: "waiting for rabbitmq-server to answer",
                    seconds: limit.as_secs(),
                };
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Gives the server the node's certificate when it has been renewed.
    fn renew_certificate(&self) {
        let written = Account::for_children(&self.options.account)
            .map_err(MessagingError::from)
            .and_then(|account| self.layout.write_certificate(&self.options.identity, &account));
        if let Err(error) = written {
            tracing::warn!(%error, "the broker did not get the renewed certificate; it is tried again");
        }
    }

    /// Looks at the running server until the connection is lost; returns why.
    async fn watch(&self, session: &Session) -> String {
        let mut lost = std::pin::pin!(session.lost());
        let why = loop {
            match topology::backlog(&session.channel).await {
                Ok(backlog) => self.status.send_modify(|status| {
                    status.state = BrokerState::Running;
                    status.cause = session
                        .is_blocked()
                        .then(|| "it is short of memory or disk and takes no messages".to_owned());
                    status.backlog = Some(backlog);
                }),
                Err(error) => break error.to_string(),
            }
            self.renew_certificate();
            tokio::select! {
                why = &mut lost => break why,
                () = tokio::time::sleep(LOOK_PERIOD) => {}
            }
        };
        self.status.send_modify(|status| {
            status.state = BrokerState::Failed;
            status.cause = Some(format!("it does not answer: {why}"));
            status.backlog = None;
        });
        why
    }
}

/// Waits for the end of the server; tells how it was, where that can be known.
async fn end_of(process: &Process, child: Option<Child>) -> String {
    let Some(mut child) = child else {
        process.ended().await;
        return String::new();
    };
    match child.wait().await {
        Ok(status) => format!(" ({status})"),
        Err(_) => String::new(),
    }
}

/// Makes the hash of the password differ from cluster to cluster, and not from start to start.
fn salt(identity: &NodeIdentity) -> [u8; 4] {
    let text = identity.cluster_key.derive("rabbitmq/salt");
    let bytes = text.as_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}
