//! What two values differ in.

use serde_json::Value;

/// A place where two values differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The way to it, with dots.
    pub path: String,
    /// What we have there.
    pub ours: Value,
    /// What is expected there.
    pub expected: Value,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: is {}, expected {}", self.path, self.ours, self.expected)
    }
}

/// The innermost places where the two differ; `null` stands for what is not there. Numbers are compared as JSON writes them: 1
/// and 1.0 differ.
pub fn differences(ours: &Value, expected: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    collect(String::new(), ours, expected, &mut found);
    found
}

fn collect(path: String, ours: &Value, expected: &Value, found: &mut Vec<Difference>) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match (ours, expected) {
        (Value::Object(left), Value::Object(right)) => {
            for (key, ours) in left {
                match right.get(key) {
                    Some(expected) => collect(join(key), ours, expected, found),
                    None => found.push(Difference {
                        path: format!("{} (not expected)", join(key)),
                        ours: ours.clone(),
                        expected: Value::Null,
                    }),
                }
            }
            for (key, expected) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
                found.push(Difference {
                    path: format!("{} (missing)", join(key)),
                    ours: Value::Null,
                    expected: expected.clone(),
                });
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (ours, expected)) in left.iter().zip(right).enumerate() {
                collect(format!("{path}[{index}]"), ours, expected, found);
            }
        }
        _ if ours == expected => {}
        _ => found.push(Difference {
            path,
            ours: ours.clone(),
            expected: expected.clone(),
        }),
    }
}

/// Classes of the original that leak out of its inside: it is enough to fail at the same stage.
const LEAKED: [&str; 10] = [
    "ValueError",
    "KeyError",
    "TypeError",
    "IndexError",
    "ScannerError",
    "ComposerError",
    "ConstructorError",
    "NonRecoverableError",
    "NotFound",
    "AssertionError",
];

/// Whether a fault of ours is the one that is expected: by its code where that is known, else by its class.
pub(crate) fn is_expected(class: &str, code: Option<i32>, expected: &Value) -> bool {
    if let Some(wanted) = expected["code"].as_i64() {
        return code.map(i64::from) == Some(wanted);
    }
    let wanted = expected["class"].as_str().unwrap_or_default();
    LEAKED.contains(&wanted) || wanted == class
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_found_where_they_are() {
        let ours = json!({"a": {"b": [1, 2]}, "c": 1, "e": 0});
        let expected = json!({"a": {"b": [1, 3]}, "c": 1.0, "d": 0});
        let found: Vec<String> = differences(&ours, &expected)
            .into_iter()
            .map(|difference| difference.path)
            .collect();
        assert_eq!(found, ["a.b[1]", "c", "e (not expected)", "d (missing)"]);
    }

    #[test]
    fn codes_count_before_classes() {
        assert!(is_expected("X", Some(1), &json!({"class": "Y", "code": 1})));
        assert!(!is_expected("Y", Some(2), &json!({"class": "Y", "code": 1})));
        assert!(is_expected("Y", None, &json!({"class": "Y", "code": null})));
        assert!(is_expected("X", None, &json!({"class": "KeyError", "code": null})));
    }
}
