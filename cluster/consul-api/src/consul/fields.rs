//! Request bodies as Consul reads them: names of fields in any case, unknown fields ignored (spec/consul-api.md,
//! section 1). Names that are the client's own, such as those of metadata, stay as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::duration;
use super::error::ApiError;

/// A JSON object.
pub(super) struct Fields<'a>(&'a Map<String, Value>);

/// Reads a body that may be empty.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ApiError::BadRequest(
            "Request decode failed: an object is expected".into(),
        )),
        Err(error) => Err(ApiError::BadRequest(format!("Request decode failed: {error}"))),
    }
}

/// `ServiceID`, `serviceid` and `service_id` are the same name.
fn same(one: &str, other: &str) -> bool {
    let letters = |text: &str| -> Vec<u8> {
        let letters = text.bytes().filter(|byte| *byte != b'_');
        letters.map(|byte| byte.to_ascii_lowercase()).collect()
    };
    letters(one) == letters(other)
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Map<String, Value>) -> Self {
        Self(object)
    }

    /// The fields of a value that must be an object.
    pub(super) fn of(value: &'a Value) -> Result<Self, ApiError> {
        let malformed = || ApiError::BadRequest("Request decode failed: an object is expected".into());
        value.as_object().map(Self).ok_or_else(malformed)
    }

    /// A field; null counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let found = self.0.iter().find(|(own, _)| same(own, name));
        found.map(|(_, value)| value).filter(|value| !value.is_null())
    }

    fn wrong(name: &str, expected: &str) -> ApiError {
        ApiError::BadRequest(format!("Request decode failed: {name}: {expected} is expected"))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        let text = |value: &Value| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| Self::wrong(name, "text"))
        };
        self.get(name).map(text).transpose()
    }

    pub(super) fn text_or_empty(&self, name: &str) -> Result<String, ApiError> {
        Ok(self.text(name)?.unwrap_or_default())
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| Self::wrong(name, "true or false")),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let number = |value: &Value| value.as_u64().ok_or_else(|| Self::wrong(name, "a number"));
        self.get(name).map(number).transpose()
    }

    /// A duration as text; a bare number is nanoseconds, as Go's JSON has it.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, ApiError> {
        let read = |value: &Value| match value {
            Value::String(text) if text.is_empty() => Ok(None),
            Value::String(text) => duration::parse(text)
                .map(Some)
                .ok_or_else(|| Self::wrong(name, "a duration such as 10s")),
            Value::Number(number) => number
                .as_u64()
                .map(|nanos| Some(Duration::from_nanos(nanos)))
                .ok_or_else(|| Self::wrong(name, "a duration such as 10s")),
            _ => Err(Self::wrong(name, "a duration such as 10s")),
        };
        Ok(self.get(name).map(read).transpose()?.flatten())
    }

    pub(super) fn list(&self, name: &str) -> Result<Option<&'a Vec<Value>>, ApiError> {
        let list = |value: &'a Value| value.as_array().ok_or_else(|| Self::wrong(name, "a list"));
        self.get(name).map(list).transpose()
    }

    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let text = |value: &Value| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| Self::wrong(name, "a list of texts"))
        };
        let texts = |list: &Vec<Value>| list.iter().map(text).collect();
        self.list(name)?.map(texts).transpose()
    }

    /// An object whose names are the client's own.
    pub(super) fn map<T>(
        &self,
        name: &str,
        read: impl Fn(&'a Value) -> Result<T, ApiError>,
    ) -> Result<BTreeMap<String, T>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(BTreeMap::new());
        };
        let object = value.as_object().ok_or_else(|| Self::wrong(name, "an object"))?;
        let pair = |(key, value): (&String, &'a Value)| Ok((key.clone(), read(value)?));
        object.iter().map(pair).collect()
    }

    pub(super) fn text_map(&self, name: &str) -> Result<BTreeMap<String, String>, ApiError> {
        self.map(name, |value| {
            let text = value.as_str().map(str::to_owned);
            text.ok_or_else(|| Self::wrong(name, "an object of texts"))
        })
    }
}
