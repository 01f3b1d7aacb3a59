//! The example blueprint, from text to instances, and what is said of broken ones.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::path::{Path, PathBuf};

use conclave_blueprint::{
    DeploymentError, DeploymentPlan, DeploymentRequest, Diagnostic, FolderResolver, IdSource, Plan, deployment_plan,
    parse,
};
use serde_json::json;

struct Counter(u32);

impl IdSource for Counter {
    fn suffix(&mut self) -> String {
        self.0 += 1;
        format!("{:06}", self.0)
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/hello-world")
}

fn plan() -> Plan {
    parse("blueprint.yaml", &FolderResolver::new(&example())).unwrap()
}

fn deploy(inputs: serde_json::Value) -> Result<DeploymentPlan, DeploymentError> {
    let request = DeploymentRequest {
        inputs: inputs.as_object().unwrap().clone(),
    };
    deployment_plan(&plan(), &request, &mut Counter(0))
}

fn errors_of(text: &str) -> Vec<Diagnostic> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("blueprint.yaml"), text).unwrap();
    parse("blueprint.yaml", &FolderResolver::new(dir.path())).unwrap_err()
}

#[test]
fn the_example_becomes_nodes_with_operations() {
    let plan = plan();
    let page = plan.as_json()["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["name"] == "page")
        .unwrap()
        .clone();
    let start = &page["operations"]["cloudify.interfaces.lifecycle.start"];
    assert_eq!(
        (start["plugin"].as_str(), start["operation"].as_str()),
        (Some("script"), Some("script_runner.tasks.run"))
    );
    assert_eq!(start["inputs"]["script_path"], "scripts/page_start.sh");
    assert_eq!(
        page["type_hierarchy"],
        json!(["cloudify.nodes.Root", "hello.nodes.Page"])
    );
    let preconfigure = &page["relationships"][0]["source_operations"]["preconfigure"];
    assert_eq!(preconfigure["executor"], "central_deployment_agent");
    assert_eq!(
        plan.as_json()["workflows"]["install"]["operation"],
        "cloudify.plugins.workflows.install"
    );
}

#[test]
fn inputs_and_properties_are_evaluated_and_attributes_wait() {
    let deployment = deploy(json!({"visitor": "reader"})).unwrap();
    let node = |name: &str| deployment.nodes.iter().find(|node| node["name"] == name).unwrap();
    assert_eq!(node("page")["properties"]["text"], "Hello, reader!");
    let create = &node("folder")["operations"]["cloudify.interfaces.lifecycle.create"];
    assert_eq!(create["inputs"]["path"], "/tmp/conclave-hello-world");
    assert_eq!(create["has_intrinsic_functions"], false);
    assert_eq!(
        deployment.outputs["page"]["value"],
        json!({"get_attribute": ["page", "file"]})
    );
    assert_eq!(deployment.outputs["text"]["value"], "Hello, reader!");
    let page = deployment
        .instances
        .iter()
        .find(|instance| instance["node_id"] == "page")
        .unwrap();
    let folder = deployment
        .instances
        .iter()
        .find(|instance| instance["node_id"] == "folder")
        .unwrap();
    assert_eq!(page["relationships"][0]["target_id"], folder["id"]);
}

#[test]
fn inputs_must_be_known_and_of_their_type() {
    assert!(
        matches!(deploy(json!({"vistor": "x"})), Err(DeploymentError::UnknownInputs(names, _)) if names.contains("vistor"))
    );
}

#[test]
fn every_fault_is_reported_with_its_place() {
    let errors = errors_of(
        "tosca_definitions_version: cloudify_dsl_1_3\nimports: [cloudify/types/types.yaml]\nnode_templates:\n  a:\n    type: cloudify.nodes.Rot\n  b:\n    type: cloudify.nodes.Root\n    properties: {colour: red}\n    relationships:\n      - {type: cloudify.relationships.depends_on, target: c}\n",
    );
    let found: Vec<_> = errors.iter().map(|error| (error.code, error.line)).collect();
    assert_eq!(found, [(Some(7), 5), (Some(106), 8), (Some(25), 10)]);
    assert!(
        errors[0].message.contains("did you mean \"cloudify.nodes.Root\"?"),
        "{}",
        errors[0]
    );
}

#[test]
fn broken_texts_and_missing_imports_are_named() {
    let yaml = errors_of("tosca_definitions_version: cloudify_dsl_1_3\nnode_templates: {a: [}\n");
    assert_eq!((yaml[0].code, yaml[0].line), (Some(-1), 2));
    let import =
        errors_of("tosca_definitions_version: cloudify_dsl_1_3\nimports:\n  - missing.yaml\n  - ../../etc/passwd\n");
    assert_eq!((import[0].code, import[0].line, import.len()), (Some(13), 3, 2));
    assert!(import[0].message.contains("missing.yaml"));
    assert_eq!(errors_of("inputs: {}\n")[0].code, Some(27));
    assert_eq!(
        errors_of("tosca_definitions_version: cloudify_dsl_9_9\n")[0].code,
        Some(29)
    );
    let script = errors_of(
        "tosca_definitions_version: cloudify_dsl_1_3\nimports: [cloudify/types/types.yaml]\nnode_templates:\n  a:\n    type: cloudify.nodes.Root\n    interfaces:\n      cloudify.interfaces.lifecycle:\n        create: scripts/none.sh\n",
    );
    assert_eq!(script[0].code, Some(10));
    let input = errors_of(
        "tosca_definitions_version: cloudify_dsl_1_3\nimports: [cloudify/types/types.yaml]\ninputs: {size: {}}\noutputs: {o: {value: {get_input: sise}}}\n",
    );
    assert!(input[0].message.contains("did you mean \"size\"?"), "{}", input[0]);
}

#[test]
fn contained_nodes_multiply() {
    let dir = tempfile::tempdir().unwrap();
    let text = "tosca_definitions_version: cloudify_dsl_1_3\nimports: [cloudify/types/types.yaml]\nnode_templates:\n  app:\n    type: cloudify.nodes.SoftwareComponent\n    instances: {deploy: 2}\n    relationships:\n      - {type: cloudify.relationships.contained_in, target: vm}\n      - {type: cloudify.relationships.connected_to, target: db}\n  vm:\n    type: cloudify.nodes.Compute\n    instances: {deploy: 3}\n  db:\n    type: cloudify.nodes.Database\n    instances: {deploy: 2}\n";
    std::fs::write(dir.path().join("blueprint.yaml"), text).unwrap();
    let plan = parse("blueprint.yaml", &FolderResolver::new(dir.path())).unwrap();
    let deployment = deployment_plan(&plan, &DeploymentRequest::default(), &mut Counter(0)).unwrap();
    let of = |name: &str| {
        deployment
            .instances
            .iter()
            .filter(|instance| instance["node_id"] == name)
            .collect::<Vec<_>>()
    };
    assert_eq!((of("vm").len(), of("app").len(), of("db").len()), (3, 6, 2));
    for app in of("app") {
        assert_eq!(
            app["relationships"].as_array().unwrap().len(),
            3,
            "its host and both databases"
        );
        assert_eq!(app["host_id"], app["relationships"][0]["target_id"]);
    }
}
