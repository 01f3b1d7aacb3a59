//! Intrinsic functions: what is known when a deployment is made, and what only later (spec/dsl.md, section 14).

use serde_json::{Map, Value};

use crate::Diagnostic;
use crate::diagnostic::suggestion;
use crate::document::Document;

const KNOWN: [&str; 6] = [
    "get_input",
    "get_property",
    "get_attribute",
    "get_secret",
    "get_capability",
    "concat",
];
/// How deep calls may lead to calls.
pub(crate) const DEPTH_MAX: usize = 50;

/// The name and argument of a call: a mapping whose only key, besides an optional `type`, is a function's name.
pub(crate) fn call(value: &Value) -> Option<(&str, &Value)> {
    let map = value.as_object()?;
    let mut functions = map.iter().filter(|(key, _)| *key != "type");
    let (name, argument) = functions.next()?;
    (functions.next().is_none() && KNOWN.contains(&name.as_str())).then_some((name.as_str(), argument))
}

pub(crate) fn is_function(value: &Value) -> bool {
    call(value).is_some()
}

/// Whether there is a call anywhere in the value.
pub fn has_functions(value: &Value) -> bool {
    is_function(value)
        || match value {
            Value::Array(items) => items.iter().any(has_functions),
            Value::Object(map) => map.values().any(has_functions),
            _ => false,
        }
}

/// Why a function gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// The function's arguments do not fit.
    #[error("{0}")]
    Function(String),
    /// Calls lead to calls without end.
    #[error("functions refer to each other more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// A secret that is not there.
    #[error("secret {0} was not found")]
    UnknownSecret(String),
}

/// Whose eyes a function is seen with: the keywords SELF, SOURCE and TARGET, as node instance ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvaluationContext {
    /// SELF.
    pub self_id: Option<String>,
    /// SOURCE.
    pub source_id: Option<String>,
    /// TARGET.
    pub target_id: Option<String>,
}

/// What functions read. Values may hold calls again.
pub trait Storage {
    /// An input of the deployment.
    fn input(&self, name: &str) -> Option<Value>;
    /// The properties of a node.
    fn node_properties(&self, node: &str) -> Option<Value>;
    /// The node of an instance.
    fn node_of(&self, instance: &str) -> Option<String>;
    /// The runtime properties of an instance.
    fn runtime_properties(&self, instance: &str) -> Option<Value>;
    /// The instances of a node.
    fn instances_of(&self, node: &str) -> Vec<String>;
    /// The instances that an instance has relationships to.
    fn related(&self, instance: &str) -> Vec<String>;
    /// A secret.
    fn secret(&self, name: &str) -> Option<String>;
}

/// Evaluates every call in `value`, from the inside out.
///
/// # Errors
/// When a call has no value.
pub fn evaluate(value: &Value, context: &EvaluationContext, storage: &dyn Storage) -> Result<Value, EvaluationError> {
    evaluate_at(value, context, storage, 0)
}

fn evaluate_at(
    value: &Value,
    context: &EvaluationContext,
    storage: &dyn Storage,
    depth: usize,
) -> Result<Value, EvaluationError> {
    if depth > DEPTH_MAX {
        return Err(EvaluationError::TooDeep);
    }
    let inner = |value: &Value| evaluate_at(value, context, storage, depth + 1);
    if let Some((name, argument)) = call(value) {
        let argument = inner(argument)?;
        let result = run(name, &argument, context, storage)?;
        return if has_functions(&result) {
            inner(&result)
        } else {
            Ok(result)
        };
    }
    match value {
        Value::Array(items) => items.iter().map(inner).collect::<Result<Vec<_>, _>>().map(Value::Array),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| Ok((key.clone(), inner(value)?)));
            entries
                .collect::<Result<Map<_, _>, EvaluationError>>()
                .map(Value::Object)
        }
        plain => Ok(plain.clone()),
    }
}

pub(crate) fn run(
    name: &str,
    argument: &Value,
    context: &EvaluationContext,
    storage: &dyn Storage,
) -> Result<Value, EvaluationError> {
    let wrong = |why: String| EvaluationError::Function(why);
    match name {
        "concat" => argument
            .as_array()
            .map(|items| Value::String(items.iter().map(python_text).collect()))
            .ok_or_else(|| wrong("concat takes a list".into())),
        "get_input" => {
            let path = path_of(argument);
            let (first, rest) = path
                .split_first()
                .ok_or_else(|| wrong("get_input needs a name".into()))?;
            let name = python_text(first);
            let value = storage
                .input(&name)
                .ok_or_else(|| wrong(format!("there is no input {name}")))?;
            walk(&value, rest).ok_or_else(|| wrong(format!("input {name} has no {}", shown(rest))))
        }
        "get_secret" => {
            let name = python_text(argument);
            storage
                .secret(&name)
                .map(Value::String)
                .ok_or(EvaluationError::UnknownSecret(name))
        }
        "get_property" | "get_attribute" => {
            let path = path_of(argument);
            let [entity, rest @ ..] = path.as_slice() else {
                return Err(wrong(format!("{name} takes a list of node and property")));
            };
            let entity = python_text(entity);
            if name == "get_property" {
                property(&entity, rest, context, storage)
            } else {
                attribute(&entity, rest, context, storage)
            }
        }
        other => Err(wrong(format!("{other} cannot be evaluated by this manager"))),
    }
}

fn instance_of(entity: &str, context: &EvaluationContext) -> Option<Result<String, EvaluationError>> {
    let named = match entity {
        "SELF" => &context.self_id,
        "SOURCE" => &context.source_id,
        "TARGET" => &context.target_id,
        _ => return None,
    };
    let missing = || EvaluationError::Function(format!("{entity} means nothing here"));
    Some(named.clone().ok_or_else(missing))
}

fn property(
    entity: &str,
    path: &[Value],
    context: &EvaluationContext,
    storage: &dyn Storage,
) -> Result<Value, EvaluationError> {
    let node = match instance_of(entity, context) {
        None => entity.to_owned(),
        Some(instance) => {
            let instance = instance?;
            storage.node_of(&instance).unwrap_or(instance)
        }
    };
    let unknown = |what: String| EvaluationError::Function(what);
    let properties = storage
        .node_properties(&node)
        .ok_or_else(|| unknown(format!("there is no node {node}")))?;
    walk(&properties, path).ok_or_else(|| unknown(format!("node {node} has no property {}", shown(path))))
}

/// A runtime property, else the node's property, else null.
fn attribute(
    entity: &str,
    path: &[Value],
    context: &EvaluationContext,
    storage: &dyn Storage,
) -> Result<Value, EvaluationError> {
    let instance = match instance_of(entity, context) {
        Some(instance) => instance?,
        None => pick_instance(entity, context, storage)?,
    };
    let runtime = storage
        .runtime_properties(&instance)
        .and_then(|properties| walk(&properties, path));
    if let Some(value) = runtime {
        return Ok(value);
    }
    if path.len() == 1 && path[0] == "node_instance_id" {
        return Ok(Value::String(instance));
    }
    let node = storage.node_of(&instance);
    let properties = node.and_then(|node| storage.node_properties(&node));
    Ok(properties
        .and_then(|properties| walk(&properties, path))
        .unwrap_or(Value::Null))
}

fn pick_instance(node: &str, context: &EvaluationContext, storage: &dyn Storage) -> Result<String, EvaluationError> {
    let all = storage.instances_of(node);
    if let [only] = all.as_slice() {
        return Ok(only.clone());
    }
    let near = [&context.self_id, &context.source_id, &context.target_id];
    let related: Vec<String> = near
        .into_iter()
        .flatten()
        .flat_map(|id| storage.related(id))
        .filter(|id| all.contains(id))
        .collect();
    match related.as_slice() {
        [only] => Ok(only.clone()),
        _ if all.is_empty() => Err(EvaluationError::Function(format!("node {node} has no instances"))),
        _ => Err(EvaluationError::Function(format!(
            "node {node} has more than one instance; unable to choose one"
        ))),
    }
}

fn path_of(argument: &Value) -> Vec<Value> {
    match argument {
        Value::Array(items) => items.clone(),
        single => vec![single.clone()],
    }
}

fn shown(path: &[Value]) -> String {
    path.iter().map(python_text).collect::<Vec<_>>().join(".")
}

fn walk(value: &Value, path: &[Value]) -> Option<Value> {
    path.iter()
        .try_fold(value, |current, key| match (current, key) {
            (Value::Object(map), key) => map.get(&python_text(key)),
            (Value::Array(items), Value::Number(index)) => items.get(usize::try_from(index.as_u64()?).ok()?),
            _ => None,
        })
        .cloned()
}

/// A value as Python prints it: what `concat` joins.
pub(crate) fn python_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => python_literal(other),
    }
}

fn python_literal(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.contains('\'') && !text.contains('"') => format!("\"{text}\""),
        Value::String(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        Value::Array(items) => format!("[{}]", items.iter().map(python_literal).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| {
                format!(
                    "{}: {}",
                    python_literal(&Value::String(key.clone())),
                    python_literal(value)
                )
            });
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Checks that every call names what exists.
pub(crate) fn validate(plan: &Value, document: &Document, errors: &mut Vec<Diagnostic>) {
    let nodes = plan["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let places = nodes
        .iter()
        .map(|node| {
            (
                format!("node_templates.{}", node["name"].as_str().unwrap_or_default()),
                node,
            )
        })
        .chain(
            ["outputs", "capabilities"]
                .into_iter()
                .map(|section| (section.to_owned(), &plan[section])),
        );
    for (path, value) in places {
        each_call(value, &mut |name, argument| {
            let Some(why) = fault(name, argument, plan) else { return };
            let element = path
                .strip_prefix("node_templates.")
                .and_then(|name| document.entry("node_templates", name));
            let element = element.or_else(|| document.section(&path).next().map(|(_, entry)| entry));
            let (file, place) = element.map_or((document.main.as_str(), Default::default()), |entry| {
                (entry.file.as_str(), entry.node.place)
            });
            let mut diagnostic = Diagnostic::new(0, why, file, place, path.clone());
            diagnostic.code = None;
            errors.push(diagnostic);
        });
    }
}

fn each_call(value: &Value, look: &mut impl FnMut(&str, &Value)) {
    if let Some((name, argument)) = call(value) {
        look(name, argument);
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| each_call(item, look)),
        Value::Object(map) => map.values().for_each(|item| each_call(item, look)),
        _ => {}
    }
}

fn fault(name: &str, argument: &Value, plan: &Value) -> Option<String> {
    let path = path_of(argument);
    let first = path.first()?.as_str()?;
    match name {
        "get_input" => {
            let inputs = plan["inputs"].as_object()?;
            let hint = suggestion(first, inputs.keys().map(String::as_str));
            (!inputs.contains_key(first)).then(|| format!("get_input refers to the unknown input '{first}'{hint}"))
        }
        "get_property" | "get_attribute" if !matches!(first, "SELF" | "SOURCE" | "TARGET") => {
            let nodes = plan["nodes"].as_array()?;
            let mut names = nodes.iter().filter_map(|node| node["name"].as_str());
            let hint = suggestion(first, names.clone());
            (!names.any(|name| name == first)).then(|| format!("{name} refers to the unknown node '{first}'{hint}"))
        }
        _ => None,
    }
}
