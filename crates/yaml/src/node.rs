//! The tree.

use serde_json::{Map, Number, Value};

/// Where a value begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Where it begins.
    pub place: Place,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `null`, `~` or nothing.
    Null,
    /// `true`, `yes`, `on` and their opposites.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that does not fit, as its decimal digits.
    BigInt(String),
    /// Any other number.
    Float(f64),
    /// A text.
    Str(String),
    /// A date or time, as written: YAML 1.1 makes it more than a text, JSON has no word for it.
    Timestamp(String),
    /// A list.
    Seq(Vec<Node>),
    /// Keys and values in the order of the text, each key once.
    Map(Vec<(Node, Node)>),
}

impl Node {
    pub(crate) fn new(kind: Kind, place: Place) -> Self {
        Self { kind, place }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The entries, if it is a mapping.
    pub fn as_map(&self) -> Option<&[(Node, Node)]> {
        match &self.kind {
            Kind::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn as_seq(&self) -> Option<&[Node]> {
        match &self.kind {
            Kind::Seq(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a key, if it is a mapping that has it. Linear: for mappings of known small size.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?
            .iter()
            .find(|(name, _)| name.as_str() == Some(key))
            .map(|(_, value)| value)
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    /// What it is, in the words that messages use.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "boolean",
            Kind::Int(_) | Kind::BigInt(_) => "integer",
            Kind::Float(_) => "float",
            Kind::Str(_) => "string",
            Kind::Timestamp(_) => "date",
            Kind::Seq(_) => "list",
            Kind::Map(_) => "dict",
        }
    }

    /// As JSON. Keys that are no texts become their JSON text; infinities and dates become `{"$float": …}` and `{"$date": …}`.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Int(value) => Value::from(*value),
            Kind::BigInt(digits) => digits
                .parse::<f64>()
                .ok()
                .and_then(Number::from_f64)
                .map_or(Value::Null, Value::Number),
            Kind::Float(value) => float_to_json(*value),
            Kind::Str(text) => Value::String(text.clone()),
            Kind::Timestamp(text) => Value::Object(Map::from_iter([("$date".to_owned(), Value::String(text.clone()))])),
            Kind::Seq(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Kind::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, value)| (key.key_text(), value.to_json()))
                    .collect(),
            ),
        }
    }

    /// A mapping's key as JSON can hold it.
    pub fn key_text(&self) -> String {
        match &self.kind {
            Kind::Str(text) | Kind::Timestamp(text) => text.clone(),
            _ => self.to_json().to_string(),
        }
    }
}

fn float_to_json(value: f64) -> Value {
    if let Some(number) = Number::from_f64(value) {
        return Value::Number(number);
    }
    let text = if value.is_nan() {
        "nan"
    } else if value > 0.0 {
        "inf"
    } else {
        "-inf"
    };
    Value::Object(Map::from_iter([("$float".to_owned(), Value::String(text.to_owned()))]))
}
