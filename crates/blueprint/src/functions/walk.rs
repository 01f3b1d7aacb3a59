//! Ways into values: the places of calls, for messages and identifiers, and the steps from a value to a part of it.

use std::fmt;

use super::compute::position;
use super::python;
use crate::{Class, Fault, Value};

/// Where a value stands within a plan or payload: a chain to the outermost place, put into words only when asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'p> {
    /// An outermost place, its parts to be joined by dots.
    Root(&'p [&'p str]),
    /// An entry of a mapping.
    Key(&'p Place<'p>, &'p str),
    /// An item of a list.
    Item(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    if index > 0 {
                        f.write_str(".")?;
                    }
                    f.write_str(part)?;
                }
                Ok(())
            }
            Self::Key(outer, key) => write!(f, "{outer}.{key}"),
            Self::Item(outer, index) => write!(f, "{outer}[{index}]"),
        }
    }
}

/// Why a step leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missed {
    /// The mapping has no such key.
    Key,
    /// The list is shorter.
    Beyond,
    /// A list has positions only.
    NoPosition,
    /// The value has no parts.
    Scalar,
}

/// The part of a value that a key or position leads to. Positions below zero count from the end.
pub(crate) fn step<'v>(value: &'v Value, key: &Value) -> Result<&'v Value, Missed> {
    match value {
        Value::Map(map) => match key {
            Value::String(key) => map.get(key),
            other => map.get(python::text(other).as_str()),
        }
        .ok_or(Missed::Key),
        Value::List(items) => {
            let index = match key {
                Value::Int(index) => *index,
                Value::Bool(index) => i64::from(*index),
                Value::BigInt(_) => return Err(Missed::Beyond),
                _ => return Err(Missed::NoPosition),
            };
            position(index, items.len())
                .and_then(|index| items.get(index))
                .ok_or(Missed::Beyond)
        }
        _ => Err(Missed::Scalar),
    }
}

/// A way as messages show it: `a.b[1].c`.
pub(crate) fn way(parts: &[Value]) -> String {
    let mut shown = String::new();
    for (index, part) in parts.iter().enumerate() {
        match part {
            Value::Int(number) if index > 0 => shown.push_str(&format!("[{number}]")),
            _ => {
                if index > 0 {
                    shown.push('.');
                }
                shown.push_str(&python::text(part));
            }
        }
    }
    shown
}

/// The part of an input's value that `path` leads to.
///
/// # Errors
/// When it leads nowhere.
pub(crate) fn into_input(name: &Value, value: &Value, path: &[Value]) -> Result<Value, Fault> {
    let mut current = value;
    for (index, key) in path.iter().enumerate() {
        current = step(current, key).map_err(|missed| {
            let mut before = vec![name.clone()];
            before.extend_from_slice(&path[..index]);
            let (before, key) = (way(&before), python::text(key));
            let (class, message) = match missed {
                Missed::Key => (
                    Class::InputEvaluation,
                    format!("Input attribute '{key}' of '{before}', doesn't exist."),
                ),
                Missed::Beyond => (
                    Class::InputEvaluation,
                    format!("The list '{before}' has no item {key}."),
                ),
                Missed::NoPosition => (
                    Class::InputEvaluation,
                    format!("Item in index {index} in the get_input arguments list is expected to be an int but got '{key}'."),
                ),
                Missed::Scalar => (
                    Class::FunctionEvaluation,
                    format!("Unable to evaluate get_input function: Object {before} has no attribute {key}"),
                ),
            };
            Fault::new(class, message, "")
        })?;
    }
    Ok(current.clone())
}

/// The part of a capability's value that `path` leads to.
///
/// # Errors
/// When it leads nowhere.
pub(crate) fn into_capability(whose: &str, name: &Value, value: &Value, path: &[Value]) -> Result<Value, Fault> {
    let mut current = value;
    for (index, key) in path.iter().enumerate() {
        current = step(current, key).map_err(|missed| {
            let mut before = vec![name.clone()];
            before.extend_from_slice(&path[..index]);
            let (before, key) = (way(&before), python::text(key));
            let why = match missed {
                Missed::Key => format!("Attribute '{key}' doesn't exist in '{before}' in deployment '{whose}'."),
                Missed::Beyond => format!("The list '{before}' in deployment '{whose}' has no item {key}."),
                Missed::NoPosition => format!("'{key}' is no position in the list '{before}' in deployment '{whose}'."),
                Missed::Scalar => format!("Object '{before}' in deployment '{whose}' has no attribute {key}"),
            };
            let message = format!("Unable to evaluate get_capability function: {why}");
            Fault::new(Class::FunctionEvaluation, message, "")
        })?;
    }
    Ok(current.clone())
}

/// The part of a secret that `path` leads to, once it is read as JSON. Texts have characters as parts.
///
/// # Errors
/// When it is no JSON, or the path leads nowhere.
pub(crate) fn into_secret(name: &str, secret: &str, path: &[Value]) -> Result<Value, Fault> {
    let fault = |message: String| Fault::new(Class::FunctionEvaluation, message, "");
    let json: serde_json::Value = serde_json::from_str(secret)
        .map_err(|error| fault(format!("Could not parse secret \"{name}\" as json. Error was: {error}")))?;
    let mut current = Value::from(&json);
    for key in path {
        let next = match (&current, key) {
            (Value::String(text), Value::Int(index)) => {
                let characters: Vec<char> = text.chars().collect();
                position(*index, characters.len()).map(|index| characters[index].to_string().into())
            }
            (current, key) => step(current, key).ok().cloned(),
        };
        current = next.ok_or_else(|| {
            let key = python::text(key);
            fault(format!(
                "Could not find \"{key}\" in nested lookup on secret \"{name}\"."
            ))
        })?;
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(json: serde_json::Value) -> Vec<Value> {
        Value::from(json).as_list().map(<[Value]>::to_vec).unwrap_or_default()
    }

    #[test]
    fn places_read_as_paths() {
        let root = Place::Root(&["nodes", "a", "properties"]);
        let key = Place::Key(&root, "b");
        assert_eq!(Place::Item(&key, 2).to_string(), "nodes.a.properties.b[2]");
    }

    #[test]
    fn ways_lead_into_values() {
        let value = Value::from(json!({"a": [1, {"b": "c"}]}));
        let into = |path| into_input(&"i".into(), &value, &list(path));
        assert_eq!(into(json!(["a", 1, "b"])).unwrap(), "c".into());
        assert_eq!(into(json!(["a", -2])).unwrap(), Value::Int(1));
        for (path, class) in [
            (json!(["x"]), Class::InputEvaluation),
            (json!(["a", 2]), Class::InputEvaluation),
            (json!(["a", "b"]), Class::InputEvaluation),
            (json!(["a", 0, "b"]), Class::FunctionEvaluation),
        ] {
            assert_eq!(into(path).unwrap_err().class, class);
        }
        assert_eq!(way(&list(json!(["a", 1, "b"]))), "a[1].b");
    }

    #[test]
    fn secrets_are_read_as_json_when_a_way_leads_into_them() {
        let secret = r#"{"a": {"b": [1, "xy"]}}"#;
        assert_eq!(
            into_secret("s", secret, &list(json!(["a", "b", 1, 0]))).unwrap(),
            "x".into()
        );
        assert!(into_secret("s", secret, &list(json!(["a", "c"]))).is_err());
        assert!(into_secret("s", "no json", &list(json!(["a"]))).is_err());
    }
}
