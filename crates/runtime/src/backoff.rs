//! How long to wait before the next try.

use std::time::Duration;

/// Doubling delays with jitter, from `first` up to `most`, for ever.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and never exceeds `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// The delay before the next try: between half of and the whole current step, so that peers do not try in step.
    pub fn next_delay(&mut self) -> Duration {
        self.next_delay_with(rand::random_range(0.0..=1.0))
    }

    /// As [`Self::next_delay`], with the caller's own jitter between 0 and 1: the same gives the same delays.
    pub fn next_delay_with(&mut self, jitter: f64) -> Duration {
        let step = self.next.min(self.most);
        self.next = step.saturating_mul(2).min(self.most);
        step.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_limit_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
        let within = |delay: Duration, step: u64| {
            assert!(
                delay <= Duration::from_millis(step) && delay * 2 >= Duration::from_millis(step),
                "{delay:?}"
            );
        };
        within(backoff.next_delay(), 10);
        within(backoff.next_delay(), 20);
        within(backoff.next_delay(), 35);
        within(backoff.next_delay(), 35);
        backoff.reset();
        within(backoff.next_delay(), 10);
    }
}
