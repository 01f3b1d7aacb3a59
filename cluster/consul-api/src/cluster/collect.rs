//! Asks every node and combines the answers.

use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::{ClusterState, NodeRecord};
use conclave_consensus::Consensus;
use futures::future::join_all;

use super::{ClusterStatus, Health, LeaderStatus, NodeReport, NodeStatus};

/// How long a node may take for its report. It answers from memory; whoever is slower has a problem worth showing.
const REPORT_TIMEOUT: Duration = Duration::from_millis(800);

/// The status of the whole cluster as this node sees it now. Takes at most the report timeout.
pub async fn collect(consensus: &Consensus) -> ClusterStatus {
    let state: Arc<ClusterState> = Arc::clone(&consensus.state().borrow());
    let leadership = consensus.leadership().borrow().clone();
    let records: Vec<NodeRecord> = state.nodes().values().cloned().collect();
    let answers = join_all(records.iter().map(|record| report(consensus, record))).await;
    let me = consensus.me();
    let nodes: Vec<NodeStatus> = records
        .iter()
        .zip(answers)
        .map(|(record, answer)| NodeStatus::judge(record, answer, record.id == me))
        .collect();
    let name_of = |id| {
        records
            .iter()
            .find(|record| record.id == id)
            .map(|record| record.name.clone())
    };
    let rule = state.database().rule.clone();
    let has_primary = nodes.iter().any(|node| match &rule {
        Some(rule) => node.id == rule.primary && primary_serves(node.report.as_ref()),
        None => is_external(node.report.as_ref()) && primary_serves(node.report.as_ref()),
    });
    let mut status = ClusterStatus {
        cluster_id: state.facts().map(|facts| facts.cluster_id.clone()).unwrap_or_default(),
        status: Health::Healthy,
        answered_by: name_of(me).unwrap_or_else(|| format!("node {me}")),
        minority: !leadership.has_quorum,
        leader: leadership
            .leader
            .and_then(|id| name_of(id).map(|name| LeaderStatus { id, name })),
        term: leadership.term,
        database: rule,
        files_version: state.files().version(),
        causes: Vec::new(),
        nodes,
    };
    status.judge_whole(has_primary);
    status
}

/// Whether a node's database is somebody else's: then there is no rule, and whoever reaches it serves.
fn is_external(report: Option<&NodeReport>) -> bool {
    report
        .and_then(|report| report.parts.get("postgres"))
        .is_some_and(|part| part.details["role"] == "external")
}

fn primary_serves(report: Option<&NodeReport>) -> bool {
    report
        .and_then(|report| report.parts.get("postgres"))
        .is_some_and(|part| part.healthy)
}

async fn report(consensus: &Consensus, record: &NodeRecord) -> Result<NodeReport, String> {
    let answer = tokio::time::timeout(REPORT_TIMEOUT, consensus.report_of(record.id))
        .await
        .map_err(|_| format!("does not answer within {} ms", REPORT_TIMEOUT.as_millis()))?
        .map_err(|error| error.to_string())?;
    serde_json::from_value(answer).map_err(|error| format!("its report cannot be read: {error}"))
}
