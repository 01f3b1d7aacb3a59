//! Who may do what (spec/consul-api.md, section 9).
//!
//! One token opens everything; without it what the cluster's status shows anyway is open, lists of keys, sessions and
//! services are empty, and the rest is refused. The token derives from the cluster's key, so every node knows it and
//! nothing stores it. A connection that proved to be a node of this cluster needs none.

use conclave_catalog::{ClusterState, NodeId};
use conclave_net::{ClusterKey, NodeIdentity, PeerIdentity, sha256_hex};
use serde_json::Value;

use super::error::ApiError;

/// The cluster setting that switches tokens off when it says `disabled`.
pub const ACL_SETTING: &str = "consul_acl";
const DISABLED: &str = "disabled";
/// Consul's name for nobody.
const ANONYMOUS: &str = "anonymous";

/// The token that opens the Consul API of the identity's cluster.
pub fn token(identity: &NodeIdentity) -> String {
    token_from(&identity.cluster_key)
}

fn token_from(key: &ClusterKey) -> String {
    let secret = key.derive("consul-api/management");
    // In the form of a UUID, as Consul's own tokens are; 122 bits of it are secret.
    let bytes: Vec<u8> = (0..16)
        .filter_map(|place| u8::from_str_radix(secret.get(2 * place..2 * place + 2)?, 16).ok())
        .collect();
    let bytes: [u8; 16] = bytes.try_into().unwrap_or_default();
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// Judges callers.
#[derive(Clone)]
pub(crate) struct Access {
    cluster_id: String,
    /// Hashes are compared, so that the time it takes tells nothing of the token.
    token_hash: String,
    token: String,
}

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing.
    Nothing,
    /// Without a token its lists are empty.
    Filtered,
    /// The token.
    Token,
}

impl Access {
    pub(crate) fn new(cluster_id: &str, key: &ClusterKey) -> Self {
        let token = token_from(key);
        Self {
            cluster_id: cluster_id.to_owned(),
            token_hash: sha256_hex(token.as_bytes()),
            token,
        }
    }

    /// Whether tokens are asked for.
    pub(super) fn is_enforced(&self, state: &ClusterState) -> bool {
        state.settings().get(ACL_SETTING).and_then(Value::as_str) != Some(DISABLED)
    }

    /// Whether the caller is trusted with everything.
    pub(super) fn judge(
        &self,
        state: &ClusterState,
        token: Option<&str>,
        peer: Option<&PeerIdentity>,
    ) -> Result<bool, ApiError> {
        if !self.is_enforced(state) {
            return Ok(true);
        }
        match token {
            Some(ANONYMOUS) => Ok(false),
            Some(token) if sha256_hex(token.as_bytes()) == self.token_hash => Ok(true),
            Some(_) => Err(ApiError::UnknownToken),
            None => Ok(peer.is_some_and(|peer| {
                peer.cluster_id == self.cluster_id && state.nodes().contains_key(&NodeId(peer.node_id))
            })),
        }
    }

    /// The token itself, for whoever has shown it.
    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access::new("c", &ClusterKey::from_bytes(&[7; 32]).expect("32 bytes"))
    }

    #[test]
    fn the_token_opens_and_no_other() {
        let (access, state) = (access(), ClusterState::default());
        assert!(access.is_enforced(&state));
        assert!(access.token().parse::<uuid::Uuid>().is_ok());
        assert!(matches!(access.judge(&state, Some(access.token()), None), Ok(true)));
        assert!(matches!(access.judge(&state, None, None), Ok(false)));
        assert!(matches!(access.judge(&state, Some("anonymous"), None), Ok(false)));
        let other = access.judge(&state, Some("6ff1c4f8-1bf4-4b7c-9f3e-6a4d1a0d6d50"), None);
        assert!(matches!(other, Err(ApiError::UnknownToken)));
        let stranger = PeerIdentity {
            cluster_id: "c".into(),
            node_id: 9,
        };
        assert!(matches!(access.judge(&state, None, Some(&stranger)), Ok(false)));
    }
}
