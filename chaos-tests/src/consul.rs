//! A client of the Consul API, for what tests look at themselves.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use conclave_net::HttpsClient;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

/// Longer than an election, shorter than anybody's patience.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks one node.
#[derive(Clone)]
pub struct ConsulClient {
    https: HttpsClient,
    base: String,
    token: String,
}

impl ConsulClient {
    pub(crate) fn new(base: &str, ca_file: &Path, token: &str) -> Self {
        Self {
            https: HttpsClient::trusting_file(ca_file).expect("the CA of the cluster is there"),
            base: base.to_owned(),
            token: token.to_owned(),
        }
    }

    fn request(&self, path: &str) -> Request<Full<Bytes>> {
        Request::get(format!("{}{path}", self.base))
            .header("x-consul-token", &self.token)
            .body(Full::default())
            .expect("a path of a test can be asked for")
    }

    /// Status and body of a GET; `None` when there is no answer.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.https.send(self.request(path), TIMEOUT).await.ok()?;
        Some((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// A GET whose answer is JSON; `None` for any other.
    pub async fn json(&self, path: &str) -> Option<Value> {
        let (status, text) = self.get(path).await?;
        (status == 200).then(|| serde_json::from_str(&text).ok()).flatten()
    }

    /// Writes a key; `None` when that failed.
    ///
    /// # Panics
    /// When the key is no path.
    pub async fn put(&self, key: &str, value: &'static str) -> Option<()> {
        let request = Request::put(format!("{}/v1/kv/{key}", self.base))
            .header("x-consul-token", &self.token)
            .body(Full::from(value))
            .expect("a key of a test is a path");
        let answer = self.https.send(request, TIMEOUT).await.ok()?;
        (answer.status == 200 && &*answer.body == b"true").then_some(())
    }

    /// The one entry of a key.
    pub async fn entry(&self, key: &str) -> Option<Value> {
        Some(self.json(&format!("/v1/kv/{key}")).await?[0].clone())
    }

    /// Reads a stream until it has said all of `wanted`; what it said, and an error when it did not within `limit`.
    ///
    /// # Errors
    /// What it said until then.
    pub async fn listen(&self, path: &str, wanted: &[&str], limit: Duration) -> Result<String, String> {
        self.read(self.request(path), wanted, limit).await
    }

    /// The same for a reader of events that has seen those up to `seen`.
    ///
    /// # Errors
    /// What it said until then.
    ///
    /// # Panics
    /// When `seen` is no header's value.
    pub async fn listen_after(
        &self,
        path: &str,
        seen: &str,
        wanted: &[&str],
        limit: Duration,
    ) -> Result<String, String> {
        let mut request = self.request(path);
        let seen = seen.parse().expect("a number");
        request.headers_mut().insert("last-event-id", seen);
        self.read(request, wanted, limit).await
    }

    async fn read(&self, request: Request<Full<Bytes>>, wanted: &[&str], limit: Duration) -> Result<String, String> {
        let opened = self.https.open(request, TIMEOUT).await;
        let mut body = opened.map_err(|error| error.to_string())?.into_body();
        let mut said = String::new();
        let reading = async {
            while !wanted.iter().all(|text| said.contains(text)) {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        said += &String::from_utf8_lossy(frame.data_ref().map_or(b"".as_slice(), |data| data));
                    }
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Err("the stream has ended".to_owned()),
                }
            }
            Ok(())
        };
        let outcome = tokio::time::timeout(limit, reading).await;
        match outcome {
            Ok(Ok(())) => Ok(said),
            Ok(Err(error)) => Err(format!("{error} after\n{said}")),
            Err(_) => Err(format!(
                "{wanted:?} was not said within {} s, but\n{said}",
                limit.as_secs()
            )),
        }
    }
}
