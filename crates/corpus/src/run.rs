//! Comparing what becomes of a case with what is expected.

use serde_json::Value as Json;

use crate::case::{Case, Corpus, CorpusError};
use crate::compare::{differences, is_expected};
use crate::results::{plan_with_own_types, results};

/// A part of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Parsing.
    Plan,
    /// The plan with the product's own type files.
    OwnTypes,
    /// Making a deployment.
    Deployment,
    /// Modifying it.
    Modification,
    /// Evaluating functions at run time.
    Evaluation,
}

/// What became of a part of a case.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The case.
    pub case: String,
    /// The part.
    pub stage: Stage,
    /// Where it differs from what is expected; nothing if it does not.
    pub faults: Vec<String>,
}

impl Outcome {
    /// Whether it is as expected.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Compares all results of a case that it has expectations for.
///
/// # Errors
/// When its files cannot be read.
pub fn run(corpus: &Corpus, case: &Case) -> Result<Vec<Outcome>, CorpusError> {
    let results = results(corpus, case)?;
    let mut outcomes = Vec::new();
    let mut add = |stage: Stage, faults: Vec<String>| {
        outcomes.push(Outcome {
            case: case.name.clone(),
            stage,
            faults,
        })
    };
    if let Some(expected) = case.file("expected.plan.json")? {
        let expected = match expected.get("plan") {
            Some(plan) => serde_json::json!({"plan": corpus.with_fragments(plan.clone())?}),
            None => expected,
        };
        add(Stage::Plan, compare(&results.plan, &expected));
        if case.name.contains("builtin-types-") {
            let ours = without_descriptions(plan_with_own_types(corpus, case));
            add(Stage::OwnTypes, compare(&ours, &expected));
        }
    }
    for (stage, file, list, ours) in [
        (Stage::Deployment, "expected.deployment.json", None, results.deployment),
        (
            Stage::Modification,
            "expected.modify.json",
            Some("steps"),
            results.modify,
        ),
        (
            Stage::Evaluation,
            "expected.evaluate.json",
            Some("results"),
            results.evaluate,
        ),
    ] {
        let Some(expected) = case.file(file)? else { continue };
        let ours = ours.unwrap_or_default();
        let faults = match list {
            None => compare(&ours, &expected),
            Some(list) => compare_all(&ours[list], &expected[list]),
        };
        add(stage, faults);
    }
    Ok(outcomes)
}

/// Compares a result, or its error, with what is expected.
fn compare(ours: &Json, expected: &Json) -> Vec<String> {
    match (ours.get("error"), expected.get("error")) {
        (Some(ours), Some(expected)) => {
            let code = ours["code"].as_i64().and_then(|code| i32::try_from(code).ok());
            if is_expected(ours["class"].as_str().unwrap_or_default(), code, expected) {
                return Vec::new();
            }
            vec![format!("is {ours}, expected {expected}")]
        }
        (Some(ours), None) => vec![format!("is {ours}, expected a result")],
        (None, Some(expected)) => vec![format!("is fine, expected {expected}")],
        (None, None) => differences(ours, expected).iter().map(ToString::to_string).collect(),
    }
}

fn compare_all(ours: &Json, expected: &Json) -> Vec<String> {
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    let (ours, expected) = (list(ours), list(expected));
    let mut faults = Vec::new();
    if ours.len() < expected.len() {
        faults.push(format!("there are {} results, expected {}", ours.len(), expected.len()));
    }
    for (index, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
        faults.extend(
            compare(ours, expected)
                .into_iter()
                .map(|fault| format!("{index}: {fault}")),
        );
    }
    faults
}

/// Without the descriptions of schemas, which the fixtures' type files lack.
fn without_descriptions(mut result: Json) -> Json {
    for section in [
        "relationships",
        "data_types",
        "workflows",
        "policy_types",
        "policy_triggers",
    ] {
        if let Some(section) = result["plan"].get_mut(section) {
            strip(section, true);
        }
    }
    result
}

/// `named` says whether the keys are names, of which one may be `description`.
fn strip(value: &mut Json, named: bool) {
    let Some(map) = value.as_object_mut() else { return };
    if !named && map.get("description").is_some_and(Json::is_string) {
        map.shift_remove("description");
    }
    for (key, inner) in map.iter_mut() {
        if named || key != "default" {
            strip(
                inner,
                !named && matches!(key.as_str(), "properties" | "parameters" | "inputs"),
            );
        }
    }
}
