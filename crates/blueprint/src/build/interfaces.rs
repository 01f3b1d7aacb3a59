//! Operations of interfaces as text says them, and what overrides what (spec/dsl.md, section 9).

use std::sync::Arc;

use conclave_yaml::{Kind as NodeKind, Node, Place, Text};

use super::context::Context;
use super::properties::{Kind, Schemas};
use crate::document::Named;
use crate::schema::DataTypes;
use crate::{Class, Fault, Map, Value};

/// An operation before it is resolved against plugins. In types `inputs` are schemas, in templates values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RawOperation {
    pub(super) implementation: Text,
    pub(super) inputs: Map,
    pub(super) executor: Value,
    pub(super) max_retries: Value,
    pub(super) retry_interval: Value,
    pub(super) timeout: Value,
    pub(super) timeout_recoverable: Value,
    pub(super) place: Place,
}

/// Operations by name.
pub(super) type Interface = Arc<Named<Arc<RawOperation>>>;
/// Interfaces by name.
pub(super) type Interfaces = Arc<Named<Interface>>;

impl RawOperation {
    /// One that does nothing.
    pub(super) fn no_op(place: Place) -> Self {
        Self {
            implementation: "".into(),
            inputs: Map::new(),
            executor: Value::Null,
            max_retries: Value::Null,
            retry_interval: Value::Null,
            timeout: Value::Null,
            timeout_recoverable: Value::Null,
            place,
        }
    }

    pub(super) fn is_no_op(&self) -> bool {
        self.implementation.is_empty()
            && self.inputs.is_empty()
            && self.executor.is_null()
            && self.max_retries.is_null()
            && self.retry_interval.is_null()
            && self.timeout.is_null()
            && self.timeout_recoverable.is_null()
    }

    /// As plans show it.
    pub(super) fn to_map(&self) -> Map {
        Map::from_iter([
            ("implementation", Value::from(&self.implementation)),
            ("inputs", self.inputs.clone().into()),
            ("executor", self.executor.clone()),
            ("max_retries", self.max_retries.clone()),
            ("retry_interval", self.retry_interval.clone()),
            ("timeout", self.timeout.clone()),
            ("timeout_recoverable", self.timeout_recoverable.clone()),
        ])
    }
}

/// Reads interfaces.
pub(super) struct InterfaceReader<'t> {
    /// Data types, where inputs are schemas.
    pub(super) schemas: Option<&'t DataTypes>,
}

impl InterfaceReader<'_> {
    /// Reads all interfaces of an element whose shape is sound.
    pub(super) fn read(&self, context: &mut Context<'_>, node: Option<&Node>, path: &str) -> Named<Interface> {
        let mut interfaces = Named::default();
        for (key, value) in node.and_then(Node::as_map).unwrap_or_default() {
            let Some(name) = key.as_text() else { continue };
            let mut interface = Named::default();
            for (key, value) in value.as_map().unwrap_or_default() {
                let Some(operation) = key.as_text() else { continue };
                let path = || format!("{path}.{name}.{operation}");
                let raw = self.operation(context, value, key.place, &path);
                interface.insert(operation.clone(), Arc::new(raw));
            }
            interfaces.insert(name.clone(), Arc::new(interface));
        }
        interfaces
    }

    fn operation(
        &self,
        context: &mut Context<'_>,
        node: &Node,
        place: Place,
        path: &dyn Fn() -> String,
    ) -> RawOperation {
        match &node.kind {
            NodeKind::Str(implementation) => RawOperation {
                implementation: implementation.clone(),
                inputs: context.empty.clone(),
                ..RawOperation::no_op(place)
            },
            NodeKind::Map(_) => self.operation_of_map(context, node, place, path),
            _ => RawOperation::no_op(place),
        }
    }

    fn operation_of_map(
        &self,
        context: &mut Context<'_>,
        node: &Node,
        place: Place,
        path: &dyn Fn() -> String,
    ) -> RawOperation {
        let mut raw = RawOperation::no_op(place);
        for (key, value) in node.as_map().unwrap_or_default() {
            if value.is_null() {
                continue;
            }
            match key.as_str().unwrap_or_default() {
                "implementation" => raw.implementation = value.as_text().cloned().unwrap_or(raw.implementation),
                "inputs" => raw.inputs = self.inputs(context, value, path),
                "executor" => {
                    check_executor(context, value, path);
                    raw.executor = value.into();
                }
                "max_retries" => {
                    check_number(context, "max_retries", value, -1.0, path);
                    raw.max_retries = value.into();
                }
                "retry_interval" => {
                    check_number(context, "retry_interval", value, 0.0, path);
                    raw.retry_interval = value.into();
                }
                "timeout" => {
                    check_number(context, "timeout", value, 0.0, path);
                    raw.timeout = value.into();
                }
                "timeout_recoverable" => raw.timeout_recoverable = value.into(),
                _ => {}
            }
        }
        raw
    }

    fn inputs(&self, context: &mut Context<'_>, node: &Node, path: &dyn Fn() -> String) -> Map {
        let Some(types) = self.schemas else {
            return match Value::from(node) {
                Value::Map(map) => map,
                _ => context.empty.clone(),
            };
        };
        let schemas = Schemas {
            types,
            kind: Kind::Input,
        };
        let path = path();
        let properties = schemas.read_all(context, Some(node), &path, &format!("{path}.inputs"));
        for (key, input) in node.as_map().unwrap_or_default() {
            let path = format!("{path}.inputs.{}", key.key_text());
            check_display(context, key, input, &path);
            check_hidden(context, key, input, &path);
        }
        super::properties::to_map(&properties)
    }
}

/// An input that nobody sees must not be one that must be given.
pub(super) fn check_hidden(context: &mut Context<'_>, key: &Node, input: &Node, path: &str) {
    let is = |key: &str, otherwise: bool| input.get(key).map_or(otherwise, |value| Value::from(value).is_truthy());
    if is("required", true) && is("hidden", false) && input.get("default").is_none() {
        let name = key.key_text();
        let message = format!("Input is both hidden and required thus it should have a default value: '{name}'.");
        context.fail(Fault::logic(215, message, path), key.place);
    }
}

/// How many rows an input is shown in is of use only where there may be many.
pub(super) fn check_display(context: &mut Context<'_>, key: &Node, input: &Node, path: &str) {
    let type_name = input.get("type").and_then(Node::as_str);
    if input.get("display").is_some_and(super::data_types::is_map) && type_name != Some("textarea") {
        let message = format!(
            "`display` property defined for unsupported input type ({}) for input `{}`.",
            type_name.unwrap_or("none"),
            key.key_text()
        );
        context.fail(
            Fault::coded(Class::InputType, 216, message, format!("{path}.display")),
            key.place,
        );
    }
}

fn check_executor(context: &mut Context<'_>, value: &Node, path: &dyn Fn() -> String) {
    const EXECUTORS: [&str; 2] = ["central_deployment_agent", "host_agent"];
    let name = value.as_str().unwrap_or_default();
    if !EXECUTORS.contains(&name) {
        let path = path();
        let message = format!(
            "Operation '{path}' has an illegal executor value '{name}'. valid values are [{}]",
            EXECUTORS.join(",")
        );
        context.fail_name(
            Fault::logic(28, message, format!("{path}.executor")),
            value.place,
            name,
            EXECUTORS,
        );
    }
}

fn check_number(context: &mut Context<'_>, key: &str, value: &Node, least: f64, path: &dyn Fn() -> String) {
    let number = match &value.kind {
        NodeKind::Int(number) => *number as f64,
        NodeKind::BigInt(digits) => digits.parse().unwrap_or(0.0),
        NodeKind::Float(number) => *number,
        _ => return,
    };
    if number < least {
        let message = format!("'{key}' value must be {least} or more but got {}.", value.to_json());
        context.fail(
            Fault::new(Class::Value, message, format!("{}.{key}", path())),
            value.place,
        );
    }
}

/// The interfaces of a type over those of its parent: an operation replaces the whole inherited one.
pub(super) fn inherit(parent: &Interfaces, own: Named<Interface>) -> Interfaces {
    if own.is_empty() {
        return parent.clone();
    }
    let mut merged = (**parent).clone();
    for (name, interface) in own {
        match merged.get_mut(&name) {
            None => {
                merged.insert(name, interface);
            }
            Some(present) => {
                let present = Arc::make_mut(present);
                for (operation, raw) in interface.iter() {
                    present.insert(operation.clone(), raw.clone());
                }
            }
        }
    }
    Arc::new(merged)
}

/// What a template's operation becomes over that of its type; names of inputs without a value.
pub(super) fn merge(
    of_type: Option<&RawOperation>,
    of_template: Option<&Arc<RawOperation>>,
) -> (Arc<RawOperation>, Vec<Text>) {
    let (of_type, of_template) = match (of_type, of_template) {
        (None, None) => return (Arc::new(RawOperation::no_op(Place::default())), Vec::new()),
        (None, Some(own)) => return (own.clone(), Vec::new()),
        (Some(of_type), None) => {
            let (inputs, missing) = merge_inputs(&of_type.inputs, &Map::new());
            let merged = RawOperation {
                inputs,
                ..of_type.clone()
            };
            return (Arc::new(merged), missing);
        }
        (Some(of_type), Some(own)) => (of_type, own),
    };
    if of_template.is_no_op() || of_type.is_no_op() {
        return (of_template.clone(), Vec::new());
    }
    let is_inherited = of_template.implementation.is_empty();
    if !is_inherited && of_template.implementation != of_type.implementation {
        return (of_template.clone(), Vec::new());
    }
    let either = |own: &Value, inherited: &Value| if own.is_null() { inherited.clone() } else { own.clone() };
    let (inputs, missing) = merge_inputs(&of_type.inputs, &of_template.inputs);
    let merged = RawOperation {
        implementation: of_type.implementation.clone(),
        inputs,
        executor: either(&of_template.executor, &of_type.executor),
        max_retries: either(&of_template.max_retries, &of_type.max_retries),
        retry_interval: either(&of_template.retry_interval, &of_type.retry_interval),
        timeout: either(&of_template.timeout, &of_type.timeout),
        timeout_recoverable: either(&of_template.timeout_recoverable, &of_type.timeout_recoverable),
        place: of_template.place,
    };
    (Arc::new(merged), missing)
}

/// Defaults below values; the declared type is written into values that are mappings.
fn merge_inputs(schemas: &Map, values: &Map) -> (Map, Vec<Text>) {
    if schemas.is_empty() {
        return (values.clone(), Vec::new());
    }
    let mut merged = Map::with_capacity(schemas.len() + values.len());
    let mut missing = Vec::new();
    for (name, schema) in schemas.iter() {
        let Some(value) = values.get(&**name).or_else(|| schema.get("default")) else {
            missing.push(name.clone());
            continue;
        };
        let mut value = value.clone();
        if let (Value::Map(map), Some(type_name)) = (&mut value, schema.get("type")) {
            map.insert("type", type_name.clone());
        }
        merged.insert(name.clone(), value);
    }
    for (name, value) in values.iter().filter(|(name, _)| !schemas.contains_key(&***name)) {
        merged.insert(name.clone(), value.clone());
    }
    (merged, missing)
}

/// Interfaces as plans show them.
pub(super) fn to_map(interfaces: &Named<Interface>) -> Map {
    let operations = |interface: &Interface| -> Map {
        interface
            .iter()
            .map(|(name, raw)| (name.clone(), raw.to_map()))
            .collect()
    };
    interfaces
        .iter()
        .map(|(name, interface)| (name.clone(), operations(interface)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(implementation: &str, inputs: serde_json::Value, max_retries: Value) -> RawOperation {
        RawOperation {
            implementation: implementation.into(),
            inputs: Value::from(inputs).as_map().unwrap().clone(),
            max_retries,
            ..RawOperation::no_op(Place::default())
        }
    }

    #[test]
    fn the_same_implementation_merges_and_another_replaces() {
        let schemas = serde_json::json!({"a": {"default": 1}, "b": {"type": "dict", "default": {}}, "c": {}});
        let of_type = raw("p.f", schemas, Value::Int(3));
        let own = Arc::new(raw("", serde_json::json!({"c": 2, "d": 4}), Value::Int(0)));
        let (merged, missing) = merge(Some(&of_type), Some(&own));
        assert!(missing.is_empty());
        assert_eq!(&*merged.implementation, "p.f");
        assert_eq!(merged.max_retries, Value::Int(0));
        assert_eq!(
            Value::from(merged.inputs.clone()).to_json(),
            serde_json::json!({"a": 1, "b": {"type": "dict"}, "c": 2, "d": 4})
        );
        let (_, missing) = merge(Some(&of_type), None);
        assert_eq!(missing, [Text::from("c")]);
        let other = Arc::new(raw("p.g", serde_json::json!({}), Value::Null));
        let (merged, missing) = merge(Some(&of_type), Some(&other));
        assert_eq!((merged, missing.is_empty()), (other, true));
        let no_op = Arc::new(RawOperation::no_op(Place::default()));
        assert!(merge(Some(&of_type), Some(&no_op)).0.is_no_op());
    }
}
