//! From a plan and inputs to a deployment plan (spec/dsl.md, section 16): inputs are taken, functions are evaluated as far as
//! they can be, and templates become instances.

mod constraints;
mod dependencies;
mod evaluation;
mod inputs;
mod secrets;

use rustc_hash::FxHashSet as HashSet;

use crate::topology::{Chosen, Existing, Graph, IdSource, Instance, Template, connect, expand};
use crate::{Fault, Map, Plan, Text, Value};

pub use constraints::{Search, check_value};
pub use dependencies::Dependency;

/// What a deployment is made from, besides the plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeploymentRequest {
    /// Values by input.
    pub inputs: Map,
    /// Leave every function to the run time.
    pub runtime_only: bool,
    /// Turn texts into the numbers and truth values that their inputs ask for, where they are some.
    pub auto_correct: bool,
    /// Ids of instances that are not to be used again.
    pub taken_ids: Vec<Text>,
}

/// What making a deployment has to know of the model: which secrets exist, and what ids may be given as inputs.
pub trait Surroundings {
    /// Whether there is a secret of that name; nothing where secrets are not supported at all.
    ///
    /// # Errors
    /// When the store fails.
    fn has_secret(&self, name: &str) -> Result<Option<bool>, Fault>;

    /// The search for values of inputs that name objects of the model; nothing where it is not supported.
    fn search(&self) -> Option<&dyn Search> {
        None
    }
}

/// Nothing is known: no secrets, no search.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSurroundings;

impl Surroundings for NoSurroundings {
    fn has_secret(&self, _: &str) -> Result<Option<bool>, Fault> {
        Ok(None)
    }
}

/// A plan with values, and the instances that it asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct DeploymentPlan {
    /// The plan, functions evaluated; its inputs are plain values.
    pub plan: Plan,
    /// In the order of their templates.
    pub instances: Vec<Instance>,
    /// The other deployments that this one names, by the places where it does.
    pub dependencies: Vec<Dependency>,
}

impl DeploymentPlan {
    /// The plan as JSON with `node_instances` and `inter_deployment_functions`, as clients see it.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = self.plan.to_json();
        // Lists of texts and mappings with texts for keys, which is all that could fail.
        json["node_instances"] = serde_json::to_value(&self.instances).unwrap_or_default();
        json["inter_deployment_functions"] = self.dependencies.iter().map(Dependency::to_json).collect();
        json
    }
}

/// Makes a deployment plan.
///
/// # Errors
/// A fault for the first of: inputs that are missing, unknown, of a wrong type or against their constraints; a function that
/// cannot be evaluated; secrets that do not exist; a topology that cannot be expanded. Nothing is half done.
pub fn deployment_plan(
    plan: &Plan,
    request: &DeploymentRequest,
    surroundings: &dyn Surroundings,
    ids: &mut dyn IdSource,
) -> Result<DeploymentPlan, Fault> {
    let inputs = inputs::take(plan, request, surroundings.search())?;
    let plan = evaluation::evaluate(plan, inputs, request.runtime_only)?;
    secrets::check(&plan, surroundings)?;
    let calls = dependencies::find(&plan);
    let instances = expand_plan(&plan, &request.taken_ids, ids)?;
    let dependencies = dependencies::of_instances(&calls, &instances)?;
    Ok(DeploymentPlan {
        plan,
        instances,
        dependencies,
    })
}

/// The instances that a plan with evaluated functions asks for.
fn expand_plan(plan: &Plan, taken: &[Text], ids: &mut dyn IdSource) -> Result<Vec<Instance>, Fault> {
    let templates = plan.nodes.iter().map(Template::new).collect::<Result<Vec<_>, _>>()?;
    let graph = Graph::new(&templates, &plan.scaling_groups)?;
    let taken: HashSet<Text> = taken.iter().cloned().collect();
    let mut all_new = |vertex: usize, _: Option<&Text>| Ok((Vec::<Existing>::new(), graph.vertices[vertex].count));
    let expansion = expand(&graph, &mut all_new, taken, ids)?;
    let ends = connect(&graph, &expansion, &mut |_| Ok(Chosen::Any))?;
    let mut instances = Vec::with_capacity(expansion.placed.len());
    for vertex in 0..plan.nodes.len() {
        for instance in &expansion.of_vertex[vertex] {
            instances.extend(expansion.instance(&graph, *instance, &ends[*instance]));
        }
    }
    Ok(instances)
}

/// Numbers the instances of each template from 1 on, continuing after `highest` where it says so.
pub fn indexes<'i>(instances: &'i [Instance], highest: &Map) -> impl Iterator<Item = (&'i Instance, i64)> {
    let mut next: rustc_hash::FxHashMap<Text, i64> = highest
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), Value::as_i64(value)?)))
        .collect();
    instances.iter().map(move |instance| {
        let index = next.entry(instance.node_id.clone()).or_insert(0);
        *index += 1;
        (instance, *index)
    })
}
