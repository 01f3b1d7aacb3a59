//! Answers in Consul's form (spec/consul-api.md, section 1).

use std::io::Write;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use super::call::Call;
use super::error::ApiError;

/// Smaller bodies gain nothing from compression.
const GZIP_FROM_BYTES: usize = 1024;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// A body of this type.
    pub(super) fn of_type(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            status: StatusCode::OK,
            headers,
            body: body.into(),
        }
    }

    /// 200 and nothing.
    pub(super) fn empty() -> Self {
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// 404 and nothing.
    pub(super) fn missing() -> Self {
        Self::empty().with_status(StatusCode::NOT_FOUND)
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        // What cannot stand in a header is left out; the body says the same.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// The response, compressed if that helps and the client takes it.
    pub(super) fn into_response(mut self, takes_gzip: bool) -> Response {
        self.headers
            .insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if takes_gzip
            && self.body.len() >= GZIP_FROM_BYTES
            && !self.headers.contains_key(header::CONTENT_ENCODING)
            && let Ok(packed) = gzip(&self.body)
        {
            self.headers
                .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            self.body = packed.into();
        }
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

impl Call {
    /// A JSON body; `?pretty` indents it by four spaces.
    pub(super) fn json(&self, value: &impl Serialize) -> Result<Answer, ApiError> {
        let unwritable = |error: serde_json::Error| ApiError::Failed(format!("the answer cannot be written: {error}"));
        let mut body = Vec::new();
        if self.has("pretty") {
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut body, formatter);
            value.serialize(&mut serializer).map_err(unwritable)?;
            body.push(b'\n');
        } else {
            serde_json::to_writer(&mut body, value).map_err(unwritable)?;
        }
        Ok(Answer::of_type("application/json", body))
    }
}
