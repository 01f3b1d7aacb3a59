//! One probe: a request or a connection, and what it means.

use std::time::Duration;

use bytes::Bytes;
use conclave_catalog::directory::{CheckDefinition, CheckKind, CheckStatus};
use conclave_net::{ProbeClient, ProbeTls};
use tokio::net::TcpStream;

/// How much of an answer is kept as output.
const SHOWN_BYTES: usize = 1024;

/// How a check is carried out.
pub(super) struct Probe {
    kind: CheckKind,
    interval: Duration,
    timeout: Duration,
    client: ProbeClient,
}

impl Probe {
    pub(super) fn new(definition: &CheckDefinition, client: ProbeClient) -> Self {
        Self {
            kind: definition.kind.clone(),
            interval: Duration::from_millis(definition.interval_ms),
            timeout: Duration::from_millis(definition.timeout_ms),
            client,
        }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) async fn carry_out(&self) -> (CheckStatus, String) {
        match &self.kind {
            CheckKind::Tcp { address } => self.connect(address).await,
            CheckKind::Http { .. } => match self.ask().await {
                Ok(result) => result,
                Err(why) => (CheckStatus::Critical, why),
            },
            CheckKind::Passive | CheckKind::Ttl { .. } => (CheckStatus::Critical, "nothing to probe".into()),
        }
    }

    async fn connect(&self, address: &str) -> (CheckStatus, String) {
        match tokio::time::timeout(self.timeout, TcpStream::connect(address)).await {
            Ok(Ok(_)) => (CheckStatus::Passing, format!("TCP connect {address}: Success")),
            Ok(Err(error)) => (CheckStatus::Critical, format!("TCP connect {address}: {error}")),
            Err(_) => (
                CheckStatus::Critical,
                format!("TCP connect {address}: no answer in time"),
            ),
        }
    }

    async fn ask(&self) -> Result<(CheckStatus, String), String> {
        let CheckKind::Http {
            url,
            method,
            headers,
            body,
            tls_skip_verify,
            tls_server_name,
        } = &self.kind
        else {
            return Err("it is no request".into());
        };
        let method = if method.is_empty() { "GET" } else { method };
        let mut request = http::Request::builder()
            .method(method)
            .uri(url)
            .header(http::header::USER_AGENT, "Consul Health Check");
        for (name, values) in headers {
            for value in values {
                request = request.header(name, value);
            }
        }
        let request = request
            .body(Bytes::from(body.clone()))
            .map_err(|error| error.to_string())?;
        let tls = ProbeTls {
            skip_verify: *tls_skip_verify,
            server_name: Some(tls_server_name.clone()).filter(|name| !name.is_empty()),
        };
        let answer = self
            .client
            .send(request, &tls, self.timeout)
            .await
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&answer.body);
        let shown: String = text.chars().take(SHOWN_BYTES).collect();
        let status = match answer.status {
            200..=299 => CheckStatus::Passing,
            429 => CheckStatus::Warning,
            _ => CheckStatus::Critical,
        };
        Ok((
            status,
            format!("HTTP {method} {url}: {} Output: {shown}", answer.status),
        ))
    }
}
