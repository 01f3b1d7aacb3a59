//! Health checks: what is checked, and what came of it (spec/consul-api.md, section 7).
//!
//! Results come in as commands; who carries checks out, and when, is not known here.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The check that every member of the cluster has: whether the leader holds it for alive.
pub const SERF_HEALTH: &str = "serfHealth";
/// Longer output is cut.
pub const OUTPUT_BYTES_MAX: usize = 4096;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// All is well.
    Passing,
    /// It works, but.
    Warning,
    /// It does not work.
    Critical,
}

impl CheckStatus {
    /// As Consul writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl std::str::FromStr for CheckStatus {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "passing" => Ok(Self::Passing),
            "warning" => Ok(Self::Warning),
            "critical" => Ok(Self::Critical),
            _ => Err(()),
        }
    }
}

/// How a check is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CheckKind {
    /// By nobody: its status is set from outside.
    #[default]
    Passive,
    /// Its owner reports within a time, or it turns critical.
    Ttl {
        /// In milliseconds.
        millis: u64,
    },
    /// A request: 2xx passes, 429 warns, anything else is critical.
    Http {
        /// `http://…` or `https://…`.
        url: String,
        /// GET when absent.
        method: String,
        /// Sent along.
        headers: BTreeMap<String, Vec<String>>,
        /// Sent along.
        body: String,
        /// Whether any certificate will do.
        tls_skip_verify: bool,
        /// The name that the certificate must carry, if not the URL's.
        tls_server_name: String,
    },
    /// A connection.
    Tcp {
        /// `host:port`.
        address: String,
    },
}

/// A check as it is registered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CheckDefinition {
    /// How.
    pub kind: CheckKind,
    /// How often, in milliseconds.
    pub interval_ms: u64,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
    /// Its service is deregistered when it has been critical for so long, in milliseconds.
    pub deregister_after_ms: Option<u64>,
}

/// A check and what it found last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Unique on its node.
    pub id: Arc<str>,
    /// For people.
    pub name: String,
    /// For people.
    pub notes: String,
    /// What it found.
    pub status: CheckStatus,
    /// What it said.
    pub output: String,
    /// The service that it belongs to; the node as a whole when absent.
    pub service_id: Option<Arc<str>>,
    /// How it is carried out.
    pub definition: CheckDefinition,
    /// When it was made.
    pub create_index: u64,
    /// When it was changed last.
    pub modify_index: u64,
    /// Since when it has the status that it has: a status that comes back is another one.
    #[serde(default)]
    pub status_index: u64,
}

/// A check on its way into the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// Unique on its node.
    pub id: String,
    /// For people.
    pub name: String,
    /// For people.
    pub notes: String,
    /// The status it starts with; what is known of it already, or critical, when absent.
    pub status: Option<CheckStatus>,
    /// What it said.
    pub output: String,
    /// The service that it belongs to.
    pub service_id: Option<String>,
    /// How it is carried out.
    pub definition: CheckDefinition,
}

/// Cuts an output to what is kept, at a character's boundary.
pub fn cut_output(mut output: String) -> String {
    if output.len() > OUTPUT_BYTES_MAX {
        let end = (0..=OUTPUT_BYTES_MAX).rev().find(|end| output.is_char_boundary(*end));
        output.truncate(end.unwrap_or(0));
    }
    output
}
