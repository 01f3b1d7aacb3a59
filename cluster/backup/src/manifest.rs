//! What a backup says of itself. It is written last: without it there is no backup.

use conclave_catalog::database::Lsn;
use serde::{Deserialize, Serialize};

/// Of the manifest.
pub(crate) const VERSION: u32 = 1;

/// A whole base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub(crate) version: u32,
    /// Its name: the time at which it was begun, in UTC.
    pub id: String,
    /// PostgreSQL's system identifier.
    pub system_id: String,
    /// The cluster that it was made in.
    pub cluster_id: String,
    /// The node that made it.
    pub made_by: String,
    /// PostgreSQL's version, as its server says it.
    pub postgres_version: String,
    /// When it was begun, by that node's clock.
    pub began_at: jiff::Timestamp,
    /// When it was complete.
    pub ended_at: jiff::Timestamp,
    /// The timeline of its log.
    pub timeline: u32,
    /// Where recovery begins.
    #[serde(with = "lsn")]
    pub start_lsn: Lsn,
    /// Up to where recovery has to go at least. The log up to here is in the backup itself.
    #[serde(with = "lsn")]
    pub end_lsn: Lsn,
    /// Bytes of the data directory.
    pub bytes: u64,
    /// A gzipped tar of the data directory, cut into pieces.
    pub parts: Vec<Part>,
}

/// A piece of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name, next to the manifest.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of them, in hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// Bytes that it takes where it is kept.
    pub fn stored_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// That a backup was read back where it is kept, and was what had been written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When.
    pub at: jiff::Timestamp,
}

/// The part of PostgreSQL's own `backup_manifest` that matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct PostgresManifest {
    #[serde(rename = "WAL-Ranges")]
    pub(crate) ranges: Vec<WalRange>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WalRange {
    pub(crate) timeline: u32,
    #[serde(rename = "Start-LSN")]
    pub(crate) start: String,
    #[serde(rename = "End-LSN")]
    pub(crate) end: String,
}

/// Positions as PostgreSQL shows them: people read manifests.
pub(crate) mod lsn {
    use conclave_catalog::database::Lsn;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(lsn)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
