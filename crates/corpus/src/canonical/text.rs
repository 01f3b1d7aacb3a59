//! The canonical text of a value: keys sorted, no blanks, nothing escaped that need not be.

use serde_json::Value;

/// The canonical text.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    push(&mut out, value);
    out
}

fn push(out: &mut String, value: &Value) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            // Whether maps keep an order depends on a feature that any crate may switch on: sort them here.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|left, right| left.0.cmp(right.0));
            out.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                push(out, value);
            }
            out.push('}');
        }
        Value::Number(number) if number.is_f64() => out.push_str(&float(number.as_f64().unwrap_or_default())),
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// As the tools that made the expectations write it: with an exponent of two digits and a sign, below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if number == 0.0 || (1e-4..1e16).contains(&number.abs()) {
        return format!("{number:?}");
    }
    let shown = format!("{number:e}");
    let (digits, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_sorted_and_nothing_is_blank() {
        let value = serde_json::json!({"b": [1, "é\n"], "a": null});
        assert_eq!(super::text(&value), r#"{"a":null,"b":[1,"é\n"]}"#);
        assert_eq!(
            super::text(&serde_json::json!([1.0, 1e16, 1e-5, 0.0001])),
            "[1.0,1e+16,1e-05,0.0001]"
        );
    }
}
