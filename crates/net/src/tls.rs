//! TLS configurations.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::credentials::Current;
use crate::join_token::sha256_hex;
use crate::{NetError, NodeIdentity};

/// Makes *ring* the process's cryptography. Harmless when done already.
pub fn install_crypto_provider() {
    // An error means that a provider is installed; this program has only one to install.
    let _installed_already = rustls::crypto::ring::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// How a listener speaks TLS.
#[derive(Clone)]
pub struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
}

/// Whether clients must prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientProof {
    No,
    /// A certificate is verified if one is shown; handlers decide who may come without.
    Optional,
    Required,
}

impl ServerTls {
    /// For users: the server proves itself, clients log in by other means. HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When the identity's certificate or key cannot be used.
    pub fn for_users(identity: &NodeIdentity) -> Result<Self, NetError> {
        Self::new(identity, ClientProof::No, &[b"h2", b"http/1.1"])
    }

    /// For users, of whom some may prove to be nodes of the cluster: [`crate::PeerIdentity`] is among a request's
    /// extensions if, and only if, the caller proved it.
    ///
    /// # Errors
    /// When the identity's certificate or key cannot be used.
    pub fn for_users_and_peers(identity: &NodeIdentity) -> Result<Self, NetError> {
        Self::new(identity, ClientProof::Optional, &[b"h2", b"http/1.1"])
    }

    /// For peers over gRPC, where a joining node comes without a certificate: [`crate::PeerIdentity`] is among a
    /// request's extensions if, and only if, the peer proved it.
    ///
    /// # Errors
    /// When the identity's certificate or key cannot be used.
    pub fn for_peers_and_joiners(identity: &NodeIdentity) -> Result<Self, NetError> {
        Self::new(identity, ClientProof::Optional, &[b"h2"])
    }

    /// For peers alone.
    ///
    /// # Errors
    /// When the identity's certificate or key cannot be used.
    pub fn for_peers(identity: &NodeIdentity) -> Result<Self, NetError> {
        Self::new(identity, ClientProof::Required, &[b"h2"])
    }

    fn new(identity: &NodeIdentity, proof: ClientProof, protocols: &[&[u8]]) -> Result<Self, NetError> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let roots = Arc::new(roots(&identity.ca_certificate_pem)?);
        let verifier = || WebPkiClientVerifier::builder_with_provider(roots, provider());
        let build = |verifier: rustls::server::ClientCertVerifierBuilder| {
            verifier.build().map_err(|error| NetError::Tls(error.to_string()))
        };
        let builder = match proof {
            ClientProof::No => builder.with_no_client_auth(),
            ClientProof::Optional => builder.with_client_cert_verifier(build(verifier().allow_unauthenticated())?),
            ClientProof::Required => builder.with_client_cert_verifier(build(verifier())?),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Current(identity.credentials.clone())));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

/// A client that proves who it is and accepts the cluster's nodes alone.
pub(crate) fn peer_client(identity: &NodeIdentity, protocols: &[&[u8]]) -> Result<ClientConfig, NetError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(&identity.ca_certificate_pem)?)
        .with_client_cert_resolver(Arc::new(Current(identity.credentials.clone())));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// A client of the cluster's users' APIs.
pub(crate) fn user_client(ca_certificate_pem: &str) -> Result<ClientConfig, NetError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca_certificate_pem)?)
        .with_no_client_auth())
}

/// Where systems keep the authorities that they trust.
const SYSTEM_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// A client of servers that are not the cluster's: it trusts the authorities in `bundle` (PEM), or those of the system.
pub(crate) fn outside_client(bundle: Option<&[u8]>) -> Result<ClientConfig, NetError> {
    let mut roots = RootCertStore::empty();
    match bundle {
        Some(pem) => {
            let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
            for certificate in certificates {
                roots.add(certificate)?;
            }
            if roots.is_empty() {
                return Err(NetError::Certificate("the bundle of authorities holds none".into()));
            }
        }
        None => {
            let mut bundles = SYSTEM_BUNDLES
                .into_iter()
                .filter_map(|file| CertificateDer::pem_file_iter(file).ok());
            if let Some(bundle) = bundles.next() {
                roots.add_parsable_certificates(bundle.filter_map(Result::ok));
            }
        }
    }
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// A client for health checks of servers of all kinds.
pub(crate) fn probe_client(ca_certificate_pem: &str) -> Result<ClientConfig, NetError> {
    let mut roots = roots(ca_certificate_pem)?;
    let bundles = SYSTEM_BUNDLES
        .into_iter()
        .filter_map(|file| CertificateDer::pem_file_iter(file).ok());
    if let Some(bundle) = bundles.into_iter().next() {
        roots.add_parsable_certificates(bundle.filter_map(Result::ok));
    }
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// A client that takes any certificate: for health checks that ask for it, and nothing else.
pub(crate) fn unverified_client() -> Result<ClientConfig, NetError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider: provider() }))
        .with_no_client_auth())
}

/// Accepts every certificate, and still demands that its key signed the handshake.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A client that knows nothing of the cluster but the fingerprint of its CA.
pub(crate) fn joining_client(ca_fingerprint: &str) -> Result<ClientConfig, NetError> {
    let verifier = PinnedAuthority {
        fingerprint: ca_fingerprint.to_owned(),
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Verifies a server by the CA that it presents, once that CA's fingerprint is the expected one.
#[derive(Debug)]
struct PinnedAuthority {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| sha256_hex(certificate) == self.fingerprint)
            .ok_or_else(|| {
                rustls::Error::General("the server's certificate authority is not the one of the join token".into())
            })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The first certificate of a PEM text, as DER.
pub(crate) fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, NetError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| NetError::Certificate(error.to_string()))
}

fn roots(ca_certificate_pem: &str) -> Result<RootCertStore, NetError> {
    let mut roots = RootCertStore::empty();
    roots.add(first_certificate(ca_certificate_pem)?)?;
    Ok(roots)
}
