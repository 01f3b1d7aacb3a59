//! What a call is given, checked for its shape.
//!
//! The check is made whenever a call is looked at: when a blueprint is parsed, and again once arguments that are calls
//! themselves have become values.

use super::call::{Call, FunctionName, is_call};
use super::python;
use crate::{Class, Fault, Text, Value};

/// A call with arguments of the right shape. Any part may be a call itself unless a variant says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Arguments<'v> {
    /// An input, the way into its value, and the type that the result must have.
    Input {
        name: &'v Value,
        path: &'v [Value],
        return_type: Option<&'v Value>,
    },
    /// A property of a node, or an attribute, or that of all instances as a list.
    Entity { node: &'v Value, path: &'v [Value] },
    /// Several attributes of all instances.
    EntityPaths { node: &'v Value, paths: Vec<&'v [Value]> },
    /// A secret, and the way into it where it is to be read as JSON.
    Secret { name: &'v Value, path: Option<&'v [Value]> },
    /// A capability: deployment or group, name, way into its value; without the first for that of the environment.
    Capability(&'v [Value]),
    /// A label's values, or one of them.
    Label { key: &'v Value, index: Option<i64> },
    /// A fact of the system.
    Sys { entity: &'v Value, property: &'v Value },
    /// Which fact about the deployments that use this one: never a call.
    Consumers(&'v Text),
    /// The items of `concat` and `merge`.
    Items(&'v [Value]),
    /// The arguments of a text function, in order.
    Texts(&'v [Value]),
}

impl<'v> Arguments<'v> {
    /// Takes the call's argument apart.
    ///
    /// # Errors
    /// When it has not the shape that the function asks for (spec/dsl.md, section 14); the fault has no path.
    pub(crate) fn of(call: &Call<'v>) -> Result<Self, Fault> {
        let argument = call.argument;
        match call.name {
            FunctionName::GetInput => input(call),
            FunctionName::GetProperty | FunctionName::GetAttribute | FunctionName::GetAttributesList => {
                let items = argument.as_list().filter(|items| is_path(items, 2));
                let items = items.ok_or_else(|| illegal(call, "a list of a node's name and a way into it"))?;
                Ok(Self::Entity {
                    node: &items[0],
                    path: &items[1..],
                })
            }
            FunctionName::GetAttributesDict => entity_paths(call),
            FunctionName::GetSecret => secret(call),
            FunctionName::GetCapability => capability(call, 0),
            FunctionName::GetGroupCapability => capability(call, 1),
            FunctionName::GetEnvironmentCapability => environment_capability(call),
            FunctionName::GetLabel => label(call),
            FunctionName::GetSys => {
                let items = argument.as_list().filter(|items| is_path(items, 2));
                let items = items.ok_or_else(|| illegal(call, "a list of an entity and its property"))?;
                Ok(Self::Sys {
                    entity: &items[0],
                    property: &items[1],
                })
            }
            FunctionName::GetConsumers => match argument {
                Value::String(text) if matches!(&**text, "ids" | "names" | "count") => Ok(Self::Consumers(text)),
                _ => Err(illegal(call, "one of ids, names, count")),
            },
            FunctionName::Concat | FunctionName::Merge => argument
                .as_list()
                .map(Self::Items)
                .ok_or_else(|| illegal(call, "a list")),
            FunctionName::StringFind => texts(call, 2, 2),
            FunctionName::StringReplace => texts(call, 3, 4),
            FunctionName::StringSplit => texts(call, 2, 3),
            FunctionName::StringLower | FunctionName::StringUpper => match argument {
                Value::String(_) => Ok(Self::Texts(std::slice::from_ref(argument))),
                Value::Map(map) if map.len() == 1 => Ok(Self::Texts(std::slice::from_ref(argument))),
                _ => Err(unfit(call, "should be called with exactly one parameter")),
            },
        }
    }
}

fn illegal(call: &Call<'_>, expected: &str) -> Fault {
    let message = format!(
        "Illegal arguments passed to {} function. Expected {expected}, but got: {}",
        call.name,
        python::literal(call.argument)
    );
    Fault::new(Class::Value, message, "")
}

fn unfit(call: &Call<'_>, why: &str) -> Fault {
    let message = format!("Unable to validate {} function: {why}", call.name);
    Fault::new(Class::FunctionValidation, message, "")
}

/// A part of a way into a value: a key, a position, or a call that gives one.
fn is_step(value: &Value) -> bool {
    matches!(
        value,
        Value::String(_) | Value::Int(_) | Value::BigInt(_) | Value::Bool(_)
    ) || is_call(value)
}

fn is_path(items: &[Value], length_min: usize) -> bool {
    items.len() >= length_min && items.iter().all(is_step)
}

fn input<'v>(call: &Call<'v>) -> Result<Arguments<'v>, Fault> {
    let (name, path): (_, &[Value]) = match call.argument {
        Value::List(items) if is_path(items, 1) => (&items[0], &items[1..]),
        single if single.as_str().is_some() || is_call(single) => (single, &[]),
        _ => {
            return Err(illegal(
                call,
                "a name, a function, or a list of a name and a way into the value",
            ));
        }
    };
    Ok(Arguments::Input {
        name,
        path,
        return_type: call.return_type,
    })
}

fn entity_paths<'v>(call: &Call<'v>) -> Result<Arguments<'v>, Fault> {
    let expected = "a list of a node's name and names of attributes or ways to them";
    let items = call.argument.as_list().ok_or_else(|| illegal(call, expected))?;
    let (node, rest) = items.split_first().ok_or_else(|| illegal(call, expected))?;
    let mut paths: Vec<&[Value]> = Vec::with_capacity(rest.len());
    let mut names = rustc_hash::FxHashSet::default();
    for item in rest {
        let path = item.as_list().unwrap_or(std::slice::from_ref(item));
        if path.is_empty() || !is_step(node) || !is_path(path, 1) {
            return Err(illegal(call, expected));
        }
        let name = attribute_name(path).ok_or_else(|| {
            let message = format!("every part of an attribute of {} must be a text", call.name);
            Fault::new(Class::Type, message, "")
        })?;
        if !names.insert(name.clone()) {
            let message = format!("One or more duplicated or ambiguous attribute paths found: {name}");
            return Err(Fault::new(Class::FunctionEvaluation, message, ""));
        }
        paths.push(path);
    }
    Ok(Arguments::EntityPaths { node, paths })
}

/// What `get_attributes_dict` calls an attribute in its result; nothing if a part is no text.
pub(crate) fn attribute_name(path: &[Value]) -> Option<String> {
    Some(path.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?.join("."))
}

fn secret<'v>(call: &Call<'v>) -> Result<Arguments<'v>, Fault> {
    match call.argument {
        Value::List(items) if items.len() > 1 => Ok(Arguments::Secret {
            name: &items[0],
            path: Some(&items[1..]),
        }),
        single if single.as_str().is_some() || is_call(single) => Ok(Arguments::Secret {
            name: single,
            path: None,
        }),
        _ => Err(unfit(
            call,
            "the argument should be a list of at least 2 elements, a string, or a function",
        )),
    }
}

/// `list_at` is the position up to which lists of names are taken: position 1 of a group's capability.
fn capability<'v>(call: &Call<'v>, list_at: usize) -> Result<Arguments<'v>, Fault> {
    let expected = "a list of at least 2 elements: whose capability, which, and a way into it";
    let items = call.argument.as_list().filter(|items| items.len() >= 2);
    let items = items.ok_or_else(|| illegal(call, expected))?;
    let fits =
        |(index, item): (usize, &Value)| is_step(item) || (index > 0 && index == list_at && item.as_list().is_some());
    if items.iter().enumerate().all(fits) {
        Ok(Arguments::Capability(items))
    } else {
        Err(illegal(call, expected))
    }
}

fn environment_capability<'v>(call: &Call<'v>) -> Result<Arguments<'v>, Fault> {
    match call.argument {
        single @ Value::String(_) => Ok(Arguments::Capability(std::slice::from_ref(single))),
        Value::List(items) if items.len() >= 2 => {
            if items.iter().all(is_step) {
                Ok(Arguments::Capability(items))
            } else {
                Err(illegal(call, "a string, or a list of strings, numbers and functions"))
            }
        }
        _ => Err(unfit(
            call,
            "the argument should be a string or a list with more than one item",
        )),
    }
}

fn label<'v>(call: &Call<'v>) -> Result<Arguments<'v>, Fault> {
    match call.argument {
        Value::List(items) if items.len() == 2 => {
            let key = &items[0];
            if key.as_str().is_none() && !is_call(key) {
                return Err(unfit(call, "the <label-key> should be a string or a function"));
            }
            let index = match &items[1] {
                Value::Int(index) => Some(*index),
                Value::Bool(index) => Some(i64::from(*index)),
                Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
                _ => None,
            };
            let index = index.ok_or_else(|| unfit(call, "the <label-values list index> should be a number"))?;
            Ok(Arguments::Label {
                key,
                index: Some(index),
            })
        }
        single if single.as_str().is_some() || is_call(single) => Ok(Arguments::Label {
            key: single,
            index: None,
        }),
        _ => Err(unfit(
            call,
            "the argument should be a list of 2 elements, a string, or a function",
        )),
    }
}

fn texts<'v>(call: &Call<'v>, length_min: usize, length_max: usize) -> Result<Arguments<'v>, Fault> {
    let items = call
        .argument
        .as_list()
        .filter(|items| (length_min..=length_max).contains(&items.len()));
    items.map(Arguments::Texts).ok_or_else(|| {
        let count = if length_min == length_max {
            format!("exactly {length_min}")
        } else {
            format!("{length_min} or {length_max}")
        };
        unfit(call, &format!("should be called with {count} parameters"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::call::call;
    use super::*;

    fn class(json: serde_json::Value) -> Option<Class> {
        let value = Value::from(&json);
        let call = call(&value).unwrap_or_else(|| panic!("{json} is no call"));
        Arguments::of(&call).err().map(|fault| fault.class)
    }

    #[test]
    fn good_shapes_pass() {
        for good in [
            json!({"get_input": "a"}),
            json!({"get_input": ["a"]}),
            json!({"get_input": ["a", 1, {"get_input": "b"}]}),
            json!({"get_input": {"get_input": "b"}}),
            json!({"get_property": ["a", "b"]}),
            json!({"get_attributes_dict": ["a", "b", ["c", "d"]]}),
            json!({"get_attributes_dict": ["a"]}),
            json!({"get_secret": "a"}),
            json!({"get_secret": ["a", [1]]}),
            json!({"get_capability": ["a", "b", 1]}),
            json!({"get_group_capability": ["a", ["b", "c"]]}),
            json!({"get_environment_capability": "a"}),
            json!({"get_environment_capability": ["a", 1]}),
            json!({"get_label": ["a", "1"]}),
            json!({"get_label": {"get_input": "a"}}),
            json!({"get_sys": ["tenant", "name"]}),
            json!({"get_consumers": "count"}),
            json!({"concat": []}),
            json!({"string_replace": ["a", "b", "c", 1]}),
            json!({"string_lower": {"any": 1}}),
        ] {
            assert_eq!(class(good.clone()), None, "{good}");
        }
    }

    #[test]
    fn bad_shapes_are_refused_by_kind() {
        for (bad, kind) in [
            (json!({"get_input": []}), Class::Value),
            (json!({"get_input": 1}), Class::Value),
            (json!({"get_input": [1.5]}), Class::Value),
            (json!({"get_property": ["a"]}), Class::Value),
            (json!({"get_property": "a"}), Class::Value),
            (json!({"get_attribute": ["a", ["b"]]}), Class::Value),
            (
                json!({"get_attributes_dict": ["a", "b", ["b"]]}),
                Class::FunctionEvaluation,
            ),
            (json!({"get_attributes_dict": ["a", 1]}), Class::Type),
            (json!({"get_secret": ["a"]}), Class::FunctionValidation),
            (json!({"get_secret": 1}), Class::FunctionValidation),
            (json!({"get_capability": ["a"]}), Class::Value),
            (json!({"get_capability": ["a", ["b"]]}), Class::Value),
            (json!({"get_group_capability": [["a"], "b"]}), Class::Value),
            (json!({"get_environment_capability": ["a"]}), Class::FunctionValidation),
            (json!({"get_environment_capability": ["a", []]}), Class::Value),
            (json!({"get_label": ["a", "x"]}), Class::FunctionValidation),
            (json!({"get_label": 1}), Class::FunctionValidation),
            (json!({"get_sys": "tenant"}), Class::Value),
            (json!({"get_consumers": "all"}), Class::Value),
            (json!({"concat": "a"}), Class::Value),
            (json!({"merge": {}}), Class::Value),
            (json!({"string_find": ["a"]}), Class::FunctionValidation),
            (json!({"string_upper": ["a"]}), Class::FunctionValidation),
        ] {
            assert_eq!(class(bad.clone()), Some(kind), "{bad}");
        }
    }
}
