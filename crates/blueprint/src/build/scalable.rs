//! How many instances a node or group may have (spec/dsl.md, sections 8 and 11).

use conclave_yaml::{Kind, Node, Place};

use super::context::{Context, nearest_call};
use crate::functions::{check_shape, is_call};
use crate::{Fault, Map, Value};

/// As many as anyone wants.
const UNBOUNDED: i64 = -1;
const UNBOUNDED_TEXT: &str = "UNBOUNDED";

/// The properties of a group or node that says nothing.
pub(super) fn defaults() -> Map {
    properties(1i64.into(), 0i64.into(), UNBOUNDED.into())
}

/// The properties of a node that says `instances: {deploy: …}`.
pub(super) fn of_deploy(count: Value) -> Map {
    properties(count, 0i64.into(), UNBOUNDED.into())
}

fn properties(default: Value, min: Value, max: Value) -> Map {
    Map::from_iter([
        ("min_instances", min),
        ("max_instances", max),
        ("default_instances", default.clone()),
        ("current_instances", default.clone()),
        ("planned_instances", default),
    ])
}

/// Reads the properties, whose shape is sound.
pub(super) fn read(context: &mut Context<'_>, node: Option<&Node>, path: &str, place: Place) -> Map {
    let faults = context.report.count();
    let mut number = |key: &str, least: i64, otherwise: i64| {
        let value = node.and_then(|node| node.get(key)).filter(|value| !value.is_null());
        value.map_or(otherwise.into(), |value| count(context, key, value, least, path))
    };
    let default = number("default_instances", 0, 1);
    let min = number("min_instances", 0, 0);
    let max = number("max_instances", 1, UNBOUNDED);
    if context.report.count() == faults {
        let place = node.map_or(place, |node| node.place);
        check_order(context, &default, &min, &max, path, place);
    }
    properties(default, min, max)
}

fn count(context: &mut Context<'_>, key: &str, node: &Node, least: i64, path: &str) -> Value {
    let path = format!("{path}.{key}");
    let value = Value::from(node);
    match &node.kind {
        Kind::Map(_) if is_call(&value) => {
            if let Err(fault) = check_shape(&value, &path) {
                context.fail(fault, node.place);
            }
        }
        Kind::Map(_) => {
            let message = format!("{key} should be a valid intrinsic function or a value.");
            let suggestion = nearest_call(&value);
            context
                .report
                .add_with(Fault::logic(210, message, path), node.place, suggestion);
        }
        Kind::Str(text) if &**text == UNBOUNDED_TEXT => return UNBOUNDED.into(),
        Kind::Str(_) => {
            let message = format!("The only valid string for {key} is {UNBOUNDED_TEXT}.");
            context.fail(Fault::logic(208, message, path), node.place);
        }
        _ => {
            let number = number(&value);
            let is_unbounded = key == "max_instances" && number == Some(UNBOUNDED);
            if !is_unbounded && number.is_some_and(|number| number < least) {
                let what = if least == 0 { "non negative" } else { "positive" };
                context.fail(
                    Fault::logic(207, format!("{key} should be a {what} value."), path),
                    node.place,
                );
            }
        }
    }
    value
}

/// A whole number; truth values count as such, calls do not.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Bool(value) => Some(i64::from(*value)),
        Value::BigInt(digits) => Some(if digits.starts_with('-') { i64::MIN } else { i64::MAX }),
        _ => None,
    }
}

fn check_order(context: &mut Context<'_>, default: &Value, min: &Value, max: &Value, path: &str, place: Place) {
    let (default, min) = (number(default), number(min));
    let max = number(max).filter(|max| *max != UNBOUNDED);
    let is_below =
        |small: Option<i64>, large: Option<i64>| small.zip(large).is_some_and(|(small, large)| small < large);
    let message = if is_below(default, min) {
        "default_instances cannot be smaller than min_instances"
    } else if is_below(max, min) {
        "min_instances cannot be greater than max_instances"
    } else if is_below(max, default) {
        "default_instances cannot be greater than max_instances"
    } else {
        return;
    };
    context.fail(Fault::logic(207, message, path), place);
}
