//! One-time tokens that let a node join.

use serde::{Deserialize, Serialize};

/// The public half of a join token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub String);

/// A join token as the cluster remembers it: the secret itself is known to its bearer alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The public half.
    pub id: TokenId,
    /// SHA-256 of the secret half, hex.
    pub secret_hash: String,
    /// From then on it is refused (compared with the proposer's clock).
    pub expires_at: jiff::Timestamp,
}
