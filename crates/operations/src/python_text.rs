//! How values look as text where scripts expect what Python prints.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// JSON with a blank after each comma and colon: scripts compare such texts.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `json.dumps(value)`, but letters beyond ASCII stay as they are.
pub(crate) fn json(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, Spaced);
    value
        .serialize(&mut serializer)
        .expect("a JSON value is written into memory");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// `str(value)`.
pub(crate) fn display(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr(other),
    }
}

/// `repr(value)`.
fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", quoted(key), repr(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// A string literal: single quotes unless it holds some and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter == quote => out.extend(['\\', letter]),
            letter if letter.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push(quote);
    out
}

/// An input as an environment variable: strings as they are, lists, mappings and booleans as JSON, the rest as printed.
pub(crate) fn environment_value(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => json(value),
        other => display(other),
    }
}

/// Whether Python takes the value for false.
pub(crate) fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

/// A number of seconds, given as a number or, by shell scripts, as text.
pub(crate) fn seconds(value: &Value) -> Option<f64> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    seconds.is_finite().then_some(seconds)
}

/// `template % arguments`, for `%s`, `%d` and `%r`; other directives stay.
pub(crate) fn interpolate(template: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut rest = template;
    let mut arguments = arguments.iter();
    while let Some(at) = rest.find('%') {
        let (before, directive) = rest.split_at(at);
        out.push_str(before);
        let taken = match directive.as_bytes().get(1) {
            Some(b's' | b'd') => arguments.next().map(display),
            Some(b'r') => arguments.next().map(repr),
            Some(b'%') => Some("%".to_owned()),
            _ => None,
        };
        match taken {
            Some(text) => {
                out.push_str(&text);
                rest = &directive[2..];
            }
            None => {
                out.push('%');
                rest = &directive[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_those_of_python() {
        assert_eq!(
            json(&json!({"a": [1, true], "b": null})),
            r#"{"a": [1, true], "b": null}"#
        );
        assert_eq!(
            display(&json!({"a": [1.0, true, null], "b": "it's"})),
            r#"{'a': [1.0, True, None], 'b': "it's"}"#
        );
        assert_eq!(display(&json!("plain 'text'")), "plain 'text'");
        assert_eq!(environment_value(&json!(null)), "None");
        assert_eq!(environment_value(&json!(true)), "true");
        assert_eq!(environment_value(&json!(5)), "5");
    }

    #[test]
    fn seconds_may_be_text() {
        assert_eq!(seconds(&json!("9")), Some(9.0));
        assert_eq!(seconds(&json!(0.5)), Some(0.5));
        assert_eq!(seconds(&json!("soon")), None);
        assert_eq!(seconds(&json!("inf")), None);
    }

    #[test]
    fn arguments_are_put_in() {
        assert_eq!(
            interpolate("%s is %d%%, %s", &[json!("disk"), json!(90)]),
            "disk is 90%, %s"
        );
        assert_eq!(interpolate("100% ünicode %", &[]), "100% ünicode %");
    }
}
