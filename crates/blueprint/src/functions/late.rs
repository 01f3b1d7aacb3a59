//! Evaluation at run time, against what is stored about a deployment.

use super::arguments::{Arguments, attribute_name};
use super::call::{Call, FunctionName};
use super::compute;
use super::early::{check_type, refuse_calls, unknown_input};
use super::engine::{Budget, Engine, Given, Scope, Site};
use super::property;
use super::python;
use super::storage::{Storage, StoredInstance};
use super::walk;
use crate::{Class, Fault, Map, Text, Value};
use std::sync::Arc;

/// Whose eyes a call is seen with: what SELF, SOURCE and TARGET mean, as node instance ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvaluationContext {
    /// SELF.
    pub self_id: Option<String>,
    /// SOURCE.
    pub source_id: Option<String>,
    /// TARGET.
    pub target_id: Option<String>,
    /// The node of SELF, whose properties `get_property` then gives. Requests of clients do not say it, and it means nothing in
    /// them.
    pub self_node: Option<String>,
    /// The node of SOURCE, likewise.
    pub source_node: Option<String>,
    /// The node of TARGET, likewise.
    pub target_node: Option<String>,
}

/// With whose eyes a call is seen at run time.
#[derive(Debug, Clone)]
pub(crate) enum LateContext {
    /// Those of a request.
    Request {
        /// What the keywords mean.
        ends: Arc<EvaluationContext>,
        /// Whether an instance that cannot be told is shown as a text instead of being a fault: in outputs.
        outputs: bool,
    },
    /// Those of a node, or of an instance taken for one.
    Entity {
        /// What SELF means to `get_attribute`.
        id: Text,
        /// What SELF means to `get_property`; instances have no name and so no properties.
        name: Option<Text>,
        properties: Map,
        /// The instance that stands for the node, where one is asked for.
        hint: Option<Text>,
    },
}

/// The evaluator of running deployments.
pub(crate) struct Late<'s> {
    pub(super) storage: &'s dyn Storage,
    budget: Budget,
}

type LateSite<'s> = Site<'s, LateContext>;

pub(super) fn failed(function: FunctionName, why: impl std::fmt::Display) -> Fault {
    let message = format!("Unable to evaluate {function} function: {why}");
    Fault::new(Class::FunctionEvaluation, message, "")
}

impl<'s> Late<'s> {
    pub(crate) fn new(storage: &'s dyn Storage) -> Self {
        Self {
            storage,
            budget: Budget::default(),
        }
    }

    /// A part of properties or attributes, whatever lies on the way being evaluated.
    fn part(
        &mut self,
        properties: &Map,
        path: &[Value],
        context: &LateContext,
        site: &LateSite<'_>,
    ) -> Result<Result<Value, (walk::Missed, Value)>, Fault> {
        let inner = Site {
            scope: Scope::Free,
            context,
            depth: site.depth + 1,
            in_place: false,
            ..*site
        };
        property::part(properties, path, &mut |value| self.evaluate(value, &inner))
    }

    fn property(&mut self, node: &Value, path: &[Value], site: &LateSite<'_>) -> Result<(Value, LateContext), Fault> {
        refuse_calls(FunctionName::GetProperty, std::iter::once(node).chain(path))?;
        let name = python::text(node);
        let wrong_scope = |wanted: &str| {
            let message = format!(
                "{name} can only be used in a context of {wanted} but appears in {}.",
                site.place
            );
            Fault::new(Class::Value, message, "")
        };
        let unknown = || Fault::new(Class::Key, format!("{name} names no node here"), "");
        let (node, properties, context) = match name.as_str() {
            "SELF" => {
                if site.scope != Scope::Node {
                    return Err(wrong_scope("a node template"));
                }
                match site.context {
                    LateContext::Entity {
                        name: Some(name),
                        properties,
                        ..
                    } => (name.clone(), properties.clone(), site.context.clone()),
                    LateContext::Request { ends, .. } => {
                        let node = self.storage.node(ends.self_node.as_deref().ok_or_else(unknown)?)?;
                        (node.id.clone(), node.properties.clone(), site.context.clone())
                    }
                    LateContext::Entity { .. } => return Err(unknown()),
                }
            }
            "SOURCE" | "TARGET" => {
                if site.scope != Scope::Relationship {
                    return Err(wrong_scope("a relationship"));
                }
                let LateContext::Request { ends, .. } = site.context else {
                    return Err(unknown());
                };
                let end = if name == "SOURCE" {
                    &ends.source_node
                } else {
                    &ends.target_node
                };
                let node = self.storage.node(end.as_deref().ok_or_else(unknown)?)?;
                (node.id.clone(), node.properties.clone(), site.context.clone())
            }
            other => {
                let node = self.storage.node(other)?;
                let context = LateContext::Entity {
                    id: node.id.clone(),
                    name: Some(node.id.clone()),
                    properties: node.properties.clone(),
                    hint: None,
                };
                (node.id.clone(), node.properties.clone(), context)
            }
        };
        let value = self
            .part(&properties, path, &context, site)?
            .map_err(|missed| property::missing("get_property", &node, path, &missed, site.place))?;
        Ok((value, context))
    }

    fn attribute(&mut self, node: &Value, path: &[Value], site: &LateSite<'_>) -> Result<(Value, LateContext), Fault> {
        let name = python::text(node);
        let instance = match self.instance_for(&name, path, site) {
            Ok(instance) => instance,
            Err(fault) => {
                let shown = matches!(site.context, LateContext::Request { outputs: true, .. });
                if shown && fault.class == Class::FunctionEvaluation {
                    return Ok((format!("<ERROR: {}>", fault.message).into(), site.context.clone()));
                }
                return Err(fault);
            }
        };
        // What the instance holds is seen with its own eyes.
        let context = match site.context {
            LateContext::Request { ends, outputs } if ends.self_id.as_deref().is_some_and(|id| *id != *instance.id) => {
                let ends = EvaluationContext {
                    self_id: Some(instance.id.to_string()),
                    self_node: ends.self_node.as_ref().map(|_| instance.node_id.to_string()),
                    ..(**ends).clone()
                };
                LateContext::Request {
                    ends: Arc::new(ends),
                    outputs: *outputs,
                }
            }
            other => other.clone(),
        };
        let value = self.attribute_of(FunctionName::GetAttribute, &instance, path, &context, site)?;
        Ok((value, context))
    }

    /// A runtime property, else a fact of the instance, else a property of its node, else null.
    fn attribute_of(
        &mut self,
        function: FunctionName,
        instance: &StoredInstance,
        path: &[Value],
        context: &LateContext,
        site: &LateSite<'_>,
    ) -> Result<Value, Fault> {
        let of = (function, &*instance.node_id);
        let mut value = self.part_or_null(of, &instance.runtime_properties, path, context, site)?;
        if value.is_null() {
            value = match path {
                [Value::String(only)] if &**only == "node_instance_id" => (&instance.id).into(),
                [Value::String(only)] if &**only == "node_instance_index" => instance.index.into(),
                _ => Value::Null,
            };
        }
        if value.is_null() {
            let node = self.storage.node(&instance.node_id)?;
            value = self.part_or_null(of, &node.properties, path, context, site)?;
        }
        Ok(value)
    }

    /// As [`Late::part`], null where it leads nowhere. A key where a list has positions is a fault all the same.
    fn part_or_null(
        &mut self,
        (function, node): (FunctionName, &str),
        properties: &Map,
        path: &[Value],
        context: &LateContext,
        site: &LateSite<'_>,
    ) -> Result<Value, Fault> {
        match self.part(properties, path, context, site)? {
            Ok(value) => Ok(value),
            Err(missed @ (walk::Missed::NoPosition, _)) => {
                Err(property::missing(function.as_str(), node, path, &missed, site.place))
            }
            Err(_) => Ok(Value::Null),
        }
    }

    /// The instances of the node that a call of `get_attributes_list` or `get_attributes_dict` names.
    fn instances_for(
        &self,
        node: &Value,
        function: FunctionName,
        site: &LateSite<'_>,
    ) -> Result<Vec<Arc<StoredInstance>>, Fault> {
        let name = python::text(node);
        let node = match name.as_str() {
            "SELF" | "SOURCE" | "TARGET" => match site.context {
                LateContext::Request { ends, .. } => end_of(ends, &name).map(str::to_owned),
                LateContext::Entity { .. } => None,
            }
            .ok_or_else(|| {
                failed(
                    function,
                    format!("{name} is missing in request context in {}", site.place),
                )
            })?,
            _ => name,
        };
        self.storage.node(&node)?;
        self.storage.instances_of(&node)
    }

    fn capability(&mut self, function: FunctionName, path: &[Value]) -> Result<Value, Fault> {
        match (function, path) {
            (FunctionName::GetCapability, [deployment, name, rest @ ..]) => {
                let deployment = python::text(deployment);
                let value = self.storage.capability(&deployment, &python::text(name))?;
                walk::into_capability(&deployment, name, &value, rest)
            }
            (FunctionName::GetEnvironmentCapability, [name, rest @ ..]) => {
                let deployment = self.storage.environment()?;
                let value = self.storage.capability(&deployment, &python::text(name))?;
                walk::into_capability(&deployment, name, &value, rest)
            }
            _ => self.storage.group_capability(path),
        }
    }

    fn label(&self, key: &Value, index: Option<i64>) -> Result<Value, Fault> {
        let key = python::text(key);
        let values = self.storage.label(&key)?;
        let Some(index) = index else {
            return Ok(values.into_iter().collect());
        };
        let position = compute::position(index, values.len());
        let value = position.and_then(|position| values.into_iter().nth(position));
        value.map(Value::String).ok_or_else(|| {
            failed(
                FunctionName::GetLabel,
                format!("the label '{key}' has no value of index {index}"),
            )
        })
    }
}

/// What a keyword means.
pub(super) fn end_of<'e>(ends: &'e EvaluationContext, keyword: &str) -> Option<&'e str> {
    match keyword {
        "SELF" => ends.self_id.as_deref(),
        "SOURCE" => ends.source_id.as_deref(),
        _ => ends.target_id.as_deref(),
    }
    .filter(|id| !id.is_empty())
}

impl Engine for Late<'_> {
    type Context = LateContext;

    fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    fn apply(
        &mut self,
        call: &Call<'_>,
        arguments: &Arguments<'_>,
        site: &LateSite<'_>,
    ) -> Result<Given<LateContext>, Fault> {
        let given = |value: Value| Given::Value(value, site.context.clone());
        let known = |value: Option<Value>| value.map_or(Given::Kept, given);
        Ok(match arguments {
            Arguments::Input {
                name,
                path,
                return_type,
            } => {
                refuse_calls(call.name, std::iter::once(*name).chain(*path))?;
                let key = python::text(name);
                let value = self.storage.input(&key)?.ok_or_else(|| unknown_input(&key))?;
                let value = walk::into_input(name, &value, path)?;
                check_type(name, &value, *return_type, site.place)?;
                given(value)
            }
            Arguments::Entity { node, path } => match call.name {
                FunctionName::GetProperty => {
                    let (value, context) = self.property(node, path, site)?;
                    Given::Value(value, context)
                }
                FunctionName::GetAttribute => {
                    let (value, context) = self.attribute(node, path, site)?;
                    Given::Value(value, context)
                }
                name => {
                    let mut values = Vec::new();
                    for instance in self.instances_for(node, name, site)? {
                        values.push(self.attribute_of(name, &instance, path, site.context, site)?);
                    }
                    given(values.into())
                }
            },
            Arguments::EntityPaths { node, paths } => {
                let mut by_instance = Map::new();
                for instance in self.instances_for(node, call.name, site)? {
                    let mut values = Map::with_capacity(paths.len());
                    for path in paths {
                        let value = self.attribute_of(call.name, &instance, path, site.context, site)?;
                        values.insert(attribute_name(path).unwrap_or_default(), value);
                    }
                    by_instance.insert(instance.id.clone(), values);
                }
                given(by_instance.into())
            }
            Arguments::Secret { name, path } => {
                let key = python::text(name);
                let secret = self.storage.secret(&key)?;
                let missing = || Fault::new(Class::NotFound, format!("the secret '{key}' was not found"), "");
                let secret = secret.ok_or_else(missing)?;
                match path {
                    None => given(Value::String(secret)),
                    Some(path) => given(walk::into_secret(&key, &secret, path)?),
                }
            }
            Arguments::Capability(path) => given(self.capability(call.name, path)?),
            Arguments::Label { key, index } => given(self.label(key, *index)?),
            Arguments::Sys { entity, property } => {
                given(self.storage.sys(&python::text(entity), &python::text(property))?)
            }
            Arguments::Consumers(property) => {
                let consumers = self.storage.consumers()?;
                given(match &***property {
                    "ids" => consumers.into_iter().map(|(id, _)| id).collect(),
                    "names" => consumers.into_iter().map(|(_, name)| name).collect(),
                    _ => Value::Int(i64::try_from(consumers.len()).unwrap_or(i64::MAX)),
                })
            }
            Arguments::Items(items) if call.name == FunctionName::Concat => known(compute::concat(items)?),
            Arguments::Items(items) => known(compute::merge(items)?),
            Arguments::Texts(items) => given(compute::text_function(call.name, items)?),
        })
    }
}
