//! Runs the blueprint corpus and says which results differ from what is expected.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use conclave_corpus::{Corpus, Stage, run};

/// How many differences of one result are shown.
const SHOWN_MAX: usize = 20;

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// The folder with the cases.
    #[arg(default_value = "corpus")]
    folder: PathBuf,
    /// Only cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Show every difference, not the first ones.
    #[arg(long)]
    all: bool,
}

/// Runs the cases.
///
/// # Errors
/// When results differ, or the corpus cannot be read.
pub fn run_all(options: &Options) -> Result<()> {
    let corpus = Corpus::new(&options.folder);
    let mut counts: BTreeMap<Stage, (usize, usize)> = BTreeMap::new();
    let mut cases = 0;
    for case in corpus.cases()? {
        if options.only.as_ref().is_some_and(|part| !case.name.contains(part)) {
            continue;
        }
        cases += 1;
        for outcome in run(&corpus, &case)? {
            let (good, bad) = counts.entry(outcome.stage).or_default();
            if outcome.is_good() {
                *good += 1;
                continue;
            }
            *bad += 1;
            println!("{} {:?}:", outcome.case, outcome.stage);
            let shown = if options.all {
                outcome.faults.len()
            } else {
                SHOWN_MAX.min(outcome.faults.len())
            };
            for fault in &outcome.faults[..shown] {
                println!("  {fault}");
            }
            if shown < outcome.faults.len() {
                println!("  and {} more", outcome.faults.len() - shown);
            }
        }
    }
    ensure!(cases > 0, "there are no cases in {}", options.folder.display());
    for (stage, (good, bad)) in &counts {
        println!("{stage:?}: {good} as expected, {bad} not");
    }
    let bad: usize = counts.values().map(|(_, bad)| bad).sum();
    println!("{cases} cases");
    if bad > 0 {
        bail!("{bad} results differ");
    }
    Ok(())
}
