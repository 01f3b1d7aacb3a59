//! Every case of the corpus gives what it is expected to give, none left out.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::PathBuf;

use conclave_corpus::{Corpus, run};

/// The folder with the cases: the one beside the repository, or another one to be run in the same way.
fn folder() -> PathBuf {
    match std::env::var_os("CONCLAVE_CORPUS") {
        Some(folder) => folder.into(),
        // Asked at run time: clones that share a target folder share this program.
        None => PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../../shared/corpus"),
    }
}

#[test]
fn every_case_gives_what_is_expected() {
    let corpus = Corpus::new(folder());
    let cases = corpus.cases().unwrap();
    assert!(!cases.is_empty(), "there are no cases in {}", folder().display());
    let mut bad = Vec::new();
    let mut count = 0;
    for case in &cases {
        for outcome in run(&corpus, case).unwrap() {
            count += 1;
            if let Some(fault) = outcome.faults.first() {
                let fault: String = fault.chars().take(600).collect();
                bad.push(format!("{} {:?}: {fault}", outcome.case, outcome.stage));
            }
        }
    }
    let summary = format!("{} of {count} results in {} cases differ", bad.len(), cases.len());
    assert!(bad.is_empty(), "{summary}:\n{}", bad.join("\n"));
}
