//! Keeps this node's certificate valid: a new one before it expires, and when the cluster orders it.
//!
//! Every member can open the CA's key, which lies sealed in the replicated state; so a node signs for itself and needs nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::{ClusterState, NodeId};
use conclave_net::{CertificateAuthority, ClusterKey, Credentials, NodeIdentity, new_key_and_request};
use conclave_runtime::{Shutdown, clock};
use tokio::sync::watch;

use crate::ConsensusError;

/// The longest sleep: clocks may be set meanwhile.
const LOOK_PERIOD: Duration = Duration::from_secs(3600);
/// After a failure.
const RETRY_PERIOD: Duration = Duration::from_secs(30);

pub(crate) struct Renewal {
    pub(crate) identity: NodeIdentity,
    /// Where the identity lies.
    pub(crate) dir: PathBuf,
    pub(crate) state: watch::Receiver<Arc<ClusterState>>,
}

impl Renewal {
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        while !shutdown.is_requested() {
            let state = Arc::clone(&self.state.borrow_and_update());
            let due = self.identity.credentials.validity().renewal();
            let ordered = state.certificate_generation() > self.identity.generation;
            let mut pause = until(due).min(LOOK_PERIOD);
            if (ordered || pause.is_zero()) && state.facts().is_some() {
                match self.renew(state).await {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::error!(%error, expires = %self.identity.credentials.validity().until,
                            "the certificate could not be renewed; it is tried again");
                        pause = RETRY_PERIOD;
                    }
                }
            }
            tokio::select! {
                () = shutdown.requested() => return,
                changed = self.state.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause.max(Duration::from_millis(100))) => {}
            }
        }
    }

    async fn renew(&mut self, state: Arc<ClusterState>) -> Result<(), ConsensusError> {
        let (identity, dir) = (self.identity.clone(), self.dir.clone());
        let generation = state.certificate_generation();
        let renewing = tokio::task::spawn_blocking(move || renew(identity, &dir, &state));
        renewing
            .await
            .map_err(|error| ConsensusError::Setup(format!("renew the certificate: {error}")))??;
        self.identity.generation = generation;
        tracing::info!(generation, until = %self.identity.credentials.validity().until, "certificate renewed");
        Ok(())
    }
}

/// Makes a key, signs for it, and puts both on disk before they are used. Blocking.
fn renew(identity: NodeIdentity, dir: &Path, state: &ClusterState) -> Result<(), ConsensusError> {
    let missing = |what: &str| ConsensusError::Setup(format!("{what} is not in the replicated state"));
    let facts = state.facts().ok_or_else(|| missing("the cluster's CA"))?;
    let me = NodeId(identity.node_id);
    let node = state.nodes().get(&me).ok_or_else(|| missing("this node"))?;
    let authority = open_authority(&identity.cluster_key, state)?;
    let (key, request) = new_key_and_request(&node.name)?;
    let certificate = authority.sign(&request, &facts.cluster_id, me.0, &node.name, &node.address)?;
    let in_use = identity.credentials.clone();
    let renewed = NodeIdentity {
        credentials: Credentials::new(certificate.clone(), key.clone(), &facts.ca_certificate)?,
        generation: state.certificate_generation(),
        ..identity
    };
    renewed.store_credentials(dir)?;
    Ok(in_use.replace(certificate, key)?)
}

/// The cluster's CA, with its key.
pub(crate) fn open_authority(
    cluster_key: &ClusterKey,
    state: &ClusterState,
) -> Result<CertificateAuthority, ConsensusError> {
    let facts = state
        .facts()
        .ok_or_else(|| ConsensusError::Setup("the cluster has not been founded".into()))?;
    let key = cluster_key.open(&facts.sealed_ca_key)?;
    let key = String::from_utf8(key).map_err(|error| ConsensusError::Setup(format!("the CA's key: {error}")))?;
    Ok(CertificateAuthority::load(&facts.ca_certificate, &key)?)
}

/// Zero when it is past.
fn until(time: jiff::Timestamp) -> Duration {
    Duration::try_from(time.duration_since(clock::now())).unwrap_or(Duration::ZERO)
}
