//! The functions that need nothing but their arguments: `concat`, `merge` and the text functions.

use super::call::{FunctionName, is_call};
use super::python;
use crate::{Class, Fault, Map, Value};

/// The most text that one evaluation may put together, in bytes: inputs that name each other twice double at every step.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Joins the items' texts. Nothing while an item is a call.
///
/// # Errors
/// When the text becomes larger than this implementation takes.
pub(crate) fn concat(items: &[Value]) -> Result<Option<Value>, Fault> {
    if items.iter().any(is_call) {
        return Ok(None);
    }
    let mut joined = String::new();
    for item in items {
        python::push_text(&mut joined, item);
        if joined.len() > TEXT_BYTES_MAX {
            return Err(Fault::new(
                Class::Limit,
                format!("the text that concat makes has more than {TEXT_BYTES_MAX} bytes"),
                "",
            ));
        }
    }
    Ok(Some(joined.into()))
}

/// Puts the items' entries together, later ones winning. Nothing while an item is a call.
///
/// # Errors
/// When an item is no mapping.
pub(crate) fn merge(items: &[Value]) -> Result<Option<Value>, Fault> {
    if items.iter().any(is_call) {
        return Ok(None);
    }
    let mut merged = Map::new();
    for item in items {
        match item {
            Value::Map(map) if merged.is_empty() => merged = map.clone(),
            Value::Map(map) => merged.extend(map.iter().map(|(key, value)| (key.clone(), value.clone()))),
            // What is empty has no entries to add, whatever it is.
            Value::List(items) if items.is_empty() => {}
            Value::String(text) if text.is_empty() => {}
            other => {
                let message = format!("Encountered non-dict element for merge: {}", python::literal(other));
                return Err(Fault::new(Class::Type, message, ""));
            }
        }
    }
    Ok(Some(merged.into()))
}

/// The names of a text function's arguments, for messages.
fn argument_names(function: FunctionName) -> &'static [&'static str] {
    match function {
        FunctionName::StringFind => &["haystack", "needle"],
        FunctionName::StringReplace => &["haystack", "needle", "replacement", "count"],
        FunctionName::StringSplit => &["input", "separator", "index"],
        _ => &["input"],
    }
}

fn is_whole(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::BigInt(_) | Value::Bool(_))
}

/// Whether the argument at `position` is a number by the function's rules, not a text.
fn takes_number(function: FunctionName, position: usize) -> bool {
    matches!(
        (function, position),
        (FunctionName::StringReplace, 3) | (FunctionName::StringSplit, 2)
    )
}

/// Checks the types of a text function's arguments, as far as they are known before it is evaluated.
///
/// # Errors
/// When one has a wrong type.
pub(crate) fn validate_texts(function: FunctionName, arguments: &[Value]) -> Result<(), Fault> {
    check_texts(function, arguments, true)
}

fn check_texts(function: FunctionName, arguments: &[Value], early: bool) -> Result<(), Fault> {
    for (position, (argument, name)) in arguments.iter().zip(argument_names(function)).enumerate() {
        let number = takes_number(function, position);
        // A position or count of null is none; a position of zero is not looked at when it is used.
        let unset = argument.is_null() || (!early && function == FunctionName::StringSplit && !argument.is_truthy());
        if number && unset {
            continue;
        }
        let (class, verb) = match early {
            true => (Class::FunctionValidation, "validate"),
            false => (Class::FunctionEvaluation, "evaluate"),
        };
        let wrong = |why: String| Fault::new(class, format!("Unable to {verb} {function} function: {why}"), "");
        if is_call(argument) {
            if early {
                continue;
            }
            let shown = python::literal(argument);
            return Err(wrong(format!("argument `{name}` should not be a function ({shown})")));
        }
        let fits = if number {
            is_whole(argument)
        } else {
            argument.as_str().is_some()
        };
        if !fits {
            let wanted = if number { "int" } else { "str" };
            let (is, shown) = (python::type_name(argument), python::text(argument));
            return Err(wrong(format!(
                "argument `{name}` should be of type {wanted} but is {is} ({shown})"
            )));
        }
    }
    Ok(())
}

/// The result of a text function.
///
/// # Errors
/// When an argument is still a call or has a wrong type, a separator is empty, or a position lies beyond the end.
pub(crate) fn text_function(function: FunctionName, arguments: &[Value]) -> Result<Value, Fault> {
    check_texts(function, arguments, false)?;
    let text = |position: usize| arguments.get(position).and_then(Value::as_str).unwrap_or_default();
    let number = |position: usize| arguments.get(position).filter(|value| !value.is_null());
    match function {
        FunctionName::StringFind => Ok(find(text(0), text(1))),
        FunctionName::StringReplace => replace(text(0), text(1), text(2), number(3)),
        FunctionName::StringSplit => split(text(0), text(1), number(2)),
        FunctionName::StringUpper => Ok(text(0).to_uppercase().into()),
        _ => Ok(text(0).to_lowercase().into()),
    }
}

/// The position in characters, −1 if it is not there.
fn find(haystack: &str, needle: &str) -> Value {
    let position = haystack.find(needle).map(|byte| haystack[..byte].chars().count());
    Value::Int(position.and_then(|position| i64::try_from(position).ok()).unwrap_or(-1))
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(value) => Some(i64::from(*value)),
        other => other.as_i64(),
    }
}

fn replace(haystack: &str, needle: &str, replacement: &str, count: Option<&Value>) -> Result<Value, Fault> {
    // A count below zero, or beyond what can be counted, is no limit.
    let limit = count
        .and_then(whole)
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(usize::MAX);
    // What no needle of this length can exceed, so that a small call makes no large text.
    let places = haystack.len() / needle.len().max(1) + 1;
    let grown = places
        .min(limit)
        .saturating_mul(replacement.len())
        .saturating_add(haystack.len());
    if grown > TEXT_BYTES_MAX {
        let message = format!("the text that string_replace makes may have more than {TEXT_BYTES_MAX} bytes");
        return Err(Fault::new(Class::Limit, message, ""));
    }
    Ok(haystack.replacen(needle, replacement, limit).into())
}

fn split(text: &str, separator: &str, index: Option<&Value>) -> Result<Value, Fault> {
    if separator.is_empty() {
        return Err(Fault::new(Class::Value, "empty separator", ""));
    }
    let Some(index) = index else {
        return Ok(text.split(separator).collect());
    };
    let parts: Vec<&str> = text.split(separator).collect();
    let Some(number) = whole(index) else {
        let class = if is_whole(index) { Class::Index } else { Class::Type };
        let message = format!("{} is no position in a list", python::literal(index));
        return Err(Fault::new(class, message, ""));
    };
    let part = position(number, parts.len()).map(|position| parts[position]);
    part.map(Into::into)
        .ok_or_else(|| Fault::new(Class::Index, "list index out of range", ""))
}

/// The position that an index means, counted from the end where it is negative.
pub(crate) fn position(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 {
        length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
    } else {
        usize::try_from(index).ok()?
    };
    (index < length).then_some(index)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(function: FunctionName, arguments: serde_json::Value) -> Result<serde_json::Value, Class> {
        let arguments = Value::from(&arguments);
        text_function(function, arguments.as_list().unwrap())
            .map(|value| value.to_json())
            .map_err(|fault| fault.class)
    }

    #[test]
    fn texts_are_found_replaced_and_split() {
        use FunctionName::{StringFind, StringLower, StringReplace, StringSplit, StringUpper};
        for (function, arguments, expected) in [
            (StringFind, json!(["aébc", "b"]), Ok(json!(2))),
            (StringFind, json!(["abc", "x"]), Ok(json!(-1))),
            (StringFind, json!(["abc", 1]), Err(Class::FunctionEvaluation)),
            (
                StringFind,
                json!(["abc", {"get_secret": "s"}]),
                Err(Class::FunctionEvaluation),
            ),
            (StringReplace, json!(["aaa", "a", "b"]), Ok(json!("bbb"))),
            (StringReplace, json!(["aaa", "a", "b", 2]), Ok(json!("bba"))),
            (StringReplace, json!(["aaa", "a", "b", -1]), Ok(json!("bbb"))),
            (StringReplace, json!(["ab", "", "-"]), Ok(json!("-a-b-"))),
            (StringSplit, json!(["a,b", ","]), Ok(json!(["a", "b"]))),
            (StringSplit, json!(["a,b", ",", 0]), Ok(json!("a"))),
            (StringSplit, json!(["a,b", ",", -1]), Ok(json!("b"))),
            (StringSplit, json!(["a,b", ",", 2]), Err(Class::Index)),
            (StringSplit, json!(["a,b", ",", "1"]), Err(Class::FunctionEvaluation)),
            (StringSplit, json!(["a,b", ",", ""]), Err(Class::Type)),
            (StringSplit, json!(["a,b", ""]), Err(Class::Value)),
            (StringLower, json!(["AbC"]), Ok(json!("abc"))),
            (StringUpper, json!(["AbC"]), Ok(json!("ABC"))),
        ] {
            assert_eq!(run(function, arguments.clone()), expected, "{function} {arguments}");
        }
    }

    #[test]
    fn small_calls_make_no_huge_texts() {
        let long = "a".repeat(1 << 20);
        assert_eq!(
            run(FunctionName::StringReplace, json!([long, "a", long])),
            Err(Class::Limit)
        );
    }

    #[test]
    fn mappings_are_merged_shallowly() {
        let items = Value::from(json!([{"a": {"x": 1}, "b": 1}, {"a": {"y": 2}}]));
        let merged = merge(items.as_list().unwrap()).unwrap().unwrap();
        assert_eq!(merged.to_json(), json!({"a": {"y": 2}, "b": 1}));
        assert!(merge(&[Value::Int(1)]).is_err());
        assert_eq!(merge(&[Value::from(json!({"get_input": "a"}))]).unwrap(), None);
    }
}
