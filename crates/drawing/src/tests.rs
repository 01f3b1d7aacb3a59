//! Pictures of random topologies: whole, and with everything where it belongs.

use conclave_blueprint::Plan;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn plan(nodes: &[(Option<usize>, Vec<usize>)], groups: Vec<Vec<usize>>) -> Plan {
    let relate = |family: &str, target: usize| {
        let name = format!("cloudify.relationships.{family}");
        json!({
            "type": name, "target_id": format!("n{target}"), "properties": {}, "source_operations": {},
            "type_hierarchy": ["cloudify.relationships.depends_on", name], "target_operations": {},
        })
    };
    let nodes: Vec<Value> = nodes
        .iter()
        .enumerate()
        .map(|(index, (container, targets))| {
            let contained = container.iter().map(|target| relate("contained_in", *target));
            let relationships: Vec<Value> = contained
                .chain(targets.iter().map(|target| relate("connected_to", *target)))
                .collect();
            json!({
                "name": format!("n{index}"), "id": format!("n{index}"), "type": "a<b>\"&", "type_hierarchy": ["a<b>"],
                "properties": {}, "operations": {}, "relationships": relationships, "plugins": [],
                "deployment_plugins_to_install": [],
                "capabilities": {"scalable": {"properties": {"default_instances": index}}},
            })
        })
        .collect();
    let groups: serde_json::Map<String, Value> = groups
        .into_iter()
        .enumerate()
        .map(|(index, members)| {
            let members: Vec<String> = members.into_iter().map(|member| format!("n{member}")).collect();
            (
                format!("g{index}"),
                json!({"members": members, "properties": {"default_instances": 2}}),
            )
        })
        .collect();
    Plan::from_json(&json!({"nodes": nodes, "scaling_groups": groups})).unwrap()
}

fn topologies() -> impl Strategy<Value = Plan> {
    let node = (prop::option::of(0..12_usize), prop::collection::vec(0..12_usize, 0..4));
    let groups = prop::collection::vec(prop::collection::vec(0..12_usize, 1..4), 0..3);
    // Containers and targets may be anything, circles included: the drawing takes what it gets.
    (prop::collection::vec(node, 0..12), groups).prop_map(|(nodes, groups)| plan(&nodes, groups))
}

proptest! {
    #[test]
    fn boxes_lie_inside_of_what_they_lie_in_and_beside_their_siblings(plan in topologies()) {
        let tree = tree::Tree::new(&plan);
        let layout = layout::Layout::new(&tree, &svg::label_widths(&plan));
        prop_assert_eq!(tree.order.len(), tree.children.len(), "every box is in the picture");
        for id in &tree.order {
            let outer = layout.boxes[*id];
            for (index, child) in tree.children[*id].iter().enumerate() {
                let inner = layout.boxes[*child];
                prop_assert!(inner.x >= outer.x && inner.y >= outer.y);
                prop_assert!(inner.right() <= outer.right() + 0.01 && inner.bottom() <= outer.bottom() + 0.01);
                for sibling in &tree.children[*id][index + 1..] {
                    let other = layout.boxes[*sibling];
                    let apart = inner.right() <= other.x || other.right() <= inner.x || inner.bottom() <= other.y || other.bottom() <= inner.y;
                    prop_assert!(apart, "{:?} and {:?} overlap", inner, other);
                }
            }
        }
    }

    #[test]
    fn the_text_is_whole(plan in topologies()) {
        let text = svg(&plan);
        prop_assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        prop_assert!(!text.contains("NaN") && !text.contains("inf"));
        for name in ["g", "text", "title", "path", "marker"] {
            let opened = text.matches(&format!("<{name} ")).count() + text.matches(&format!("<{name}>")).count();
            let closed = text.matches(&format!("</{name}>")).count();
            let empty = text.split(&format!("<{name} ")).skip(1).filter(|rest| rest.split('>').next().is_some_and(|tag| tag.ends_with('/'))).count();
            prop_assert_eq!(opened, closed + empty, "{}", name);
        }
    }
}

#[test]
fn deep_containers_and_many_nodes_are_no_obstacle() {
    let deep: Vec<(Option<usize>, Vec<usize>)> = (0..5_000_usize).map(|index| (index.checked_sub(1), vec![])).collect();
    assert!(svg(&plan(&deep, vec![])).len() > 100_000);
    let long: Vec<(Option<usize>, Vec<usize>)> = (0..5_000_usize)
        .map(|index| (None, index.checked_sub(1).into_iter().collect()))
        .collect();
    assert!(svg(&plan(&long, vec![])).len() > 100_000);
}
