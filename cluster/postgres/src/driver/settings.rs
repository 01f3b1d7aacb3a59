//! The settings that the driver owns (spec/postgres-ha.md, section 2).
//!
//! They stand in one file that is written before each start, because base backups and pg_rewind bring the source's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use conclave_catalog::NodeId;
use conclave_catalog::database::Rule;

use super::layout::{LOCAL_PORT, Layout, UPSTREAM_PORT};
use super::programs::Programs;
use crate::DatabaseError;

const FILE: &str = "conclave.conf";

/// Who acknowledges commits: the names of the standbys and how many of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Acknowledgers {
    pub(crate) count: u32,
    pub(crate) names: Vec<String>,
}

impl Acknowledgers {
    /// The standbys of `me` that acknowledge: a majority of the cohort with the primary; while it takes the place of another
    /// cohort, a majority of both. So many of all that, whichever they are, enough of each cohort are among them.
    pub(crate) fn of(
        me: NodeId,
        cohort: &BTreeSet<NodeId>,
        leaving: Option<&BTreeSet<NodeId>>,
        name: impl Fn(NodeId) -> Option<String>,
    ) -> Self {
        let others = |cohort: &BTreeSet<NodeId>| cohort.iter().filter(|id| **id != me).count() as u32;
        let mut all = cohort.clone();
        all.extend(leaving.into_iter().flatten());
        let enough = |cohort: &BTreeSet<NodeId>| match Rule::acks_of(cohort.len()) {
            0 => 0,
            acks => others(&all) - others(cohort) + acks,
        };
        Self {
            count: enough(cohort).max(leaving.map_or(0, enough)),
            names: all.into_iter().filter(|id| *id != me).filter_map(name).collect(),
        }
    }

    /// The value of `synchronous_standby_names`: a quorum of the named, never `*`, which any client would satisfy.
    pub(crate) fn setting(&self) -> String {
        if self.count == 0 {
            return String::new();
        }
        let names: Vec<String> = self.names.iter().map(|name| format!("\"{name}\"")).collect();
        format!("ANY {} ({})", self.count, names.join(", "))
    }
}

/// Writes settings and access rules. The server reads them at its next start or reload.
pub(crate) fn write(programs: &Programs, node_name: &str, acknowledgers: &Acknowledgers) -> Result<(), DatabaseError> {
    let layout = &programs.layout;
    let text = render(layout, node_name, acknowledgers);
    put(programs, &layout.data.join(FILE), &text)?;
    put(programs, &layout.data.join("pg_hba.conf"), ACCESS)?;
    // Leftovers of ALTER SYSTEM would win over ours.
    put(
        programs,
        &layout.data.join("postgresql.auto.conf"),
        "# Conclave's settings are in conclave.conf.\n",
    )?;
    put(
        programs,
        &layout.data.join("postgresql.conf"),
        "include 'conclave.conf'\n",
    )
}

const ACCESS: &str = "# Written by Conclave. The server listens on a Unix socket in a protected folder only.\n\
    local all all scram-sha-256\nlocal replication all scram-sha-256\n";

fn put(programs: &Programs, path: &Path, text: &str) -> Result<(), DatabaseError> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(path, text).map_err(DatabaseError::file("write", path))?;
    // pg_rewind runs under the server's account and overwrites these.
    Ok(programs.account.own(path)?)
}

fn render(layout: &Layout, node_name: &str, acknowledgers: &Acknowledgers) -> String {
    let conninfo = format!(
        "host={socket} port={UPSTREAM_PORT} user=conclave_replication passfile={passfile} application_name={node_name} \
         connect_timeout=5",
        socket = layout.socket_dir.display(),
        passfile = layout.passfile().display(),
    );
    let settings = BTreeMap::from([
        ("listen_addresses", String::new()),
        ("port", LOCAL_PORT.to_string()),
        ("unix_socket_directories", layout.socket_dir.display().to_string()),
        ("unix_socket_permissions", "0700".into()),
        ("cluster_name", node_name.to_owned()),
        ("primary_conninfo", conninfo),
        ("synchronous_commit", "on".into()),
        ("synchronous_standby_names", acknowledgers.setting()),
        ("wal_level", "replica".into()),
        ("wal_log_hints", "on".into()),
        ("hot_standby", "on".into()),
        ("hot_standby_feedback", "off".into()),
        ("full_page_writes", "on".into()),
        ("fsync", "on".into()),
        ("max_wal_senders", "20".into()),
        ("max_replication_slots", "20".into()),
        ("wal_keep_size", "512MB".into()),
        ("max_slot_wal_keep_size", "2GB".into()),
        ("wal_receiver_timeout", "5s".into()),
        ("wal_sender_timeout", "5s".into()),
        ("wal_retrieve_retry_interval", "100ms".into()),
        ("recovery_target_timeline", "latest".into()),
        ("restart_after_crash", "off".into()),
        ("client_connection_check_interval", "1s".into()),
        ("max_connections", "200".into()),
        ("shared_buffers", "64MB".into()),
        ("min_wal_size", "128MB".into()),
        ("max_wal_size", "1GB".into()),
        ("password_encryption", "scram-sha-256".into()),
        ("timezone", "UTC".into()),
        ("log_timezone", "UTC".into()),
        ("log_line_prefix", "%m [%p] %a ".into()),
        ("logging_collector", "off".into()),
    ]);
    let lines = settings
        .iter()
        .map(|(key, value)| format!("{key} = '{}'\n", value.replace('\'', "''")));
    std::iter::once("# Written by Conclave before each start; changes are lost.\n".to_owned())
        .chain(lines)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgers_are_named_and_quoted() {
        let two = Acknowledgers {
            count: 1,
            names: vec!["node2".into(), "node-3".into()],
        };
        assert_eq!(two.setting(), "ANY 1 (\"node2\", \"node-3\")");
        assert_eq!(Acknowledgers::default().setting(), "");
    }

    #[test]
    fn while_the_cohort_changes_a_majority_of_both_acknowledges() {
        let set = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let name = |id: NodeId| Some(format!("n{id}"));
        let of = |cohort: &[u64], leaving: Option<&[u64]>| {
            let leaving = leaving.map(set);
            Acknowledgers::of(NodeId(1), &set(cohort), leaving.as_ref(), name).setting()
        };
        assert_eq!(of(&[1, 2, 3], None), "ANY 1 (\"n2\", \"n3\")");
        assert_eq!(of(&[1, 2, 3], Some(&[1])), "ANY 1 (\"n2\", \"n3\")");
        // Any three of four hold two of the five besides the primary, and one of 2 and 3.
        let growing = of(&[1, 2, 3, 4, 5], Some(&[1, 2, 3]));
        assert_eq!(growing, "ANY 3 (\"n2\", \"n3\", \"n4\", \"n5\")");
        // One node takes the place of another.
        assert_eq!(of(&[1, 2, 4], Some(&[1, 2, 3])), "ANY 2 (\"n2\", \"n3\", \"n4\")");
        assert_eq!(of(&[1], Some(&[1, 2, 3])), "ANY 1 (\"n2\", \"n3\")");
    }
}
