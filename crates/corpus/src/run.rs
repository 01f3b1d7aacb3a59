//! A case from its files to its results.

use conclave_blueprint::deployment::{DeploymentPlan, DeploymentRequest, Search, Surroundings, deployment_plan};
use conclave_blueprint::functions::{
    EvaluationContext, evaluate_capabilities, evaluate_node, evaluate_node_instance, evaluate_outputs, evaluate_payload,
};
use conclave_blueprint::modification::{Changes, Situation, modify};
use conclave_blueprint::topology::Instance;
use conclave_blueprint::{Fault, FolderResolver, Map, Options, Plan, PluginRecord, Value, parse_with};
use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use crate::canonical;
use crate::case::{Case, Corpus, CorpusError};
use crate::compare::{differences, is_expected};
use crate::ids::Ids;
use crate::stored::Stored;

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

/// A fault as the corpus writes it.
struct Failure {
    class: &'static str,
    code: Option<i32>,
    message: String,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let message = format!("{} (at {})", fault.message, fault.path);
        Self {
            class: fault.class.name(),
            code: fault.code,
            message,
        }
    }
}

/// Runs all parts of a case that it has expectations for.
///
/// # Errors
/// When its files cannot be read.
pub fn run(corpus: &Corpus, case: &Case) -> Result<Vec<Outcome>, CorpusError> {
    let mut runner = Runner {
        case,
        outcomes: Vec::new(),
    };
    let plan = parse_case(corpus, case, false);
    runner.plan(corpus, &plan, Stage::Plan)?;
    if case.name.starts_with("snippets/builtin-types-") {
        runner.plan(corpus, &parse_case(corpus, case, true), Stage::OwnTypes)?;
    }
    if let Some(evaluations) = case.file("evaluate.json")? {
        runner.evaluations(&evaluations)?;
    }
    let Some(conditions) = case.file("inputs.json")? else {
        return Ok(runner.outcomes);
    };
    let Ok(plan) = plan else { return Ok(runner.outcomes) };
    let deployed = deploy(&plan, &conditions);
    runner.deployment(&plan, &deployed)?;
    if let (Some(modification), Ok(deployed)) = (case.file("modify.json")?, deployed) {
        runner.modifications(&modification, deployed)?;
    }
    Ok(runner.outcomes)
}

fn parse_case(corpus: &Corpus, case: &Case, own_types: bool) -> Result<Plan, Failure> {
    let mut resolver = FolderResolver::new(&case.folder).with_resources(&corpus.resources());
    if own_types {
        resolver = resolver.with_own_types();
    }
    let records = case.description["resolver"]["plugin_metadata"].as_object();
    for (package, record) in records.into_iter().flatten() {
        let part = |key: &str| Value::from(&record[key]);
        let record = PluginRecord {
            labels: part("labels"),
            blueprint_labels: part("blueprint_labels"),
            resource_tags: part("resource_tags"),
        };
        resolver = resolver.with_plugin_record(package, record);
    }
    let options = Options {
        validate_version: case.validates_version(),
        ..Options::default()
    };
    parse_with(case.main(), &resolver, &options).map_err(|diagnostics| {
        let first = diagnostics.first();
        Failure {
            class: first.class.name(),
            code: first.code,
            message: diagnostics.to_string(),
        }
    })
}

/// The model that a deployment is made in.
struct Conditions<'c>(&'c Json);

impl Surroundings for Conditions<'_> {
    fn has_secret(&self, name: &str) -> Result<Option<bool>, Fault> {
        let supported = self.0["no_secrets_support"] != true;
        Ok(supported.then(|| self.0["secrets"].get(name).is_some()))
    }

    fn search(&self) -> Option<&dyn Search> {
        self.0["values_getter"].is_object().then_some(self)
    }
}

impl Search for Conditions<'_> {
    fn has_deployment(&self) -> bool {
        self.0["values_getter"]["deployment_id"].is_string()
    }

    fn has_blueprint(&self) -> bool {
        self.0["values_getter"]["blueprint_id"].is_string()
    }

    fn finds(&self, type_name: &str, value: &Value, constraints: &[(&str, &Value)]) -> Result<bool, Fault> {
        let known = self.0["values_getter"]["values"][type_name].as_array();
        let known = known.is_some_and(|known| known.contains(&value.to_json()));
        let name = value.as_str().unwrap_or_default();
        let fits = |pattern: &Value| {
            let satisfies = |(key, part): (&conclave_blueprint::Text, &Value)| {
                let part = part.as_str().unwrap_or_default();
                match &**key {
                    "starts_with" => name.starts_with(part),
                    "ends_with" => name.ends_with(part),
                    "contains" => name.contains(part),
                    "equals_to" => name == part,
                    _ => true,
                }
            };
            pattern.as_map().is_none_or(|pattern| pattern.iter().all(satisfies))
        };
        let mut patterns = constraints.iter().filter(|(operator, _)| *operator == "name_pattern");
        Ok(known && patterns.all(|(_, pattern)| fits(pattern)))
    }
}

fn map(value: &Json) -> Map {
    Value::from(value).as_map().cloned().unwrap_or_default()
}

fn deploy(plan: &Plan, conditions: &Json) -> Result<DeploymentPlan, Failure> {
    let request = DeploymentRequest {
        inputs: map(&conditions["inputs"]),
        runtime_only: conditions["runtime_only_evaluation"] == true,
        auto_correct: conditions["auto_correct_types"] == true,
        taken_ids: Vec::new(),
    };
    Ok(deployment_plan(
        plan,
        &request,
        &Conditions(conditions),
        &mut Ids::new(1),
    )?)
}

struct Runner<'c> {
    case: &'c Case,
    outcomes: Vec<Outcome>,
}

impl Runner<'_> {
    fn add(&mut self, stage: Stage, faults: Vec<String>) {
        self.outcomes.push(Outcome {
            case: self.case.name.clone(),
            stage,
            faults,
        });
    }

    fn plan(&mut self, corpus: &Corpus, plan: &Result<Plan, Failure>, stage: Stage) -> Result<(), CorpusError> {
        let Some(expected) = self.case.file("expected.plan.json")? else {
            return Ok(());
        };
        let faults = match compare("plan", plan, &expected, |plan| {
            let plan = canonical::plan(&plan.to_json(), self.case.is_compact());
            if stage == Stage::OwnTypes {
                without_descriptions(plan)
            } else {
                plan
            }
        }) {
            Ok(faults) => faults,
            Err((ours, expected)) => shown(&ours, &corpus.with_fragments(expected)?),
        };
        self.add(stage, faults);
        Ok(())
    }

    fn deployment(&mut self, plan: &Plan, deployed: &Result<DeploymentPlan, Failure>) -> Result<(), CorpusError> {
        let Some(expected) = self.case.file("expected.deployment.json")? else {
            return Ok(());
        };
        let compared = compare("deployment", deployed, &expected, |deployed| {
            canonical::deployment(&plan.to_json(), &deployed.to_json())
        });
        let faults = compared.unwrap_or_else(|(ours, expected)| shown(&ours, &expected));
        self.add(Stage::Deployment, faults);
        Ok(())
    }

    fn modifications(&mut self, request: &Json, deployed: DeploymentPlan) -> Result<(), CorpusError> {
        let Some(expected) = self.case.file("expected.modify.json")? else {
            return Ok(());
        };
        let steps = request["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut plan = deployed.plan;
        let mut instances = deployed.instances;
        let mut faults = Vec::new();
        let mut ids = Ids::new(2);
        for (index, step) in steps.iter().enumerate() {
            let expected = &expected["steps"][index];
            let before = to_json(&instances);
            let modified = with_real_ids(&step["modified"], &canonical::instances(&before).ids);
            let result = Changes::from_values(&map(&modified)).and_then(|changes| {
                let situation = Situation {
                    nodes: &plan.nodes,
                    previous_nodes: &plan.nodes,
                    scaling_groups: &plan.scaling_groups,
                    instances: &instances,
                };
                modify(&situation, &changes, &mut ids)
            });
            let result = result.map_err(Failure::from);
            let compared = compare("modification", &result, expected, |modification| {
                canonical::modification(&serde_json::to_value(modification).unwrap_or_default(), &before).value
            });
            let differ = compared.unwrap_or_else(|(ours, expected)| shown(&ours, &expected));
            faults.extend(differ.into_iter().map(|fault| format!("step {index}: {fault}")));
            let Ok(modification) = result else { break };
            instances = modification.finished(&instances);
            let after = Json::from(canonical::instances(&to_json(&instances)).value);
            let differ = shown(&after, &expected["after"]);
            faults.extend(differ.into_iter().map(|fault| format!("after step {index}: {fault}")));
            set_counts(&mut plan, &modified);
        }
        self.add(Stage::Modification, faults);
        Ok(())
    }

    fn evaluations(&mut self, request: &Json) -> Result<(), CorpusError> {
        let Some(expected) = self.case.file("expected.evaluate.json")? else {
            return Ok(());
        };
        let mut faults = Vec::new();
        for (index, item) in request["items"].as_array().into_iter().flatten().enumerate() {
            let result = evaluate(item).map_err(Failure::from);
            let compared = compare("value", &result, &expected["results"][index], Value::to_json);
            let differ = compared.unwrap_or_else(|(ours, expected)| shown(&ours, &expected));
            faults.extend(differ.into_iter().map(|fault| format!("item {index}: {fault}")));
        }
        self.add(Stage::Evaluation, faults);
        Ok(())
    }
}

fn evaluate(item: &Json) -> Result<Value, Fault> {
    let storage = Stored(&item["storage"]);
    let payload = map(&item["payload"]);
    let end = |key: &str| item["context"][key].as_str().map(str::to_owned);
    let context = EvaluationContext {
        self_id: end("self"),
        source_id: end("source"),
        target_id: end("target"),
        self_node: None,
        source_node: end("source_node"),
        target_node: end("target_node"),
    };
    let result = match item["kind"].as_str() {
        Some("outputs") => evaluate_outputs(&payload, &storage),
        Some("capabilities") => evaluate_capabilities(&payload, &storage),
        Some("node") => evaluate_node(&payload, end("instance").as_deref(), &storage),
        Some("node_instance") => evaluate_node_instance(&payload, &storage),
        _ => evaluate_payload(&payload, &context, &storage),
    };
    result.map(Value::Map)
}

/// Compares a result, or its fault, with what is expected under `key`. Values are left to the caller.
fn compare<T>(
    key: &str,
    result: &Result<T, Failure>,
    expected: &Json,
    canonical: impl FnOnce(&T) -> Json,
) -> Result<Vec<String>, (Json, Json)> {
    match (result, expected.get("error")) {
        (Ok(value), None) => Err((canonical(value), expected[key].clone())),
        (Ok(_), Some(error)) => Ok(vec![format!("is fine, expected {error}")]),
        (Err(failure), Some(error)) if is_expected(failure.class, failure.code, error) => Ok(Vec::new()),
        (Err(Failure { class, code, message }), wanted) => {
            let wanted = wanted.map_or_else(|| "a result".to_owned(), Json::to_string);
            Ok(vec![format!("is {class} {code:?}: {message}; expected {wanted}")])
        }
    }
}

fn shown(ours: &Json, expected: &Json) -> Vec<String> {
    differences(ours, expected).iter().map(ToString::to_string).collect()
}

fn to_json(instances: &[Instance]) -> Vec<Json> {
    instances
        .iter()
        .map(|instance| serde_json::to_value(instance).unwrap_or_default())
        .collect()
}

/// Hints name instances by their canonical ids.
fn with_real_ids(modified: &Json, canonical: &IndexMap<String, String>) -> Json {
    let real: IndexMap<&str, &str> = canonical
        .iter()
        .map(|(id, name)| (name.as_str(), id.as_str()))
        .collect();
    let mut modified = modified.clone();
    for change in modified
        .as_object_mut()
        .into_iter()
        .flat_map(serde_json::Map::values_mut)
    {
        for hint in ["removed_ids_include_hint", "removed_ids_exclude_hint"] {
            for id in change.get_mut(hint).and_then(Json::as_array_mut).into_iter().flatten() {
                if let Some(real) = id.as_str().and_then(|id| real.get(id)) {
                    *id = json!(real);
                }
            }
        }
    }
    modified
}

/// What finishing a modification does to the stored numbers of instances.
fn set_counts(plan: &mut Plan, modified: &Json) {
    for (name, change) in modified.as_object().into_iter().flatten() {
        let count = Value::from(&change["instances"]);
        for node in plan.nodes.iter_mut().filter(|node| *node.name == **name) {
            let properties = &mut node.capabilities.scalable.properties;
            properties.insert("current_instances", count.clone());
            properties.insert("planned_instances", count.clone());
        }
        let group = plan.scaling_groups.get_mut(name.as_str()).and_then(Value::as_map_mut);
        if let Some(Value::Map(properties)) = group.and_then(|group| group.get_mut("properties")) {
            properties.insert("current_instances", count.clone());
            properties.insert("planned_instances", count);
        }
    }
}

/// Without the descriptions of schemas, which the fixtures' type files lack.
fn without_descriptions(mut plan: Json) -> Json {
    for section in [
        "relationships",
        "data_types",
        "workflows",
        "policy_types",
        "policy_triggers",
    ] {
        strip(&mut plan[section], true);
    }
    plan
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
