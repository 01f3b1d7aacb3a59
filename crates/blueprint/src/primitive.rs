//! The types that need no definition (spec/dsl.md, sections 7 and 12).

use crate::Value;

/// Types whose values are names of things in the manager, from 1_4 on.
pub const ID_TYPES_1_4: [&str; 8] = [
    "blueprint_id",
    "deployment_id",
    "capability_value",
    "scaling_group",
    "node_id",
    "node_type",
    "node_instance",
    "secret_key",
];

/// The one that 1_5 added.
pub const ID_TYPES_1_5: [&str; 1] = ["operation_name"];

const OTHER: [&str; 8] = [
    "string", "integer", "float", "boolean", "list", "dict", "regex", "textarea",
];

/// All types that need no definition.
pub fn primitive_types() -> impl Iterator<Item = &'static str> {
    OTHER.into_iter().chain(ID_TYPES_1_4).chain(ID_TYPES_1_5)
}

/// Whether the type needs no definition.
pub fn is_primitive(name: &str) -> bool {
    primitive_types().any(|known| known == name)
}

/// Whether values of the type are names of things in the manager, which only a search there can check.
pub fn is_id_type(name: &str) -> bool {
    ID_TYPES_1_4.contains(&name) || ID_TYPES_1_5.contains(&name)
}

/// Whether a value fits a type that needs no definition. Texts and names of things take anything: the original never checks them.
pub fn fits(type_name: &str, value: &Value) -> bool {
    match type_name {
        "integer" => matches!(value, Value::Int(_) | Value::BigInt(_)),
        "float" => matches!(value, Value::Int(_) | Value::BigInt(_) | Value::Float(_)),
        "boolean" => matches!(value, Value::Bool(_)),
        "list" => matches!(value, Value::List(_)),
        "dict" => matches!(value, Value::Map(_)),
        "regex" => value.as_str().is_some_and(is_pattern),
        "string" | "textarea" => true,
        other => is_id_type(other),
    }
}

/// Whether a text is a regular expression, with look-around and references back.
pub fn is_pattern(text: &str) -> bool {
    fancy_regex::Regex::new(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_values_are_no_numbers_and_texts_are_never_checked() {
        assert!(!fits("integer", &Value::Bool(true)));
        assert!(fits("float", &Value::Int(1)));
        assert!(!fits("integer", &Value::Float(1.0)));
        assert!(fits("string", &Value::Int(1)));
        assert!(fits("node_id", &Value::Null));
        assert!(fits("regex", &Value::from("(?<=a)b\\1?(c)")));
        assert!(!fits("regex", &Value::from("(")));
        assert!(!fits("unknown", &Value::Null));
    }
}
