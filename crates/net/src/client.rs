//! The calling side: peers and users.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::identity::identity_name;
use crate::server::FRAME_BYTES_MAX;
use crate::tls::{joining_client, outside_client, peer_client, user_client};
use crate::{NetError, NodeIdentity};

/// A peer on the same network answers a connection within this, or is as good as dead.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// Servers of others may be far away.
const OUTSIDE_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings notice a peer that vanished without a reset.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(1000);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Largest answer that [`HttpsClient`] keeps in memory.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// An encrypted connection to a peer, both sides proven.
pub type PeerStream = TlsStream<TcpStream>;

/// Connects to peers as this node.
#[derive(Clone)]
pub struct PeerConnector {
    cluster_id: String,
    grpc: TlsConnector,
    raw: TlsConnector,
}

impl PeerConnector {
    /// A connector that proves `identity`.
    ///
    /// # Errors
    /// When the identity's certificate or key cannot be used.
    pub fn new(identity: &NodeIdentity) -> Result<Self, NetError> {
        Ok(Self {
            cluster_id: identity.cluster_id.clone(),
            grpc: TlsConnector::from(Arc::new(peer_client(identity, &[b"h2"])?)),
            raw: TlsConnector::from(Arc::new(peer_client(identity, &[])?)),
        })
    }

    /// A gRPC channel to a node. It connects when first used, and again after a loss.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn channel(&self, node_id: u64, address: &str, port: u16) -> Result<Channel, NetError> {
        let name = identity_name(&self.cluster_id, node_id);
        channel(self.grpc.clone(), name, format!("{address}:{port}"))
    }

    /// A raw connection to a node.
    ///
    /// # Errors
    /// When the node cannot be reached in time or is not who it should be.
    pub async fn connect(&self, node_id: u64, address: &str, port: u16) -> Result<PeerStream, NetError> {
        let name = identity_name(&self.cluster_id, node_id);
        connect(&self.raw, &name, &format!("{address}:{port}")).await
    }
}

/// A gRPC channel to any node of a cluster that this program is no part of yet: the node is known by its CA's
/// fingerprint alone.
///
/// # Errors
/// When the address (`host:port`) is malformed.
pub fn join_channel(ca_fingerprint: &str, address: &str) -> Result<Channel, NetError> {
    let connector = TlsConnector::from(Arc::new(joining_client(ca_fingerprint)?));
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
    channel(connector, host, address.to_owned())
}

fn channel(connector: TlsConnector, server_name: String, address: String) -> Result<Channel, NetError> {
    let malformed = |error: tonic::transport::Error| NetError::Connect {
        peer: address.clone(),
        reason: format!("malformed address: {error}"),
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(malformed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_frame_size(FRAME_BYTES_MAX)
        .tcp_nodelay(true);
    Ok(
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let (connector, name, address) = (connector.clone(), server_name.clone(), address.clone());
            async move { connect(&connector, &name, &address).await.map(TokioIo::new) }
        })),
    )
}

async fn connect(connector: &TlsConnector, server_name: &str, address: &str) -> Result<PeerStream, NetError> {
    let failed = |reason: String| NetError::Connect {
        peer: format!("{server_name} at {address}"),
        reason,
    };
    let name = ServerName::try_from(server_name.to_owned()).map_err(|error| failed(error.to_string()))?;
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        connector.connect(name, stream).await
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err(NetError::Refused {
            peer: format!("{server_name} at {address}"),
        }),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!(
            "no connection within {} ms",
            CONNECT_TIMEOUT.as_millis()
        ))),
    }
}

/// Encrypts connections to a server that is not the cluster's, and verifies its certificate.
#[derive(Clone)]
pub struct OutsideConnector {
    tls: TlsConnector,
}

impl OutsideConnector {
    /// A connector that trusts the authorities in `file` (PEM) and no others.
    ///
    /// # Errors
    /// When the file cannot be read, or what is in it is no certificate.
    pub fn trusting_file(file: &Path) -> Result<Self, NetError> {
        let pem = std::fs::read(file).map_err(|source| NetError::File {
            path: file.to_owned(),
            source,
        })?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(outside_client(Some(&pem))?)),
        })
    }

    /// Encrypts a connection to `host`, whose certificate must carry that name or address.
    ///
    /// # Errors
    /// When the server does not speak TLS, or is not who it should be.
    pub async fn wrap(&self, host: &str, stream: TcpStream) -> Result<PeerStream, NetError> {
        let failed = |reason: String| NetError::Connect {
            peer: host.to_owned(),
            reason,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
        let wrapped = self.tls.connect(name, stream).await;
        wrapped.map_err(|error| failed(causes(&error)))
    }
}

/// A client of the HTTPS APIs that trusts one cluster's CA and nothing else.
#[derive(Clone)]
pub struct HttpsClient {
    inner: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl HttpsClient {
    /// A client that trusts the CA in `file` (PEM).
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn trusting_file(file: &Path) -> Result<Self, NetError> {
        let pem = std::fs::read_to_string(file).map_err(|source| NetError::File {
            path: file.to_owned(),
            source,
        })?;
        Self::trusting(&pem)
    }

    /// A client of servers that are not the cluster's. It trusts the authorities in `ca_file` (PEM), or those that the system
    /// trusts; with `plain` it also speaks HTTP without TLS, where an address says so.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn for_outside(ca_file: Option<&Path>, plain: bool) -> Result<Self, NetError> {
        let read = |file: &Path| {
            std::fs::read(file).map_err(|source| NetError::File {
                path: file.to_owned(),
                source,
            })
        };
        let bundle = ca_file.map(read).transpose()?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(OUTSIDE_CONNECT_TIMEOUT));
        let builder = HttpsConnectorBuilder::new().with_tls_config(outside_client(bundle.as_deref())?);
        let builder = if plain {
            builder.https_or_http()
        } else {
            builder.https_only()
        };
        let inner = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build::<_, Full<Bytes>>(builder.enable_http1().wrap_connector(http));
        Ok(Self { inner })
    }

    /// A client that trusts this CA (PEM).
    ///
    /// # Errors
    /// When the text holds no certificate.
    pub fn trusting(ca_certificate_pem: &str) -> Result<Self, NetError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(user_client(ca_certificate_pem)?)
            .https_only()
            .enable_http1()
            .wrap_connector(http);
        let inner = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build::<_, Full<Bytes>>(https);
        Ok(Self { inner })
    }

    /// Sends a request and gives the answer's body as it comes: for streams that do not end.
    ///
    /// # Errors
    /// When no answer began in time.
    pub async fn open(
        &self,
        request: http::Request<Full<Bytes>>,
        deadline: Duration,
    ) -> Result<http::Response<hyper::body::Incoming>, NetError> {
        let peer = request.uri().to_string();
        let failed = |reason: String| NetError::Connect {
            peer: peer.clone(),
            reason,
        };
        tokio::time::timeout(deadline, self.inner.request(request))
            .await
            .map_err(|_| failed(format!("no answer within {} ms", deadline.as_millis())))?
            .map_err(|error| failed(causes(&error)))
    }

    /// Sends a request and reads the whole answer, within `deadline`.
    ///
    /// # Errors
    /// When no whole answer came in time.
    pub async fn send(&self, request: http::Request<Full<Bytes>>, deadline: Duration) -> Result<Answer, NetError> {
        let peer = request.uri().to_string();
        let failed = |reason: String| NetError::Connect {
            peer: peer.clone(),
            reason,
        };
        let exchange = async {
            let response = self
                .inner
                .request(request)
                .await
                .map_err(|error| failed(causes(&error)))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| failed(error.to_string()))?;
            Ok(Answer {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| failed(format!("no answer within {} ms", deadline.as_millis())))?
    }
}

/// An error with its causes: the outermost alone says "client error" and no more.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
