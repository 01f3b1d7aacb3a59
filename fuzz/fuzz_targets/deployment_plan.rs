//! Any plan becomes a deployment plan or a fault, and can be scaled and updated.

#![no_main]

use conclave_blueprint::deployment::{DeploymentRequest, Surroundings, deployment_plan};
use conclave_blueprint::modification::{Change, Changes, Situation, modify};
use conclave_blueprint::update::Update;
use conclave_blueprint::{Fault, Map, Value, parse};
use conclave_fuzz::{Counting, Files};
use libfuzzer_sys::fuzz_target;

/// What no input gets near, so that each run is short.
const INSTANCES_MAX: usize = 2_000;

struct AllSecrets;

impl Surroundings for AllSecrets {
    fn has_secret(&self, _: &str) -> Result<Option<bool>, Fault> {
        Ok(Some(true))
    }
}

// The file `1.yaml` of an input holds the deployment's inputs.
fuzz_target!(|input: &str| {
    let files = Files::new(input);
    let Ok(plan) = parse("blueprint.yaml", &files) else {
        return;
    };
    let given = files.text("1.yaml").and_then(|text| conclave_yaml::to_json(text).ok());
    let inputs = given
        .map(Value::from)
        .and_then(|value| value.as_map().cloned())
        .unwrap_or_default();
    for runtime_only in [false, true] {
        for inputs in [Map::new(), inputs.clone()] {
            let request = DeploymentRequest {
                inputs,
                runtime_only,
                auto_correct: true,
                taken_ids: Vec::new(),
            };
            let mut ids = Counting::default();
            let Ok(deployed) = deployment_plan(&plan, &request, &AllSecrets, &mut ids) else {
                continue;
            };
            let _ = deployed.to_json();
            if deployed.instances.len() > INSTANCES_MAX {
                continue;
            }
            assert!(
                Update::between(&(&deployed.plan).into(), &deployed.plan)
                    .steps
                    .is_empty()
            );
            for (name, instances) in deployed.plan.nodes.iter().map(|node| (&node.name, 3)).take(4) {
                let change = Change {
                    instances,
                    ..Change::default()
                };
                let changes = Changes([(name.clone(), change)].into_iter().collect());
                let situation = Situation {
                    nodes: &deployed.plan.nodes,
                    previous_nodes: &deployed.plan.nodes,
                    scaling_groups: &deployed.plan.scaling_groups,
                    instances: &deployed.instances,
                };
                if let Ok(modification) = modify(&situation, &changes, &mut ids) {
                    let _ = modification.finished(&deployed.instances);
                }
            }
        }
    }
});
