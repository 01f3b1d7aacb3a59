//! The cluster's status as clients see it.

use conclave_catalog::database::Rule;
use conclave_catalog::{NodeId, NodePorts};
use serde::{Deserialize, Serialize};

use super::{NodeReport, Part};

/// What a cause is about that concerns no single node.
const WHOLE: &str = "cluster";

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything does its work.
    Healthy,
    /// It serves, but something is wrong or missing.
    Degraded,
    /// It does not serve.
    Unavailable,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// Which part of which node, or `raft`.
    pub what: String,
    /// What is the matter with it.
    pub why: String,
    /// Since when.
    pub since: Option<jiff::Timestamp>,
}

/// Who leads the Raft group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderStatus {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its ports.
    pub ports: NodePorts,
    /// How well it is.
    pub status: Health,
    /// Whether the leader holds it for alive.
    pub alive: bool,
    /// What is wrong with it.
    pub causes: Vec<Cause>,
    /// Its own report; absent when it did not answer.
    pub report: Option<NodeReport>,
}

/// The whole cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// How well it is.
    pub status: Health,
    /// Which node answered.
    pub answered_by: String,
    /// Whether the answering node is cut off from the majority: what it knows may be old, and it refuses writes.
    pub minority: bool,
    /// Who leads, as far as the answering node knows.
    pub leader: Option<LeaderStatus>,
    /// The Raft term.
    pub term: u64,
    /// The PostgreSQL rule in force.
    pub database: Option<Rule>,
    /// Version of the file manifest.
    pub files_version: u64,
    /// Everything that is wrong, over all nodes.
    pub causes: Vec<Cause>,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
}

impl NodeStatus {
    /// Judges a node by its report, or by the lack of one.
    pub(crate) fn judge(
        record: &conclave_catalog::NodeRecord,
        answer: Result<NodeReport, String>,
        is_me: bool,
    ) -> Self {
        let mut causes = Vec::new();
        let report = match answer {
            Ok(report) => {
                causes.extend(
                    report
                        .parts
                        .iter()
                        .filter_map(|(part, state)| cause(&record.name, part, state)),
                );
                Some(report)
            }
            Err(why) => {
                causes.push(Cause {
                    what: record.name.clone(),
                    why,
                    since: record.down_since,
                });
                None
            }
        };
        if !record.alive && report.is_some() && !is_me {
            causes.push(Cause {
                what: record.name.clone(),
                why: "the leader holds it for dead although it answers".into(),
                since: record.down_since,
            });
        }
        let status = match &report {
            None => Health::Unavailable,
            Some(_) if causes.is_empty() => Health::Healthy,
            Some(_) => Health::Degraded,
        };
        Self {
            id: record.id,
            name: record.name.clone(),
            address: record.address.clone(),
            ports: record.ports.clone(),
            status,
            alive: record.alive,
            causes,
            report,
        }
    }
}

fn cause(node: &str, part: &str, state: &Part) -> Option<Cause> {
    if state.healthy {
        return None;
    }
    let why = state
        .cause
        .clone()
        .unwrap_or_else(|| "not healthy; the node gives no cause".into());
    Some(Cause {
        what: format!("{node}/{part}"),
        why,
        since: Some(state.since),
    })
}

impl ClusterStatus {
    /// Says since when what concerns the cluster as a whole has been so, where nothing else says it.
    pub(crate) fn date_own_causes(&mut self, since: jiff::Timestamp) {
        let own = self
            .causes
            .iter_mut()
            .filter(|cause| cause.what == WHOLE && cause.since.is_none());
        own.for_each(|cause| cause.since = Some(since));
    }

    /// Whether the cluster as a whole serves: it needs a leader, a majority and a primary.
    pub(crate) fn judge_whole(&mut self, has_primary: bool) {
        let mut own = Vec::new();
        if self.minority {
            own.push("this node is cut off from the majority; it refuses writes until it is back");
        }
        if self.leader.is_none() {
            own.push("no leader is known; an election is under way or there is no majority");
        }
        if !has_primary {
            own.push("PostgreSQL has no primary that serves");
        }
        self.causes = own
            .iter()
            .map(|why| Cause {
                what: WHOLE.into(),
                why: (*why).into(),
                since: None,
            })
            .collect();
        self.causes
            .extend(self.nodes.iter().flat_map(|node| node.causes.clone()));
        self.status = if !own.is_empty() {
            Health::Unavailable
        } else if self.causes.is_empty() {
            Health::Healthy
        } else {
            Health::Degraded
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(alive: bool) -> conclave_catalog::NodeRecord {
        conclave_catalog::NodeRecord {
            id: NodeId(1),
            name: "node1".into(),
            address: "127.0.0.11".into(),
            ports: NodePorts::default(),
            joined_at: jiff::Timestamp::UNIX_EPOCH,
            alive,
            down_since: None,
        }
    }

    fn report(healthy: bool) -> NodeReport {
        let part = Part {
            healthy,
            cause: (!healthy).then(|| "starting".into()),
            since: jiff::Timestamp::UNIX_EPOCH,
            details: serde_json::Value::Null,
        };
        NodeReport {
            node: NodeId(1),
            name: "node1".into(),
            version: "0".into(),
            pid: 1,
            started_at: None,
            clock: jiff::Timestamp::UNIX_EPOCH,
            ready: true,
            parts: BTreeMap::from([("broker".to_owned(), part)]),
        }
    }

    fn whole(node: NodeStatus, leader: bool) -> ClusterStatus {
        ClusterStatus {
            cluster_id: "c".into(),
            status: Health::Healthy,
            answered_by: "node1".into(),
            minority: false,
            leader: leader.then(|| LeaderStatus {
                id: NodeId(1),
                name: "node1".into(),
            }),
            term: 1,
            database: None,
            files_version: 0,
            causes: Vec::new(),
            nodes: vec![node],
        }
    }

    #[test]
    fn a_node_is_as_well_as_its_parts() {
        assert_eq!(
            NodeStatus::judge(&record(true), Ok(report(true)), false).status,
            Health::Healthy
        );
        let degraded = NodeStatus::judge(&record(true), Ok(report(false)), false);
        assert_eq!(degraded.status, Health::Degraded);
        assert_eq!(
            (degraded.causes[0].what.as_str(), degraded.causes[0].why.as_str()),
            ("node1/broker", "starting")
        );
        let silent = NodeStatus::judge(&record(false), Err("connection refused".into()), false);
        assert_eq!(silent.status, Health::Unavailable);
        assert_eq!(silent.causes[0].why, "connection refused");
    }

    #[test]
    fn a_node_that_answers_but_is_held_for_dead_is_degraded() {
        assert_eq!(
            NodeStatus::judge(&record(false), Ok(report(true)), false).status,
            Health::Degraded
        );
    }

    #[test]
    fn the_cluster_needs_leader_and_primary() {
        let node = NodeStatus::judge(&record(true), Ok(report(true)), false);
        let mut status = whole(node.clone(), true);
        status.judge_whole(true);
        assert_eq!(status.status, Health::Healthy);
        status.judge_whole(false);
        assert_eq!(status.status, Health::Unavailable);
        let mut leaderless = whole(node, false);
        leaderless.judge_whole(true);
        assert_eq!(leaderless.status, Health::Unavailable);
        assert!(leaderless.causes[0].why.contains("leader"));
    }

    #[test]
    fn one_bad_part_degrades_the_cluster_and_is_named() {
        let mut status = whole(NodeStatus::judge(&record(true), Ok(report(false)), false), true);
        status.judge_whole(true);
        assert_eq!(status.status, Health::Degraded);
        assert_eq!(status.causes[0].what, "node1/broker");
    }
}
