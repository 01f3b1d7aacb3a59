//! What was found.

use std::time::Duration;

use conclave_chaos_tests::sample::Sample;
use serde_json::{Value, json};

use crate::subject::Way;

/// One thing that was measured several times.
#[derive(Default)]
pub struct Trials {
    times: Sample,
    /// Of a large file: its size.
    bytes: Option<u64>,
    /// What the nodes have brought to each other in each trial, as they count.
    moved: Vec<u64>,
    /// What all connections of the nodes for files have carried, in each trial, as the system counts.
    carried: Vec<u64>,
}

/// The table's head.
pub fn head() {
    eprintln!("| | | way | p50 (ms) | p99 | min | max | trials | |");
    eprintln!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
}

impl Trials {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.times.add(time);
    }

    /// They are of files of that size.
    pub fn of_size(&mut self, bytes: u64) {
        self.bytes = Some(bytes);
    }

    /// What the last one cost: moved between nodes; and carried, if that can be told from what the client sent.
    pub fn cost(&mut self, moved: u64, carried: Option<u64>) {
        self.moved.push(moved);
        self.carried.extend(carried);
    }

    /// All of it.
    pub fn json(&self) -> Value {
        let mut all = json!({ "s": self.times.0 });
        if let Some(bytes) = self.bytes {
            all["bytes"] = json!(bytes);
        }
        if !self.moved.is_empty() {
            all["moved_bytes"] = json!(self.moved);
            all["carried_bytes"] = json!(self.carried);
        }
        all
    }

    /// A line of the table.
    pub fn show(&self, subject: &str, what: &str, way: Way) {
        let figures = [0.5, 0.99, 0.0, 1.0].map(|share| format!("{:.1}", self.times.quantile(share) * 1000.0));
        let mut more = Vec::new();
        if let (Some(bytes), true) = (self.bytes, self.moved.is_empty()) {
            more.push(format!("{:.0} MiB/s", mib(bytes) / self.times.quantile(0.5)));
        }
        for (what, bytes) in [("moved", &self.moved), ("on the wire", &self.carried)] {
            if !bytes.is_empty() {
                let all: Vec<String> = bytes.iter().map(|bytes| format!("{:.3}", mib(*bytes))).collect();
                more.push(format!("{what} {} MiB", all.join(", ")));
            }
        }
        eprintln!(
            "| {subject} | {what} | {} | {} | {} | {} |",
            way.key(),
            figures.join(" | "),
            self.times.0.len(),
            more.join("; ")
        );
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
