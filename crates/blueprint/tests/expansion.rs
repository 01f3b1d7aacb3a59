//! The rules of expansion, on random topologies.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

#[path = "support/ids.rs"]
mod ids;
#[path = "support/templates.rs"]
mod templates;

use std::collections::{BTreeMap, BTreeSet};

use conclave_blueprint::deployment::{DeploymentRequest, NoSurroundings, deployment_plan};
use conclave_blueprint::modification::{Change, Changes, Situation, modify};
use conclave_blueprint::topology::Instance;
use conclave_blueprint::{Class, Plan, Text};
use ids::Counting;
use proptest::prelude::*;
use templates::{Template, plan};

/// Templates whose containers and targets come before them.
fn topologies() -> impl Strategy<Value = Vec<Template>> {
    let one = (
        0..4_i64,
        any::<bool>(),
        prop::option::of(any::<prop::sample::Index>()),
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    );
    prop::collection::vec(one, 1..7).prop_map(|parts| {
        let mut templates: Vec<Template> = Vec::new();
        for (index, (count, is_host, container, targets)) in parts.into_iter().enumerate() {
            let mut template = Template::new(&format!("n{index}"), count);
            template.is_host = is_host;
            if index > 0 {
                let name = |at: prop::sample::Index| templates[at.index(index)].name.clone();
                template.container = container.map(name);
                let targets: BTreeSet<String> = targets.into_iter().map(name).collect();
                template.connected = targets
                    .into_iter()
                    .filter(|target| Some(target) != template.container.as_ref())
                    .collect();
            }
            templates.push(template);
        }
        templates
    })
}

fn deploy(plan: &Plan) -> Vec<Instance> {
    let request = DeploymentRequest::default();
    deployment_plan(plan, &request, &NoSurroundings, &mut Counting::default())
        .expect("it can be expanded")
        .instances
}

fn by_node(instances: &[Instance]) -> BTreeMap<&str, Vec<&Instance>> {
    let mut by_node: BTreeMap<&str, Vec<&Instance>> = BTreeMap::new();
    for instance in instances {
        by_node.entry(&instance.node_id).or_default().push(instance);
    }
    by_node
}

/// The product of the numbers along the containers.
fn expected_count(name: &str, templates: &[Template]) -> i64 {
    let template = templates
        .iter()
        .find(|template| template.name == name)
        .expect("it is a template");
    let outer = template
        .container
        .as_ref()
        .map_or(1, |container| expected_count(container, templates));
    template.count * outer
}

proptest! {
    #[test]
    fn a_node_has_as_many_instances_as_its_containers_multiply_to(templates in topologies()) {
        let instances = deploy(&plan(&templates, &[]));
        let by_node = by_node(&instances);
        for template in &templates {
            let count = by_node.get(template.name.as_str()).map_or(0, Vec::len);
            prop_assert_eq!(i64::try_from(count).unwrap(), expected_count(&template.name, &templates));
        }
        let ids: BTreeSet<&Text> = instances.iter().map(|instance| &instance.id).collect();
        prop_assert_eq!(ids.len(), instances.len());
    }

    #[test]
    fn relationships_lead_to_all_instances_or_to_the_one_container(templates in topologies()) {
        let instances = deploy(&plan(&templates, &[]));
        let by_node = by_node(&instances);
        for template in &templates {
            for instance in by_node.get(template.name.as_str()).into_iter().flatten() {
                let to = |target: &str| instance.relationships.iter().filter(|one| &*one.target_name == target).count();
                if let Some(container) = &template.container {
                    prop_assert_eq!(to(container), 1);
                }
                for target in &template.connected {
                    prop_assert_eq!(to(target), by_node.get(target.as_str()).map_or(0, Vec::len));
                }
                let known = instance.relationships.iter().all(|one| instances.iter().any(|other| other.id == one.target_id));
                prop_assert!(known);
            }
        }
    }

    #[test]
    fn the_outermost_host_is_the_host_of_all_in_it(templates in topologies()) {
        let instances = deploy(&plan(&templates, &[]));
        let find = |id: &Text| instances.iter().find(|instance| instance.id == *id);
        for instance in &instances {
            let mut host = None;
            let mut current = Some(instance);
            while let Some(instance) = current {
                let template = templates.iter().find(|template| *template.name == *instance.node_id).unwrap();
                if template.is_host {
                    host = Some(instance.id.clone());
                }
                current = template.container.as_ref().and_then(|container| {
                    let to = instance.relationships.iter().find(|one| *one.target_name == **container)?;
                    find(&to.target_id)
                });
            }
            prop_assert_eq!(&instance.host_id, &host);
        }
    }

    #[test]
    fn members_of_a_group_are_connected_within_their_instance_of_it(a in 0..4_i64, b in 0..4_i64, count in 0..4_i64) {
        let mut second = Template::new("b", b);
        second.connected = vec!["a".into()];
        let instances = deploy(&plan(&[Template::new("a", a), second], &[("g", vec!["a", "b"], count)]));
        prop_assert_eq!(i64::try_from(instances.len()).unwrap(), count * (a + b));
        let group = |id: &Text| instances.iter().find(|one| one.id == *id).map(|one| one.scaling_groups[0].id.clone());
        for instance in instances.iter().filter(|instance| &*instance.node_id == "b") {
            prop_assert_eq!(i64::try_from(instance.relationships.len()).unwrap(), a);
            for relationship in &instance.relationships {
                prop_assert_eq!(group(&relationship.target_id), group(&instance.id));
            }
        }
    }

    #[test]
    fn scaling_gives_what_a_new_deployment_would_have(templates in topologies(), which in any::<prop::sample::Index>(), wanted in 0..5_u64) {
        let name = templates[which.index(templates.len())].name.clone();
        let before_plan = plan(&templates, &[]);
        let before = deploy(&before_plan);
        let change = Change { instances: wanted, ..Change::default() };
        let changes = Changes([(name.as_str().into(), change)].into_iter().collect());
        let situation = Situation {
            nodes: &before_plan.nodes,
            previous_nodes: &before_plan.nodes,
            scaling_groups: &before_plan.scaling_groups,
            instances: &before,
        };
        // Ids that are in use are drawn again.
        let modification = modify(&situation, &changes, &mut Counting::default()).unwrap();
        let after = modification.finished(&before);
        let mut scaled = templates.clone();
        for template in scaled.iter_mut().filter(|template| template.name == name) {
            template.count = i64::try_from(wanted).unwrap();
        }
        let fresh = deploy(&plan(&scaled, &[]));
        let shape = |instances: &[Instance]| -> BTreeMap<String, (usize, usize)> {
            let counts = by_node(instances).into_iter().map(|(node, all)| {
                let relationships = all.iter().map(|instance| instance.relationships.len()).sum();
                (node.to_owned(), (all.len(), relationships))
            });
            counts.collect()
        };
        prop_assert_eq!(shape(&after), shape(&fresh));
        let old: BTreeSet<&Text> = before.iter().map(|instance| &instance.id).collect();
        let kept = after.iter().filter(|instance| old.contains(&instance.id)).count();
        prop_assert!(wanted < u64::try_from(templates[which.index(templates.len())].count).unwrap() || kept == before.len());
    }
}

#[test]
fn scaling_in_removes_what_is_asked_for_and_keeps_what_is_not_to_go() {
    let plan = plan(&[Template::new("a", 4)], &[]);
    let before = deploy(&plan);
    let id = |index: usize| before[index].id.clone();
    let change = Change {
        instances: 1,
        remove: vec![id(0)],
        keep: vec![id(2)],
    };
    let situation = Situation {
        nodes: &plan.nodes,
        previous_nodes: &plan.nodes,
        scaling_groups: &plan.scaling_groups,
        instances: &before,
    };
    let changes = Changes([("a".into(), change)].into_iter().collect());
    let after = modify(&situation, &changes, &mut Counting::default())
        .unwrap()
        .finished(&before);
    assert_eq!(
        after.iter().map(|instance| instance.id.clone()).collect::<Vec<_>>(),
        [id(2)]
    );
}

#[test]
fn a_few_lines_cannot_ask_for_billions_of_instances() {
    let mut templates = vec![Template::new("n0", 5_000)];
    for index in 1..5 {
        let mut template = Template::new(&format!("n{index}"), 5_000);
        template.container = Some(format!("n{}", index - 1));
        templates.push(template);
    }
    let request = DeploymentRequest::default();
    let result = deployment_plan(
        &plan(&templates, &[]),
        &request,
        &NoSurroundings,
        &mut Counting::default(),
    );
    assert_eq!(result.unwrap_err().class, Class::Limit);
    let mut second = Template::new("b", 100_000);
    second.connected = vec!["a".into()];
    let result = deployment_plan(
        &plan(&[Template::new("a", 100_000), second], &[]),
        &request,
        &NoSurroundings,
        &mut Counting::default(),
    );
    assert_eq!(result.unwrap_err().class, Class::Limit);
}

#[test]
fn a_container_of_itself_is_refused() {
    let mut template = Template::new("a", 1);
    template.container = Some("b".into());
    let mut other = Template::new("b", 1);
    other.container = Some("a".into());
    let request = DeploymentRequest::default();
    let result = deployment_plan(
        &plan(&[template, other], &[]),
        &request,
        &NoSurroundings,
        &mut Counting::default(),
    );
    assert_eq!(result.unwrap_err().code, Some(100));
}

#[test]
fn an_id_source_that_repeats_itself_is_noticed() {
    struct Stuck;
    impl conclave_blueprint::topology::IdSource for Stuck {
        fn suffix(&mut self) -> String {
            "aaaaaa".into()
        }
    }
    let request = DeploymentRequest::default();
    let result = deployment_plan(
        &plan(&[Template::new("a", 2)], &[]),
        &request,
        &NoSurroundings,
        &mut Stuck,
    );
    assert_eq!(result.unwrap_err().class, Class::Limit);
}
