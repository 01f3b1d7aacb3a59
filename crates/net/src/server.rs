//! The listening side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use conclave_runtime::{Shutdown, Tasks};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::{NetError, PeerIdentity, ServerTls, unread};

/// Whoever has not finished the handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors left, say) the loop rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 pings to clients, so that a vanished one does not hold its streams.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// What comes over HTTP/2 in one frame, at most; its own default of 16 KiB takes sixteen turns for a piece of a file.
pub(crate) const FRAME_BYTES_MAX: u32 = 256 << 10;

/// A connection that a peer opened, both sides proven.
pub type AcceptedStream = TlsStream<TcpStream>;

/// Listens. Ports are bound before anything else starts, so that a port in use is the first thing a user hears of.
///
/// # Errors
/// When the port is in use or may not be bound.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, NetError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| NetError::Listen { address, source })
}

/// Serves `router` over TLS until `tasks` is told to stop. Requests of peers that proved who they are carry their
/// [`PeerIdentity`] as an extension, and all carry the client's [`SocketAddr`].
pub fn serve(tasks: &Tasks, name: &'static str, listener: TcpListener, tls: ServerTls, router: Router) {
    let connections = tasks.clone();
    let shutdown = tasks.shutdown();
    tasks.spawn(name, async move {
        accept(listener, tls, name, shutdown, |stream, from, peer| {
            let (router, shutdown) = (router.clone(), connections.shutdown());
            connections.spawn(
                "http connection",
                serve_connection(stream, from, peer, router, shutdown),
            );
        })
        .await;
    });
}

/// Accepts raw connections of peers that proved who they are, until `tasks` is told to stop.
pub fn accept_peers<H, F>(tasks: &Tasks, name: &'static str, listener: TcpListener, tls: ServerTls, handler: H)
where
    H: Fn(TlsStream<TcpStream>, PeerIdentity) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let connections = tasks.clone();
    let shutdown = tasks.shutdown();
    tasks.spawn(name, async move {
        accept(listener, tls, name, shutdown, |stream, from, peer| match peer {
            Some(peer) => {
                connections.spawn("peer connection", handler(stream, peer));
            }
            None => tracing::warn!(listener = name, %from, "connection refused: the certificate names no node"),
        })
        .await;
    });
}

async fn accept(
    listener: TcpListener,
    tls: ServerTls,
    name: &'static str,
    shutdown: Shutdown,
    mut each: impl FnMut(TlsStream<TcpStream>, SocketAddr, Option<PeerIdentity>),
) {
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
    let (sender, mut shaken) = tokio::sync::mpsc::channel(64);
    let handshakes = Tasks::new(name);
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let (acceptor, sender) = (acceptor.clone(), sender.clone());
                    handshakes.spawn("tls handshake", async move {
                        if let Some(done) = handshake(acceptor, stream, from, name).await {
                            // The accept loop ends before its receiver does only when the process stops.
                            let _stopping = sender.send(done).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(listener = name, %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some((stream, from, peer)) = shaken.recv() => each(stream, from, peer),
        }
    }
    handshakes.stop(Duration::ZERO).await;
}

type Shaken = (TlsStream<TcpStream>, SocketAddr, Option<PeerIdentity>);

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, from: SocketAddr, name: &'static str) -> Option<Shaken> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(listener = name, %from, %error, "connection lost before the handshake");
        return None;
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        // Whoever only looks whether the port is open leaves like this.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            tracing::debug!(listener = name, %from, "connection closed before the TLS handshake");
            return None;
        }
        Ok(Err(error)) => {
            tracing::warn!(listener = name, %from, reason = %error, "connection refused in the TLS handshake");
            return None;
        }
        Err(_) => {
            tracing::warn!(listener = name, %from, "connection dropped: no TLS handshake in time");
            return None;
        }
    };
    let peer = match stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
        None => None,
        Some(certificate) => match PeerIdentity::from_certificate(certificate) {
            Ok(peer) => Some(peer),
            Err(error) => {
                tracing::warn!(listener = name, %from, %error, "connection refused");
                return None;
            }
        },
    };
    Some((stream, from, peer))
}

async fn serve_connection(
    stream: TlsStream<TcpStream>,
    from: SocketAddr,
    peer: Option<PeerIdentity>,
    router: Router,
    shutdown: Shutdown,
) {
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        request.extensions_mut().insert(from);
        unread::answer(router.clone(), request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .max_frame_size(FRAME_BYTES_MAX);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%from, %error, "connection ended early");
    }
}
