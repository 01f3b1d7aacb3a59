//! A request, taken apart.

use axum::body::to_bytes;
use axum::extract::{Query, Request};
use bytes::Bytes;
use conclave_net::PeerIdentity;
use http::request::Parts;
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

use super::error::ApiError;

/// Consul's name for a token in a header.
const TOKEN_HEADER: &str = "x-consul-token";

/// A request.
pub(super) struct Call {
    parts: Parts,
    query: Vec<(String, String)>,
    /// What stands behind the route's path, decoded once; nothing in it is cleaned up.
    pub(super) rest: String,
    /// The body.
    pub(super) body: Bytes,
    /// Whether the caller may see and do what needs a token.
    pub(super) trusted: bool,
}

/// Takes the head apart.
pub(super) fn query_of(parts: &Parts) -> Result<Vec<(String, String)>, ApiError> {
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    query
        .map(|Query(pairs)| pairs)
        .map_err(|error| ApiError::BadRequest(error.to_string()))
}

/// The token: from Consul's header, from a bearer's, from the query.
pub(super) fn token<'a>(headers: &'a HeaderMap, query: &'a [(String, String)]) -> Option<&'a str> {
    let own = headers.get(TOKEN_HEADER).and_then(|value| value.to_str().ok());
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.split_once(' '));
    let bearer = bearer
        .filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let asked = query
        .iter()
        .find(|(name, _)| name == "token")
        .map(|(_, value)| value.as_str());
    own.or(bearer).or(asked).filter(|token| !token.is_empty())
}

impl Call {
    /// Reads the request to its end, with a body of at most `limit` bytes.
    pub(super) async fn read(
        request: Request,
        rest: &str,
        query: Vec<(String, String)>,
        trusted: bool,
        limit: usize,
    ) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let length: Option<u64> = length.and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(length) = length.filter(|length| *length > limit as u64) {
            return Err(ApiError::BodyTooLarge(length, limit));
        }
        let body = to_bytes(body, limit).await.map_err(|error| {
            let cause = std::error::Error::source(&error);
            let too_large = cause.is_some_and(|cause| cause.to_string().contains("limit"));
            if too_large {
                ApiError::BodyTooLarge(limit as u64 + 1, limit)
            } else {
                ApiError::BadRequest(format!("the body broke off: {error}"))
            }
        })?;
        let rest = percent_decode_str(rest)
            .decode_utf8()
            .map_err(|_| ApiError::BadRequest("the path is not UTF-8".into()))?
            .into_owned();
        Ok(Self {
            parts,
            query,
            rest,
            body,
            trusted,
        })
    }

    /// Whether the query names this, with whatever value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.query.iter().any(|(own, _)| own == name)
    }

    /// The first value of this name.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// All values of this name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.query.iter().filter(move |(own, _)| own == name);
        named.map(|(_, value)| value.as_str())
    }

    /// A value that is parsed as Go parses truth.
    pub(super) fn truth(&self, name: &str) -> Option<bool> {
        match self.value(name)? {
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
            _ => None,
        }
    }

    /// A number; 400 when it is none.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let read = |text: &str| {
            text.parse()
                .map_err(|_| ApiError::BadRequest(format!("Invalid {name}: {text:?}")))
        };
        self.value(name).map(read).transpose()
    }

    /// The query as it was written.
    pub(super) fn raw_query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }

    /// Whether the client takes compressed answers.
    pub(super) fn takes_gzip(&self) -> bool {
        let accepted = self.parts.headers.get_all(header::ACCEPT_ENCODING).iter();
        accepted.filter_map(|value| value.to_str().ok()).any(|value| {
            let named = value.split(',').map(|coding| coding.trim());
            named
                .filter(|coding| !coding.ends_with("q=0"))
                .any(|coding| coding.split(';').next() == Some("gzip"))
        })
    }
}

/// The peer that the connection's certificate proved, if any.
pub(super) fn peer(request: &Request) -> Option<&PeerIdentity> {
    request.extensions().get::<PeerIdentity>()
}
