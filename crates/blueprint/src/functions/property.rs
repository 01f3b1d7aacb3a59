//! Parts of properties and attributes.

use super::call::is_call;
use super::python;
use super::walk::{Missed, Place, step};
use crate::{Class, Fault, Map, Value};

/// The part of `properties` that `path` leads to, each part being looked at by `found` on the way, which answers what it
/// became if it is something else.
///
/// A step into a call that cannot be evaluated yet gives a list of the call and the step, as the original does it.
pub(crate) fn part(
    properties: &Map,
    path: &[Value],
    found: &mut dyn FnMut(&Value) -> Result<Option<Value>, Fault>,
) -> Result<Result<Value, (Missed, Value)>, Fault> {
    let mut current = Value::Map(properties.clone());
    for key in path {
        if is_call(&current) {
            current = Value::from(vec![current, key.clone()]);
            continue;
        }
        let next = match step(&current, key) {
            Ok(next) => next.clone(),
            Err(missed) => return Ok(Err((missed, key.clone()))),
        };
        current = found(&next)?.unwrap_or(next);
    }
    Ok(Ok(current))
}

/// Why a property has no value.
pub(crate) fn missing(
    function: &str,
    node: &str,
    path: &[Value],
    (missed, key): &(Missed, Value),
    place: &Place<'_>,
) -> Fault {
    let shown: Vec<String> = path.iter().map(python::text).collect();
    let property = format!(
        "Node template property '{node}.properties.{}' referenced from '{place}'",
        shown.join(".")
    );
    let key = python::text(key);
    let why = match missed {
        Missed::Key | Missed::Scalar => "doesn't exist.".to_owned(),
        Missed::Beyond => format!("index is out of range. Got {key}."),
        Missed::NoPosition => format!("is expected {key} to be an int."),
    };
    Fault::new(
        Class::FunctionEvaluation,
        format!("Unable to evaluate {function} function: {property} {why}"),
        "",
    )
}
