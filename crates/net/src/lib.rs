//! Identity and encryption: the cluster's own certificate authority, the nodes' certificates, and TLS in all forms that
//! nodes and clients need.
//!
//! The only crate that names rustls. It knows nothing of what travels inside the connections.
//!
//! A node's certificate carries its identity as a DNS name, `node-<id>.<cluster id>.conclave.internal`; a client verifies
//! that very name, so an address that now belongs to another node is noticed at the handshake.

mod authority;
mod client;
mod credentials;
mod error;
mod identity;
mod join_token;
mod key;
mod probe;
mod server;
mod tls;
mod unread;

pub use authority::CertificateAuthority;
pub use client::{Answer, HttpsClient, OutsideConnector, PeerConnector, PeerStream, join_channel};
pub use credentials::{Credentials, Validity};
pub use error::NetError;
pub use identity::{NodeIdentity, PeerIdentity, new_key_and_request};
pub use join_token::{JoinSecret, sha256_hex};
pub use key::ClusterKey;
pub use probe::{ProbeClient, ProbeTls};
pub use server::{AcceptedStream, accept_peers, bind, serve};
pub use tls::{ServerTls, install_crypto_provider};
