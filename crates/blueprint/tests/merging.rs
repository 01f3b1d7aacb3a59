//! The rules of merging, on blueprints that are cut into files at random.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeMap;

use conclave_blueprint::{Import, Plan, Resolver, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Files by name.
#[derive(Debug, Default)]
struct Files(BTreeMap<String, String>);

impl Resolver for Files {
    fn locate(&self, import: Import<'_>) -> Option<String> {
        let (Import::Url(path) | Import::Working(path) | Import::Resource(path) | Import::Beside { path, .. }) = import;
        self.0.contains_key(path).then(|| path.to_owned())
    }

    fn read(&self, location: &str) -> Result<String, String> {
        self.0
            .get(location)
            .cloned()
            .ok_or_else(|| format!("there is no file {location}"))
    }

    fn has_script(&self, _: &str, _: &str) -> bool {
        false
    }
}

/// One entry of one section.
#[derive(Debug, Clone)]
struct Piece {
    section: &'static str,
    name: String,
    value: Value,
}

/// A blueprint of a type, and inputs, templates and outputs that refer to each other: piece 0 is the type.
fn pieces(count: usize) -> Vec<Piece> {
    let piece = |section, name: String, value| Piece { section, name, value };
    let schema = json!({"properties": {"size": {"default": 1}}});
    let mut pieces = vec![piece("node_types", "t".into(), schema)];
    for index in 0..count {
        let relationships: Vec<Value> = (index > 0)
            .then(|| json!({"type": "r", "target": format!("n{}", index - 1)}))
            .into_iter()
            .collect();
        let size = json!({"get_input": format!("i{index}")});
        let node = json!({"type": "t", "properties": {"size": size}, "relationships": relationships});
        let output = json!({"value": {"get_attribute": [format!("n{index}"), "size"]}});
        pieces.push(piece("inputs", format!("i{index}"), json!({"default": index})));
        pieces.push(piece("node_templates", format!("n{index}"), node));
        pieces.push(piece("outputs", format!("o{index}"), output));
    }
    pieces.push(piece(
        "relationships",
        "r".into(),
        json!({"properties": {"connection_type": {"default": "all_to_all"}}}),
    ));
    pieces
}

/// A file of these pieces; JSON is YAML too.
fn file<'p>(pieces: impl IntoIterator<Item = &'p Piece>, imports: &[Value]) -> String {
    let mut document = json!({"tosca_definitions_version": "cloudify_dsl_1_5", "imports": imports});
    for piece in pieces {
        document[piece.section][&piece.name] = piece.value.clone();
    }
    if imports.is_empty() {
        document.as_object_mut().unwrap().remove("imports");
    }
    document.to_string()
}

/// Each file imports those whose parent it is; file 0 is the main file.
fn tree(pieces: &[Piece], places: &[usize], parents: &[usize]) -> Files {
    let files = parents.len() + 1;
    let content = |at: usize| {
        let held = pieces.iter().zip(places).filter(|(_, place)| **place % files == at);
        let imports: Vec<Value> = (1..files)
            .filter(|child| parents[child - 1] % child == at)
            .map(|child| json!(format!("f{child}.yaml")))
            .collect();
        (format!("f{at}.yaml"), file(held.map(|(piece, _)| piece), &imports))
    };
    Files((0..files).map(content).collect())
}

fn plan(files: &Files) -> Plan {
    parse("f0.yaml", files).unwrap_or_else(|faults| panic!("{faults}\n{files:?}"))
}

/// The plan as JSON, without the order of its nodes.
fn in_no_order(plan: &Plan) -> Value {
    let mut json = plan.to_json();
    let by_id = |node: &Value| node["id"].as_str().unwrap_or_default().to_owned();
    json["nodes"].as_array_mut().unwrap().sort_by_key(by_id);
    json
}

proptest! {
    #[test]
    fn how_a_blueprint_is_cut_into_files_does_not_matter(
        count in 1..5_usize,
        places in prop::collection::vec(any::<usize>(), 18),
        parents in prop::collection::vec(any::<usize>(), 0..5),
    ) {
        let pieces = pieces(count);
        let whole = plan(&tree(&pieces, &places, &[]));
        let cut = plan(&tree(&pieces, &places, &parents));
        prop_assert_eq!(in_no_order(&whole), in_no_order(&cut));
    }

    #[test]
    fn a_file_that_is_imported_twice_is_merged_once(
        count in 1..4_usize,
        places in prop::collection::vec(any::<usize>(), 18),
        parents in prop::collection::vec(any::<usize>(), 1..5),
        again in any::<prop::sample::Index>(),
    ) {
        let pieces = pieces(count);
        let mut files = tree(&pieces, &places, &parents);
        let once = in_no_order(&plan(&files));
        // The last file imports one of those above it, perhaps itself.
        let last = format!("f{}.yaml", parents.len());
        let target = format!("f{}.yaml", again.index(parents.len() + 1));
        let mut document: Value = serde_json::from_str(&files.0[&last]).unwrap();
        document["imports"] = json!([target]);
        files.0.insert(last, document.to_string());
        prop_assert_eq!(once, in_no_order(&plan(&files)));
    }

    #[test]
    fn a_name_that_two_files_give_is_refused_whichever_comes_first(
        count in 1..4_usize,
        places in prop::collection::vec(any::<usize>(), 18),
        parents in prop::collection::vec(any::<usize>(), 1..5),
        which in any::<prop::sample::Index>(),
        other in 1..5_usize,
    ) {
        let mut pieces = pieces(count);
        let mut places: Vec<usize> = places[..pieces.len()].to_vec();
        let files = parents.len() + 1;
        let at = which.index(pieces.len());
        let repeated = pieces[at].clone();
        // Two files need not be different ones by chance.
        places.push(places[at] % files + 1 + (other - 1) % parents.len());
        pieces.push(repeated);
        let faults = parse("f0.yaml", &tree(&pieces, &places, &parents)).unwrap_err();
        prop_assert_eq!(faults.first().code, Some(4), "{}", faults);
    }

    #[test]
    fn a_name_space_renames_everything_and_changes_nothing_else(
        count in 1..5_usize,
        places in prop::collection::vec(any::<usize>(), 18),
        parents in prop::collection::vec(any::<usize>(), 0..4),
    ) {
        let pieces = pieces(count);
        let whole = plan(&tree(&pieces, &places, &parents));
        let mut files = tree(&pieces, &places, &parents);
        let import = json!("space--f0.yaml");
        files.0.insert("outer.yaml".into(), file([], &[import]));
        let spaced = parse("outer.yaml", &files).unwrap_or_else(|faults| panic!("{faults}"));
        let unspaced: Value = serde_json::from_str(&spaced.to_json().to_string().replace("space--", "")).unwrap();
        let unspaced = Plan::from_json(&unspaced).unwrap();
        prop_assert_eq!(in_no_order(&whole), in_no_order(&unspaced));
        let named = |key: &conclave_blueprint::Text| key.starts_with("space--");
        prop_assert!(spaced.inputs.keys().all(named) && spaced.outputs.keys().all(named));
        prop_assert!(spaced.nodes.iter().all(|node| named(&node.id)));
    }
}
