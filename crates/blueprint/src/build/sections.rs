//! Outputs, capabilities and labels (spec/dsl.md, sections 4 and 13).

use conclave_yaml::{Kind, Node};

use super::context::Context;
use crate::{Class, Fault, Map, Value};

/// Outputs or capabilities: what is written.
pub(super) fn outputs(context: &Context<'_>, section: &'static str) -> Map {
    context
        .sound_entries(section)
        .into_iter()
        .map(|(name, entry)| {
            let value = match Value::from(&entry.value) {
                Value::Map(map) => map,
                _ => context.empty.clone(),
            };
            (name.clone(), value)
        })
        .collect()
}

/// Labels of deployments or blueprints.
pub(super) fn labels(context: &mut Context<'_>, section: &'static str) -> Map {
    let mut labels = Map::new();
    for (name, entry) in context.sound_entries(section) {
        let path = format!("{section}.{name}");
        let Some(values) = entry.value.get("values").and_then(Node::as_seq) else {
            let message = format!("the label '{name}' has no values");
            context.fail(Fault::new(Class::Type, message, path), entry.key.place);
            continue;
        };
        for value in values {
            if let Some(message) = refusal(value, section == "blueprint_labels") {
                let message = format!("{message} Please modify the values of {name}");
                context.fail(Fault::coded(Class::Parsing, 1, message, path.clone()), value.place);
            }
        }
        labels.insert(name.clone(), Value::from(&entry.value));
    }
    labels
}

/// Why a value cannot be that of a label.
fn refusal(value: &Node, of_blueprint: bool) -> Option<&'static str> {
    match &value.kind {
        Kind::Str(_) => None,
        _ if of_blueprint => Some("The blueprint label's value must be a string."),
        Kind::Map(_) if value.get("get_attribute").is_some() => Some("The label's value cannot be a runtime property."),
        Kind::Map(_) => None,
        _ => Some("The label's value must be a string or an intrinsic function."),
    }
}
