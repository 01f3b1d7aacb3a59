//! What becomes of a case: its results in the form in which they are expected.

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
use crate::ids::Ids;
use crate::stored::Stored;

/// The results of a case, each in the form of the file `expected.<name>.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// `{"plan": …}` or `{"error": …}`; large sections are written out.
    pub plan: Json,
    /// `{"deployment": …}` or `{"error": …}`: for cases with inputs whose plan is fine.
    pub deployment: Option<Json>,
    /// `{"steps": …}`: for cases with modifications whose deployment is fine.
    pub modify: Option<Json>,
    /// `{"results": …}`: for cases with evaluations.
    pub evaluate: Option<Json>,
}

/// A fault as the corpus writes it.
struct Failure {
    class: &'static str,
    code: Option<i32>,
    path: String,
    message: String,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self {
            class: fault.class.name(),
            code: fault.code,
            path: fault.path,
            message: fault.message,
        }
    }
}

impl Failure {
    /// The message is for people: expectations have none.
    fn to_json(&self) -> Json {
        let mut error = json!({"class": self.class, "code": self.code, "message": self.message});
        if !self.path.is_empty() {
            error["path"] = self.path.as_str().into();
        }
        json!({"error": error})
    }
}

/// What becomes of a case.
///
/// # Errors
/// When its files cannot be read.
pub fn results(corpus: &Corpus, case: &Case) -> Result<Results, CorpusError> {
    let plan = parse_case(corpus, case, false);
    let mut results = Results {
        plan: plan_result(case, &plan),
        deployment: None,
        modify: None,
        evaluate: None,
    };
    if let Some(evaluations) = case.file("evaluate.json")? {
        results.evaluate = Some(evaluate_all(&evaluations));
    }
    let (Some(conditions), Ok(plan)) = (case.file("inputs.json")?, plan) else {
        return Ok(results);
    };
    let deployed = deploy(&plan, &conditions);
    results.deployment = Some(match &deployed {
        Ok(deployed) => json!({"deployment": canonical::deployment(&plan.to_json(), &deployed.to_json())}),
        Err(failure) => failure.to_json(),
    });
    if let (Some(request), Ok(deployed)) = (case.file("modify.json")?, deployed) {
        results.modify = Some(modify_all(&request, deployed));
    }
    Ok(results)
}

/// The plan with the product's own type files, in place of those that come with the cases.
pub fn plan_with_own_types(corpus: &Corpus, case: &Case) -> Json {
    plan_result(case, &parse_case(corpus, case, true))
}

fn plan_result(case: &Case, plan: &Result<Plan, Failure>) -> Json {
    match plan {
        Ok(plan) => json!({"plan": canonical::plan(&plan.to_json(), case.is_compact())}),
        Err(failure) => failure.to_json(),
    }
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
            path: first.path.clone(),
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

fn modify_all(request: &Json, deployed: DeploymentPlan) -> Json {
    let mut plan = deployed.plan;
    let mut instances = deployed.instances;
    let mut ids = Ids::new(2);
    let mut steps = Vec::new();
    for step in request["steps"].as_array().into_iter().flatten() {
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
        let modification = match result {
            Ok(modification) => modification,
            Err(fault) => {
                steps.push(Failure::from(fault).to_json());
                continue;
            }
        };
        let lists = serde_json::to_value(&modification).unwrap_or_default();
        instances = modification.finished(&instances);
        steps.push(json!({
            "modification": canonical::modification(&lists, &before).value,
            "after": canonical::instances(&to_json(&instances)).value,
        }));
        set_counts(&mut plan, &modified);
    }
    json!({"steps": steps})
}

fn evaluate_all(request: &Json) -> Json {
    let items = request["items"].as_array().into_iter().flatten();
    let results: Vec<Json> = items
        .map(|item| match evaluate(item) {
            Ok(value) => json!({"value": value.to_json()}),
            Err(fault) => Failure::from(fault).to_json(),
        })
        .collect();
    json!({"results": results})
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
