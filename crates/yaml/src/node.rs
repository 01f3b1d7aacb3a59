//! The tree.

use std::sync::Arc;

use serde_json::{Map, Number, Value};

/// A text that is shared, not copied.
pub type Text = Arc<str>;

/// Where a value begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// The number that the reader of several files gave this one.
    pub source: u16,
    /// From 1; 65535 for all that is farther right.
    pub column: u16,
    /// From 1; 0 where the value stands in no text.
    pub line: u32,
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Where it begins.
    pub place: Place,
}

/// What a value is. Cheap to clone: lists and mappings are shared.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `null`, `~` or nothing.
    Null,
    /// `true`, `yes`, `on` and their opposites.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that does not fit, as its decimal digits.
    BigInt(Text),
    /// Any other number.
    Float(f64),
    /// A text.
    Str(Text),
    /// A date (`2001-12-14`) or a date with a time (`2001-12-14 21:59:43.100000-05:00`), in this one form: YAML 1.1 makes it
    /// more than a text, JSON has no word for it.
    Timestamp(Text),
    /// A list.
    Seq(Arc<Vec<Node>>),
    /// Keys and values in the order of the text, each key once.
    Map(Arc<Vec<(Node, Node)>>),
}

impl Node {
    /// A value at a place.
    pub fn new(kind: Kind, place: Place) -> Self {
        Self { kind, place }
    }

    /// A text at a place.
    pub fn text(text: impl Into<Text>, place: Place) -> Self {
        Self::new(Kind::Str(text.into()), place)
    }

    /// A mapping at a place; the caller sees to it that no key is there twice.
    pub fn map(entries: Vec<(Node, Node)>, place: Place) -> Self {
        Self::new(Kind::Map(Arc::new(entries)), place)
    }

    /// A list at a place.
    pub fn seq(items: Vec<Node>, place: Place) -> Self {
        Self::new(Kind::Seq(Arc::new(items)), place)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The text, if it is one, to be shared.
    pub fn as_text(&self) -> Option<&Text> {
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
        self.entry(key).map(|(_, value)| value)
    }

    /// A key with its value, if it is a mapping that has it. Linear as well.
    pub fn entry(&self, key: &str) -> Option<&(Node, Node)> {
        self.as_map()?.iter().find(|(name, _)| name.as_str() == Some(key))
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

    /// As JSON. Keys that are no texts become their JSON text; infinities and dates become `{"$float": …}`, `{"$date": …}` and
    /// `{"$datetime": …}`.
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
            Kind::Str(text) => Value::String(text.to_string()),
            Kind::Timestamp(text) => marked(if text.len() > 10 { "$datetime" } else { "$date" }, text),
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
            Kind::Str(text) => text.to_string(),
            _ => self.to_json().to_string(),
        }
    }
}

fn marked(mark: &str, text: &str) -> Value {
    Value::Object(Map::from_iter([(mark.to_owned(), Value::String(text.to_owned()))]))
}

fn float_to_json(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => marked("$float", "nan"),
        None if value > 0.0 => marked("$float", "inf"),
        None => marked("$float", "-inf"),
    }
}
