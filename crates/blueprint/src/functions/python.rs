//! Values as the language that blueprints were made for prints them: `concat` and messages show `True`, `None`, `{'a': 1}`.

use std::fmt::Write;

use crate::Value;

/// As `str` gives it: a text as it is, everything else as [`literal`].
pub(crate) fn text(value: &Value) -> String {
    let mut out = String::new();
    push_text(&mut out, value);
    out
}

/// Appends [`text`].
pub(crate) fn push_text(out: &mut String, value: &Value) {
    match value {
        Value::String(text) | Value::Date(text) => out.push_str(text),
        other => push_literal(out, other),
    }
}

/// As `repr` gives it.
pub(crate) fn literal(value: &Value) -> String {
    let mut out = String::new();
    push_literal(&mut out, value);
    out
}

/// A list as `repr` gives it.
pub(crate) fn list_literal(items: &[Value]) -> String {
    let mut out = String::new();
    push_list(&mut out, items);
    out
}

/// The name of the value's type.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::BigInt(_) => "int",
        Value::Float(_) => "float",
        Value::String(_) => "str",
        Value::Date(_) => "date",
        Value::List(_) => "list",
        Value::Map(_) => "dict",
    }
}

fn push_literal(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Value::BigInt(digits) => out.push_str(digits),
        Value::Float(number) => push_float(out, *number),
        Value::String(text) => push_quoted(out, text),
        Value::Date(text) => push_date(out, text),
        Value::List(items) => push_list(out, items),
        Value::Map(map) => {
            out.push('{');
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                push_quoted(out, key);
                out.push_str(": ");
                push_literal(out, value);
            }
            out.push('}');
        }
    }
}

fn push_list(out: &mut String, items: &[Value]) {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        push_literal(out, item);
    }
    out.push(']');
}

/// The shortest digits that give the number back, with an exponent below 1e-4 and from 1e16 on.
fn push_float(out: &mut String, number: f64) {
    if number.is_nan() {
        out.push_str("nan");
    } else if number.is_infinite() {
        out.push_str(if number > 0.0 { "inf" } else { "-inf" });
    } else if number == 0.0 || (1e-4..1e16).contains(&number.abs()) {
        let _ = write!(out, "{number:?}");
    } else {
        // Rust writes 1e-5 and 1.5e16, Python 1e-05 and 1.5e+16.
        let shown = format!("{number:e}");
        let (digits, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
    }
}

/// Single quotes, unless the text holds one and no double quote.
fn push_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => {
                out.push('\\');
                out.push(character);
            }
            _ if character.is_control() || (character.is_whitespace() && character != ' ') => {
                let code = u32::from(character);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
            _ => out.push(character),
        }
    }
    out.push(quote);
}

fn push_date(out: &mut String, text: &str) {
    let mut parts = text.split('-').map(str::parse::<u32>);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(year)), Some(Ok(month)), Some(Ok(day)), None) => {
            let _ = write!(out, "datetime.date({year}, {month}, {day})");
        }
        _ => push_quoted(out, text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_look_as_in_the_original() {
        let value = Value::from(json!({"a": [null, true, 1, 1.5, "x'y", "q\"'", "\n\u{1}"]}));
        assert_eq!(text(&value), r#"{'a': [None, True, 1, 1.5, "x'y", 'q"\'', '\n\x01']}"#);
        assert_eq!(text(&"plain".into()), "plain");
    }

    #[test]
    fn floats_look_as_in_the_original() {
        for (number, shown) in [
            (1.0, "1.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (-1.5e300, "-1.5e+300"),
            (f64::NEG_INFINITY, "-inf"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(text(&Value::Float(number)), shown);
        }
    }
}
