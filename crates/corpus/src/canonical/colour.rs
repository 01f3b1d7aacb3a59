//! Names for the vertices of a graph that do not depend on how they were called: by refinement of colours.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::text::text;

/// A graph: for every vertex what it is by itself, and edges with labels.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) seeds: IndexMap<String, Value>,
    pub(super) edges: Vec<(String, String, String)>,
}

fn digest(value: &Value) -> String {
    digest_of(&text(value))
}

/// The digest of a text, in hexadecimal digits.
pub(super) fn digest_of(text: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        hex.push_str(&format!("{byte:02x}"));
    }
    hex
}

type Edges<'g> = Vec<Vec<(&'g str, usize)>>;

impl Graph {
    /// A colour for every vertex, all different: equal for graphs that are equal but for the names of their vertices.
    pub(super) fn colours(&self) -> IndexMap<String, String> {
        let count = self.seeds.len();
        let (mut outgoing, mut incoming): (Edges<'_>, Edges<'_>) = (vec![Vec::new(); count], vec![Vec::new(); count]);
        for (source, label, target) in &self.edges {
            if let (Some(source), Some(target)) = (self.seeds.get_index_of(source), self.seeds.get_index_of(target)) {
                outgoing[source].push((label, target));
                incoming[target].push((label, source));
            }
        }
        let mut colours = refine(self.seeds.values().map(digest).collect(), &outgoing, &incoming);
        while let Some(chosen) = first_tie(&colours) {
            colours[chosen] = digest(&json!([colours[chosen], "chosen"]));
            colours = refine(colours, &outgoing, &incoming);
        }
        self.seeds.keys().cloned().zip(colours).collect()
    }
}

/// Mixes the colours of the neighbours into each colour until that tells no more vertices apart.
fn refine(mut colours: Vec<String>, outgoing: &Edges<'_>, incoming: &Edges<'_>) -> Vec<String> {
    let distinct = |colours: &[String]| colours.iter().collect::<BTreeSet<_>>().len();
    let mut count = distinct(&colours);
    loop {
        let around = |edges: &[(&str, usize)]| {
            let mut seen: Vec<(&str, &str)> = edges
                .iter()
                .map(|(label, other)| (*label, colours[*other].as_str()))
                .collect();
            seen.sort_unstable();
            seen.into_iter()
                .map(|(label, colour)| json!([label, colour]))
                .collect::<Vec<_>>()
        };
        let next: Vec<String> = (0..colours.len())
            .map(|vertex| {
                digest(&json!([
                    colours[vertex],
                    around(&outgoing[vertex]),
                    around(&incoming[vertex])
                ]))
            })
            .collect();
        colours = next;
        let now = distinct(&colours);
        if now == count {
            return colours;
        }
        count = now;
    }
}

/// A vertex of the smallest colour that several share.
fn first_tie(colours: &[String]) -> Option<usize> {
    let mut classes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (vertex, colour) in colours.iter().enumerate() {
        classes.entry(colour).or_default().push(vertex);
    }
    classes
        .into_values()
        .find(|members| members.len() > 1)
        .map(|members| members[0])
}
