//! Objects in an S3-compatible store, over this program's own HTTP client.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use conclave_config::S3Section;
use conclave_net::HttpsClient;
use http_body_util::{BodyExt, Full};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};

use crate::BackupError;

/// For the answer to begin: a piece has been sent by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_TIMEOUT: Duration = Duration::from_secs(120);
const RETRIES: usize = 5;

/// The bucket. The secret key is read now.
pub(crate) fn open(target: &str, bucket: &str, options: &S3Section) -> Result<AmazonS3, BackupError> {
    let refused = |reason: String| BackupError::Target {
        target: target.to_owned(),
        reason,
    };
    let file = &options.secret_access_key_file;
    let secret = std::fs::read_to_string(file).map_err(BackupError::file("read", file))?;
    let client = HttpsClient::for_outside(options.ca_file.as_deref(), options.allow_http)
        .map_err(|error| refused(format!("backup.s3.ca_file: {error}")))?;
    let retries = object_store::RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..object_store::RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&options.region)
        .with_access_key_id(&options.access_key_id)
        .with_secret_access_key(secret.trim())
        .with_allow_http(options.allow_http)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retries)
        .with_http_connector(Connector(client));
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder.build().map_err(|error| refused(error.to_string()))
}

#[derive(Clone)]
struct Connector(HttpsClient);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        // Pieces are in memory already.
        let body = body.collect().await?.to_bytes();
        let request = http::Request::from_parts(parts, Full::new(body));
        let answer = self.0.open(request, ANSWER_TIMEOUT).await;
        let answer = answer.map_err(|error| HttpError::new(HttpErrorKind::Connect, error))?;
        let body = |error| HttpError::new(HttpErrorKind::Interrupted, error);
        Ok(answer.map(|incoming| HttpResponseBody::new(incoming.map_err(body))))
    }
}

/// Shared by all who keep backups.
pub(crate) type Store = Arc<dyn object_store::ObjectStore>;
