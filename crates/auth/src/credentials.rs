//! What a request shows of itself (spec/rest-api.md, section 2).

use base64::Engine;
use http::HeaderMap;

use crate::token::PREFIX;

/// The credentials of a request: the first method that applies decides.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// The token of an execution.
    Execution(String),
    /// User name and password.
    Basic {
        /// As sent.
        username: String,
        /// As sent.
        password: String,
    },
    /// An API token: `ctok-<id>-<secret>`.
    Token {
        /// Its public half.
        id: String,
        /// Its secret half.
        secret: String,
    },
    /// A token that is none.
    Malformed,
    /// Nothing.
    None,
}

impl Credentials {
    /// Reads them.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(token) = text("execution-token") {
            return Self::Execution(token.to_owned());
        }
        if let Some(basic) = text("authorization").and_then(basic) {
            return basic;
        }
        match text("authentication-token") {
            Some(token) => token_of(token),
            None => Self::None,
        }
    }
}

/// User names begin with a letter; other names are not for this method.
fn basic(header: &str) -> Option<Credentials> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    let begins_with_letter = username.chars().next().is_some_and(char::is_alphabetic);
    begins_with_letter.then(|| Credentials::Basic {
        username: username.into(),
        password: password.into(),
    })
}

fn token_of(token: &str) -> Credentials {
    let mut parts = token.splitn(3, '-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(PREFIX), Some(id), Some(secret)) => Credentials::Token {
            id: id.into(),
            secret: secret.into(),
        },
        // The worker sends its execution's token under either name.
        _ if token.len() == 32 || token.len() == 36 => Credentials::Execution(token.to_owned()),
        _ => Credentials::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Credentials {
        let map = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        Credentials::from_headers(&map.collect())
    }

    #[test]
    fn the_first_method_that_applies_decides() {
        let basic = ("authorization", "Basic YWRtaW46cGE6c3M=");
        assert!(
            matches!(read(&[basic]), Credentials::Basic { username, password } if username == "admin" && password == "pa:ss")
        );
        assert!(matches!(
            read(&[basic, ("execution-token", "x")]),
            Credentials::Execution(_)
        ));
        assert!(
            matches!(read(&[("authentication-token", "ctok-ab-c-d")]), Credentials::Token { secret, .. } if secret == "c-d")
        );
        assert!(matches!(
            read(&[("authentication-token", "nonsense")]),
            Credentials::Malformed
        ));
        assert!(matches!(read(&[]), Credentials::None));
    }
}
