//! Figures of several trials.

use std::time::Duration;

use serde_json::{Value, json};

/// What was measured in several trials, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Sample(pub Vec<f64>);

impl Sample {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64());
    }

    /// The value below which the given share of the trials lies (nearest rank).
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    /// Its figures.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "trials": self.0.len(), "min": self.quantile(0.0), "p50": self.quantile(0.5), "p99": self.quantile(0.99),
            "max": self.quantile(1.0),
        })
    }

    /// A line of a table on standard error: median, least, most, trials.
    pub fn show(&self, what: &str) {
        eprintln!(
            "| {what} | {:.2} | {:.2} | {:.2} | {} |",
            self.quantile(0.5),
            self.quantile(0.0),
            self.quantile(1.0),
            self.0.len()
        );
    }
}
