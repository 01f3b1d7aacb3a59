//! Where brokers are, and how this cluster's managers log in to them.

use conclave_net::NodeIdentity;

/// The managers' account on every broker, administrator of the virtual host `/`.
pub const USER: &str = "cloudify";

/// The password of [`USER`], the same on every node and stored on none.
pub fn password(identity: &NodeIdentity) -> String {
    identity.cluster_key.derive("rabbitmq/cloudify")
}

/// One broker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerAddress {
    /// The node that it belongs to.
    pub name: String,
    /// Where it is reached; its certificate names it.
    pub host: String,
    /// AMQP over TLS.
    pub port: u16,
}

impl std::fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}:{})", self.name, self.host, self.port)
    }
}

/// What opens every broker of the cluster.
#[derive(Clone)]
pub struct Access {
    /// The account.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Brokers prove themselves by certificates of this authority; PEM.
    pub ca_certificate_pem: String,
}

impl Access {
    /// The managers' access.
    pub fn of_managers(identity: &NodeIdentity) -> Self {
        Self {
            username: USER.to_owned(),
            password: password(identity),
            ca_certificate_pem: identity.ca_certificate_pem.clone(),
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}
