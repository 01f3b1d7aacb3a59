//! How a node gets its identity: by founding a cluster, or by joining one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conclave_catalog::{Command, NodePorts};
use conclave_net::{
    CertificateAuthority, ClusterKey, Credentials, JoinSecret, NodeIdentity, join_channel, new_key_and_request,
};
use conclave_proto::consensus::JoinRequest;
use conclave_proto::consensus::membership_client::MembershipClient;

use crate::ConsensusError;

/// The founding node's number.
const FIRST_NODE: u64 = 1;
/// Admission takes a proposal; an election may be in its way.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// What a founding node is told.
pub struct FoundOptions {
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// Its name.
    pub node_name: String,
    /// Its address.
    pub address: String,
    /// Its ports.
    pub ports: NodePorts,
    /// The cluster's first settings.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// What founding made.
#[derive(Debug, Clone)]
pub struct Founded {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// The CA's certificate (PEM): clients verify every node with it.
    pub ca_certificate: String,
}

/// What a joining node is told.
pub struct JoinOptions {
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// Its name.
    pub node_name: String,
    /// Its address.
    pub address: String,
    /// Its ports.
    pub ports: NodePorts,
    /// The one-time token.
    pub token: String,
    /// Any member: `host:port` of its gRPC listener.
    pub peer: String,
}

/// Where a node's identity lies.
pub fn identity_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

fn founding_file(data_dir: &Path) -> PathBuf {
    identity_dir(data_dir).join("founding.json")
}

/// Makes the cluster's CA, key and first identity on disk. The cluster exists once the node has been started.
///
/// # Errors
/// When the node belongs to a cluster already, or files cannot be written.
pub fn found(options: &FoundOptions) -> Result<Founded, ConsensusError> {
    refuse_second_identity(&options.data_dir)?;
    let cluster_id = uuid::Uuid::new_v4().to_string();
    let authority = CertificateAuthority::create(&cluster_id)?;
    let cluster_key = ClusterKey::generate()?;
    let (key_pem, request) = new_key_and_request(&options.node_name)?;
    let certificate_pem = authority.sign(&request, &cluster_id, FIRST_NODE, &options.node_name, &options.address)?;
    let command = Command::Found {
        cluster_id: cluster_id.clone(),
        ca_certificate: authority.certificate_pem().to_owned(),
        sealed_ca_key: cluster_key.seal(authority.key_pem().as_bytes())?,
        node_name: options.node_name.clone(),
        address: options.address.clone(),
        ports: options.ports.clone(),
        settings: options.settings.clone(),
    };
    let dir = identity_dir(&options.data_dir);
    std::fs::create_dir_all(&dir).map_err(ConsensusError::storage("create the identity folder"))?;
    let text = to_json(&command).map_err(ConsensusError::storage("write down the founding"))?;
    std::fs::write(founding_file(&options.data_dir), text)
        .map_err(ConsensusError::storage("write down the founding"))?;
    let ca_certificate = authority.certificate_pem().to_owned();
    let identity = NodeIdentity {
        cluster_id: cluster_id.clone(),
        node_id: FIRST_NODE,
        name: options.node_name.clone(),
        credentials: Credentials::new(certificate_pem, key_pem, &ca_certificate)?,
        generation: 0,
        ca_certificate_pem: ca_certificate.clone(),
        cluster_key,
    };
    identity.store(&dir)?;
    Ok(Founded {
        cluster_id,
        ca_certificate,
    })
}

/// Asks a member for admission with a one-time token and stores the identity that it gives.
///
/// # Errors
/// When the node belongs to a cluster already, the member is not of the token's cluster, or the token is refused.
pub async fn join(options: &JoinOptions) -> Result<NodeIdentity, ConsensusError> {
    refuse_second_identity(&options.data_dir)?;
    let token = JoinSecret::parse(&options.token)?;
    let (key_pem, csr) = new_key_and_request(&options.node_name)?;
    let ports = to_json(&options.ports).map_err(ConsensusError::storage("write down the ports"))?;
    let request = JoinRequest {
        token: options.token.trim().to_owned(),
        node_name: options.node_name.clone(),
        address: options.address.clone(),
        csr,
        ports: ports.into(),
    };
    let mut client = MembershipClient::new(join_channel(&token.ca_fingerprint, &options.peer)?);
    let refused = |why: String| ConsensusError::Setup(format!("{} did not admit this node: {why}", options.peer));
    let answer = tokio::time::timeout(JOIN_TIMEOUT, client.join(request))
        .await
        .map_err(|_| refused("no answer in time".into()))?
        .map_err(|status| refused(describe(&status)))?
        .into_inner();
    let identity = NodeIdentity {
        cluster_id: answer.cluster_id,
        node_id: answer.node_id,
        name: options.node_name.clone(),
        credentials: Credentials::new(answer.certificate_pem, key_pem, &answer.ca_certificate_pem)?,
        // A rotation that was ordered before is carried out once more after the start, which does no harm.
        generation: 0,
        ca_certificate_pem: answer.ca_certificate_pem,
        cluster_key: ClusterKey::from_bytes(&answer.cluster_key)?,
    };
    identity.store(&identity_dir(&options.data_dir))?;
    Ok(identity)
}

/// For people to read, and for a few messages that are made once.
fn to_json<T: serde::Serialize>(value: &T) -> std::io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(std::io::Error::from)
}

/// gRPC hides the cause of a failed connection below "transport error".
fn describe(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

pub(crate) fn refuse_second_identity(data_dir: &Path) -> Result<(), ConsensusError> {
    let dir = identity_dir(data_dir);
    if !NodeIdentity::exists(&dir) {
        return Ok(());
    }
    let identity = NodeIdentity::load(&dir)?;
    Err(ConsensusError::Setup(format!(
        "{} belongs to node {} of cluster {} already; wipe the folder first if that is meant",
        data_dir.display(),
        identity.node_id,
        identity.cluster_id
    )))
}

/// The founding that the next start has to carry out.
pub(crate) fn pending(data_dir: &Path) -> Result<Option<Command>, ConsensusError> {
    match std::fs::read(founding_file(data_dir)) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| ConsensusError::storage("read the founding")(error.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ConsensusError::storage("read the founding")(error)),
    }
}

/// Forgets the founding once the cluster exists.
pub(crate) fn done(data_dir: &Path) {
    if let Err(error) = std::fs::remove_file(founding_file(data_dir)) {
        tracing::warn!(%error, "the founding file could not be removed; the next start finds it done");
    }
}
