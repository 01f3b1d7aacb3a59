//! What a name space does to an imported file (spec/dsl.md, section 6).

use std::cell::Cell;

use conclave_yaml::{Kind, Node, Place, Text};

use crate::primitive::is_primitive;
use crate::shape::{Element, Form};

/// Between the parts of a name.
pub(crate) const DELIMITER: &str = "--";
/// Names that are the same in all name spaces begin so.
pub(crate) const SHARED_PREFIX: &str = "cloudify.";

/// A name within a name space.
pub(crate) fn prefixed(namespace: &str, name: &str) -> String {
    format!("{namespace}{DELIMITER}{name}")
}

/// A text without its name space.
pub(crate) fn unprefixed(text: &str) -> String {
    // Line by line, for texts of whole scripts.
    let line = |line: &str| line.rsplit_once(DELIMITER).map_or(line, |(_, rest)| rest).to_owned();
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Renames what a name space renames.
pub(crate) struct Renamer<'s> {
    namespace: &'s str,
    /// Whether `get_input: [name, key]` is renamed too. The original forgets it in blueprints that are imported as a whole.
    list_inputs: bool,
    /// The first call whose argument cannot be renamed.
    fault: Cell<Option<Place>>,
}

impl<'s> Renamer<'s> {
    pub(crate) fn new(namespace: &'s str, list_inputs: bool) -> Self {
        Self {
            namespace,
            list_inputs,
            fault: Cell::new(None),
        }
    }

    /// Where a call has an argument that cannot be renamed, if any has.
    pub(crate) fn fault(&self) -> Option<Place> {
        self.fault.get()
    }

    fn fail(&self, value: &Node) -> Node {
        if self.fault.get().is_none() {
            self.fault.set(Some(value.place));
        }
        value.clone()
    }

    /// The name of a section's entry.
    pub(crate) fn name(&self, key: &Node) -> Node {
        match key.as_text() {
            Some(name) if !name.starts_with(SHARED_PREFIX) => Node::text(prefixed(self.namespace, name), key.place),
            _ => key.clone(),
        }
    }

    /// The value of a section's entry: what stands below it, or the text that it is.
    pub(crate) fn entry(&self, element: &Element, node: &Node) -> Node {
        match (&element.form, &node.kind) {
            (Form::Struct(_) | Form::TextOr(_), Kind::Map(_)) => self.fields(element, node, false),
            (Form::Leaf(_), Kind::Map(_)) | (_, Kind::Seq(_)) => node.clone(),
            _ => self.apply(element, node, false),
        }
    }

    fn apply(&self, element: &Element, node: &Node, functions_done: bool) -> Node {
        match (&element.form, &node.kind) {
            (Form::Leaf(_), Kind::Map(_)) if !functions_done => self.functions(node),
            (Form::Leaf(_) | Form::TextOr(_) | Form::TextOrMap(_), Kind::Str(text)) if element.spaced => {
                self.text(text, node)
            }
            (Form::Map(entry), Kind::Map(entries)) => {
                let rename = |(key, value): &(Node, Node)| {
                    let key = if element.spaced { self.name(key) } else { key.clone() };
                    (key, self.apply(entry, value, functions_done))
                };
                Node::map(entries.iter().map(rename).collect(), node.place)
            }
            (Form::List(item), Kind::Seq(items)) => Node::seq(
                items
                    .iter()
                    .map(|value| self.apply(item, value, functions_done))
                    .collect(),
                node.place,
            ),
            (Form::Struct(_), Kind::Map(_)) => self.fields(element, node, functions_done),
            // Calls anywhere in an operation are renamed, those in lists included.
            (Form::TextOr(_), Kind::Map(_)) => self.fields(element, &self.functions(node), true),
            _ => node.clone(),
        }
    }

    fn fields(&self, element: &Element, node: &Node, functions_done: bool) -> Node {
        let rename = |(key, value): &(Node, Node)| {
            let field = key.as_str().and_then(|name| element.field(name));
            let value = field.map_or_else(
                || value.clone(),
                |field| self.apply(field.element, value, functions_done),
            );
            (key.clone(), value)
        };
        Node::map(
            node.as_map().unwrap_or_default().iter().map(rename).collect(),
            node.place,
        )
    }

    fn text(&self, text: &Text, node: &Node) -> Node {
        if is_primitive(text) || text.starts_with(SHARED_PREFIX) {
            return node.clone();
        }
        Node::text(prefixed(self.namespace, text), node.place)
    }

    /// Renames inputs and nodes in calls below a mapping.
    fn functions(&self, node: &Node) -> Node {
        match &node.kind {
            Kind::Seq(items) => Node::seq(items.iter().map(|item| self.functions(item)).collect(), node.place),
            Kind::Map(entries) => {
                let rename = |(key, value): &(Node, Node)| {
                    let value = match key.as_str() {
                        Some("get_input") => self.input_argument(value),
                        Some("get_property" | "get_attribute") => self.node_argument(value),
                        _ => value.clone(),
                    };
                    (key.clone(), self.functions(&value))
                };
                Node::map(entries.iter().map(rename).collect(), node.place)
            }
            _ => node.clone(),
        }
    }

    fn input_argument(&self, value: &Node) -> Node {
        match &value.kind {
            Kind::Map(_) => self.fail(value),
            Kind::Seq(items) if items.is_empty() => self.fail(value),
            Kind::Seq(items) if self.list_inputs => {
                let is_name = items.first().is_some_and(|first| first.as_str().is_some());
                if is_name {
                    self.first_prefixed(items, value)
                } else {
                    value.clone()
                }
            }
            Kind::Seq(_) => value.clone(),
            _ => Node::text(prefixed(self.namespace, &value.key_text()), value.place),
        }
    }

    fn node_argument(&self, value: &Node) -> Node {
        match &value.kind {
            Kind::Seq(items) if items.is_empty() => self.fail(value),
            Kind::Seq(items) if !matches!(items.first().and_then(Node::as_str), Some("SELF" | "SOURCE" | "TARGET")) => {
                self.first_prefixed(items, value)
            }
            Kind::Seq(_) => value.clone(),
            _ => self.fail(value),
        }
    }

    fn first_prefixed(&self, items: &[Node], value: &Node) -> Node {
        let mut items = items.to_vec();
        if let Some(first) = items.first_mut() {
            *first = Node::text(prefixed(self.namespace, &first.key_text()), first.place);
        }
        Node::seq(items, value.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::section;

    fn renamed(name: &str, yaml: &str) -> serde_json::Value {
        let node = conclave_yaml::parse(yaml, &conclave_yaml::Limits::default()).unwrap();
        let Form::Map(entry) = section(name).unwrap().element.form else {
            panic!("{name} has no entries")
        };
        Renamer::new("ns", true).entry(entry, &node).to_json()
    }

    #[test]
    fn references_follow_and_values_stay() {
        let template = "{type: t, properties: {a: b, c: {get_input: x}, d: [{get_property: [n, p]}, {get_property: [SELF, p]}]}, \
                        relationships: [{type: cloudify.relationships.connected_to, target: m}], \
                        interfaces: {i: {o: {implementation: p.f, executor: host_agent, inputs: {x: {concat: [{get_input: [y, k]}]}}}}}}";
        assert_eq!(
            renamed("node_templates", template),
            serde_json::json!({
                "type": "ns--t",
                "properties": {"a": "b", "c": {"get_input": "ns--x"}, "d": [{"get_property": ["ns--n", "p"]}, {"get_property": ["SELF", "p"]}]},
                "relationships": [{"type": "cloudify.relationships.connected_to", "target": "ns--m"}],
                "interfaces": {"i": {"o": {"implementation": "ns--p.f", "executor": "host_agent",
                    "inputs": {"x": {"concat": [{"get_input": ["ns--y", "k"]}]}}}}},
            })
        );
    }

    #[test]
    fn plain_outputs_are_taken_for_references() {
        assert_eq!(
            renamed("outputs", "{value: plain, description: words}")["value"],
            "ns--plain"
        );
        assert_eq!(renamed("resource_tags", "plain"), "ns--plain");
        assert_eq!(
            renamed("labels", "{values: [{get_input: x}, a]}"),
            serde_json::json!({"values": [{"get_input": "x"}, "a"]})
        );
        assert_eq!(renamed("workflows", "p.f"), "ns--p.f");
        assert_eq!(
            renamed("inputs", "{type: integer, default: 1, description: d}"),
            serde_json::json!({"type": "integer", "default": 1, "description": "d"})
        );
    }

    #[test]
    fn scripts_lose_all_prefixes() {
        assert_eq!(unprefixed("a--b--scripts/x.sh"), "scripts/x.sh");
        assert_eq!(unprefixed("scripts/x.sh"), "scripts/x.sh");
    }
}
