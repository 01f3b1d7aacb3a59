//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::load::Put;

#[derive(Default)]
pub(crate) struct Report {
    puts: Vec<Put>,
    parts: Map<String, Value>,
    notes: Map<String, Value>,
}

impl Report {
    pub(crate) fn new() -> Self {
        let mut report = Self::default();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        report.note("load average at the start", json!(load.trim()));
        report.note("cores", json!(cores));
        report
    }

    pub(crate) fn note(&mut self, name: &str, value: Value) {
        self.notes.insert(name.into(), value);
    }

    pub(crate) fn add(&mut self, part: &str, value: Value) {
        eprintln!("{part}: {value}");
        self.parts.insert(part.into(), value);
    }

    pub(crate) fn put(&mut self, put: Put) {
        self.puts.push(put);
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "puts": self.puts, "parts": self.parts, "notes": self.notes })
    }

    pub(crate) fn print(&self) {
        if !self.puts.is_empty() {
            println!(
                "| system | clients | writes/s: median (range) | p50 ms: median (range) | p99 ms: median | failed |"
            );
            println!("| --- | --- | --- | --- | --- | --- |");
        }
        let mut rows: BTreeMap<(usize, &str), Vec<&Put>> = BTreeMap::new();
        for put in &self.puts {
            rows.entry((put.clients, &put.system)).or_default().push(put);
        }
        for ((clients, system), puts) in rows {
            let sorted = |pick: fn(&Put) -> f64| {
                let mut values: Vec<f64> = puts.iter().map(|put| pick(put)).collect();
                values.sort_by(f64::total_cmp);
                values
            };
            let (rate, p50, p99) = (
                sorted(|put| put.result.per_second),
                sorted(|put| put.result.p50),
                sorted(|put| put.result.p99),
            );
            let middle = |values: &[f64]| values[values.len() / 2];
            let last = puts.len() - 1;
            println!(
                "| {system} | {clients} | {:.0} ({:.0}–{:.0}) | {:.2} ({:.2}–{:.2}) | {:.2} | {} |",
                middle(&rate),
                rate[0],
                rate[last],
                middle(&p50),
                p50[0],
                p50[last],
                middle(&p99),
                puts.iter().map(|put| put.result.failed).sum::<usize>()
            );
        }
        for (name, value) in self.parts.iter().chain(&self.notes) {
            println!("{name}: {value}");
        }
    }
}
