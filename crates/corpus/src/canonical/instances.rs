//! The canonical form of node instances: ids renamed to `<node or group>#<n>`.

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::colour::Graph;
use super::text::text;

/// Lists of instances whose ids are renamed together, and the new id of every old one.
#[derive(Debug, Clone)]
pub struct Renamed<T> {
    /// What was renamed.
    pub value: T,
    /// New ids by old ones, groups and hosts included.
    pub ids: IndexMap<String, String>,
}

fn string(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Renames the instances of one list and sorts them.
pub fn instances(list: &[Value]) -> Renamed<Vec<Value>> {
    let mut names = IndexMap::new();
    let mut graph = Graph::default();
    collect(list, "", &mut names, &mut graph);
    graph.seeds = names.iter().map(|(id, name)| (id.clone(), json!(name))).collect();
    let ids = number(&graph, &names);
    let value = rewrite_all(list, &ids);
    Renamed { value, ids }
}

/// Renames the instances of a modification's four lists, together with those that there were before.
pub fn modification(lists: &Value, before: &[Value]) -> Renamed<Value> {
    const LISTS: [&str; 4] = [
        "added_and_related",
        "extended_and_related",
        "reduced_and_related",
        "removed_and_related",
    ];
    let tagged = || std::iter::once(("before", before)).chain(LISTS.into_iter().map(|tag| (tag, items(lists, tag))));
    let mut names = IndexMap::new();
    let mut graph = Graph::default();
    let mut roles: IndexMap<String, Vec<Value>> = IndexMap::new();
    for (tag, list) in tagged() {
        collect(list, tag, &mut names, &mut graph);
        for instance in list {
            roles
                .entry(string(instance, "id"))
                .or_default()
                .push(json!([tag, instance["modification"]]));
        }
    }
    graph.seeds = names
        .iter()
        .map(|(id, name)| {
            let mut roles = roles.get(id).cloned().unwrap_or_default();
            roles.sort_by_key(text);
            (id.clone(), json!([name, roles]))
        })
        .collect();
    let ids = number(&graph, &names);
    let lists = LISTS
        .into_iter()
        .map(|tag| (tag.to_owned(), rewrite_all(items(lists, tag), &ids).into()));
    Renamed {
        value: Value::Object(lists.collect()),
        ids,
    }
}

/// Adds a list's vertices and edges; `tag` tells the edges of several lists apart.
fn collect(list: &[Value], tag: &str, names: &mut IndexMap<String, String>, graph: &mut Graph) {
    for instance in list {
        names
            .entry(string(instance, "id"))
            .or_insert_with(|| string(instance, "node_id"));
    }
    for instance in list {
        let id = string(instance, "id");
        for relationship in items(instance, "relationships") {
            let (target, name) = (string(relationship, "target_id"), string(relationship, "target_name"));
            let label = format!("r{tag}:{}:{name}", string(relationship, "type"));
            names.entry(target.clone()).or_insert(name);
            graph.edges.push((id.clone(), label, target));
        }
        for (index, group) in items(instance, "scaling_groups").iter().enumerate() {
            let target = string(group, "id");
            names.entry(target.clone()).or_insert_with(|| string(group, "name"));
            graph.edges.push((id.clone(), format!("g{tag}:{index}"), target));
        }
        let host = string(instance, "host_id");
        if !host.is_empty() && host != id {
            names.entry(host.clone()).or_insert_with(|| "host".to_owned());
            graph.edges.push((id, format!("h{tag}"), host));
        }
    }
}

fn number(graph: &Graph, names: &IndexMap<String, String>) -> IndexMap<String, String> {
    let colours = graph.colours();
    let mut by_name: IndexMap<&str, Vec<&String>> = IndexMap::new();
    for (id, name) in names {
        by_name.entry(name).or_default().push(id);
    }
    let mut ids = IndexMap::new();
    for (name, mut members) in by_name {
        members.sort_by(|left, right| colours[*left].cmp(&colours[*right]));
        ids.extend(
            members
                .into_iter()
                .enumerate()
                .map(|(index, id)| (id.clone(), format!("{name}#{}", index + 1))),
        );
    }
    ids
}

fn rewrite_all(list: &[Value], ids: &IndexMap<String, String>) -> Vec<Value> {
    let mut rewritten: Vec<Value> = list.iter().map(|instance| rewrite(instance, ids)).collect();
    rewritten.sort_by_key(|instance| order_of(&string(instance, "id")));
    rewritten
}

fn order_of(id: &str) -> (String, u64) {
    let (name, number) = id.rsplit_once('#').unwrap_or((id, "0"));
    (name.to_owned(), number.parse().unwrap_or_default())
}

fn rewrite(instance: &Value, ids: &IndexMap<String, String>) -> Value {
    let renamed = |value: &Value, key: &str| ids.get(&string(value, key)).cloned().unwrap_or_default();
    let mut relationships: Vec<Value> = items(instance, "relationships")
        .iter()
        .map(|relationship| {
            json!({
                "type": relationship["type"], "target_name": relationship["target_name"],
                "target_id": renamed(relationship, "target_id"),
            })
        })
        .collect();
    // The order of several targets of one relationship is free.
    let mut order: IndexMap<(String, String), usize> = IndexMap::new();
    let kind = |relationship: &Value| (string(relationship, "type"), string(relationship, "target_name"));
    for (index, relationship) in relationships.iter().enumerate() {
        order.entry(kind(relationship)).or_insert(index);
    }
    relationships.sort_by_key(|relationship| {
        (
            order.get(&kind(relationship)).copied(),
            order_of(&string(relationship, "target_id")),
        )
    });
    let mut result = json!({
        "id": renamed(instance, "id"), "node_id": instance["node_id"], "relationships": relationships,
    });
    if !string(instance, "host_id").is_empty() {
        result["host_id"] = renamed(instance, "host_id").into();
    }
    let groups: Vec<Value> = items(instance, "scaling_groups")
        .iter()
        .map(|group| json!({"name": group["name"], "id": renamed(group, "id")}))
        .collect();
    if !groups.is_empty() {
        result["scaling_groups"] = groups.into();
    }
    if let Some(modification) = instance["modification"].as_str() {
        result["modification"] = modification.into();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_instances_do_not_matter() {
        let make = |ids: [&str; 4]| {
            let [a, b, c, d] = ids;
            let relate = |target: &str| json!([{"type": "t", "target_name": "n", "target_id": target}]);
            vec![
                json!({"id": a, "node_id": "n", "relationships": []}),
                json!({"id": b, "node_id": "n", "relationships": []}),
                json!({"id": c, "node_id": "m", "relationships": relate(a)}),
                json!({"id": d, "node_id": "m", "relationships": relate(a), "host_id": b}),
            ]
        };
        let first = instances(&make(["n_1", "n_2", "m_1", "m_2"]));
        let mut other = make(["n_x", "n_a", "m_z", "m_b"]);
        other.reverse();
        assert_eq!(first.value, instances(&other).value);
    }
}
