//! The blueprint corpus: `check` says which results differ from what is expected, `run` writes results down.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use conclave_corpus::{Case, Corpus, Results, Stage, canonical, results, run};
use serde_json::{Value, json};

/// How many differences of one result are shown.
const SHOWN_MAX: usize = 20;
/// A case may nest deeper than the stack of a plain thread allows to print.
const STACK_BYTES: usize = 256 << 20;

/// What to do with the corpus.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Compare the results of all cases with what is expected.
    Check(Check),
    /// Write the results of cases to files, in the form of the expectations.
    Run(Run),
}

/// What to compare.
#[derive(clap::Args)]
pub struct Check {
    /// The folder with the cases.
    #[arg(default_value = "../shared/corpus")]
    folder: PathBuf,
    /// Only cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Show every difference, not the first ones.
    #[arg(long)]
    all: bool,
}

/// What to run.
#[derive(clap::Args)]
pub struct Run {
    /// The folder with the resources that cases import.
    #[arg(long)]
    corpus: PathBuf,
    /// Where to write `<case>/plan.json`, `deployment.json`, `modify.json` and `evaluate.json`.
    #[arg(long)]
    out: PathBuf,
    /// Folders with cases somewhere below.
    #[arg(required = true)]
    cases: Vec<PathBuf>,
}

/// Carries the command out.
///
/// # Errors
/// When results differ, a case cannot be run, or files cannot be read or written.
pub fn execute(command: Command) -> Result<()> {
    match command {
        Command::Check(options) => check(&options),
        Command::Run(options) => write_all(&options),
    }
}

fn check(options: &Check) -> Result<()> {
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
    println!("{cases} cases");
    let bad: usize = counts.values().map(|(_, bad)| bad).sum();
    ensure!(bad == 0, "{bad} results differ");
    Ok(())
}

fn write_all(options: &Run) -> Result<()> {
    let mut failed = 0;
    let mut count = 0;
    for folder in &options.cases {
        for case in Corpus::cases_below(folder)? {
            count += 1;
            let out = options.out.join(&case.name);
            let corpus = Corpus::new(&options.corpus);
            let name = case.name.clone();
            // A thread of its own: whatever happens to one case must not stop the others.
            let thread = std::thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn(move || write_case(&corpus, &case, &out))?;
            let outcome = match thread.join() {
                Ok(outcome) => outcome,
                Err(_) => Err(anyhow::anyhow!("it panicked")),
            };
            if let Err(error) = outcome {
                failed += 1;
                eprintln!("{name}: {error:#}");
            }
        }
    }
    println!("{count} cases, {failed} of them could not be run");
    if failed > 0 {
        bail!("{failed} cases could not be run");
    }
    Ok(())
}

fn write_case(corpus: &Corpus, case: &Case, out: &Path) -> Result<()> {
    let Results {
        plan,
        deployment,
        modify,
        evaluate,
    } = results(corpus, case)?;
    let plan = match plan.get("plan") {
        Some(plan) => json!({"plan": canonical::with_digests(plan.clone())}),
        None => plan,
    };
    fs::create_dir_all(out).with_context(|| format!("{} cannot be made", out.display()))?;
    let files = [
        ("plan", Some(plan)),
        ("deployment", deployment),
        ("modify", modify),
        ("evaluate", evaluate),
    ];
    for (name, result) in files {
        let path = out.join(format!("{name}.json"));
        match result {
            Some(mut result) => {
                remove_messages(&mut result);
                let text = canonical::text(&result) + "\n";
                fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
            }
            // What an earlier run left there is no result of this one.
            None if path.exists() => fs::remove_file(&path)?,
            None => {}
        }
    }
    Ok(())
}

/// Errors are written with class, code and path only.
fn remove_messages(result: &mut Value) {
    let remove = |item: &mut Value| {
        if let Some(error) = item.get_mut("error").and_then(Value::as_object_mut) {
            error.remove("message");
        }
    };
    remove(result);
    for list in ["steps", "results"] {
        result
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .for_each(remove);
    }
}
