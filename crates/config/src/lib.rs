//! A node's configuration: one typed tree, read from one YAML file, unknown keys refused.
//!
//! What belongs to the cluster as a whole is not in here but in the replicated state. Knows nothing of the parts that
//! it configures.

mod load;
mod node;

pub use load::{ConfigError, from_text, load};
pub use node::{
    Accounts, BackupSection, ConsulSection, DatabaseSection, Election, ExternalDatabaseSection, NodeConfig,
    NodeSection, Ports, S3Section, StatusContract, Workflows,
};
