//! What is evaluated at run time: payloads, outputs, capabilities, nodes and node instances.

use std::sync::Arc;

use super::call::{FunctionName, call};
use super::engine::{Engine, Scope, Site};
use super::late::{EvaluationContext, Late, LateContext};
use super::storage::Storage;
use super::walk::Place;
use crate::{Fault, Map, Text, Value};

/// Where a payload stands, unless its caller says something else.
const PAYLOAD: &str = "payload";

fn request(context: &EvaluationContext, outputs: bool) -> LateContext {
    LateContext::Request {
        ends: Arc::new(context.clone()),
        outputs,
    }
}

/// The rules that hold for a payload: those of a relationship where both ends are given, those of a node where SELF is.
fn scope_of(context: &EvaluationContext) -> Scope {
    if context.source_id.is_some() && context.target_id.is_some() {
        Scope::Relationship
    } else if context.self_id.is_some() {
        Scope::Node
    } else {
        Scope::Free
    }
}

fn site<'s>(scope: Scope, context: &'s LateContext, place: &'s Place<'s>) -> Site<'s, LateContext> {
    Site {
        scope,
        context,
        place,
        depth: 0,
        in_place: true,
    }
}

/// Evaluates every call in a value, the value itself included.
///
/// What holds no call is shared with the result, not copied.
///
/// # Errors
/// When a call cannot be evaluated; the fault's path says which.
pub fn evaluate(value: &Value, context: &EvaluationContext, storage: &dyn Storage) -> Result<Value, Fault> {
    let own = request(context, false);
    let place = Place::Root(&[PAYLOAD]);
    let result = Late::new(storage).evaluate(value, &site(scope_of(context), &own, &place))?;
    Ok(result.unwrap_or_else(|| value.clone()))
}

/// Evaluates every call in the values of a mapping.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_payload(payload: &Map, context: &EvaluationContext, storage: &dyn Storage) -> Result<Map, Fault> {
    entries(
        payload,
        scope_of(context),
        &request(context, false),
        &Place::Root(&[PAYLOAD]),
        storage,
    )
}

fn entries(
    map: &Map,
    scope: Scope,
    context: &LateContext,
    place: &Place<'_>,
    storage: &dyn Storage,
) -> Result<Map, Fault> {
    let changed = Late::new(storage).evaluate_entries(map, &site(scope, context, place))?;
    Ok(changed.unwrap_or_else(|| map.clone()))
}

/// The values of a deployment's outputs, by name. An attribute whose instance cannot be told is shown as a text, and an
/// output whose value is a call of a secret that is not there is left out.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_outputs(outputs: &Map, storage: &dyn Storage) -> Result<Map, Fault> {
    let values = without_missing_secrets(outputs, storage)?;
    let context = request(&EvaluationContext::default(), true);
    entries(&values, Scope::Free, &context, &Place::Root(&["outputs"]), storage)
}

/// The values of a deployment's capabilities, by name. One whose value is a call of a secret that is not there is left out.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_capabilities(capabilities: &Map, storage: &dyn Storage) -> Result<Map, Fault> {
    let values = without_missing_secrets(capabilities, storage)?;
    let context = request(&EvaluationContext::default(), false);
    entries(&values, Scope::Free, &context, &Place::Root(&["capabilities"]), storage)
}

fn without_missing_secrets(declared: &Map, storage: &dyn Storage) -> Result<Map, Fault> {
    let mut values = Map::with_capacity(declared.len());
    for (name, entry) in declared.iter() {
        let value = entry.get("value").cloned().unwrap_or_default();
        if let Some(secret) = secret_of(&value)
            && storage.secret(secret)?.is_none()
        {
            continue;
        }
        values.insert(name.clone(), value);
    }
    Ok(values)
}

/// The secret that a value is a call of, if its name is written there.
fn secret_of(value: &Value) -> Option<&str> {
    let call = call(value).filter(|call| call.name == FunctionName::GetSecret)?;
    match call.argument {
        Value::List(items) => items.first()?.as_str(),
        single => single.as_str(),
    }
}

/// Evaluates a node: its properties and those of its capabilities. SELF means the node, and for `get_attribute` its only
/// instance; `instance` is the one that calls naming the node mean.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_node(node: &Map, instance: Option<&str>, storage: &dyn Storage) -> Result<Map, Fault> {
    let text = |key: &str| node.get(key).and_then(Value::as_str);
    let name = text("name").or_else(|| text("id")).unwrap_or_default();
    let context = entity(node, instance);
    let mut result = node.clone();
    if let Some(Value::Map(properties)) = node.get("properties") {
        let place = Place::Root(&["nodes", name, "properties"]);
        result.insert(
            "properties",
            entries(properties, Scope::Node, &context, &place, storage)?,
        );
    }
    let Some(Value::Map(capabilities)) = node.get("capabilities") else {
        return Ok(result);
    };
    for (key, capability) in capabilities.iter() {
        let Some(Value::Map(properties)) = capability.get("properties") else {
            continue;
        };
        let place = Place::Root(&["nodes", name, "capabilities", key]);
        let properties = entries(properties, Scope::Node, &context, &place, storage)?;
        let place = result.get_mut("capabilities").and_then(Value::as_map_mut);
        if let Some(Value::Map(capability)) = place.and_then(|capabilities| capabilities.get_mut(key)) {
            capability.insert("properties", properties);
        }
    }
    Ok(result)
}

/// Evaluates a node instance: its runtime properties.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_node_instance(instance: &Map, storage: &dyn Storage) -> Result<Map, Fault> {
    let id = instance.get("id").and_then(Value::as_str).unwrap_or_default();
    let mut result = instance.clone();
    if let Some(Value::Map(properties)) = instance.get("runtime_properties") {
        let place = Place::Root(&["node_instances", id, "runtime_properties"]);
        let context = entity(instance, None);
        result.insert(
            "runtime_properties",
            entries(properties, Scope::Node, &context, &place, storage)?,
        );
    }
    Ok(result)
}

fn entity(record: &Map, hint: Option<&str>) -> LateContext {
    let text = |key: &str| record.get(key).and_then(Value::as_str).map(Text::from);
    LateContext::Entity {
        id: text("id").unwrap_or_else(|| "".into()),
        name: text("name"),
        properties: record
            .get("properties")
            .and_then(Value::as_map)
            .cloned()
            .unwrap_or_default(),
        hint: hint.map(Into::into),
    }
}
