//! The values of a deployment's inputs (spec/dsl.md, section 12, "Deployment inputs").

use super::DeploymentRequest;
use super::constraints::{Search, check_value};
use crate::functions::python_literal;
use crate::schema::{DataTypes, complete};
use crate::{Class, Fault, Map, Plan, Text, Value};

/// The code of an input that violates its type.
const VIOLATES_TYPE: i32 = 214;

/// A value for every declared input: what is given, else the default, else what the data type gives by itself, else null where
/// the input is not required.
///
/// # Errors
/// When inputs are missing, given but not declared, of a wrong type, or against their constraints.
pub(super) fn take(plan: &Plan, request: &DeploymentRequest, search: Option<&dyn Search>) -> Result<Map, Fault> {
    let types = DataTypes::new(&plan.data_types);
    let mut values = request.inputs.clone();
    let mut missing: Vec<&Text> = Vec::new();
    let empty = Map::new();
    for (name, schema) in plan.inputs.iter() {
        let schema = schema.as_map().unwrap_or(&empty);
        let type_name = schema.get("type").and_then(Value::as_str);
        let path = format!("inputs.{name}");
        let given = values
            .get(name)
            .or_else(|| schema.get("default").filter(|default| !default.is_null()));
        let value = match given {
            Some(value) => value.clone(),
            None => {
                let by_type = complete(&Value::from(Map::new()), type_name, &types, &path).ok();
                match by_type.filter(Value::is_truthy) {
                    Some(value) => value,
                    None if schema.get("required").is_none_or(Value::is_truthy) => {
                        missing.push(name);
                        continue;
                    }
                    None => {
                        values.insert(name.clone(), Value::Null);
                        continue;
                    }
                }
            }
        };
        let value = if request.auto_correct {
            corrected(value, type_name)
        } else {
            value
        };
        check_value(name, schema, &value, search)?;
        let value = complete(&value, type_name, &types, &path).map_err(|fault| match fault.class {
            Class::Logic => Fault::coded(Class::Parsing, VIOLATES_TYPE, fault.message, fault.path),
            _ => fault,
        })?;
        values.insert(name.clone(), value);
    }
    refuse(plan, &missing, &values)?;
    Ok(values)
}

fn refuse(plan: &Plan, missing: &[&Text], values: &Map) -> Result<(), Fault> {
    let shown = |names: &mut dyn Iterator<Item = &Text>| python_literal(&names.map(Value::from).collect());
    let expected = || shown(&mut plan.inputs.keys());
    if !missing.is_empty() {
        let message = format!(
            "Required inputs {} were not specified - expected inputs: {}",
            shown(&mut missing.iter().copied()),
            expected()
        );
        return Err(Fault::new(Class::MissingRequiredInput, message, "inputs"));
    }
    let unknown: Vec<&Text> = values.keys().filter(|name| !plan.inputs.contains_key(*name)).collect();
    if !unknown.is_empty() {
        let message = format!(
            "Unknown inputs {} specified - expected inputs: {}",
            shown(&mut unknown.into_iter()),
            expected()
        );
        return Err(Fault::new(Class::UnknownInput, message, "inputs"));
    }
    Ok(())
}

/// The number or truth value that a text stands for, where the type asks for one; else the value itself.
fn corrected(value: Value, type_name: Option<&str>) -> Value {
    let Value::String(text) = &value else { return value };
    let correct = match type_name {
        Some("integer") => whole(text),
        Some("float") => float(text).map(Value::Float),
        Some("boolean") => match &**text {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => None,
        },
        _ => None,
    };
    correct.unwrap_or(value)
}

/// Digits with a sign, blanks around and single underscores between them.
fn whole(text: &str) -> Option<Value> {
    let digits = plain_digits(text.trim())?;
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => ("-", rest.to_owned()),
        None => ("", digits.strip_prefix('+').unwrap_or(&digits).to_owned()),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    let text = if digits.is_empty() {
        "0".to_owned()
    } else {
        format!("{sign}{digits}")
    };
    Some(
        text.parse()
            .map_or_else(|_| Value::BigInt(text.as_str().into()), Value::Int),
    )
}

fn float(text: &str) -> Option<f64> {
    let text = plain_digits(text.trim())?;
    let unsigned = text.trim_start_matches(['+', '-']);
    match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" | "nan" => text.to_ascii_lowercase().parse().ok(),
        lower if lower.starts_with(|first: char| first.is_ascii_digit() || first == '.') => text.parse().ok(),
        _ => None,
    }
}

/// Without the underscores that may stand between digits; nothing where they stand elsewhere.
fn plain_digits(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_digit = |index: Option<usize>| index.and_then(|index| bytes.get(index)).is_some_and(u8::is_ascii_digit);
    for (index, _) in text.match_indices('_') {
        if !is_digit(index.checked_sub(1)) || !is_digit(Some(index + 1)) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_what_the_type_asks_for() {
        let corrected = |text: &str, type_name: &str| corrected(text.into(), Some(type_name));
        assert_eq!(corrected("12", "integer"), Value::Int(12));
        assert_eq!(corrected(" -1_000 ", "integer"), Value::Int(-1000));
        assert_eq!(corrected("007", "integer"), Value::Int(7));
        assert_eq!(corrected("1_", "integer"), "1_".into());
        assert_eq!(corrected("1.0", "integer"), "1.0".into());
        assert_eq!(
            corrected("99999999999999999999", "integer"),
            Value::BigInt("99999999999999999999".into())
        );
        assert_eq!(corrected("1e3", "float"), Value::Float(1000.0));
        assert_eq!(corrected("-inf", "float"), Value::Float(f64::NEG_INFINITY));
        assert_eq!(corrected("true", "boolean"), Value::Bool(true));
        assert_eq!(corrected("True", "boolean"), "True".into());
        assert_eq!(corrected("1", "string"), "1".into());
    }
}
