//! What happens in the cluster, as events: found by comparing, so that every node tells the same of the state.
//!
//! Pure. Numbers are this node's own and start with its process.

use conclave_catalog::database::{ChangeKind, DatabaseState};
use conclave_catalog::directory::SERF_HEALTH;
use conclave_catalog::{ClusterState, NodeId};
use conclave_consensus::Leadership;
use imbl::ordmap::DiffItem;
use serde::Serialize;
use serde_json::{Value, json};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterEvent {
    /// Grows by one with each event of the answering node.
    pub number: u64,
    /// When the answering node noticed it.
    pub at: jiff::Timestamp,
    /// What kind: `leader`, `quorum`, `node_joined`, `node_removed`, `node_dead`, `node_alive`, `voters`, `rule_change`,
    /// `rule`, `setting`, `check`.
    pub kind: &'static str,
    /// Whom it is about, if anyone.
    pub subject: Option<String>,
    /// In a sentence.
    pub text: String,
    /// The facts.
    pub details: Value,
}

/// An event that has no number yet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Happened {
    pub(super) kind: &'static str,
    pub(super) subject: Option<String>,
    pub(super) text: String,
    pub(super) details: Value,
}

impl Happened {
    fn new(kind: &'static str, subject: Option<&str>, text: String, details: Value) -> Self {
        Self {
            kind,
            subject: subject.map(str::to_owned),
            text,
            details,
        }
    }
}

fn name(state: &ClusterState, id: NodeId) -> String {
    state
        .nodes()
        .get(&id)
        .map_or_else(|| format!("node {id}"), |node| node.name.clone())
}

/// What happened between two states.
pub(super) fn between(old: &ClusterState, new: &ClusterState) -> Vec<Happened> {
    let mut happened = Vec::new();
    for change in old.nodes().diff(new.nodes()) {
        match change {
            DiffItem::Add(id, node) => happened.push(Happened::new(
                "node_joined",
                Some(&node.name),
                format!("{} joined the cluster", node.name),
                json!({"id": id, "address": node.address}),
            )),
            DiffItem::Remove(id, node) => happened.push(Happened::new(
                "node_removed",
                Some(&node.name),
                format!("{} was removed from the cluster", node.name),
                json!({"id": id}),
            )),
            DiffItem::Update {
                old: (_, before),
                new: (id, after),
            } if before.alive != after.alive => {
                let (kind, word) = if after.alive {
                    ("node_alive", "alive")
                } else {
                    ("node_dead", "dead")
                };
                happened.push(Happened::new(
                    kind,
                    Some(&after.name),
                    format!("{} was declared {word}", after.name),
                    json!({"id": id, "down_since": after.down_since}),
                ));
            }
            DiffItem::Update { .. } => {}
        }
    }
    happened.extend(of_database(new, old.database(), new.database()));
    for change in old.settings().diff(new.settings()) {
        let (DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. }) = change;
        // Values can be secret.
        let text = format!("the setting {key:?} was changed");
        happened.push(Happened::new("setting", Some(key), text, Value::Null));
    }
    happened.extend(of_checks(old, new));
    happened
}

fn of_database(state: &ClusterState, old: &DatabaseState, new: &DatabaseState) -> Vec<Happened> {
    let mut happened = Vec::new();
    if let Some(change) = new
        .change
        .as_ref()
        .filter(|change| old.change.as_ref() != Some(*change))
    {
        let what = match (&change.kind, &change.candidate) {
            (ChangeKind::Failover, None) => "another primary is looked for".to_owned(),
            (ChangeKind::Switchover(to), None) => format!("{} is to take over as primary", name(state, *to)),
            (ChangeKind::Failover | ChangeKind::Switchover(_), Some(candidate)) => {
                format!("{} was chosen as the next primary", name(state, candidate.node))
            }
            (ChangeKind::Cohort(cohort), _) => format!("the cohort is to be of {} nodes", cohort.len()),
        };
        let text = format!("PostgreSQL, epoch {}: {what}", change.epoch);
        happened.push(Happened::new("rule_change", None, text, json!(change)));
    }
    if let Some(rule) = new.rule.as_ref().filter(|rule| old.rule.as_ref() != Some(*rule)) {
        let primary = name(state, rule.primary);
        let text = format!(
            "PostgreSQL, epoch {}: {primary} is primary on timeline {}, with a cohort of {}",
            rule.epoch,
            rule.timeline,
            rule.cohort.len()
        );
        happened.push(Happened::new("rule", Some(&primary), text, json!(rule)));
    }
    happened
}

/// Checks of services that changed their status; the members' own are told as their life and death.
fn of_checks(old: &ClusterState, new: &ClusterState) -> Vec<Happened> {
    let mut happened = Vec::new();
    for change in old
        .directory()
        .services()
        .nodes()
        .diff(new.directory().services().nodes())
    {
        let DiffItem::Update {
            old: (_, before),
            new: (_, after),
        } = change
        else {
            continue;
        };
        for change in before.checks.diff(&after.checks) {
            if let DiffItem::Update {
                old: (_, was),
                new: (id, is),
            } = change
                && was.status != is.status
                && **id != *SERF_HEALTH
            {
                let text = format!("check {id:?} on {} is {}", after.name, is.status.as_str());
                let details = json!({"check": id, "status": is.status, "service": is.service_id});
                happened.push(Happened::new("check", Some(&after.name), text, details));
            }
        }
    }
    happened
}

/// What changed in who leads.
pub(super) fn of_leadership(state: &ClusterState, old: &Leadership, new: &Leadership) -> Vec<Happened> {
    let mut happened = Vec::new();
    if old.leader != new.leader {
        let leader = new.leader.map(|id| name(state, id));
        let text = match &leader {
            Some(leader) => format!("{leader} leads in term {}", new.term),
            None => format!("no leader is known in term {}", new.term),
        };
        happened.push(Happened::new(
            "leader",
            leader.as_deref(),
            text,
            json!({"term": new.term, "leader": new.leader}),
        ));
    }
    if old.has_quorum != new.has_quorum {
        let text = if new.has_quorum {
            "this node is in touch with the majority"
        } else {
            "this node is cut off from the majority; it refuses writes until it is back"
        };
        happened.push(Happened::new(
            "quorum",
            None,
            text.into(),
            json!({"has_quorum": new.has_quorum}),
        ));
    }
    happened
}

/// What changed in who votes.
pub(super) fn of_voters(state: &ClusterState, old: &[NodeId], new: &[NodeId]) -> Option<Happened> {
    (old != new).then(|| {
        let names: Vec<_> = new.iter().map(|id| name(state, *id)).collect();
        let text = format!("the voters are {}", names.join(", "));
        Happened::new("voters", None, text, json!({"voters": new}))
    })
}

#[cfg(test)]
mod tests {
    use conclave_catalog::{Command, NodePorts, Proposal, RequestId};

    use super::*;

    fn apply(state: &ClusterState, index: u64, command: Command) -> ClusterState {
        let mut changed = state.clone();
        let request = RequestId(uuid::Uuid::from_u128(u128::from(index)));
        changed.apply(index, Proposal::new(request, jiff::Timestamp::UNIX_EPOCH, command));
        changed
    }

    #[test]
    fn life_and_death_are_told_once() {
        let empty = ClusterState::default();
        let founded = apply(
            &empty,
            1,
            Command::Found {
                cluster_id: "c".into(),
                ca_certificate: String::new(),
                sealed_ca_key: Vec::new(),
                node_name: "node1".into(),
                address: "127.0.0.11".into(),
                ports: NodePorts::default(),
                settings: std::collections::BTreeMap::new(),
            },
        );
        let dead = Command::DeclareNode {
            node: NodeId(1),
            alive: false,
        };
        let after = apply(&founded, 2, dead.clone());
        let kinds = |old: &ClusterState, new: &ClusterState| -> Vec<&'static str> {
            between(old, new).into_iter().map(|event| event.kind).collect()
        };
        assert_eq!(kinds(&empty, &founded), ["node_joined"]);
        assert_eq!(kinds(&founded, &after), ["node_dead"]);
        assert_eq!(kinds(&after, &apply(&after, 3, dead)), [""; 0]);
        let leads = Leadership {
            term: 3,
            leader: Some(NodeId(1)),
            is_leader: true,
            has_quorum: true,
        };
        let texts: Vec<_> = of_leadership(&after, &Leadership::default(), &leads)
            .into_iter()
            .map(|event| event.text)
            .collect();
        assert_eq!(
            texts,
            ["node1 leads in term 3", "this node is in touch with the majority"]
        );
    }
}
