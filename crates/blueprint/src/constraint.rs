//! Constraints on values of inputs and workflow parameters (spec/dsl.md, section 12): their form, and whether a value satisfies
//! one.
//!
//! What a search of the model has to answer is only recognised here.

use std::cmp::Ordering;
use std::fmt;

use crate::functions::{is_call, python_literal, python_text, python_type};
use crate::{Class, Fault, Map, Value};

const UNKNOWN: i32 = 103;
const GATED: i32 = 102;
const BAD_ARGUMENT: i32 = 212;

/// The key beside an operator that says what to tell whoever violates it.
const ERROR_MESSAGE: &str = "error_message";

/// What an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    GreaterThan,
    GreaterOrEqual,
    LessThan,
    LessOrEqual,
    InRange,
    ValidValues,
    Length,
    MinLength,
    MaxLength,
    Pattern,
    FilterId,
    Labels,
    Tenants,
    NamePattern,
    DeploymentId,
}

/// Types of ids that are looked for within a deployment or blueprint.
const WITHIN_DEPLOYMENT: [&str; 6] = [
    "capability_value",
    "scaling_group",
    "node_id",
    "node_type",
    "node_instance",
    "operation_name",
];

impl Operator {
    const ALL: [Self; 16] = [
        Self::Equal,
        Self::GreaterThan,
        Self::GreaterOrEqual,
        Self::LessThan,
        Self::LessOrEqual,
        Self::InRange,
        Self::ValidValues,
        Self::Length,
        Self::MinLength,
        Self::MaxLength,
        Self::Pattern,
        Self::FilterId,
        Self::Labels,
        Self::Tenants,
        Self::NamePattern,
        Self::DeploymentId,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::GreaterThan => "greater_than",
            Self::GreaterOrEqual => "greater_or_equal",
            Self::LessThan => "less_than",
            Self::LessOrEqual => "less_or_equal",
            Self::InRange => "in_range",
            Self::ValidValues => "valid_values",
            Self::Length => "length",
            Self::MinLength => "min_length",
            Self::MaxLength => "max_length",
            Self::Pattern => "pattern",
            Self::FilterId => "filter_id",
            Self::Labels => "labels",
            Self::Tenants => "tenants",
            Self::NamePattern => "name_pattern",
            Self::DeploymentId => "deployment_id",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operator| operator.as_str() == name)
    }

    fn takes(self, argument: &Value) -> bool {
        match self {
            Self::InRange => argument
                .as_list()
                .is_some_and(|ends| ends.len() == 2 && ends.iter().all(is_number)),
            Self::ValidValues | Self::Labels | Self::Tenants => argument.as_list().is_some(),
            Self::Pattern => argument.as_str().is_some_and(crate::primitive::is_pattern),
            Self::FilterId | Self::DeploymentId => argument.as_str().is_some(),
            Self::NamePattern => argument.as_map().is_some(),
            _ => is_number(argument),
        }
    }
}

fn is_number(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::BigInt(_) | Value::Float(_))
}

/// What may stand beside an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// An error message.
    Message,
    /// Nothing: the version of the language does not know it (102).
    Gated,
    /// Nothing (103).
    Nothing,
}

/// Checks the form of one constraint of a schema.
///
/// # Errors
/// 103 when it is empty or has an unknown operator, 102 or 103 when something stands beside the operator that may not, 212 when
/// the operator takes no such argument. A function is taken for any argument.
pub fn check_form(definition: &Map, beside: Beside, path: &str) -> Result<(), Fault> {
    let fault = |code: i32, message: String| Fault::logic(code, message, path);
    let known = || Operator::ALL.map(Operator::as_str).join(", ");
    match (definition.len(), beside) {
        (0, _) => {
            return Err(fault(
                UNKNOWN,
                format!("Empty constraint operator name given. Allowed operators: {}", known()),
            ));
        }
        (2.., Beside::Gated) => {
            return Err(fault(
                GATED,
                "Constraint's additional attributes are not supported by this version".into(),
            ));
        }
        (2.., Beside::Nothing) => {
            return Err(fault(
                UNKNOWN,
                "Each constraint operator dict must be in it's own list item.".into(),
            ));
        }
        _ => {}
    }
    let operator = definition
        .iter()
        .find(|(key, _)| beside == Beside::Nothing || &***key != ERROR_MESSAGE);
    let Some((name, argument)) = operator else {
        return Err(Fault::new(
            Class::Index,
            "there is no operator beside the error message",
            path,
        ));
    };
    let Some(operator) = Operator::from_name(name) else {
        let message = format!("No such constraint operator '{name}'. Allowed operators: {}", known());
        return Err(fault(UNKNOWN, message));
    };
    if is_call(argument) || operator.takes(argument) {
        return Ok(());
    }
    let message = format!(
        "Invalid constraint operator argument \"{}\", for constraint operator \"{name}\"",
        python_text(argument)
    );
    Err(fault(BAD_ARGUMENT, message))
}

/// A constraint of good form.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    operator: Operator,
    argument: Value,
    error_message: Option<Value>,
}

/// The constraints of a schema, which is that of a plan: their form is good.
///
/// # Errors
/// When it is not.
pub fn parse_list(definitions: &Value) -> Result<Vec<Constraint>, Fault> {
    definitions
        .as_list()
        .unwrap_or_default()
        .iter()
        .map(Constraint::parse)
        .collect()
}

impl Constraint {
    fn parse(definition: &Value) -> Result<Self, Fault> {
        let unknown = || Fault::logic(UNKNOWN, format!("{definition} is no constraint"), "");
        let definition = definition.as_map().ok_or_else(unknown)?;
        let message = definition.get(ERROR_MESSAGE).filter(|message| message.is_truthy());
        let (name, argument) = definition
            .iter()
            .rfind(|(key, _)| &***key != ERROR_MESSAGE)
            .ok_or_else(unknown)?;
        let operator = Operator::from_name(name).ok_or_else(unknown)?;
        Ok(Self {
            operator,
            argument: argument.clone(),
            error_message: message.cloned(),
        })
    }

    /// The operator.
    pub fn name(&self) -> &'static str {
        self.operator.as_str()
    }

    /// What it compares with.
    pub fn argument(&self) -> &Value {
        &self.argument
    }

    /// What to tell whoever violates it.
    pub fn error_message(&self) -> Option<String> {
        self.error_message.as_ref().map(python_text)
    }

    /// Whether only a search of the model can say if a value of that type satisfies it.
    pub fn is_search(&self, type_name: Option<&str>) -> bool {
        match self.operator {
            Operator::ValidValues => type_name.is_some_and(|name| WITHIN_DEPLOYMENT.contains(&name)),
            Operator::FilterId
            | Operator::Labels
            | Operator::Tenants
            | Operator::NamePattern
            | Operator::DeploymentId => true,
            _ => false,
        }
    }

    /// Whether such a search can take it into account for values of that type.
    pub fn is_defined_for(&self, type_name: &str) -> bool {
        let listed = matches!(type_name, "blueprint_id" | "deployment_id");
        let within = WITHIN_DEPLOYMENT.contains(&type_name);
        match self.operator {
            Operator::FilterId | Operator::Labels | Operator::Tenants => listed,
            Operator::NamePattern => listed || within || type_name == "secret_key",
            Operator::DeploymentId | Operator::ValidValues => within,
            _ => false,
        }
    }

    /// Whether the value satisfies it.
    ///
    /// # Errors
    /// [`Class::Constraint`] when the two cannot be compared; another class when a function was left as argument where the
    /// operator cannot use one.
    pub fn accepts(&self, value: &Value) -> Result<bool, Fault> {
        let argument = &self.argument;
        let ordered = |left: &Value, right: &Value| compare(left, right).ok_or_else(|| self.incomparable(value));
        match self.operator {
            Operator::Equal => Ok(is_equal(value, argument)),
            Operator::GreaterThan => Ok(ordered(value, argument)? == Some(Ordering::Greater)),
            Operator::GreaterOrEqual => Ok(ordered(value, argument)?.is_some_and(Ordering::is_ge)),
            Operator::LessThan => Ok(ordered(value, argument)? == Some(Ordering::Less)),
            Operator::LessOrEqual => Ok(ordered(value, argument)?.is_some_and(Ordering::is_le)),
            Operator::InRange => match argument.as_list() {
                Some([low, high]) => Ok(ordered(low, value)?.is_some_and(Ordering::is_le)
                    && ordered(value, high)?.is_some_and(Ordering::is_le)),
                _ => Err(unusable(Class::Key, argument)),
            },
            Operator::ValidValues => match argument {
                Value::List(valid) => Ok(valid.iter().any(|valid| is_equal(value, valid))),
                Value::Map(keys) if !matches!(value, Value::List(_) | Value::Map(_)) => {
                    Ok(value.as_str().is_some_and(|value| keys.contains_key(value)))
                }
                _ => Err(self.incomparable(value)),
            },
            Operator::Length => Ok(is_equal(&self.length(value)?, argument)),
            Operator::MinLength => Ok(ordered(&self.length(value)?, argument)?.is_some_and(Ordering::is_ge)),
            Operator::MaxLength => Ok(ordered(&self.length(value)?, argument)?.is_some_and(Ordering::is_le)),
            Operator::Pattern => self.matches(value),
            // These are the search's business.
            Operator::FilterId
            | Operator::Labels
            | Operator::Tenants
            | Operator::NamePattern
            | Operator::DeploymentId => Ok(true),
        }
    }

    fn incomparable(&self, value: &Value) -> Fault {
        let message = format!(
            "Value is not comparable, the Constraint argument type is '{}' but value type is '{}'.",
            python_type(&self.argument),
            python_type(value)
        );
        Fault::new(Class::Constraint, message, "")
    }

    fn length(&self, value: &Value) -> Result<Value, Fault> {
        let length = match value {
            Value::String(text) => text.chars().count(),
            Value::List(items) => items.len(),
            Value::Map(map) => map.len(),
            other => {
                let message = format!(
                    "Value's length could not be computed. Value type is '{}'.",
                    python_type(other)
                );
                return Err(Fault::new(Class::Constraint, message, ""));
            }
        };
        Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
    }

    /// Anchored at the start only.
    fn matches(&self, value: &Value) -> Result<bool, Fault> {
        let fault = |message: String| Fault::new(Class::Constraint, message, "");
        let Some(text) = value.as_str() else {
            return Err(fault(format!(
                "Value must be of type string, got type '{}'",
                python_type(value)
            )));
        };
        let pattern = self
            .argument
            .as_str()
            .ok_or_else(|| unusable(Class::Type, &self.argument))?;
        let pattern = fancy_regex::Regex::new(pattern).map_err(|error| fault(error.to_string()))?;
        // The leftmost match starts at the start if any does.
        let found = pattern.find(text).map_err(|error| fault(error.to_string()))?;
        Ok(found.is_some_and(|found| found.start() == 0))
    }
}

fn unusable(class: Class, argument: &Value) -> Fault {
    Fault::new(
        class,
        format!("the constraint's argument is left as {}", python_literal(argument)),
        "",
    )
}

/// As messages show it: `in_range(1, 2) operator`.
impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match &self.argument {
            Value::List(items) => items.iter().map(python_text).collect::<Vec<_>>().join(", "),
            other => python_text(other),
        };
        write!(f, "{}({shown}) operator", self.name())
    }
}

/// Numbers and truth values by what they count; nothing if either is something else. Numbers that are none (`nan`) have no order.
fn compare(left: &Value, right: &Value) -> Option<Option<Ordering>> {
    if let (Some(left), Some(right)) = (whole(left), whole(right)) {
        return Some(Some(left.cmp(&right)));
    }
    Some(number(left)?.partial_cmp(&number(right)?))
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Bool(value) => Some(i128::from(*value)),
        Value::Int(value) => Some(i128::from(*value)),
        Value::BigInt(digits) => digits.parse().ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(value) => Some(*value),
        Value::BigInt(digits) => digits.parse().ok(),
        // Precision beyond 2^53 is lost, but no order is turned round by it.
        other => whole(other).map(|value| value as f64),
    }
}

/// Equality that looks through the kinds of numbers: 1, 1.0 and true are equal.
fn is_equal(left: &Value, right: &Value) -> bool {
    if let Some(order) = compare(left, right) {
        return order == Some(Ordering::Equal);
    }
    match (left, right) {
        (Value::List(left), Value::List(right)) => {
            left.len() == right.len() && left.iter().zip(right.iter()).all(|(left, right)| is_equal(left, right))
        }
        (Value::Map(left), Value::Map(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, value)| right.get(key).is_some_and(|other| is_equal(value, other)))
        }
        (left, right) => left == right,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form(json: serde_json::Value, beside: Beside) -> Option<(Class, Option<i32>)> {
        let definition = Value::from(json).as_map().cloned().unwrap();
        check_form(&definition, beside, "")
            .err()
            .map(|fault| (fault.class, fault.code))
    }

    #[test]
    fn forms_are_checked() {
        let logic = |code| Some((Class::Logic, Some(code)));
        assert_eq!(form(json!({"equal": 1}), Beside::Gated), None);
        assert_eq!(form(json!({"equal": {"get_input": "a"}}), Beside::Gated), None);
        assert_eq!(form(json!({}), Beside::Gated), logic(103));
        assert_eq!(form(json!({"unknown": 1}), Beside::Gated), logic(103));
        assert_eq!(form(json!({"equal": "1"}), Beside::Gated), logic(212));
        assert_eq!(form(json!({"equal": true}), Beside::Gated), logic(212));
        assert_eq!(form(json!({"in_range": [1]}), Beside::Gated), logic(212));
        assert_eq!(form(json!({"pattern": "("}), Beside::Gated), logic(212));
        assert_eq!(
            form(json!({"equal": 1, "error_message": "x"}), Beside::Gated),
            logic(102)
        );
        assert_eq!(
            form(json!({"equal": 1, "error_message": "x"}), Beside::Nothing),
            logic(103)
        );
        assert_eq!(form(json!({"error_message": "x", "equal": 1}), Beside::Message), None);
        assert_eq!(
            form(json!({"error_message": "x"}), Beside::Message),
            Some((Class::Index, None))
        );
    }

    fn accepts(constraint: serde_json::Value, value: serde_json::Value) -> Result<bool, Class> {
        let constraints = parse_list(&Value::from(json!([constraint]))).unwrap();
        constraints[0].accepts(&Value::from(value)).map_err(|fault| fault.class)
    }

    #[test]
    fn values_are_compared_as_in_the_original() {
        for (constraint, value, expected) in [
            (json!({"equal": 1}), json!(1.0), Ok(true)),
            (json!({"equal": 1}), json!("1"), Ok(false)),
            (json!({"greater_than": 1}), json!(true), Ok(false)),
            (json!({"greater_than": 1}), json!("2"), Err(Class::Constraint)),
            (json!({"less_or_equal": 1.5}), json!(1), Ok(true)),
            (json!({"in_range": [1, 2]}), json!(2), Ok(true)),
            (json!({"in_range": [1, 2]}), json!(2.1), Ok(false)),
            (json!({"in_range": {"get_input": "a"}}), json!(2), Err(Class::Key)),
            (json!({"valid_values": [1, "a", [1]]}), json!([1.0]), Ok(true)),
            (json!({"valid_values": ["a"]}), json!("b"), Ok(false)),
            (json!({"length": 2}), json!("äö"), Ok(true)),
            (json!({"length": 2}), json!(2), Err(Class::Constraint)),
            (json!({"min_length": 1}), json!([]), Ok(false)),
            (json!({"max_length": 1}), json!({"a": 1}), Ok(true)),
            (json!({"pattern": "ab"}), json!("abc"), Ok(true)),
            (json!({"pattern": "bc"}), json!("abc"), Ok(false)),
            (json!({"pattern": "a|bc$"}), json!("xbc"), Ok(false)),
            (json!({"pattern": "a"}), json!(1), Err(Class::Constraint)),
        ] {
            assert_eq!(
                accepts(constraint.clone(), value.clone()),
                expected,
                "{constraint} {value}"
            );
        }
    }

    #[test]
    fn constraints_are_shown_like_calls() {
        let constraints = parse_list(&Value::from(
            json!([{"in_range": [1, 2]}, {"equal": 3, "error_message": "no"}]),
        ));
        let constraints = constraints.unwrap();
        assert_eq!(constraints[0].to_string(), "in_range(1, 2) operator");
        assert_eq!(constraints[1].error_message().as_deref(), Some("no"));
    }
}
