//! The values that plans are made of: JSON's, plus what YAML can say and JSON can't, with shared structure.
//!
//! A plan of thousands of node templates repeats the operations and properties of a few types. [`Value`] is therefore cheap
//! to clone (text, lists and mappings are reference-counted) and copied only where it is changed.

use std::fmt;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use conclave_yaml::{Kind, Node};
use indexmap::{Equivalent, IndexMap};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A text that is shared, not copied.
pub type Text = Arc<str>;

/// Keys are names out of blueprints, whose number is bounded by the limits of the reader: a fast hash is enough, and one
/// without a random seed keeps this crate pure.
type Entries = IndexMap<Text, Value, BuildHasherDefault<rustc_hash::FxHasher>>;

/// A value of a plan.
///
/// Integers and floats are different values even where they are numerically equal, as in the language that plans come from.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number beyond 64 bits, as its decimal digits.
    BigInt(Text),
    /// Any other number, infinities included.
    Float(f64),
    /// A text.
    String(Text),
    /// A date or time of YAML 1.1, as its text.
    Date(Text),
    /// A list.
    List(Arc<Vec<Value>>),
    /// A mapping.
    Map(Map),
}

/// A mapping of texts to values that keeps the order of insertion; two are equal whatever their order.
#[derive(Clone, Default)]
pub struct Map(Arc<Entries>);

impl Map {
    /// One without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// One without entries, with room for `count`.
    pub fn with_capacity(count: usize) -> Self {
        Self(Arc::new(Entries::with_capacity_and_hasher(count, Default::default())))
    }

    /// The value of `key`.
    pub fn get<K: ?Sized + std::hash::Hash + Equivalent<Text>>(&self, key: &K) -> Option<&Value> {
        self.0.get(key)
    }

    /// The value of `key`, to be changed; copies the mapping first where it is shared.
    pub fn get_mut<K: ?Sized + std::hash::Hash + Equivalent<Text>>(&mut self, key: &K) -> Option<&mut Value> {
        Arc::make_mut(&mut self.0).get_mut(key)
    }

    /// Whether `key` is there.
    pub fn contains_key<K: ?Sized + std::hash::Hash + Equivalent<Text>>(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Sets `key`; a key that is there keeps its position. Answers the value that was there.
    pub fn insert(&mut self, key: impl Into<Text>, value: impl Into<Value>) -> Option<Value> {
        Arc::make_mut(&mut self.0).insert(key.into(), value.into())
    }

    /// Takes `key` out; the others keep their order.
    pub fn remove<K: ?Sized + std::hash::Hash + Equivalent<Text>>(&mut self, key: &K) -> Option<Value> {
        Arc::make_mut(&mut self.0).shift_remove(key)
    }

    /// The value of `key`, which becomes null first if it is not there.
    pub fn entry(&mut self, key: impl Into<Text>) -> &mut Value {
        Arc::make_mut(&mut self.0).entry(key.into()).or_default()
    }

    /// The entries, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Text, &Value)> + ExactSizeIterator {
        self.0.iter()
    }

    /// The entries, in order, their values to be changed.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&Text, &mut Value)> + ExactSizeIterator {
        Arc::make_mut(&mut self.0).iter_mut()
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Text> + ExactSizeIterator {
        self.0.keys()
    }

    /// The values, in order of the keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Value> + ExactSizeIterator {
        self.0.values()
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both are one and the same in memory: a quick, sufficient sign of equality.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where it lies in memory, by which what was found out about it can be remembered while it lives.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.0 == other.0
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Into<Text>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(Arc::new(
            entries
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        ))
    }
}

impl<K: Into<Text>, V: Into<Value>> Extend<(K, V)> for Map {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        Arc::make_mut(&mut self.0).extend(entries.into_iter().map(|(key, value)| (key.into(), value.into())));
    }
}

impl Value {
    /// Whether it is nothing.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The whole number, if it is one of 64 bits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The items, if it is a list, to be changed.
    pub fn as_list_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Self::List(items) => Some(Arc::make_mut(items)),
            _ => None,
        }
    }

    /// The mapping, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The mapping, if it is one, to be changed.
    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The value of `key`, if it is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_map()?.get(key)
    }

    /// Whether it holds anything, in the sense of the language that blueprints' conditions come from: null, false, zero and
    /// what is empty are not.
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::String(text) => !text.is_empty(),
            Self::BigInt(_) | Self::Date(_) => true,
            Self::List(items) => !items.is_empty(),
            Self::Map(map) => !map.is_empty(),
        }
    }

    /// As JSON: infinities become `{"$float": …}`, dates `{"$date": …}` or `{"$datetime": …}`.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::BigInt(digits) => digits.parse::<u64>().map_or_else(
                |_| {
                    digits
                        .parse::<f64>()
                        .map_or(serde_json::Value::Null, serde_json::Value::from)
                },
                serde_json::Value::from,
            ),
            Self::Float(value) => serde_json::Number::from_f64(*value).map_or_else(
                || serde_json::json!({ "$float": infinity(*value) }),
                serde_json::Value::Number,
            ),
            Self::String(text) => (**text).into(),
            Self::Date(text) => serde_json::json!({ date_mark(text): **text }),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(map) => map
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

/// A date without a time has ten characters.
fn date_mark(text: &str) -> &'static str {
    if text.len() > 10 { "$datetime" } else { "$date" }
}

fn infinity(value: f64) -> &'static str {
    match value {
        value if value.is_nan() => "nan",
        value if value > 0.0 => "inf",
        _ => "-inf",
    }
}

/// Serialises as [`Value::to_json`] does, without the detour.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            Self::BigInt(_) => self.to_json().serialize(serializer),
            Self::Float(value) => marked(serializer, "$float", infinity(*value)),
            Self::String(text) => serializer.serialize_str(text),
            Self::Date(text) => marked(serializer, date_mark(text), text),
            Self::List(items) => serializer.collect_seq(items.iter()),
            Self::Map(map) => map.serialize(serializer),
        }
    }
}

fn marked<S: Serializer>(serializer: S, mark: &str, text: &str) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(mark, text)?;
    map.end()
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Map(map) => Ok(map),
            Value::Null => Ok(Self::new()),
            _ => Err(de::Error::custom("a mapping is expected")),
        }
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| Value::BigInt(value.to_string().into()), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Value>()? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Entries::default();
        while let Some((key, value)) = access.next_entry::<Text, Value>()? {
            entries.insert(key, value);
        }
        Ok(Value::Map(Map(Arc::new(entries))))
    }
}

/// The JSON text.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl From<&serde_json::Value> for Value {
    fn from(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Int(value),
                (None, Some(value)) => Self::BigInt(value.to_string().into()),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::INFINITY)),
            },
            serde_json::Value::String(text) => Self::String(text.as_str().into()),
            serde_json::Value::Array(items) => Self::List(Arc::new(items.iter().map(Self::from).collect())),
            serde_json::Value::Object(entries) => Self::Map(
                entries
                    .iter()
                    .map(|(key, value)| (key.as_str(), Self::from(value)))
                    .collect(),
            ),
        }
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        Self::from(&json)
    }
}

/// Keys that are no texts become their JSON text.
impl From<&Node> for Value {
    fn from(node: &Node) -> Self {
        match &node.kind {
            Kind::Null => Self::Null,
            Kind::Bool(value) => Self::Bool(*value),
            Kind::Int(value) => Self::Int(*value),
            Kind::BigInt(digits) => Self::BigInt(digits.clone()),
            Kind::Float(value) => Self::Float(*value),
            Kind::Str(text) => Self::String(text.clone()),
            Kind::Timestamp(text) => Self::Date(text.clone()),
            Kind::Seq(items) => Self::List(Arc::new(items.iter().map(Self::from).collect())),
            Kind::Map(entries) => Self::Map(
                entries
                    .iter()
                    .map(|(key, value)| {
                        let name = key.as_text().cloned().unwrap_or_else(|| key.key_text().into());
                        (name, Self::from(value))
                    })
                    .collect(),
            ),
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Self::String(text)
    }
}

impl From<&Text> for Value {
    fn from(text: &Text) -> Self {
        Self::String(text.clone())
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

impl<V: Into<Value>> From<Vec<V>> for Value {
    fn from(items: Vec<V>) -> Self {
        Self::List(Arc::new(items.into_iter().map(Into::into).collect()))
    }
}

impl<V: Into<Value>> From<Option<V>> for Value {
    fn from(value: Option<V>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<V: Into<Value>> FromIterator<V> for Value {
    fn from_iter<I: IntoIterator<Item = V>>(items: I) -> Self {
        Self::List(Arc::new(items.into_iter().map(Into::into).collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_of_a_copy_leaves_the_original() {
        let first = Map::from_iter([("a", Value::from(json!({"b": [1]})))]);
        let mut second = first.clone();
        assert!(first.is_same(&second));
        second.entry("a").as_map_mut().unwrap().insert("b", 2i64);
        assert_eq!(Value::from(first).to_json(), json!({"a": {"b": [1]}}));
        assert_eq!(Value::from(second).to_json(), json!({"a": {"b": 2}}));
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let json = json!({"null": null, "list": [true, 1, 1.5, "x", u64::MAX], "map": {}});
        let value = Value::from(&json);
        assert_eq!(value.to_json(), json);
        assert_eq!(serde_json::to_value(&value).unwrap(), json);
        assert_ne!(Value::Int(1), Value::Float(1.0));
    }

    #[test]
    fn what_json_cannot_say_is_marked() {
        let value = Value::from_iter([Value::Float(f64::NEG_INFINITY), Value::Date("2024-01-01".into())]);
        assert_eq!(value.to_string(), r#"[{"$float":"-inf"},{"$date":"2024-01-01"}]"#);
    }
}
