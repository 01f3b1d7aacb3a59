//! The cluster's certificate authority.

use std::net::IpAddr;

use jiff::SignedDuration;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use time::{Duration, OffsetDateTime};

use crate::NetError;
use crate::identity::identity_name;

const CA_DAYS: i64 = 3650;
const NODE_DAYS: i64 = 365;
/// Clocks of nodes may differ by this much without a new certificate being "not yet valid".
const CLOCK_SKEW_HOURS: i64 = 24;

/// Signs the nodes' certificates. The first node makes it; its key lives sealed in the replicated state.
pub struct CertificateAuthority {
    certificate_pem: String,
    key: KeyPair,
}

impl CertificateAuthority {
    /// A new authority for the cluster.
    ///
    /// # Errors
    /// When a key or certificate cannot be made.
    pub fn create(cluster_id: &str) -> Result<Self, NetError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Conclave cluster {cluster_id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, Duration::days(CA_DAYS))?;
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { certificate_pem, key })
    }

    /// The authority with this certificate and key, both PEM.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, NetError> {
        let key = KeyPair::from_pem(key_pem)?;
        Issuer::from_ca_cert_pem(certificate_pem, &key)?;
        Ok(Self {
            certificate_pem: certificate_pem.to_owned(),
            key,
        })
    }

    /// Its certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key, PEM. Seal it before it leaves memory.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Signs a node's request. What the request says of itself counts for nothing: the certificate names the given
    /// node, and holds for a year.
    ///
    /// # Errors
    /// When the request cannot be read or its signature is wrong.
    pub fn sign(
        &self,
        request_pem: &str,
        cluster_id: &str,
        node_id: u64,
        node_name: &str,
        address: &str,
    ) -> Result<String, NetError> {
        self.sign_for(
            request_pem,
            cluster_id,
            node_id,
            node_name,
            address,
            SignedDuration::from_hours(24 * NODE_DAYS),
        )
    }

    /// As [`Self::sign`], with another lifetime; one that is not positive gives a certificate that has expired.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn sign_for(
        &self,
        request_pem: &str,
        cluster_id: &str,
        node_id: u64,
        node_name: &str,
        address: &str,
        lifetime: SignedDuration,
    ) -> Result<String, NetError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let mut params = CertificateParams::new(vec![
            identity_name(cluster_id, node_id),
            node_name.to_owned(),
            "localhost".to_owned(),
        ])?;
        let own = address.parse::<IpAddr>();
        let mut addresses = vec![IpAddr::from([127, 0, 0, 1])];
        match own {
            Ok(ip) => addresses.push(ip),
            Err(_) => params.subject_alt_names.push(SanType::DnsName(
                address
                    .try_into()
                    .map_err(|_| NetError::Certificate(format!("{address:?} is no host name")))?,
            )),
        }
        params
            .subject_alt_names
            .extend(addresses.into_iter().map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, node_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, Duration::seconds(lifetime.as_secs()))?;
        request.params = params;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate_pem, &self.key)?;
        Ok(request.signed_by(&issuer)?.pem())
    }
}

fn set_validity(params: &mut CertificateParams, lifetime: Duration) -> Result<(), NetError> {
    let now = OffsetDateTime::from_unix_timestamp(conclave_runtime::clock::now().as_second())
        .map_err(|error| NetError::Certificate(format!("the clock is unusable: {error}")))?;
    params.not_before = now - Duration::hours(CLOCK_SKEW_HOURS);
    params.not_after = now + lifetime;
    let mut serial = [0; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| NetError::Tls("the system has no randomness".into()))?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}
