//! Inputs of a blueprint (spec/dsl.md, section 12).

use super::context::Context;
use super::data_types::DataTypes;
use super::interfaces::{check_display, check_hidden};
use super::properties::{Kind, Schemas};
use crate::deployment::check_value;
use crate::document::locate;
use crate::{Map, Value};

const SECTION: &str = "inputs";

/// Reads the inputs.
pub(super) fn build(context: &mut Context<'_>, data_types: &DataTypes) -> Map {
    let mut inputs = Map::new();
    let schemas = Schemas {
        types: &data_types.types,
        kind: Kind::Input,
    };
    for (name, entry) in context.sound_entries(SECTION) {
        let path = format!("{SECTION}.{name}");
        check_display(context, &entry.key, &entry.value, &path);
        let schema = schemas.read(context, name, &entry.value, entry.key.place, name, &path);
        let has_unknown_keys = context.report_held(SECTION, name);
        check_hidden(context, &entry.key, &entry.value, &path);
        match schema.filter(|_| !has_unknown_keys) {
            Some(schema) => {
                inputs.insert(name.clone(), schema.written);
            }
            None => context.mark_broken(SECTION, name.clone()),
        }
    }
    inputs
}

/// Checks defaults against constraints. The messages of constraints that were checked do not reach the plan.
pub(super) fn check_defaults(context: &mut Context<'_>, inputs: &mut Map) {
    let mut checked = Vec::new();
    for (name, schema) in inputs.iter() {
        let Some((schema, default)) = schema.as_map().zip(schema.get("default")) else {
            continue;
        };
        if let Err(mut fault) = check_value(name, schema, default, None) {
            if fault.path.is_empty() {
                fault.path = format!("{SECTION}.{name}.default");
            }
            let place = locate(context.document, &format!("{SECTION}.{name}.default"));
            context.fail(fault, place);
        }
        if schema.contains_key("constraints") {
            checked.push(name.clone());
        }
    }
    for name in checked {
        let schema = inputs.get_mut(&*name).and_then(Value::as_map_mut);
        let constraints = schema.and_then(|schema| schema.get_mut("constraints"));
        for constraint in constraints.and_then(Value::as_list_mut).into_iter().flatten() {
            if let Some(constraint) = constraint.as_map_mut() {
                constraint.remove("error_message");
            }
        }
    }
}
