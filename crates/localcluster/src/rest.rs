//! A client of one node's APIs.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use conclave_net::{HttpsClient, NetError};
use http_body_util::Full;
use serde_json::Value;

use crate::cluster::Admin;

/// Longer than a failover.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A probe asks again soon.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// No answer.
    #[error(transparent)]
    Net(#[from] NetError),
    /// An answer that is an error.
    #[error("{method} {path}: {status} {code}: {message}")]
    Refused {
        /// The method.
        method: String,
        /// The path.
        path: String,
        /// HTTP status.
        status: u16,
        /// The API's `error_code`.
        code: String,
        /// What the API says.
        message: String,
    },
    /// A request that cannot be made.
    #[error("malformed request: {0}")]
    Malformed(#[from] http::Error),
}

/// A status and a JSON body.
#[derive(Debug, Clone)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body; null when it is no JSON.
    pub body: Value,
}

/// A client that is logged in as the administrator, in the default tenant.
#[derive(Clone)]
pub struct RestClient {
    client: HttpsClient,
    rest: String,
    status: String,
    authorization: String,
    tenant: String,
}

impl RestClient {
    /// A client of the APIs at these base addresses, trusting the CA in `ca_file`.
    ///
    /// # Errors
    /// When the CA's certificate cannot be read.
    pub fn new(rest: &str, status: &str, ca_file: &Path, admin: &Admin) -> Result<Self, RestError> {
        let pair = format!("{}:{}", admin.username, admin.password);
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        Ok(Self {
            client: HttpsClient::trusting_file(ca_file)?,
            rest: rest.to_owned(),
            status: status.to_owned(),
            authorization: format!("Basic {encoded}"),
            tenant: "default_tenant".to_owned(),
        })
    }

    /// The same client in another tenant.
    #[must_use]
    pub fn in_tenant(self, tenant: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            ..self
        }
    }

    /// Any call of the REST API; errors of the API are answers here.
    ///
    /// # Errors
    /// When no answer comes within `timeout`.
    pub async fn call(&self, method: &str, path: &str, body: Bytes, timeout: Duration) -> Result<Response, RestError> {
        self.send(method, &format!("{}{path}", self.rest), body, timeout).await
    }

    async fn send(&self, method: &str, url: &str, body: Bytes, timeout: Duration) -> Result<Response, RestError> {
        let request = http::Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", &self.authorization)
            .header("tenant", &self.tenant)
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let answer = self.client.send(request, timeout).await?;
        Ok(Response {
            status: answer.status,
            body: serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
        })
    }

    /// A short GET, for probes.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> Result<Response, RestError> {
        self.call("GET", path, Bytes::new(), PROBE_TIMEOUT).await
    }

    /// A GET on the status API.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get_status(&self, path: &str) -> Result<Value, RestError> {
        Ok(self
            .send("GET", &format!("{}{path}", self.status), Bytes::new(), PROBE_TIMEOUT)
            .await?
            .body)
    }

    /// A call that must succeed.
    ///
    /// # Errors
    /// [`RestError::Refused`] when the API answers with an error.
    pub async fn expect(&self, method: &str, path: &str, body: Bytes) -> Result<Value, RestError> {
        let answer = self.call(method, path, body, TIMEOUT).await?;
        if answer.status < 300 {
            return Ok(answer.body);
        }
        let text = |key: &str, without: &str| answer.body[key].as_str().unwrap_or(without).to_owned();
        Err(RestError::Refused {
            method: method.into(),
            path: path.into(),
            status: answer.status,
            code: text("error_code", "no_code"),
            message: text("message", "no message"),
        })
    }
}
