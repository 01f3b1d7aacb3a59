//! The shell: sockets, clock and randomness around a [`Detector`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_catalog::{ClusterState, NodeId};
use conclave_consensus::Consensus;
use conclave_net::{AcceptedStream, NetError, NodeIdentity, PeerConnector, PeerIdentity, ServerTls, accept_peers};
use conclave_runtime::{Shutdown, Tasks};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::GossipError;
use crate::detector::{Answer, Beat, Detector, Facts, Input, Output, PeerView, Timing};
use crate::wire::{Codec, MESSAGE_BYTES_MAX};

/// Consul's port for the same purpose.
pub const PORT_DEFAULT: u16 = 8301;
/// For a question and its answer over TCP, connecting included.
const ASK_TIMEOUT: Duration = Duration::from_millis(900);

/// What gossip needs.
pub struct GossipOptions {
    /// Who this node is.
    pub identity: NodeIdentity,
    /// Where datagrams arrive.
    pub socket: UdpSocket,
    /// Where questions arrive; the same port.
    pub listener: TcpListener,
    /// What this node tells of itself: load and faults. Called a few times a second; it must not wait.
    pub facts: Arc<dyn Fn() -> Facts + Send + Sync>,
}

/// Who is heard. Cheap to clone.
#[derive(Clone)]
pub struct Gossip {
    shared: Arc<Shared>,
}

struct Shared {
    detector: Mutex<Detector>,
    started: Instant,
    codec: Codec,
    socket: UdpSocket,
    connector: PeerConnector,
    state: watch::Receiver<Arc<ClusterState>>,
    tasks: Tasks,
}

impl Gossip {
    /// Binds the port for datagrams.
    ///
    /// # Errors
    /// When it is in use.
    pub async fn bind(address: SocketAddr) -> Result<UdpSocket, GossipError> {
        UdpSocket::bind(address)
            .await
            .map_err(|source| GossipError::Listen { address, source })
    }

    /// Starts to send beats and to listen for them, until `tasks` is told to stop.
    ///
    /// # Errors
    /// When key or certificates cannot be used.
    pub fn start(options: GossipOptions, consensus: &Consensus, tasks: &Tasks) -> Result<Self, GossipError> {
        let shared = Arc::new(Shared {
            detector: Mutex::new(Detector::new(consensus.me(), rand::random(), Timing::default())),
            started: Instant::now(),
            codec: Codec::new(&options.identity.cluster_key)?,
            socket: options.socket,
            connector: PeerConnector::new(&options.identity)?,
            state: consensus.state(),
            tasks: tasks.child("gossip"),
        });
        let tls = ServerTls::for_peers(&options.identity)?;
        let answering = Arc::clone(&shared);
        accept_peers(tasks, "gossip", options.listener, tls, move |stream, peer| {
            let shared = Arc::clone(&answering);
            async move { shared.answer(stream, &peer).await }
        });
        tasks.spawn(
            "gossip beats",
            beats(Arc::clone(&shared), options.facts, tasks.shutdown()),
        );
        tasks.spawn("gossip datagrams", datagrams(Arc::clone(&shared), tasks.shutdown()));
        Ok(Self { shared })
    }

    /// What this node knows of every other one.
    pub fn view(&self) -> BTreeMap<NodeId, PeerView> {
        let now = self.shared.now();
        self.shared.detector().view(now)
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn detector(&self) -> MutexGuard<'_, Detector> {
        // The detector does not panic; if it did, what it knows would still be true.
        self.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, input: Input) -> Vec<Output> {
        let now = self.now();
        self.detector().step(now, input)
    }

    fn address(&self, id: NodeId) -> Option<SocketAddr> {
        let state = self.state.borrow();
        let node = state.nodes().get(&id)?;
        let ip: IpAddr = node.address.parse().ok()?;
        Some(SocketAddr::new(ip, node.ports.gossip))
    }

    async fn send(&self, beat: &Beat) {
        let Some(address) = self.address(beat.to) else { return };
        let sent = match self.codec.encode(beat) {
            Ok(sealed) => self
                .socket
                .send_to(&sealed, address)
                .await
                .map(drop)
                .map_err(GossipError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            // As good as lost on the way, and told in the same manner: the other side does not hear us.
            tracing::debug!(to = %beat.to, %error, "beat not sent");
        }
    }

    /// Asks a peer over TCP whether it is there.
    async fn ask(&self, beat: &Beat) -> Answer {
        let Some(address) = self.address(beat.to) else {
            return Answer::Nothing;
        };
        let exchange = async {
            let mut stream = self
                .connector
                .connect(beat.to.0, &address.ip().to_string(), address.port())
                .await?;
            write_message(&mut stream, &self.codec.encode(beat)?).await?;
            self.codec.decode(&read_message(&mut stream).await?)
        };
        match tokio::time::timeout(ASK_TIMEOUT, exchange).await {
            Ok(Ok(answer)) => Answer::Beat(answer),
            Ok(Err(GossipError::Net(NetError::Refused { .. }))) => Answer::Refused,
            Ok(Err(error)) => {
                tracing::debug!(peer = %beat.to, %error, "a silent peer does not answer over TCP");
                Answer::Nothing
            }
            Err(_) => Answer::Nothing,
        }
    }

    async fn answer(&self, mut stream: AcceptedStream, peer: &PeerIdentity) {
        let exchange = async {
            let question = self.codec.decode(&read_message(&mut stream).await?)?;
            let now = self.now();
            let answer = (question.from.0 == peer.node_id)
                .then(|| self.detector().answer(now, &question))
                .flatten();
            if let Some(answer) = answer {
                write_message(&mut stream, &self.codec.encode(&answer)?).await?;
                stream.shutdown().await?;
            }
            Ok::<_, GossipError>(())
        };
        match tokio::time::timeout(ASK_TIMEOUT, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(peer = peer.node_id, %error, "question over TCP not answered"),
            Err(_) => tracing::debug!(peer = peer.node_id, "question over TCP not finished in time"),
        }
    }
}

async fn beats(shared: Arc<Shared>, facts: Arc<dyn Fn() -> Facts + Send + Sync>, shutdown: Shutdown) {
    let mut state = shared.state.clone();
    let mut tick = tokio::time::interval(Timing::default().beat);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_first = true;
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            _ = tick.tick() => {}
        }
        if is_first || state.has_changed().unwrap_or(false) {
            is_first = false;
            let peers: BTreeSet<NodeId> = state.borrow_and_update().nodes().keys().copied().collect();
            shared.step(Input::Peers(peers));
        }
        shared.step(Input::Facts(facts()));
        for output in shared.step(Input::Tick) {
            match output {
                Output::Send(beat) => shared.send(&beat).await,
                Output::Ask(beat) => {
                    let asking = Arc::clone(&shared);
                    shared.tasks.spawn("gossip question", async move {
                        let peer = beat.to;
                        let answer = asking.ask(&beat).await;
                        asking.step(Input::Answered { peer, answer });
                    });
                }
            }
        }
    }
    shared.tasks.stop(Duration::ZERO).await;
}

async fn datagrams(shared: Arc<Shared>, shutdown: Shutdown) {
    /// After an error of the socket: Linux tells of ICMP answers in this way, one by one.
    const PAUSE: Duration = Duration::from_millis(10);
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    loop {
        let received = tokio::select! {
            () = shutdown.requested() => return,
            received = shared.socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, from)) => match shared.codec.decode(&buffer[..length]) {
                Ok(beat) => {
                    shared.step(Input::Heard(beat));
                }
                // Anybody can send anything here; what is not sealed by us costs nothing but this line.
                Err(error) => tracing::trace!(%from, %error, "datagram ignored"),
            },
            Err(error) => {
                tracing::debug!(%error, "the gossip socket reports an error");
                shutdown.sleep(PAUSE).await;
            }
        }
    }
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<(), GossipError> {
    let length = u16::try_from(message.len()).map_err(|_| GossipError::TooLong(message.len(), MESSAGE_BYTES_MAX))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(message).await?;
    stream.flush().await?;
    Ok(())
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, GossipError> {
    let length = usize::from(stream.read_u16().await?);
    if length > MESSAGE_BYTES_MAX {
        return Err(GossipError::TooLong(length, MESSAGE_BYTES_MAX));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
