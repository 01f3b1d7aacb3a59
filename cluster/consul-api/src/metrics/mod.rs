//! Figures for Prometheus and for Consul's own metrics endpoint.
//!
//! Counters are atomics; gauges are read from Raft, the state and the node's report when somebody asks.

mod consul;
mod page;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conclave_catalog::Command;
use conclave_catalog::directory::DirectoryCommand;
use conclave_consensus::{Consensus, Role, Spent};
use serde_json::Value;

use self::page::{Page, label};
use crate::{NodeReport, Part};

/// Upper bounds of the histogram's buckets, in milliseconds.
const BUCKETS_MS: [u64; 12] = [1, 2, 3, 5, 10, 15, 25, 50, 100, 250, 1000, 5000];

/// What this node has counted since its start.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: AtomicU64,
    queries: AtomicU64,
    failures: AtomicU64,
    buckets: [AtomicU64; BUCKETS_MS.len()],
    all: Spent,
    keys: Spent,
    transactions: Spent,
    sessions: Spent,
}

/// What a write is about, where dashboards tell writes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Key,
    Transaction,
    Session,
    Other,
}

impl Kind {
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Directory(DirectoryCommand::Kv(_)) => Self::Key,
            Command::Directory(DirectoryCommand::Txn(_)) => Self::Transaction,
            Command::Directory(DirectoryCommand::CreateSession(_) | DirectoryCommand::EndSessions(_)) => Self::Session,
            _ => Self::Other,
        }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metrics {
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn query(&self) {
        self.queries.fetch_add(1, Ordering::Relaxed);
    }

    /// A write took so long from here to its answer.
    pub(crate) fn proposal(&self, kind: Kind, took: Duration, succeeded: bool) {
        self.all.add(took);
        match kind {
            Kind::Key => self.keys.add(took),
            Kind::Transaction => self.transactions.add(took),
            Kind::Session => self.sessions.add(took),
            Kind::Other => {}
        }
        if !succeeded {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let fitting = BUCKETS_MS
            .iter()
            .position(|bound| took <= Duration::from_millis(*bound));
        if let Some(bucket) = fitting.and_then(|place| self.buckets.get(place)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything about this node, in Prometheus' text format.
    pub(crate) fn text(
        &self,
        consensus: &Consensus,
        sessions_measured: usize,
        waiters: usize,
        report: &Value,
    ) -> String {
        let mut page = Page::default();
        raft(&mut page, consensus);
        directory(&mut page, consensus, sessions_measured, waiters);
        if let Ok(report) = serde_json::from_value::<NodeReport>(report.clone()) {
            parts(&mut page, &report);
        }
        self.counters(&mut page);
        consul::raft_summaries(&mut page, consensus);
        process(&mut page);
        page.text
    }

    fn counters(&self, page: &mut Page) {
        page.kind(
            "conclave_consul_requests_total",
            "counter",
            "Requests to the Consul API.",
        );
        page.line("conclave_consul_requests_total", "", load(&self.requests));
        page.kind(
            "conclave_proposal_failures_total",
            "counter",
            "Writes that were refused or not committed in time.",
        );
        page.line("conclave_proposal_failures_total", "", load(&self.failures));
        let name = "conclave_proposal_seconds";
        page.kind(
            name,
            "histogram",
            "Time from a write's arrival at this node to its answer.",
        );
        let mut sum = 0;
        for (bound, bucket) in BUCKETS_MS.iter().zip(&self.buckets) {
            sum += load(bucket);
            let bound = *bound as f64 / 1000.0;
            page.line(&format!("{name}_bucket"), &format!("le=\"{bound}\""), sum);
        }
        page.line(&format!("{name}_bucket"), "le=\"+Inf\"", self.all.count());
        page.line(&format!("{name}_sum"), "", self.all.total().as_secs_f64());
        page.line(&format!("{name}_count"), "", self.all.count());
    }
}

fn raft(page: &mut Page, consensus: &Consensus) {
    let (facts, state) = (consensus.facts(), consensus.state().borrow().clone());
    let leadership = consensus.leadership().borrow().clone();
    let roles = [
        Role::Leader,
        Role::Follower,
        Role::Candidate,
        Role::Learner,
        Role::Stopped,
    ];
    page.kind("conclave_raft_role", "gauge", "1 for the role that this node has.");
    for role in roles {
        let is = u8::from(role == facts.role);
        page.line("conclave_raft_role", &label("role", role.as_str()), is);
    }
    page.gauge("conclave_raft_term", "The term.", facts.term);
    page.gauge(
        "conclave_raft_is_leader",
        "Whether this node leads.",
        u8::from(leadership.is_leader),
    );
    page.gauge(
        "conclave_raft_has_leader",
        "Whether a leader is known.",
        u8::from(leadership.leader.is_some()),
    );
    page.gauge(
        "conclave_raft_has_quorum",
        "0 on a node that is cut off from the majority.",
        u8::from(leadership.has_quorum),
    );
    page.gauge(
        "conclave_raft_last_log_index",
        "The log's last entry.",
        facts.last_log_index.unwrap_or(0),
    );
    page.gauge(
        "conclave_raft_commit_index",
        "The last committed entry.",
        facts.committed.unwrap_or(0),
    );
    page.gauge(
        "conclave_raft_applied_index",
        "The last applied entry.",
        facts.applied.unwrap_or(0),
    );
    let snapshot = facts.snapshot.map_or(0, |(index, _)| index);
    page.gauge(
        "conclave_raft_snapshot_index",
        "The last entry in the snapshot.",
        snapshot,
    );
    let contact = facts
        .last_contact
        .map_or(f64::INFINITY, |contact| contact.as_secs_f64());
    page.gauge(
        "conclave_raft_last_contact_seconds",
        "Since the leader was heard.",
        format_float(contact),
    );
    page.kind(
        "conclave_node_alive",
        "gauge",
        "Whether the leader holds the node for alive.",
    );
    for node in state.nodes().values() {
        page.line("conclave_node_alive", &label("node", &node.name), u8::from(node.alive));
    }
    if let Some(rule) = &state.database().rule {
        page.gauge(
            "conclave_database_epoch",
            "Epoch of the PostgreSQL rule in force.",
            rule.epoch,
        );
        page.gauge(
            "conclave_database_timeline",
            "Timeline of the PostgreSQL rule in force.",
            rule.timeline,
        );
        page.kind(
            "conclave_database_primary",
            "gauge",
            "1 for the node that the rule makes primary.",
        );
        for node in state.nodes().values() {
            page.line(
                "conclave_database_primary",
                &label("node", &node.name),
                u8::from(node.id == rule.primary),
            );
        }
    }
    page.gauge(
        "conclave_files_version",
        "Version of the file manifest.",
        state.files().version(),
    );
    page.gauge(
        "conclave_files_entries",
        "Paths in the file manifest.",
        state.files().len(),
    );
}

fn format_float(value: f64) -> String {
    if value.is_infinite() {
        "+Inf".into()
    } else {
        value.to_string()
    }
}

fn directory(page: &mut Page, consensus: &Consensus, sessions_measured: usize, waiters: usize) {
    let state = consensus.state().borrow().clone();
    let directory = state.directory();
    page.gauge("conclave_kv_keys", "Keys.", directory.kv().len());
    page.gauge("conclave_kv_index", "The last change of a key.", directory.kv().index());
    page.gauge("conclave_sessions", "Sessions.", directory.sessions().entries().len());
    page.gauge(
        "conclave_sessions_measured",
        "Sessions whose time this node measures.",
        sessions_measured,
    );
    page.gauge(
        "conclave_lock_delays",
        "Lock-delays that hold.",
        directory.delays().entries().len(),
    );
    page.gauge(
        "conclave_services",
        "Names of services.",
        directory.services().by_name().len(),
    );
    page.gauge("conclave_watchers", "Queries that wait for a change.", waiters);
}

/// Health of the node's parts, and every figure among their details.
fn parts(page: &mut Page, report: &NodeReport) {
    page.gauge(
        "conclave_ready",
        "Whether this node takes requests that write.",
        u8::from(report.ready),
    );
    page.kind(
        "conclave_part_healthy",
        "gauge",
        "Whether a part of this node does its work.",
    );
    for (name, part) in &report.parts {
        page.line("conclave_part_healthy", &label("part", name), u8::from(part.healthy));
    }
    page.kind(
        "conclave_part_since_seconds",
        "gauge",
        "Since when the part has been as it is, in Unix time.",
    );
    for (name, part) in &report.parts {
        page.line(
            "conclave_part_since_seconds",
            &label("part", name),
            part.since.as_second(),
        );
    }
    page.kind("conclave_part_detail", "gauge", "Figures among a part's details.");
    for (name, part) in &report.parts {
        details(page, name, part);
    }
}

fn details(page: &mut Page, name: &str, part: &Part) {
    let Some(details) = part.details.as_object() else {
        return;
    };
    for (detail, value) in details {
        let labels = format!("{},{}", label("part", name), label("detail", detail));
        match value {
            Value::Number(number) => page.line("conclave_part_detail", &labels, number),
            Value::Bool(flag) => page.line("conclave_part_detail", &labels, u8::from(*flag)),
            Value::String(text) if detail == "role" => {
                let labels = format!("{labels},{}", label("value", text));
                page.line("conclave_part_detail", &labels, 1);
            }
            _ => {}
        }
    }
}

fn process(page: &mut Page) {
    if let Some(bytes) = resident_bytes() {
        page.gauge(
            "process_resident_memory_bytes",
            "Resident memory of the manager.",
            bytes,
        );
    }
}

/// From the kernel's account of this process: the second field of `statm`, in pages of 4 KiB.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_histogram_counts_each_write_once() {
        let metrics = Metrics::default();
        for millis in [0, 2, 4, 80, 9000] {
            metrics.proposal(Kind::Key, Duration::from_millis(millis), millis < 1000);
        }
        let mut page = Page::default();
        metrics.counters(&mut page);
        for line in [
            "conclave_proposal_seconds_bucket{le=\"0.002\"} 2",
            "conclave_proposal_seconds_bucket{le=\"0.005\"} 3",
            "conclave_proposal_seconds_bucket{le=\"5\"} 4",
            "conclave_proposal_seconds_bucket{le=\"+Inf\"} 5",
            "conclave_proposal_failures_total 1",
        ] {
            assert!(
                page.text.lines().any(|own| own == line),
                "{line} is not in\n{}",
                page.text
            );
        }
        assert_eq!(label("node", "a\"b\\"), r#"node="a\"b\\""#);
    }
}
