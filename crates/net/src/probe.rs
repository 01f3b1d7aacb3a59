//! A client for health checks: of whatever server, over HTTP or HTTPS.
//!
//! It trusts the cluster's CA and, where the system has a bundle, the authorities that the system trusts. A check may say
//! that any certificate will do: then nothing but reachability is asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::client::causes;
use crate::tls::{probe_client, unverified_client};
use crate::{Answer, NetError};

/// More of an answer is not read: its status is what counts.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How a check wants TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeTls {
    /// Any certificate will do.
    pub skip_verify: bool,
    /// The name that the certificate must carry, if not the URL's.
    pub server_name: Option<String>,
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct ProbeClient {
    verifying: Arc<ClientConfig>,
    unverifying: Arc<ClientConfig>,
}

impl ProbeClient {
    /// A client that trusts this CA (PEM) and the system's.
    ///
    /// # Errors
    /// When the text holds no certificate.
    pub fn new(ca_certificate_pem: &str) -> Result<Self, NetError> {
        Ok(Self {
            verifying: Arc::new(probe_client(ca_certificate_pem)?),
            unverifying: Arc::new(unverified_client()?),
        })
    }

    /// Sends a request on a connection of its own, as a check should, and reads the beginning of the answer.
    ///
    /// # Errors
    /// When no answer came in time.
    pub async fn send(
        &self,
        request: http::Request<Bytes>,
        tls: &ProbeTls,
        limit: Duration,
    ) -> Result<Answer, NetError> {
        let peer = request.uri().to_string();
        let failed = |reason: String| NetError::Connect {
            peer: peer.clone(),
            reason,
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let config = if tls.skip_verify {
            &self.unverifying
        } else {
            &self.verifying
        };
        let mut builder = HttpsConnectorBuilder::new()
            .with_tls_config((**config).clone())
            .https_or_http();
        if let Some(name) = &tls.server_name {
            let name = ServerName::try_from(name.clone()).map_err(|error| failed(error.to_string()))?;
            builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build::<_, Full<Bytes>>(builder.enable_http1().wrap_connector(http));
        let exchange = async {
            let response = client
                .request(request.map(Full::new))
                .await
                .map_err(|error| failed(causes(&error)))?;
            let (parts, body) = response.into_parts();
            // A longer body is no fault of the server's.
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            Ok(Answer {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body: body.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
            })
        };
        tokio::time::timeout(limit, exchange)
            .await
            .map_err(|_| failed(format!("no answer within {} ms", limit.as_millis())))?
    }
}
