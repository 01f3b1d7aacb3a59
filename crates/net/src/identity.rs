//! Who a node is, on disk and on the wire.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{ClusterKey, Credentials, NetError};

/// Certificate and private key, one after the other.
const CREDENTIALS: &str = "credentials.pem";
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";
const NAME_SUFFIX: &str = ".conclave.internal";

/// The DNS name that a node's certificate carries.
pub(crate) fn identity_name(cluster_id: &str, node_id: u64) -> String {
    format!("node-{node_id}.{cluster_id}{NAME_SUFFIX}")
}

/// Everything that proves who this node is.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// The node's number in it.
    pub node_id: u64,
    /// The node's name.
    pub name: String,
    /// PEM.
    pub ca_certificate_pem: String,
    /// Certificate and private key.
    pub credentials: Credentials,
    /// How often the cluster had ordered new certificates when these credentials were made.
    pub generation: u64,
    /// Shared by the cluster's nodes.
    pub cluster_key: ClusterKey,
}

/// A peer's identity, read from the certificate that it proved to own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The cluster that it belongs to.
    pub cluster_id: String,
    /// Its number in it.
    pub node_id: u64,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    cluster_id: String,
    node_id: u64,
    name: String,
    generation: u64,
}

/// A new private key and a request to sign it, both PEM.
///
/// # Errors
/// When no key can be made.
pub fn new_key_and_request(node_name: &str) -> Result<(String, String), NetError> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::new(vec![node_name.to_owned()])?.serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

impl NodeIdentity {
    /// Whether a folder holds an identity.
    pub fn exists(dir: &Path) -> bool {
        dir.join("node.json").exists()
    }

    /// Writes it to a folder, readable by its owner alone. The marker file comes last: where it is, all is.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn store(&self, dir: &Path) -> Result<(), NetError> {
        std::fs::create_dir_all(dir).map_err(|source| NetError::File {
            path: dir.to_owned(),
            source,
        })?;
        write(dir, "ca.pem", 0o644, self.ca_certificate_pem.as_bytes())?;
        write(dir, "cluster.key", 0o600, self.cluster_key.as_bytes())?;
        self.store_credentials(dir)
    }

    /// Writes the certificate and the key, which may have been renewed, and the marker.
    ///
    /// # Errors
    /// When a file cannot be written; what was there before is there still.
    pub fn store_credentials(&self, dir: &Path) -> Result<(), NetError> {
        // One file, so that certificate and key fit each other whenever the process ends.
        let both = self.credentials.certificate_pem() + &self.credentials.key_pem();
        write(dir, CREDENTIALS, 0o600, both.as_bytes())?;
        let marker = Marker {
            cluster_id: self.cluster_id.clone(),
            node_id: self.node_id,
            name: self.name.clone(),
            generation: self.generation,
        };
        let text = serde_json::to_vec(&marker).map_err(|error| NetError::Certificate(error.to_string()))?;
        write(dir, "node.json", 0o644, &text)
    }

    /// Reads it from a folder.
    ///
    /// # Errors
    /// When a file is missing or cannot be read.
    pub fn load(dir: &Path) -> Result<Self, NetError> {
        let text = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|source| NetError::File { path, source })
        };
        let marker: Marker = serde_json::from_str(&text("node.json")?)
            .map_err(|error| NetError::Certificate(format!("node.json: {error}")))?;
        let key_path = dir.join("cluster.key");
        let key = std::fs::read(&key_path).map_err(|source| NetError::File { path: key_path, source })?;
        let (both, ca_certificate_pem) = (text(CREDENTIALS)?, text("ca.pem")?);
        let (certificate, private_key) = both
            .find(KEY_BEGINS)
            .map(|at| both.split_at(at))
            .ok_or_else(|| NetError::Certificate(format!("{CREDENTIALS} holds no private key")))?;
        let credentials = Credentials::new(certificate.to_owned(), private_key.to_owned(), &ca_certificate_pem)?;
        Ok(Self {
            cluster_id: marker.cluster_id,
            node_id: marker.node_id,
            name: marker.name,
            ca_certificate_pem,
            credentials,
            generation: marker.generation,
            cluster_key: ClusterKey::from_bytes(&key)?,
        })
    }

    /// The node's certificate followed by the CA's: a joining node finds the CA in it by its fingerprint.
    pub fn chain_pem(&self) -> String {
        self.credentials.certificate_pem() + &self.ca_certificate_pem
    }
}

/// Replaces a file as a whole: at any moment the old content or the new is there.
fn write(dir: &Path, name: &str, mode: u32, content: &[u8]) -> Result<(), NetError> {
    use std::io::Write;
    let path = dir.join(name);
    let put = || {
        let temporary = dir.join(format!("{name}.new"));
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    put().map_err(|source| NetError::File {
        path: path.clone(),
        source,
    })
}

impl PeerIdentity {
    /// Reads the identity from a certificate that has been verified.
    ///
    /// # Errors
    /// When it carries none.
    pub fn from_certificate(der: &[u8]) -> Result<Self, NetError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| NetError::Certificate(error.to_string()))?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let found = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .find_map(|name| match name {
                GeneralName::DNSName(name) => Self::from_name(name),
                _ => None,
            });
        found.ok_or_else(|| NetError::Certificate("it names no node of a cluster".into()))
    }

    fn from_name(name: &str) -> Option<Self> {
        let (node, cluster_id) = name.strip_suffix(NAME_SUFFIX)?.split_once('.')?;
        let node_id = node.strip_prefix("node-")?.parse().ok()?;
        Some(Self {
            cluster_id: cluster_id.to_owned(),
            node_id,
        })
    }
}
