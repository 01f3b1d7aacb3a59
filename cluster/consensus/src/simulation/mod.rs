//! The whole member (log, snapshots, state machine, membership, watch over the leader, the handle's way of proposing and
//! reading) on simulated disks, clocks and network, from one seed.
//!
//! One thread, virtual time, every random number from the seed: a seed gives the same run each time
//! ([`tests::a_seed_gives_the_same_run`] proves it on traces). A run has a faulty phase and a healing phase. What must hold:
//! one leader a term; no index with two entries; reads and writes of each key linearizable; everything acknowledged applied;
//! after the healing one state everywhere, within bounded time.
//!
//! `CONCLAVE_SEEDS=100000 cargo test --release -p conclave-consensus --lib simulation` runs more seeds;
//! `CONCLAVE_SEED=42` runs one, with its story on standard error.

#![allow(
    clippy::disallowed_methods,
    reason = "the simulated nodes' messages have no owner: they fly"
)]

mod history;
mod network;
mod node;
mod runtime;
mod scenario;
mod world;

pub(crate) use runtime::SimRuntime;
pub(crate) use world::{applied, count};

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::panic;

    use super::scenario::{Outcome, run_seed};

    fn setting(name: &str) -> Option<u64> {
        std::env::var(name).ok()?.parse().ok()
    }

    fn check(outcome: &Outcome) {
        assert!(
            outcome.violations.is_empty(),
            "seed {}: {:#?}\nreplay with CONCLAVE_SEED={}",
            outcome.seed,
            outcome.violations,
            outcome.seed
        );
    }

    /// What has to happen in some run: a simulation that never gets there proves nothing.
    const SOMETIMES: [&str; 10] = [
        "leader elected",
        "stood since the leader's process was gone",
        "log truncated",
        "torn tail cut off",
        "snapshot installed",
        "crash",
        "one-way cut",
        "leadership handed over",
        "node replaced",
        "write of unknown outcome",
    ];

    /// What came of many runs.
    #[derive(Default)]
    struct Tally {
        counters: BTreeMap<&'static str, u64>,
        failed: BTreeMap<u64, Vec<String>>,
    }

    impl Tally {
        fn add(&mut self, other: Self) {
            for (name, count) in other.counters {
                *self.counters.entry(name).or_insert(0) += count;
            }
            self.failed.extend(other.failed);
        }
    }

    /// A worker says after so many seeds how far it is.
    const PROGRESS: usize = 1000;

    /// Goes on after a seed that fails: a long run is to find all that there is.
    fn run_share(seeds: impl Iterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        for (done, seed) in seeds.enumerate() {
            if done > 0 && done % PROGRESS == 0 {
                eprintln!("{done} seeds of this worker's are done, up to {seed}");
            }
            let outcome = panic::catch_unwind(|| run_seed(seed, false)).unwrap_or_else(|_| Outcome {
                seed,
                violations: vec!["panicked".into()],
                counters: BTreeMap::new(),
                trace: 0,
            });
            let mut failed = BTreeMap::new();
            if !outcome.violations.is_empty() {
                eprintln!("seed {seed} fails: {:?}", outcome.violations);
                failed.insert(seed, outcome.violations);
            }
            tally.add(Tally {
                counters: outcome.counters,
                failed,
            });
        }
        tally
    }

    /// The replayed seed's events, openraft's among them, as `RUST_LOG` asks for.
    fn tell_events() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _set_before = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .try_init();
    }

    #[test]
    fn seeds_hold() {
        if let Some(seed) = setting("CONCLAVE_SEED") {
            tell_events();
            let outcome = run_seed(seed, true);
            eprintln!("{:#?}", outcome.counters);
            return check(&outcome);
        }
        let first = setting("CONCLAVE_FIRST_SEED").unwrap_or(1);
        let seeds = setting("CONCLAVE_SEEDS").unwrap_or(1000);
        let workers = setting("CONCLAVE_WORKERS").unwrap_or(2);
        let began = std::time::Instant::now();
        let mut tally = Tally::default();
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..workers)
                .map(|worker| {
                    scope.spawn(move || run_share((first..first + seeds).filter(|seed| seed % workers == worker)))
                })
                .collect();
            for worker in running {
                tally.add(worker.join().expect("a worker ends"));
            }
        });
        let Tally {
            counters: total,
            failed,
        } = tally;
        let took = began.elapsed().as_secs_f64();
        eprintln!(
            "{seeds} seeds in {took:.1} s, {:.0} a second: {total:#?}",
            f64::from(u32::try_from(seeds).unwrap_or(u32::MAX)) / took
        );
        assert!(
            failed.is_empty(),
            "{} of {seeds} seeds fail: {failed:#?}\nreplay one with CONCLAVE_SEED",
            failed.len()
        );
        if seeds >= 100 {
            for name in SOMETIMES {
                assert!(total.contains_key(name), "in no run: {name}");
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_run() {
        for seed in 1..=setting("CONCLAVE_TWICE").unwrap_or(5) {
            let (first, second) = (run_seed(seed, false), run_seed(seed, false));
            assert_eq!(first.trace, second.trace, "seed {seed} gave two runs");
        }
    }
}
