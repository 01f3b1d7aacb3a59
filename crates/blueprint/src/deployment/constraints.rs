//! Whether a value is one that an input takes (spec/dsl.md, section 12).

use crate::constraint::{Constraint, parse_list};
use crate::functions::{is_call, python_literal, python_text};
use crate::primitive::{fits, is_id_type};
use crate::{Class, Fault, Map, Value};

/// The code of a value that is a function where there are constraints.
const FUNCTION_AND_CONSTRAINTS: i32 = 213;
/// The code of an item that does not match its type.
const WRONG_TYPE: i32 = 105;

/// The search of the model for values of inputs that name something in it.
pub trait Search {
    /// Whether it is known which deployment the inputs are for.
    fn has_deployment(&self) -> bool;

    /// Whether it is known which blueprint the inputs are for.
    fn has_blueprint(&self) -> bool;

    /// Whether `value` is among what a search for objects of `type_name` finds that satisfy `constraints`: operators and their
    /// arguments.
    ///
    /// # Errors
    /// When the store fails.
    fn finds(&self, type_name: &str, value: &Value, constraints: &[(&str, &Value)]) -> Result<bool, Fault>;
}

/// Checks a value, or each item of a list whose schema says what its items are, against the constraints of an input's schema.
///
/// # Errors
/// [`Class::Constraint`] when it violates one, [`Class::Logic`] when an item has the wrong type, and a fault of another kind
/// when the constraints cannot be applied to such a value.
pub fn check_value(name: &str, schema: &Map, value: &Value, search: Option<&dyn Search>) -> Result<(), Fault> {
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    let path = format!("inputs.{name}");
    let constraints = match schema.get("constraints") {
        Some(constraints) => parse_list(constraints)?,
        None => Vec::new(),
    };
    let type_name = text("type");
    let check = Check {
        name,
        path: &path,
        constraints: &constraints,
        search,
    };
    let Some(item_type) = text("item_type").filter(|_| type_name == Some("list")) else {
        return check.value(value, type_name);
    };
    for item in items(value, &path)? {
        if !fits(item_type, &item) {
            let message = format!(
                "Property type validation failed in '{name}': the defined type is '{item_type}', yet it was assigned with the \
                 value '{}'",
                python_text(&item)
            );
            return Err(Fault::logic(WRONG_TYPE, message, path));
        }
        check.value(&item, Some(item_type))?;
    }
    Ok(())
}

/// What a loop over the value gives in the original: items, keys or characters. What is no list is refused later, by its type.
fn items(value: &Value, path: &str) -> Result<Vec<Value>, Fault> {
    match value {
        Value::List(items) => Ok(items.to_vec()),
        Value::Map(map) => Ok(map.keys().map(Value::from).collect()),
        Value::String(text) => Ok(text
            .chars()
            .map(|character| Value::from(character.to_string()))
            .collect()),
        other => {
            let message = format!("{} has no items", python_literal(other));
            Err(Fault::new(Class::Type, message, path))
        }
    }
}

struct Check<'c> {
    name: &'c str,
    path: &'c str,
    constraints: &'c [Constraint],
    search: Option<&'c dyn Search>,
}

impl Check<'_> {
    fn violated(&self, message: String) -> Fault {
        Fault::new(Class::Constraint, message, self.path)
    }

    fn has(&self, operator: &str) -> bool {
        self.constraints.iter().any(|constraint| constraint.name() == operator)
    }

    fn value(&self, value: &Value, type_name: Option<&str>) -> Result<(), Fault> {
        let name = self.name;
        if !self.constraints.is_empty() && is_call(value) {
            let message = format!(
                "Input value {}, of input {name}, cannot contain an intrinsic function and also have constraints.",
                python_literal(value)
            );
            return Err(Fault::coded(
                Class::Parsing,
                FUNCTION_AND_CONSTRAINTS,
                message,
                self.path,
            ));
        }
        if let Some(type_name) = type_name.filter(|type_name| is_id_type(type_name)) {
            self.id(value, type_name)?;
        }
        let mut searched: Vec<&Constraint> = Vec::new();
        for constraint in self.constraints {
            if constraint.is_search(type_name) {
                searched.push(constraint);
            } else if !constraint
                .accepts(value)
                .map_err(|fault| self.violated(fault.message))?
            {
                let why = match constraint.error_message() {
                    Some(message) => format!("is invalid. {message}"),
                    None => format!("violates constraint {constraint}."),
                };
                return Err(self.violated(format!("Value {} of input {name} {why}", python_text(value))));
            }
        }
        let needs_search = matches!(type_name, Some("capability_value" | "node_instance")) || !searched.is_empty();
        if needs_search && !self.finds(value, type_name, &searched)? {
            let shown: Vec<String> = searched.iter().map(ToString::to_string).collect();
            return Err(self.violated(format!(
                "Value '{}' of input '{name}' does not match any relevant entity or violates at least one of the \
                 constraints: {}.",
                python_text(value),
                shown.join(", ")
            )));
        }
        Ok(())
    }

    /// A value that names something in the model.
    fn id(&self, value: &Value, type_name: &str) -> Result<(), Fault> {
        let Some(search) = self.search else {
            return Err(
                self.violated("values of this type can only be checked where there is a model to search".into())
            );
        };
        let (name, deployment) = (self.name, search.has_deployment() || self.has("deployment_id"));
        let of_blueprint = matches!(type_name, "scaling_group" | "operation_name" | "node_id" | "node_type");
        let of_deployment = matches!(type_name, "capability_value" | "node_instance");
        if of_blueprint && !deployment && !search.has_blueprint() {
            return Err(self.violated(format!(
                "Input '{name}' of type '{type_name}' lacks 'blueprint_id' or 'deployment_id' constraint."
            )));
        }
        if of_deployment && !deployment {
            return Err(self.violated(format!(
                "Input '{name}' of type '{type_name}' lacks 'deployment_id' constraint."
            )));
        }
        let own = !self.has("deployment_id") && search.has_deployment();
        if (!(of_blueprint || of_deployment) || own) && !search.finds(type_name, value, &[])? {
            return Err(self.violated(format!(
                "Value '{}' of '{name}' is not a valid value for data type '{type_name}'.",
                python_text(value)
            )));
        }
        Ok(())
    }

    fn finds(&self, value: &Value, type_name: Option<&str>, constraints: &[&Constraint]) -> Result<bool, Fault> {
        let shown = type_name.unwrap_or("None");
        for constraint in constraints {
            if !constraint.is_defined_for(shown) {
                let operator = constraint.name();
                return Err(self.violated(format!(
                    "'{operator}' constraint is not defined for '{shown}' data types"
                )));
            }
        }
        let Some(search) = self.search else {
            return Err(
                self.violated("values of this type can only be checked where there is a model to search".into())
            );
        };
        let constraints: Vec<(&str, &Value)> = constraints
            .iter()
            .map(|constraint| (constraint.name(), constraint.argument()))
            .collect();
        search.finds(shown, value, &constraints)
    }
}
