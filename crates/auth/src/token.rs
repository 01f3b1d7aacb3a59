//! API tokens: `ctok-<id>-<secret>` (spec/rest-api.md, section 2).

use crate::password::{new_secret, secret_hash};

/// What they all begin with.
pub(crate) const PREFIX: &str = "ctok";
const ID_LENGTH: usize = 10;
const SECRET_LENGTH: usize = 40;

/// An API token that has just been made: its user is told the value once, and the hash is what is stored.
pub struct ApiToken {
    id: String,
    secret: String,
}

impl ApiToken {
    /// A random one.
    #[must_use]
    pub fn random() -> Self {
        Self {
            id: new_secret(ID_LENGTH),
            secret: new_secret(SECRET_LENGTH),
        }
    }

    /// Its public half.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What a client shows to be let in.
    #[must_use]
    pub fn value(&self) -> String {
        format!("{PREFIX}-{}-{}", self.id, self.secret)
    }

    /// What is stored of its secret half.
    #[must_use]
    pub fn secret_hash(&self) -> String {
        secret_hash(&self.secret)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::Credentials;

    #[test]
    fn what_is_shown_is_read_as_what_was_made() {
        let token = ApiToken::random();
        let header = HeaderValue::from_str(&token.value()).unwrap();
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("authentication-token"), header)]);
        let Credentials::Token { id, secret } = Credentials::from_headers(&headers) else {
            panic!("{} is not read as a token", token.value());
        };
        assert_eq!((id.as_str(), secret_hash(&secret)), (token.id(), token.secret_hash()));
        assert_eq!((id.len(), secret.len()), (10, 40));
        assert_ne!(ApiToken::random().value(), token.value());
    }
}
