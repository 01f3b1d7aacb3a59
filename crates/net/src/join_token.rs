//! The text that lets a node join: `<id>.<secret>.<fingerprint>`.
//!
//! The fingerprint is the SHA-256 of the cluster's CA certificate. The joining node verifies the server with it before it
//! shows the secret, so there is no trust on first use.

use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::NetError;

/// A join token as its bearer holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret {
    /// Names the token in the cluster.
    pub id: String,
    /// Proves it.
    pub secret: String,
    /// SHA-256 of the CA certificate (DER), hex.
    pub ca_fingerprint: String,
}

impl std::fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinSecret({}..)", self.id)
    }
}

/// SHA-256 in hexadecimal: how secrets and fingerprints are stored and compared.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl JoinSecret {
    fn generate(ca_certificate_der: &[u8]) -> Result<Self, NetError> {
        let mut bytes = [0; 28];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| NetError::Tls("the system has no randomness".into()))?;
        let (id, secret) = bytes.split_at(4);
        Ok(Self {
            id: hex::encode(id),
            secret: hex::encode(secret),
            ca_fingerprint: sha256_hex(ca_certificate_der),
        })
    }

    /// A new token for the cluster with this CA certificate (PEM).
    ///
    /// # Errors
    /// When the text holds no certificate, or the system has no randomness.
    pub fn for_authority(ca_certificate_pem: &str) -> Result<Self, NetError> {
        Self::generate(&crate::tls::first_certificate(ca_certificate_pem)?)
    }

    /// What the cluster remembers of the secret.
    pub fn secret_hash(&self) -> String {
        sha256_hex(self.secret.as_bytes())
    }

    /// The text that is handed over.
    pub fn text(&self) -> String {
        format!("{}.{}.{}", self.id, self.secret, self.ca_fingerprint)
    }

    /// Reads the text.
    ///
    /// # Errors
    /// When it does not have the form of a token.
    pub fn parse(text: &str) -> Result<Self, NetError> {
        let mut parts = text.trim().split('.');
        let (Some(id), Some(secret), Some(fingerprint), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NetError::JoinToken("it does not have three parts"));
        };
        let is_hex = |part: &str, bytes: usize| part.len() == bytes * 2 && hex::decode(part).is_ok();
        if !is_hex(id, 4) || !is_hex(secret, 24) || !is_hex(fingerprint, 32) {
            return Err(NetError::JoinToken(
                "a part has the wrong length or letters, so it was not copied whole",
            ));
        }
        Ok(Self {
            id: id.into(),
            secret: secret.into(),
            ca_fingerprint: fingerprint.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_a_truncated_one_is_refused() {
        let token = JoinSecret::generate(b"certificate").unwrap();
        assert_eq!(JoinSecret::parse(&token.text()).unwrap(), token);
        let text = token.text();
        assert!(JoinSecret::parse(&text[..text.len() - 1]).is_err());
        assert!(JoinSecret::parse("").is_err());
        assert!(JoinSecret::parse("a.b.c.d").is_err());
    }
}
