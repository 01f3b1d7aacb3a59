//! One node: wires the parts together, and nothing more.
//!
//! The only crate that knows all parts. It binds every port before it starts anything, starts the parts from the substrate
//! upwards, and stops them in the opposite order.

mod archive;
mod bootstrap;
mod database;
mod links;
mod messages;
mod report;
pub mod restart;
mod view;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use conclave_auth::Authenticator;
use conclave_catalog::NodePorts;
use conclave_config::{Election, NodeConfig, StatusContract};
use conclave_consensus::{AdminClient, Consensus, Profile, StartOptions, identity_dir};
use conclave_consul_api::{ConsulApi, ConsulApiOptions};
use conclave_executor::{Executor, ExecutorOptions};
use conclave_fileserver::FileServer;
use conclave_filesync::{FileSync, FileSyncOptions};
use conclave_gossip::detector::Facts;
use conclave_gossip::{Gossip, GossipOptions};
use conclave_messaging::Broker;
use conclave_net::{NodeIdentity, ServerTls, bind, serve};
use conclave_operations::{Runner, RunnerOptions};
use conclave_rest::RestState;
use conclave_runtime::{Shutdown, StopReport, Tasks};
use conclave_store::{Store, StoreOptions};
use conclave_workflow::Settings;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use archive::Archive;
use database::Base;
use messages::Messages;
use report::Reporter;
use view::{FileResources, RaftView, live_managers};

/// What has not stopped by then is left behind.
const STOP_DEADLINE: Duration = Duration::from_secs(25);
const STORE_CONNECTIONS: usize = 24;
/// How often a store that holds back is looked at: requests end within milliseconds.
const QUIET_LOOK: Duration = Duration::from_millis(3);
/// How long a request waits through a failover.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// The ports that the cluster is told of.
pub fn told_ports(config: &NodeConfig) -> NodePorts {
    let ports = &config.ports;
    NodePorts {
        rest: ports.rest,
        internal: ports.internal,
        broker: ports.broker,
        database: ports.database,
        peer: ports.peer,
        status: ports.status,
        files: ports.files,
        gossip: ports.gossip,
    }
}

/// The listeners of a node.
struct Listeners {
    peer: TcpListener,
    files: TcpListener,
    gossip: TcpListener,
    datagrams: UdpSocket,
    proxy: TcpListener,
    relay: TcpListener,
    rest: TcpListener,
    internal: TcpListener,
    status: TcpListener,
}

impl Listeners {
    async fn bind(config: &NodeConfig) -> Result<Self> {
        let ports = &config.ports;
        let on = |port: u16| bind(SocketAddr::new(config.node.address, port));
        Ok(Self {
            peer: on(ports.peer).await?,
            files: on(ports.files).await?,
            gossip: on(ports.gossip).await?,
            datagrams: Gossip::bind(SocketAddr::new(config.node.address, ports.gossip)).await?,
            proxy: on(ports.database_proxy).await?,
            relay: on(ports.database).await?,
            rest: on(ports.rest).await?,
            internal: on(ports.internal).await?,
            status: on(ports.status).await?,
        })
    }
}

/// Why a node has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to, or is no member any more.
    Stopped,
    /// It is to start again: an operator restarts the cluster node by node.
    Restart,
}

/// Runs the node until it is told to stop by SIGTERM or SIGINT, or to restart; a second signal ends it at once.
///
/// # Errors
/// When the node has no identity, a port is in use, or a part cannot start.
pub async fn run(config: NodeConfig, program: &Path) -> Result<Ended> {
    conclave_net::install_crypto_provider();
    let listeners = Listeners::bind(&config).await?;
    let identity = NodeIdentity::load(&identity_dir(&config.data_dir)).with_context(|| {
        format!(
            "{} holds no identity: run `conclave cluster init` or `conclave cluster join` first",
            config.data_dir.display()
        )
    })?;
    tracing::info!(
        node = identity.name,
        id = identity.node_id,
        cluster = identity.cluster_id,
        "node starts"
    );
    // Substrate and services stop one after the other: nothing loses the database that it still writes to.
    let (substrate, services) = (Tasks::new("substrate"), Tasks::new("services"));
    let mut node = start_node(&config, program, identity, listeners, &substrate, &services).await?;
    let mut ended = Ended::Stopped;
    tokio::select! {
        signal = wait_for_signal() => signal?,
        Ok(_) = node.restart.wait_for(|restart| *restart) => ended = Ended::Restart,
        () = removed(&node.consensus) => tracing::warn!(
            "this node has been removed from its cluster: it stops, and its data directory is to be wiped before it joins one again"
        ),
    }
    tracing::info!("stopping");
    if ended == Ended::Restart {
        // Its start takes longer than all the rest of a restart.
        node.broker.leave_running();
    }
    let orderly = async {
        services.stop(STOP_DEADLINE).await;
        node.database.drain().await;
        let report = substrate.stop(STOP_DEADLINE).await;
        node.consensus.stop().await;
        report
    };
    tokio::select! {
        report = orderly => if report != StopReport::Clean {
            tracing::warn!("some tasks were left behind");
        },
        second = wait_for_signal() => {
            second?;
            tracing::warn!("told twice: stopping at once");
            ended = Ended::Stopped;
        }
    }
    Ok(ended)
}

/// While the database is to change its primary as planned: tells it when everything has ended that was begun before.
async fn tell_when_quiet(
    store: Store,
    mut hold: watch::Receiver<bool>,
    quiet: watch::Sender<bool>,
    shutdown: Shutdown,
) {
    while !shutdown.is_requested() {
        let held = *hold.borrow_and_update();
        quiet.send_replace(held && store.is_quiet());
        let pause = if held { QUIET_LOOK } else { Duration::MAX };
        tokio::select! {
            () = shutdown.requested() => return,
            changed = hold.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Resolves when this node has been removed from the cluster.
async fn removed(consensus: &Consensus) {
    let (mut state, me) = (consensus.state(), consensus.me());
    let gone = state.wait_for(|state| state.has_left(me));
    if gone.await.is_err() {
        // The group has stopped, and this process is about to.
        std::future::pending::<()>().await;
    }
}

async fn wait_for_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The parts of a node that are asked for something when it ends.
struct Node {
    consensus: Consensus,
    database: Base,
    broker: Broker,
    /// Turns true when an operator has ordered a restart.
    restart: watch::Receiver<bool>,
}

async fn start_node(
    config: &NodeConfig,
    program: &Path,
    identity: NodeIdentity,
    listeners: Listeners,
    substrate: &Tasks,
    services: &Tasks,
) -> Result<Node> {
    let reporter = Arc::new(OnceLock::<Reporter>::new());
    let source = Arc::clone(&reporter);
    let options = StartOptions {
        data_dir: config.data_dir.clone(),
        identity: identity.clone(),
        peer_address: format!("{}:{}", config.node.address, config.ports.peer),
        profile: match config.election {
            Election::Lan => Profile::Lan,
            Election::Cautious => Profile::Cautious,
        },
        report: Arc::new(move || source.get().map_or(serde_json::Value::Null, Reporter::report)),
    };
    let (consensus, routes) = conclave_consensus::start(options, substrate).await?;
    let (database, login, database_routes) = Base::start(
        config,
        &identity,
        listeners.proxy,
        listeners.relay,
        &consensus,
        substrate,
    )?;
    let archive = Archive::start(config, database.own(), services)?;
    let consul_options = ConsulApiOptions {
        identity: identity.clone(),
        session_ttl_min: config.consul.session_ttl_min(),
    };
    let (consul_api, directory_routes) = ConsulApi::start(consul_options, &consensus, services)?;
    let peer_tls = ServerTls::for_peers_and_joiners(&identity)?;
    serve(
        substrate,
        "peers",
        listeners.peer,
        peer_tls,
        routes.merge(database_routes).merge(directory_routes).into_router(),
    );
    let file_options = FileSyncOptions {
        data_dir: config.data_dir.clone(),
        identity: identity.clone(),
        listener: listeners.files,
    };
    let files = FileSync::start(file_options, &consensus, substrate)?;
    let facts_source = Arc::clone(&reporter);
    let gossip_options = GossipOptions {
        identity: identity.clone(),
        socket: listeners.datagrams,
        listener: listeners.gossip,
        facts: Arc::new(move || Facts {
            load: links::load(),
            faults: facts_source.get().map_or(0, Reporter::faults),
        }),
    };
    let gossip = Gossip::start(gossip_options, &consensus, substrate)?;
    let hold = database.holds(services);
    let store = Store::open(&StoreOptions {
        host: config.node.address.to_string(),
        port: config.ports.database_proxy,
        user: login.user,
        password: login.password,
        database: login.database,
        connections: STORE_CONNECTIONS,
        patience: STORE_PATIENCE,
        hold: hold.clone(),
    })?;
    if let Some(own) = database.own() {
        services.spawn(
            "quiet store",
            tell_when_quiet(store.clone(), hold, own.quiet(), services.shutdown()),
        );
    }
    let schema = bootstrap::start(store.clone(), consensus.clone(), database.own().is_some(), services);
    let messages = Messages::start(config, &identity, &consensus, &store, &schema, substrate, services);
    let executor = start_executor(config, program, &store, &files, &consensus, &messages, services)?;
    let reporting = Reporter::start(
        config, &identity, &consensus, &database, archive, &files, &gossip, &messages, &executor, schema, &store,
        services,
    );
    // It is set once, here.
    let _first = reporter.set(reporting);
    let user_tls = ServerTls::for_users(&identity)?;
    serve(
        services,
        "status",
        listeners.status,
        ServerTls::for_users_and_peers(&identity)?,
        consul_api.router(),
    );
    let work_dir = config.data_dir.join("uploads");
    std::fs::create_dir_all(&work_dir).with_context(|| format!("create {}", work_dir.display()))?;
    let admin = AdminClient::new(identity.clone(), &config.node.address.to_string(), config.ports.peer)?;
    let authenticator = Authenticator::new(store.clone(), services);
    let file_server = conclave_fileserver::router(FileServer {
        files: files.clone(),
        store: store.clone(),
        authenticator: authenticator.clone(),
        work_dir: work_dir.clone(),
    });
    let rest = conclave_rest::router(RestState {
        authenticator,
        store,
        executor,
        files,
        cluster: Arc::new(RaftView {
            consensus: consensus.clone(),
            admin: Arc::new(admin),
            events: consul_api.events(),
            ca_certificate: identity.ca_certificate_pem.clone(),
            tasks: services.clone(),
        }),
        work_dir,
        active_only: config.status_contract == StatusContract::ActiveOnly,
    })
    .merge(file_server);
    serve(services, "rest", listeners.rest, user_tls.clone(), rest.clone());
    serve(services, "internal rest", listeners.internal, user_tls, rest);
    let (order, restart) = watch::channel(false);
    services.spawn(
        "restart orders",
        restart::obey(
            config.data_dir.clone(),
            consensus.clone(),
            database.own().cloned(),
            order,
            services.shutdown(),
        ),
    );
    Ok(Node {
        consensus,
        database,
        broker: messages.broker,
        restart,
    })
}

fn start_executor(
    config: &NodeConfig,
    program: &Path,
    store: &Store,
    files: &FileSync,
    consensus: &Consensus,
    messages: &Messages,
    services: &Tasks,
) -> Result<Executor> {
    let commands = config.data_dir.join("commands");
    install_ctx(&commands, program)?;
    let runner = Runner::new(RunnerOptions {
        work_dir: config.data_dir.join("operations"),
        commands: Some(commands),
        account: None,
        environment: std::collections::BTreeMap::new(),
    })?;
    let options = ExecutorOptions {
        me: config.node.name.clone(),
        settings: Settings {
            max_retries: config.workflows.task_retries,
            retry_interval: config.workflows.task_retry_interval,
            wait_after_fail: 600.0,
        },
        concurrent_operations: config.workflows.concurrent_operations,
        store: store.clone(),
        runner,
        logs: Arc::new(messages.outlet.clone()),
        resources: Arc::new(FileResources(files.clone())),
        live: live_managers(consensus, services),
    };
    Ok(Executor::start(options, services))
}

/// Puts `ctx` where scripts find it: this very program under another name.
fn install_ctx(folder: &Path, program: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let link = folder.join("ctx");
    if std::fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(());
    }
    if link.is_symlink() {
        std::fs::remove_file(&link).with_context(|| format!("replace {}", link.display()))?;
    }
    std::os::unix::fs::symlink(program, &link).with_context(|| format!("create {}", link.display()))
}
