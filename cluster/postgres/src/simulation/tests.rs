//! Seeds, replays, mutants.

use std::collections::BTreeMap;

use super::run;
use super::world::Mutant;

const SEEDS: u64 = 1000;
const TRACE_TAIL: usize = 150;
/// What must happen somewhere in so many seeds, or they prove nothing.
const REACHED: [&str; 11] = [
    "choice",
    "clone",
    "election",
    "members changed",
    "partition",
    "promotion",
    "promotion died",
    "rewind",
    "rewind failed",
    "rule",
    "switchover",
];

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("the variable is a number"))
}

fn explain(seed: u64, mutant: Option<Mutant>, lines: usize) -> String {
    let outcome = run(seed, mutant, true);
    let from = outcome.trace.len().saturating_sub(lines);
    format!(
        "seed {seed}: {}\n{}\nreplay: CONCLAVE_SIM_SEED={seed} cargo test -p conclave-postgres simulation",
        outcome.broken.unwrap_or_else(|| "all is well".into()),
        outcome.trace[from..].join("\n"),
    )
}

#[test]
fn nothing_acknowledged_is_lost_whatever_goes_wrong() {
    if let Some(seed) = variable("CONCLAVE_SIM_SEED") {
        let text = explain(seed, None, usize::MAX);
        assert!(run(seed, None, false).broken.is_none(), "{text}");
        println!("{text}");
        return;
    }
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut acknowledged, mut broken) = (0, Vec::new());
    let seeds = variable("CONCLAVE_SIM_SEEDS").unwrap_or(SEEDS);
    for seed in 0..seeds {
        let outcome = run(seed, None, false);
        acknowledged += outcome.acknowledged;
        for (what, count) in outcome.reached {
            *reached.entry(what).or_default() += count;
        }
        if let Some(what) = outcome.broken {
            broken.push((seed, what));
        }
    }
    let never: Vec<_> = REACHED.iter().filter(|what| !reached.contains_key(*what)).collect();
    assert!(
        seeds < SEEDS || never.is_empty(),
        "{never:?} did not happen in {seeds} seeds"
    );
    println!("{seeds} seeds, {acknowledged} commits acknowledged, reached: {reached:?}");
    if let Some((first, _)) = broken.first() {
        for (seed, what) in broken.iter().take(30) {
            println!("{seed}: {}", what.lines().next().unwrap_or_default());
        }
        panic!(
            "{} of {seeds} seeds fail; the first: {}",
            broken.len(),
            explain(*first, None, TRACE_TAIL)
        );
    }
}

/// Seeds that found something once.
const REGRESSIONS: [(u64, &str); 7] = [
    (
        24388,
        "a claim that was decided on before a candidate was chosen took the change from it",
    ),
    (
        26143,
        "a rewind on the timeline of its source, chosen before the server followed",
    ),
    (
        30820,
        "the checks took an acknowledgement that came late, of what had survived, for one of a deposed primary",
    ),
    (61203, "as in 26143, and the log that it left was chosen from later"),
    (
        77903,
        "log of a promotion that the rule did not show yet was taken for diverged",
    ),
    (
        138_019,
        "what a crashed server had written was lost by the model after its recovery, which makes it durable",
    ),
    (
        212_521,
        "clients that knew a rule of long ago came to its primary, which was about to become primary again",
    ),
];

#[test]
fn what_was_found_once_stays_mended() {
    for (seed, what) in REGRESSIONS {
        assert!(
            run(seed, None, false).broken.is_none(),
            "{what}: {}",
            explain(seed, None, TRACE_TAIL)
        );
    }
}

#[test]
fn a_seed_gives_the_same_every_time() {
    for seed in 0..20 {
        let (once, again) = (run(seed, None, true), run(seed, None, true));
        assert!(!once.trace.is_empty());
        assert_eq!(once.trace, again.trace, "seed {seed}");
        assert_eq!(
            once.acknowledged,
            run(seed, None, false).acknowledged,
            "a trace changes nothing"
        );
    }
}

/// What the simulation needs at most to find a fault of that kind: by something lost or done twice, as a cluster that only
/// stands still could have other reasons.
fn is_caught(mutant: Mutant, seeds: u64) {
    let unsafe_run = |seed| {
        let broken = run(seed, Some(mutant), false).broken?;
        (!broken.starts_with("the cluster")).then_some((seed, broken))
    };
    let caught = (0..seeds).find_map(unsafe_run);
    let Some((seed, what)) = caught else {
        panic!("{mutant:?} is not caught in {seeds} seeds");
    };
    println!("{mutant:?}: seed {seed}: {}", what.lines().next().unwrap_or_default());
}

macro_rules! mutants {
    ($($name:ident: $mutant:ident in $seeds:literal;)*) => {
        $(#[test]
        fn $name() {
            is_caught(Mutant::$mutant, $seeds);
        })*
    };
}

mutants! {
    catches_the_choice_of_the_least_advanced: LeastAdvanced in 2000;
    catches_the_pledges_of_a_minority: PledgesOfMinority in 2000;
    catches_positions_that_are_not_settled: IgnoreSettled in 6000;
    catches_an_acknowledgement_too_few: FewerAcks in 2000;
    catches_forgotten_pledges: ForgetPledge in 6000;
    catches_a_pledged_standby_that_is_fed: FeedPledged in 2000;
    catches_clients_before_the_marker: OpenUnproven in 2000;
    catches_a_forgotten_cohort: ForgetLeaving in 6000;
    catches_a_rule_before_its_primary_serves: CommitEarly in 2000;
    catches_a_marker_under_the_old_quorum: TrustReload in 6000;
    catches_what_a_crashed_server_shows: OpenAfterCrash in 2000;
    catches_positions_without_timelines: IgnoreTimeline in 6000;
}
