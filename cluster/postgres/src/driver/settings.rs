//! The settings that the driver owns (spec/postgres-ha.md, section 2).
//!
//! They stand in one file that is written before each start, because base backups and pg_rewind bring the source's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use conclave_catalog::NodeId;
use conclave_catalog::database::Rule;

use super::layout::{LOCAL_PORT, UPSTREAM_PORT};
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
    /// cohort, a majority of both.
    ///
    /// The server knows one list and one number only. So many of the union that enough of each cohort are among them,
    /// whichever they are, is one such pair; so many of those in both, or of any other list, are others. Any of them is safe.
    /// The first that those who are `connected` can satisfy is taken: a node is mostly removed because it is dead.
    pub(crate) fn of(
        me: NodeId,
        cohort: &BTreeSet<NodeId>,
        leaving: Option<&BTreeSet<NodeId>>,
        connected: &BTreeSet<String>,
        name: impl Fn(NodeId) -> Option<String>,
    ) -> Self {
        let leaving = leaving.unwrap_or(cohort);
        let union: BTreeSet<NodeId> = cohort.union(leaving).copied().collect();
        let both: BTreeSet<NodeId> = cohort.intersection(leaving).copied().collect();
        // Of so many of `list`, at least `count - strangers` are in a cohort that `strangers` of the list are not in.
        let among = |list: &BTreeSet<NodeId>| {
            let others: BTreeSet<NodeId> = list.iter().copied().filter(|id| *id != me).collect();
            let enough = |cohort: &BTreeSet<NodeId>| match Rule::acks_of(cohort.len()) {
                0 => 0,
                acks => acks + others.difference(cohort).count() as u32,
            };
            let count = enough(cohort).max(enough(leaving));
            let names: Vec<String> = others.iter().filter_map(|id| name(*id)).collect();
            (count as usize <= others.len()).then_some(Self { count, names })
        };
        // If those who are connected can acknowledge at all, all of them together do.
        let there: BTreeSet<NodeId> = union
            .iter()
            .copied()
            .filter(|id| name(*id).is_some_and(|name| connected.contains(&name)))
            .collect();
        let lists = [&union, &both, cohort, leaving, &there];
        let mut ways: Vec<Self> = lists.into_iter().filter_map(among).collect();
        let can = |way: &Self| way.names.iter().filter(|name| connected.contains(*name)).count() >= way.count as usize;
        let first = ways.iter().position(can).unwrap_or(0);
        if ways.is_empty() {
            return Self::nobody();
        }
        ways.swap_remove(first)
    }

    /// Nobody whom anything could satisfy: commits wait. What a server has before it is told who acknowledges.
    pub(crate) fn nobody() -> Self {
        Self {
            count: 1,
            names: vec!["conclave nobody".into()],
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

/// Writes settings and access rules. The server reads them at its next start or reload. `parameters` are the operator's.
pub(crate) fn write(
    programs: &Programs,
    node_name: &str,
    acknowledgers: &Acknowledgers,
    parameters: &BTreeMap<String, String>,
) -> Result<(), DatabaseError> {
    let layout = &programs.layout;
    let text = render(programs, node_name, acknowledgers, parameters);
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

fn render(
    programs: &Programs,
    node_name: &str,
    acknowledgers: &Acknowledgers,
    parameters: &BTreeMap<String, String>,
) -> String {
    let layout = &programs.layout;
    let segment_age = programs.segment_age.map_or(0, |age| age.as_secs());
    let conninfo = format!(
        "host={socket} port={UPSTREAM_PORT} user=conclave_replication passfile={passfile} application_name={node_name} \
         connect_timeout=5",
        socket = layout.socket_dir.display(),
        passfile = layout.passfile().display(),
    );
    let mut settings = BTreeMap::from([
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
        // For our own archive: PostgreSQL's stays off.
        ("archive_timeout", format!("{segment_age}s")),
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
    for (name, value) in parameters {
        settings.insert(name, value.clone());
    }
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
            let connected = (2..=5).map(|id| format!("n{id}")).collect();
            Acknowledgers::of(NodeId(1), &set(cohort), leaving.as_ref(), &connected, name).setting()
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

    #[test]
    fn a_dead_node_can_be_removed() {
        let set = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let of = |cohort: &[u64], leaving: &[u64], connected: &[u64]| {
            let connected = connected.iter().map(|id| format!("n{id}")).collect();
            let name = |id: NodeId| Some(format!("n{id}"));
            Acknowledgers::of(NodeId(1), &set(cohort), Some(&set(leaving)), &connected, name).setting()
        };
        assert_eq!(of(&[1, 2, 3], &[1, 2, 3, 4, 5], &[2, 3]), "ANY 2 (\"n2\", \"n3\")");
        assert_eq!(of(&[1, 2], &[1, 2, 3], &[2]), "ANY 1 (\"n2\")");
        // Two of the old cohort are dead, and another takes the place of one of them.
        let all = of(&[1, 4, 6], &[1, 2, 3, 4, 5], &[4, 5, 6]);
        assert_eq!(all, "ANY 3 (\"n4\", \"n5\", \"n6\")");
        // It suits others, and one of the new cohort is down.
        let some = of(&[1, 2, 3], &[1, 2, 3, 4, 5], &[2, 4, 5]);
        assert_eq!(some, "ANY 3 (\"n2\", \"n3\", \"n4\", \"n5\")");
    }

    proptest::proptest! {
        #[test]
        fn whoever_acknowledges_is_a_majority_of_both(
            cohort in proptest::collection::btree_set(2..8u64, 0..6),
            leaving in proptest::collection::btree_set(2..8u64, 0..6),
            connected in proptest::collection::btree_set(2..8u64, 0..7),
            acknowledging in proptest::collection::btree_set(2..8u64, 0..7),
        ) {
            let with_me = |ids: &BTreeSet<u64>| ids.iter().copied().chain([1]).map(NodeId).collect::<BTreeSet<_>>();
            let (cohort, leaving) = (with_me(&cohort), with_me(&leaving));
            let name = |id: NodeId| Some(format!("n{id}"));
            let names = |ids: &BTreeSet<u64>| ids.iter().map(|id| format!("n{id}")).collect::<BTreeSet<_>>();
            let way = Acknowledgers::of(NodeId(1), &cohort, Some(&leaving), &names(&connected), name);
            let named = way.names.iter().filter(|name| names(&acknowledging).contains(*name)).count();
            if named >= way.count as usize {
                let holders = with_me(&acknowledging);
                for cohort in [&cohort, &leaving] {
                    proptest::prop_assert!(cohort.intersection(&holders).count() > cohort.len() / 2);
                }
            }
        }
    }
}
