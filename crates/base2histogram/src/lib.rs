//! Histograms of openraft's runtime figures, in a few hundred bytes each.
//!
//! Stands in for the library of this name (`[patch.crates-io]` in the workspace's manifest), of which openraft is the only user:
//! that one builds 27 MiB of lookup tables when the first histogram is made, three quarters of an idle manager's heap
//! (docs/decisions/0014). The interface is what openraft uses of it. Buckets are powers of two, percentiles are
//! interpolated within them.

use std::fmt;
use std::marker::PhantomData;

/// Bucket 0 is the value 0; bucket `n` is the values of `n` bits.
const BUCKETS: usize = 65;

/// How many values were recorded, by their size.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    kind: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// Nothing recorded yet.
    pub fn new() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            kind: PhantomData,
        }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
    }

    /// How many values were recorded.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |total, count| total.saturating_add(*count))
    }

    /// The usual percentiles; zeroes when nothing was recorded.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.permille(1),
            p1: self.permille(10),
            p5: self.permille(50),
            p10: self.permille(100),
            p50: self.permille(500),
            p90: self.permille(900),
            p99: self.permille(990),
            p99_9: self.permille(999),
        }
    }

    /// The value that `permille` thousandths of the values are not above, about.
    fn permille(&self, permille: u128) -> u64 {
        let wanted = (u128::from(self.total()) * permille).div_ceil(1000);
        let mut before: u128 = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            let count = u128::from(*count);
            if count > 0 && before + count >= wanted {
                let lowest: u64 = if bucket == 0 { 0 } else { 1 << (bucket - 1) };
                // A bucket of n bits has as many values as its lowest one is.
                let into = u128::from(lowest) * (wanted.saturating_sub(before)) / count;
                let width_left = u64::try_from(into).unwrap_or(u64::MAX).min(lowest.saturating_sub(1));
                return lowest + width_left;
            }
            before += count;
        }
        0
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.percentile_stats(), f)
    }
}

/// Percentiles of a [`Histogram`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were recorded.
    pub samples: u64,
    /// One value in a thousand is below.
    pub p0_1: u64,
    /// One in a hundred is below.
    pub p1: u64,
    /// One in twenty is below.
    pub p5: u64,
    /// One in ten is below.
    pub p10: u64,
    /// Half are below.
    pub p50: u64,
    /// One in ten is above.
    pub p90: u64,
    /// One in a hundred is above.
    pub p99: u64,
    /// One in a thousand is above.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} samples, half below {}, 90 % below {}, 99 % below {}",
            self.samples, self.p50, self.p90, self.p99
        )
    }
}

/// Several histograms, to be shown together.
#[derive(Debug, Default)]
pub struct AsciiChart {
    rows: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more row.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.rows.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows
            .iter()
            .try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_in_the_bucket_of_the_value() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99, 0);
        (0..990).for_each(|_| histogram.record(5));
        (0..10).for_each(|_| histogram.record(u64::MAX));
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1000);
        assert!((4..8).contains(&stats.p50) && (4..8).contains(&stats.p99), "{stats:?}");
        assert!(stats.p99_9 >= 1 << 63, "{stats:?}");
        let mut zeroes = Histogram::<()>::new();
        zeroes.record(0);
        assert_eq!(zeroes.percentile_stats().p99_9, 0);
        assert!(
            AsciiChart::new()
                .add("a", zeroes)
                .to_string()
                .starts_with("a: 1 samples")
        );
    }
}
