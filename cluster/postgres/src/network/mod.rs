//! The network of PostgreSQL, all of it in this process: the server itself listens on a Unix socket only.
//!
//! | listener | leads to | for |
//! | --- | --- | --- |
//! | proxy, TCP on the node's address | the primary of the rule in force | clients on this machine |
//! | relay, mutual TLS | this node's server | the other nodes' proxies and standbys |
//! | upstream, Unix socket | the relay of the node that feeds this one | this node's WAL receiver |
//! | copy, Unix socket | the same | base backup, rewind, the driver |
//!
//! Each connection lives as long as its gate is open: when the rule changes, when this node pledges, or when this process
//! stops, it is cut. A manager that hangs takes its PostgreSQL off the network with it.

mod passage;
mod talk;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_consensus::Consensus;
use conclave_net::{PeerConnector, PeerIdentity, PeerStream, ServerTls, accept_peers};
use conclave_runtime::{Shutdown, Tasks};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::DatabaseError;
use crate::driver::{Driver, Gates, Layout, is_planned};
use passage::join;
pub(crate) use passage::{Clients, STOPPING, Talk, farewell, serve, tell_refused};

/// How long a node that has lost touch with the majority goes on leading clients to the primary that it knows.
const ROUTE_LEASE: Duration = Duration::from_millis(1500);
/// A node that is out of touch for longer than any election takes is alone: its clients are better off elsewhere.
const ALONE_AFTER: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(50);
/// How long a server that asks for log waits for somebody to give it.
const UPSTREAM_WAIT: Duration = Duration::from_secs(5);
/// Between two tries to reach the one that feeds it.
const UPSTREAM_RETRY: Duration = Duration::from_millis(15);
/// A client must say something within this, or it is not worth an error message.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(2);

/// What a client of a node that is alone is told.
const ALONE: &str =
    "this node is cut off from the majority of the cluster and leads nobody to the database: use another node";

/// What a peer connects for: the first byte on a relay connection. The answer is [`OPEN`] or the end.
const FOR_CLIENTS: u8 = b'C';
const FOR_REPLICATION: u8 = b'R';
const OPEN: u8 = b'O';

/// What a client of PostgreSQL may begin with, by the number after the length: a wish for encryption, or the version of the
/// protocol, of which any minor one is understood as far as it matters here.
const ENCRYPTION_TLS: u32 = 80_877_103;
const ENCRYPTION_GSSAPI: u32 = 80_877_104;
const PROTOCOL_3: u32 = 3 << 16;
/// As PostgreSQL's own limit.
const GREETING_BYTES_MAX: u32 = 10_000;

/// Listeners and what they need.
pub(crate) struct Network {
    pub(crate) consensus: Consensus,
    pub(crate) driver: Driver,
    pub(crate) layout: Layout,
    pub(crate) connector: PeerConnector,
    pub(crate) tls: ServerTls,
    /// How long a new client waits for a primary before it is told that there is none.
    pub(crate) client_wait: Duration,
    pub(crate) clients: Clients,
}

/// Where clients are led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Route {
    primary: Option<NodeId>,
    epoch: u64,
    /// Whether new clients wait: the primary is about to be another, as planned.
    hold: bool,
    /// Whether this node has been out of touch with the majority for long: nobody is waited for then.
    alone: bool,
}

#[derive(Clone)]
struct Paths {
    consensus: Consensus,
    driver: Driver,
    connector: PeerConnector,
    local: PathBuf,
    client_wait: Duration,
    clients: Clients,
}

impl Network {
    /// Opens all. The TCP ports have been bound before.
    pub(crate) fn start(self, proxy: TcpListener, relay: TcpListener, tasks: &Tasks) -> Result<(), DatabaseError> {
        let paths = Paths {
            consensus: self.consensus,
            driver: self.driver,
            connector: self.connector,
            local: self.layout.local_socket(),
            client_wait: self.client_wait,
            clients: self.clients,
        };
        start_relay(&paths, relay, self.tls, tasks);
        start_upstream(&paths, &self.layout.upstream_socket(), true, tasks)?;
        start_upstream(&paths, &self.layout.copy_socket(), false, tasks)?;
        start_proxy(paths, proxy, tasks);
        Ok(())
    }
}

fn start_relay(paths: &Paths, listener: TcpListener, tls: ServerTls, tasks: &Tasks) {
    let paths = paths.clone();
    let shutdown = tasks.shutdown();
    accept_peers(tasks, "database relay", listener, tls, move |stream, peer| {
        let (paths, shutdown) = (paths.clone(), shutdown.clone());
        async move {
            if let Err(reason) = relay(&paths, stream, &peer, &shutdown).await {
                tracing::debug!(peer = peer.node_id, reason, "relay connection refused");
            }
        }
    });
}

async fn relay<S: AsyncRead + AsyncWrite + Unpin>(
    paths: &Paths,
    mut peer: S,
    identity: &PeerIdentity,
    shutdown: &Shutdown,
) -> Result<(), &'static str> {
    let id = NodeId(identity.node_id);
    let mut members = paths.consensus.state();
    if !members.borrow_and_update().nodes().contains_key(&id) {
        return Err("the peer is no member of this cluster");
    }
    let purpose = tokio::time::timeout(FIRST_BYTES_TIMEOUT, peer.read_u8()).await;
    let Ok(Ok(purpose)) = purpose else {
        return Err("the peer did not say what it wants");
    };
    if purpose == FOR_CLIENTS {
        let epoch = tokio::time::timeout(FIRST_BYTES_TIMEOUT, peer.read_u64()).await;
        let Ok(Ok(epoch)) = epoch else {
            return Err("the peer did not say by which rule it comes");
        };
        if epoch < members.borrow().database().primary_since(paths.consensus.me()) {
            return Err("the peer comes by a rule that has been replaced");
        }
    }
    let opens = move |gates: &Gates| match purpose {
        FOR_REPLICATION => gates.replication,
        FOR_CLIENTS => gates.serving.is_some(),
        _ => false,
    };
    let mut gates = paths.driver.gates();
    let before = *gates.borrow_and_update();
    if !opens(&before) {
        return Err("this node's server is not open for that");
    }
    let admitted = (purpose == FOR_CLIENTS).then(|| paths.driver.admit());
    if matches!(admitted, Some(None)) {
        return Err("this node's server is about to be closed, as planned");
    }
    let mut local = UnixStream::connect(&paths.local)
        .await
        .map_err(|_| "the local server does not listen")?;
    peer.write_u8(OPEN).await.map_err(|_| "the peer has left")?;
    let closed = async {
        // A change of the serving epoch cuts nobody: it is the same primary.
        let shut = async {
            let _closed_or_stopping = gates.wait_for(|gates| !opens(gates)).await;
        };
        // A node that is removed loses what it had open, too.
        let removed = async {
            let _removed_or_stopping = members.wait_for(|state| !state.nodes().contains_key(&id)).await;
        };
        tokio::select! { () = shut => {}, () = removed => {} }
    };
    if purpose != FOR_CLIENTS {
        join(&mut peer, &mut local, closed, shutdown).await;
        return Ok(());
    }
    let _entered = paths.clients.enter();
    let (client, closing) = ((&mut peer, Talk::default()), Some(paths.driver.closing()));
    let leaves = serve(client, &mut local, &paths.clients, closing, closed, shutdown).await;
    drop((local, admitted));
    if let Some(why) = leaves {
        farewell(&mut peer, why).await;
    }
    Ok(())
}

/// `from_server`: whether only the local server comes there.
fn start_upstream(paths: &Paths, socket: &Path, from_server: bool, tasks: &Tasks) -> Result<(), DatabaseError> {
    if socket.exists() {
        std::fs::remove_file(socket).map_err(DatabaseError::file("remove", socket))?;
    }
    let listener = UnixListener::bind(socket).map_err(DatabaseError::file("listen on", socket))?;
    // The folder is closed to all but the server's account.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o777))
        .map_err(DatabaseError::file("open", socket))?;
    let (paths, connections, shutdown) = (paths.clone(), tasks.clone(), tasks.shutdown());
    tasks.spawn("database upstream", async move {
        while let Some(accepted) = shutdown.run_until(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            if from_server {
                paths.driver.asks();
            }
            let (paths, shutdown) = (paths.clone(), shutdown.clone());
            connections.spawn("upstream connection", async move {
                upstream(&paths, stream, from_server, &shutdown).await;
            });
        }
    });
    Ok(())
}

async fn upstream(paths: &Paths, mut stream: UnixStream, waits: bool, shutdown: &Shutdown) {
    let mut gates = paths.driver.gates();
    let found = if waits {
        let finding = tokio::time::timeout(UPSTREAM_WAIT, wait_for_feeder(paths, &mut gates));
        shutdown.run_until(finding).await.and_then(Result::ok)
    } else {
        feeder(paths, &mut gates).await
    };
    let Some((node, mut peer)) = found else {
        return;
    };
    let moved = async {
        let _closed_or_stopping = gates.wait_for(|gates| gates.upstream != Some(node)).await;
    };
    join(&mut stream, &mut peer, moved, shutdown).await;
}

/// The node that feeds this one, if there is one and it can be reached.
async fn feeder(paths: &Paths, gates: &mut watch::Receiver<Gates>) -> Option<(NodeId, PeerStream)> {
    let node = gates.borrow_and_update().upstream?;
    let peer = reach(paths, node, &[FOR_REPLICATION]).await.ok()?;
    Some((node, peer))
}

/// The same, once it is so. A server that is turned away asks again only after a while, and a new primary can do nothing before its
/// standbys have come to it.
async fn wait_for_feeder(paths: &Paths, gates: &mut watch::Receiver<Gates>) -> (NodeId, PeerStream) {
    loop {
        if let Some(found) = feeder(paths, gates).await {
            return found;
        }
        let _changed_or_waited = tokio::time::timeout(UPSTREAM_RETRY, gates.changed()).await;
    }
}

fn start_proxy(paths: Paths, listener: TcpListener, tasks: &Tasks) {
    let (route, routes) = watch::channel(Route::default());
    let (consensus, shutdown) = (paths.consensus.clone(), tasks.shutdown());
    tasks.spawn("database route", follow_rule(consensus, route, shutdown.clone()));
    let connections = tasks.clone();
    tasks.spawn("database proxy", async move {
        while let Some(accepted) = shutdown.run_until(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            let (paths, routes, shutdown) = (paths.clone(), routes.clone(), shutdown.clone());
            connections.spawn("proxy connection", async move {
                proxy(&paths, stream, routes, &shutdown).await;
            });
        }
    });
}

/// The route is the primary of the rule in force, as long as this node may believe that it knows what is in force: while it is
/// in touch with the majority, and for a lease after that. An election of the Raft leader, which takes less, cuts nobody. A
/// lease that is too long can show an old row and no more: what a deposed primary is told to write is never acknowledged.
async fn follow_rule(consensus: Consensus, route: watch::Sender<Route>, shutdown: Shutdown) {
    let (mut state, mut leadership) = (consensus.state(), consensus.leadership());
    let mut in_touch = Instant::now();
    loop {
        let known = leadership.borrow_and_update().has_quorum;
        let database = state.borrow_and_update().database().clone();
        if known {
            in_touch = Instant::now();
        }
        let left = |limit: Duration| limit.saturating_sub(in_touch.elapsed());
        let (lease, company) = (left(ROUTE_LEASE), left(ALONE_AFTER));
        let hold = is_planned(&database);
        let rule = database.rule.filter(|_| !lease.is_zero());
        let next = Route {
            primary: rule.as_ref().map(|rule| rule.primary),
            epoch: rule.map_or(0, |rule| rule.epoch),
            hold,
            alone: company.is_zero(),
        };
        route.send_if_modified(|old| {
            // Another epoch of the same primary cuts nobody.
            let changed = (old.primary, old.hold, old.alone) != (next.primary, next.hold, next.alone);
            *old = next;
            changed
        });
        let lease_ends = async {
            match [lease, company].into_iter().find(|left| !left.is_zero()) {
                Some(left) if !known => tokio::time::sleep(left).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.requested() => return,
            changed = state.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            () = lease_ends => {}
        }
    }
}

async fn proxy<S: AsyncRead + AsyncWrite + Unpin>(
    paths: &Paths,
    mut client: S,
    mut routes: watch::Receiver<Route>,
    shutdown: &Shutdown,
) {
    let _entered = paths.clients.enter();
    let end = Instant::now() + paths.client_wait;
    let mut last = "no primary is known: a failover is under way".to_owned();
    while Instant::now() < end && !shutdown.is_requested() {
        let route = *routes.borrow_and_update();
        if paths.clients.is_stopping() {
            last = STOPPING.to_owned();
            break;
        }
        if route.alone {
            last = ALONE.to_owned();
            break;
        }
        if let (Some(primary), false) = (route.primary, route.hold) {
            match lead(paths, &mut client, (primary, route.epoch), &mut routes, shutdown).await {
                Ok(()) => return,
                Err(why) => last = why,
            }
        }
        let _changed_or_waited = tokio::time::timeout(RETRY, routes.changed()).await;
    }
    refuse(&mut client, &last).await;
}

/// Leads a client to the primary of that epoch until one of them ends or the primary is another. An error means that nothing was
/// exchanged, so that another try is harmless.
async fn lead<S: AsyncRead + AsyncWrite + Unpin>(
    paths: &Paths,
    client: &mut S,
    (primary, epoch): (NodeId, u64),
    routes: &mut watch::Receiver<Route>,
    shutdown: &Shutdown,
) -> Result<(), String> {
    let deposed = async {
        let _closed_or_stopping = routes.wait_for(|route| route.primary != Some(primary)).await;
    };
    tokio::pin!(deposed);
    if primary != paths.consensus.me() {
        let wish = [&[FOR_CLIENTS], epoch.to_be_bytes().as_slice()].concat();
        // A lost primary does not answer, and its successor must not be kept waiting for that.
        let reached = tokio::select! {
            reached = reach(paths, primary, &wish) => reached,
            () = &mut deposed => Err("the primary that was to be reached has been deposed".into()),
        };
        let mut peer = reached?;
        let talk = (&mut *client, Talk::default());
        let leaves = serve(talk, &mut peer, &paths.clients, None, deposed, shutdown).await;
        drop(peer);
        if let Some(why) = leaves {
            farewell(client, why).await;
        }
        return Ok(());
    }
    let mut gates = paths.driver.gates();
    if gates.borrow_and_update().serving.is_none() {
        return Err("this node is to be primary and is not open yet".into());
    }
    let Some(admitted) = paths.driver.admit() else {
        return Err("the primary is about to be closed, as planned".into());
    };
    let mut local = UnixStream::connect(&paths.local)
        .await
        .map_err(|error| error.to_string())?;
    let closed = async {
        let shut = async {
            let _closed_or_stopping = gates.wait_for(|gates| gates.serving.is_none()).await;
        };
        tokio::select! { () = deposed => {}, () = shut => {} }
    };
    let (talk, closing) = ((&mut *client, Talk::default()), Some(paths.driver.closing()));
    let leaves = serve(talk, &mut local, &paths.clients, closing, closed, shutdown).await;
    drop((local, admitted));
    if let Some(why) = leaves {
        farewell(client, why).await;
    }
    Ok(())
}

/// `wish`: the purpose and, for clients, the epoch of the rule by which they are led there.
async fn reach(paths: &Paths, node: NodeId, wish: &[u8]) -> Result<PeerStream, String> {
    let state = Arc::clone(&paths.consensus.state().borrow());
    let record = state
        .nodes()
        .get(&node)
        .ok_or_else(|| format!("node {node} is not in the cluster"))?;
    let mut peer = paths
        .connector
        .connect(node.0, &record.address, record.ports.database)
        .await
        .map_err(|error| error.to_string())?;
    let refused = |_| format!("{} is not open", record.name);
    peer.write_all(wish).await.map_err(refused)?;
    match tokio::time::timeout(FIRST_BYTES_TIMEOUT, peer.read_u8()).await {
        Ok(Ok(OPEN)) => Ok(peer),
        _ => Err(format!("{} is not open", record.name)),
    }
}

/// Tells a client in its own protocol that it can't be served (PostgreSQL protocol 3.0, "ErrorResponse", with the
/// SQLSTATE `cannot_connect_now`).
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(client: &mut S, why: &str) {
    let greeting = tokio::time::timeout(FIRST_BYTES_TIMEOUT, read_greeting(client)).await;
    if !matches!(greeting, Ok(Ok(true))) {
        return;
    }
    tell_refused(client, why).await;
}

/// Reads what a client begins with, to its end: what is left unread when the connection closes would reset it, and the client
/// would not see the answer. Encryption is declined first, because clients distrust an error that comes in its place. `false`
/// when it is no client that an error could be told.
async fn read_greeting<S: AsyncRead + AsyncWrite + Unpin>(client: &mut S) -> std::io::Result<bool> {
    loop {
        let (length, code) = (client.read_u32().await?, client.read_u32().await?);
        match code {
            ENCRYPTION_TLS | ENCRYPTION_GSSAPI if length == 8 => client.write_all(b"N").await?,
            PROTOCOL_3.. if code < PROTOCOL_3 + 0x1_0000 && (8..=GREETING_BYTES_MAX).contains(&length) => {
                let mut parameters = client.take(u64::from(length) - 8);
                tokio::io::copy(&mut parameters, &mut tokio::io::sink()).await?;
                return Ok(true);
            }
            _ => return Ok(false),
        }
    }
}
