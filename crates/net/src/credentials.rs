//! A node's certificate and private key, which can be renewed while they are in use.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, crypto::ring::sign::any_supported_type};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::NetError;
use crate::tls::first_certificate;

/// Certificate and key. Clones share them: once they are replaced, every listener and connector of this process uses the new
/// ones from its next handshake on. Connections that stand are not disturbed.
#[derive(Clone)]
pub struct Credentials {
    current: Arc<ArcSwap<Pair>>,
    ca_certificate_pem: Arc<str>,
}

struct Pair {
    certificate_pem: String,
    key_pem: String,
    certified: Arc<CertifiedKey>,
    valid: Validity,
}

/// From when to when a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: jiff::Timestamp,
    /// Not after.
    pub until: jiff::Timestamp,
}

impl Validity {
    /// When two thirds of the time are over: the time to renew, with a third of it left for whatever stands in the way.
    pub fn renewal(&self) -> jiff::Timestamp {
        let seconds = self.until.as_second().saturating_sub(self.from.as_second());
        jiff::Timestamp::from_second(self.from.as_second().saturating_add(seconds / 3 * 2)).unwrap_or(self.until)
    }
}

impl Credentials {
    /// Credentials of these texts, all PEM.
    ///
    /// # Errors
    /// When one cannot be read, or the key is not the certificate's.
    pub fn new(certificate_pem: String, key_pem: String, ca_certificate_pem: &str) -> Result<Self, NetError> {
        let pair = Pair::new(certificate_pem, key_pem, ca_certificate_pem)?;
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(pair)),
            ca_certificate_pem: ca_certificate_pem.into(),
        })
    }

    /// Puts others in their place, here and in every clone.
    ///
    /// # Errors
    /// As [`Self::new`]; nothing is replaced then.
    pub fn replace(&self, certificate_pem: String, key_pem: String) -> Result<(), NetError> {
        let pair = Pair::new(certificate_pem, key_pem, &self.ca_certificate_pem)?;
        self.current.store(Arc::new(pair));
        Ok(())
    }

    /// The certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        self.current.load().certificate_pem.clone()
    }

    /// The private key, PEM.
    pub fn key_pem(&self) -> String {
        self.current.load().key_pem.clone()
    }

    /// When the certificate holds.
    pub fn validity(&self) -> Validity {
        self.current.load().valid
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.load().certified)
    }
}

impl Pair {
    fn new(certificate_pem: String, key_pem: String, ca_certificate_pem: &str) -> Result<Self, NetError> {
        let unusable = |error: &dyn fmt::Display| NetError::Certificate(error.to_string());
        let certificate = first_certificate(&certificate_pem)?;
        let valid = validity(&certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| unusable(&error))?;
        let key = any_supported_type(&key).map_err(|error| unusable(&error))?;
        // A joining node finds the CA behind the certificate, by its fingerprint.
        let certified = CertifiedKey::new(vec![certificate, first_certificate(ca_certificate_pem)?], key);
        certified.keys_match().map_err(|error| unusable(&error))?;
        Ok(Self {
            certificate_pem,
            key_pem,
            certified: Arc::new(certified),
            valid,
        })
    }
}

fn validity(der: &[u8]) -> Result<Validity, NetError> {
    let unusable = |why: String| NetError::Certificate(why);
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| unusable(error.to_string()))?;
    let time = |seconds: i64| jiff::Timestamp::from_second(seconds).map_err(|error| unusable(error.to_string()));
    Ok(Validity {
        from: time(certificate.validity().not_before.timestamp())?,
        until: time(certificate.validity().not_after.timestamp())?,
    })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("validity", &self.validity())
            .finish_non_exhaustive()
    }
}

/// Gives TLS what is current at each handshake.
#[derive(Debug)]
pub(crate) struct Current(pub(crate) Credentials);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified())
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_after_two_thirds_of_the_time() {
        let at = |second: i64| jiff::Timestamp::from_second(second).unwrap();
        let valid = Validity {
            from: at(1000),
            until: at(4000),
        };
        assert_eq!(valid.renewal(), at(3000));
    }
}
