//! The example blueprint, from text to instances, and what is said of broken ones.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

#[path = "support/ids.rs"]
mod ids;

use std::path::PathBuf;

use conclave_blueprint::deployment::{DeploymentPlan, DeploymentRequest, NoSurroundings, deployment_plan};
use conclave_blueprint::plan::Node;
use conclave_blueprint::{Class, Diagnostic, Fault, FolderResolver, Plan, Value, parse};
use ids::Counting;
use serde_json::json;

fn example() -> PathBuf {
    // Asked at run time: clones that share a target folder share this program.
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../docs/examples/hello-world")
}

fn plan() -> Plan {
    parse("blueprint.yaml", &FolderResolver::new(&example())).unwrap()
}

fn deploy(inputs: serde_json::Value) -> Result<DeploymentPlan, Fault> {
    let inputs = Value::from(inputs).as_map().cloned().unwrap();
    let request = DeploymentRequest {
        inputs,
        ..DeploymentRequest::default()
    };
    deployment_plan(&plan(), &request, &NoSurroundings, &mut Counting::default())
}

fn errors_of(text: &str) -> Vec<Diagnostic> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("blueprint.yaml"), text).unwrap();
    parse("blueprint.yaml", &FolderResolver::new(dir.path())).unwrap_err().0
}

#[test]
fn the_example_becomes_nodes_with_operations() {
    let plan = plan();
    let page = plan.node("page").unwrap();
    let start = page.operations.get("cloudify.interfaces.lifecycle.start").unwrap();
    assert_eq!(
        (&*start.plugin, &*start.operation),
        ("script", "script_runner.tasks.run")
    );
    assert_eq!(start.inputs.get("script_path"), Some(&"scripts/page_start.sh".into()));
    let hierarchy: Vec<&str> = page.type_hierarchy.iter().map(|name| &**name).collect();
    assert_eq!(hierarchy, ["cloudify.nodes.Root", "hello.nodes.Page"]);
    let preconfigure = page.relationships[0].source_operations.get("preconfigure").unwrap();
    assert_eq!(preconfigure.executor, "central_deployment_agent".into());
    let install = plan.workflows.get("install").unwrap();
    assert_eq!(
        install.get("operation"),
        Some(&"cloudify.plugins.workflows.install".into())
    );
}

#[test]
fn inputs_and_properties_are_evaluated_and_attributes_wait() {
    let deployment = deploy(json!({"visitor": "reader"})).unwrap();
    let node = |name: &str| -> Node { deployment.plan.node(name).cloned().unwrap() };
    assert_eq!(node("page").properties.get("text"), Some(&"Hello, reader!".into()));
    let folder = node("folder");
    let create = folder.operations.get("cloudify.interfaces.lifecycle.create").unwrap();
    assert_eq!(create.inputs.get("path"), Some(&"/tmp/conclave-hello-world".into()));
    assert!(!create.has_intrinsic_functions);
    let output = |name: &str| {
        deployment
            .plan
            .outputs
            .get(name)
            .and_then(|output| output.get("value"))
            .cloned()
    };
    assert_eq!(output("page"), Some(json!({"get_attribute": ["page", "file"]}).into()));
    assert_eq!(output("text"), Some("Hello, reader!".into()));
    let of = |name: &str| {
        deployment
            .instances
            .iter()
            .find(|instance| &*instance.node_id == name)
            .unwrap()
    };
    assert_eq!(of("page").relationships[0].target_id, of("folder").id);
}

#[test]
fn inputs_must_be_known() {
    let fault = deploy(json!({"vistor": "x"})).unwrap_err();
    assert_eq!(fault.class, Class::UnknownInput);
    assert!(fault.message.contains("vistor"), "{fault}");
}

#[test]
fn every_fault_is_reported_with_its_place() {
    let errors = errors_of(
        "tosca_definitions_version: cloudify_dsl_1_3\nimports: [cloudify/types/types.yaml]\nnode_templates:\n  a:\n    type: cloudify.nodes.Rot\n  b:\n    type: cloudify.nodes.Root\n    properties: {colour: red}\n    relationships:\n      - {type: cloudify.relationships.depends_on, target: c}\n",
    );
    let found: Vec<_> = errors.iter().map(|error| (error.code, error.line)).collect();
    assert_eq!(found, [(Some(7), 5), (Some(106), 8), (Some(25), 10)]);
    assert_eq!(errors[0].suggestion.as_deref(), Some("cloudify.nodes.Root"));
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
    assert_eq!((input[0].class, input[0].line), (Class::UnknownInput, 4));
    assert_eq!(input[0].suggestion.as_deref(), Some("size"));
}

#[test]
fn contained_nodes_multiply() {
    let dir = tempfile::tempdir().unwrap();
    let text = "tosca_definitions_version: cloudify_dsl_1_3\nimports: [cloudify/types/types.yaml]\nnode_templates:\n  app:\n    type: cloudify.nodes.SoftwareComponent\n    instances: {deploy: 2}\n    relationships:\n      - {type: cloudify.relationships.contained_in, target: vm}\n      - {type: cloudify.relationships.connected_to, target: db}\n  vm:\n    type: cloudify.nodes.Compute\n    instances: {deploy: 3}\n  db:\n    type: cloudify.nodes.Database\n    instances: {deploy: 2}\n";
    std::fs::write(dir.path().join("blueprint.yaml"), text).unwrap();
    let plan = parse("blueprint.yaml", &FolderResolver::new(dir.path())).unwrap();
    let request = DeploymentRequest::default();
    let deployment = deployment_plan(&plan, &request, &NoSurroundings, &mut Counting::default()).unwrap();
    let of = |name: &str| {
        let instances = deployment.instances.iter();
        instances
            .filter(|instance| &*instance.node_id == name)
            .collect::<Vec<_>>()
    };
    assert_eq!((of("vm").len(), of("app").len(), of("db").len()), (3, 6, 2));
    for app in of("app") {
        assert_eq!(app.relationships.len(), 3, "its host and both databases");
        assert_eq!(app.host_id.as_ref(), Some(&app.relationships[0].target_id));
    }
}
