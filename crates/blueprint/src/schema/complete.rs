//! Checks values against types and fills in defaults.

use crate::functions::is_call;
use crate::primitive::is_primitive;
use crate::schema::{DataTypes, Properties, Property, fits};
use crate::{Fault, Map, Text, Value};

/// Faults beyond this number are not looked for.
const FAULTS_MAX: usize = 20;

/// Where a value does not fit its schema.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PropertyFault {
    pub(crate) problem: Problem,
    /// Names from the outermost property inwards.
    pub(crate) path: Vec<Text>,
}

/// How a value does not fit its schema.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Problem {
    /// A property that the schema does not have; those that it has.
    Undefined(Vec<Text>),
    Missing,
    WrongType {
        type_name: Text,
        value: Value,
    },
    UnknownType {
        type_name: Text,
    },
    /// A call where only a truth value may stand.
    Call,
}

impl PropertyFault {
    pub(crate) fn code(&self) -> i32 {
        match self.problem {
            Problem::UnknownType { .. } => 103,
            Problem::WrongType { .. } => 105,
            Problem::Undefined(_) => 106,
            Problem::Missing => 107,
            Problem::Call => 219,
        }
    }

    /// The path with dots.
    pub(crate) fn dotted(&self) -> String {
        self.path.join(".")
    }

    /// In words; `owner` is what has the property.
    pub(crate) fn message(&self, owner: &str) -> String {
        let path = self.dotted();
        match &self.problem {
            Problem::Undefined(_) => format!("{owner}: property '{path}' is not part of the schema"),
            Problem::Missing => format!("{owner} does not provide a value for mandatory property '{path}'"),
            Problem::WrongType { type_name, value } if path.is_empty() => format!(
                "Property type validation failed in '{owner}': the defined type is '{type_name}', yet it was assigned with the value '{value}'"
            ),
            Problem::WrongType { type_name, value } => format!(
                "Property type validation failed in '{owner}': property '{path}' type is '{type_name}', yet it was assigned with the value '{value}'"
            ),
            Problem::UnknownType { type_name } => {
                format!("{owner}: property '{path}' is of the unknown type '{type_name}'")
            }
            Problem::Call => {
                format!("{owner}: only boolean values are allowed for `use_external_resource`, no intrinsic functions")
            }
        }
    }
}

/// Completes values and collects what does not fit.
pub(crate) struct Completion<'t> {
    types: &'t DataTypes,
    /// Whether required properties may be missing.
    lenient: bool,
    pub(crate) faults: Vec<PropertyFault>,
    path: Vec<Text>,
}

impl<'t> Completion<'t> {
    pub(crate) fn new(types: &'t DataTypes, lenient: bool) -> Self {
        Self {
            types,
            lenient,
            faults: Vec::new(),
            path: Vec::new(),
        }
    }

    fn fail(&mut self, problem: Problem) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(PropertyFault {
                problem,
                path: self.path.clone(),
            });
        }
    }

    /// A value of a type, completed: the type's defaults below those of `derived` below what the value says.
    pub(crate) fn value(&mut self, value: &Value, derived: Option<&Value>, type_name: Option<&str>) -> Value {
        let Some(type_name) = type_name else {
            return value.clone();
        };
        if is_call(value) {
            return value.clone();
        }
        if is_primitive(type_name) {
            if !fits(type_name, value) {
                self.wrong_type(type_name, value);
            }
            return value.clone();
        }
        let types = self.types;
        match (types.get(type_name), value) {
            (Some(properties), Value::Map(map)) => {
                Value::Map(self.properties(map, properties, derived.and_then(Value::as_map)))
            }
            (Some(_), _) => {
                self.wrong_type(type_name, value);
                value.clone()
            }
            (None, _) => {
                self.fail(Problem::UnknownType {
                    type_name: type_name.into(),
                });
                value.clone()
            }
        }
    }

    fn wrong_type(&mut self, type_name: &str, value: &Value) {
        self.fail(Problem::WrongType {
            type_name: type_name.into(),
            value: value.clone(),
        });
    }

    /// Values of properties, completed with defaults.
    pub(crate) fn properties(&mut self, given: &Map, schema: &Properties, derived: Option<&Map>) -> Map {
        for name in given.keys().filter(|name| !schema.contains_key(&***name)) {
            self.path.push(name.clone());
            self.fail(Problem::Undefined(schema.keys().cloned().collect()));
            self.path.pop();
        }
        let derived_value = |name: &str| derived.and_then(|derived| derived.get(name));
        let is_external = self.is_external(given, schema, derived);
        let mut result = Map::with_capacity(schema.len());
        for (name, property) in schema {
            let own = given.get(&**name);
            let inherited = derived_value(name);
            let default = inherited.or(property.default.as_ref());
            let Some(value) = own.or(default) else {
                if property.required && !is_external && !self.lenient {
                    self.path.push(name.clone());
                    self.fail(Problem::Missing);
                    self.path.pop();
                }
                continue;
            };
            if own.is_none() && inherited.is_none() && self.is_settled(property) {
                result.insert(name.clone(), value.clone());
                continue;
            }
            self.path.push(name.clone());
            let completed = self.value(value, default, property.type_name.as_deref());
            self.path.pop();
            result.insert(name.clone(), completed);
        }
        result
    }

    fn is_settled(&self, property: &Property) -> bool {
        if self.lenient {
            property.is_settled.lenient
        } else {
            property.is_settled.strict
        }
    }

    /// Whether the properties describe something that exists already, so that nothing of them is required.
    fn is_external(&mut self, given: &Map, schema: &Properties, derived: Option<&Map>) -> bool {
        const EXTERNAL: &str = "use_external_resource";
        let value = given
            .get(EXTERNAL)
            .or_else(|| derived.and_then(|derived| derived.get(EXTERNAL)))
            .or_else(|| schema.get(EXTERNAL).and_then(|property| property.default.as_ref()));
        let Some(value) = value.filter(|value| value.is_truthy()) else {
            return false;
        };
        if is_call(value) {
            self.path.push(EXTERNAL.into());
            self.fail(Problem::Call);
            self.path.pop();
        }
        true
    }
}

/// Checks a value against a type and completes it with the defaults of data types.
///
/// # Errors
/// The first thing that does not fit: 103, 105, 106, 107 or 219, at `path` or below.
pub fn complete(value: &Value, type_name: Option<&str>, types: &DataTypes, path: &str) -> Result<Value, Fault> {
    let mut completion = Completion::new(types, false);
    let completed = completion.value(value, None, type_name);
    match completion.faults.first() {
        None => Ok(completed),
        Some(fault) => {
            let owner = path.rsplit('.').next().unwrap_or(path);
            let below = fault.dotted();
            let path = if below.is_empty() {
                path.to_owned()
            } else {
                format!("{path}.{below}")
            };
            Err(Fault::logic(fault.code(), fault.message(owner), path))
        }
    }
}

/// What the defaults of a data type alone make: none when they do not make a value.
pub fn fill_defaults(type_name: &str, types: &DataTypes) -> Option<Value> {
    types.get(type_name)?;
    complete(&Map::new().into(), Some(type_name), types, "").ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn types() -> DataTypes {
        let section = json!({
            "inner": {"properties": {"a": {"type": "integer", "default": 1}, "b": {"type": "string"}}},
            "outer": {"properties": {
                "i": {"type": "inner", "default": {"a": 2}},
                "o": {"required": false},
                "use_external_resource": {"type": "boolean", "default": false},
            }},
        });
        DataTypes::new(Value::from(section).as_map().unwrap())
    }

    fn run(value: serde_json::Value) -> Result<serde_json::Value, i32> {
        complete(&Value::from(value), Some("outer"), &types(), "inputs.x")
            .map(|value| value.to_json())
            .map_err(|fault| fault.code.unwrap())
    }

    #[test]
    fn defaults_are_filled_per_field() {
        assert_eq!(
            run(json!({"i": {"b": "x"}})),
            Ok(json!({"i": {"a": 2, "b": "x"}, "use_external_resource": false}))
        );
        assert_eq!(run(json!({"get_input": "x"})), Ok(json!({"get_input": "x"})));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        assert_eq!(run(json!({})), Err(107));
        assert_eq!(run(json!({"i": {"b": 1, "c": 2}})), Err(106));
        assert_eq!(run(json!({"i": {"b": 1, "a": "x"}})), Err(105));
        assert_eq!(run(json!(3)), Err(105));
        assert_eq!(
            run(json!({"use_external_resource": {"get_input": "x"}, "i": {"b": 1}})),
            Err(219)
        );
        let external = json!({"use_external_resource": true, "i": {"b": 1}});
        assert_eq!(
            run(external),
            Ok(json!({"i": {"a": 2, "b": 1}, "use_external_resource": true}))
        );
    }
}
