//! Evaluation when a deployment plan is made: inputs and properties are known, instances and secrets are not.

use rustc_hash::FxHashMap as HashMap;

use super::arguments::Arguments;
use super::call::{Call, FunctionName, call, is_call};
use super::compute;
use super::engine::{Budget, Engine, Given, Scope, Site};
use super::property;
use super::python;
use super::walk::{self, Place};
use crate::plan::Node;
use crate::primitive::fits;
use crate::{Class, Fault, Map, Value};

/// With whose eyes a call of a plan is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EarlyContext {
    /// Those of a node, by position, in one of its operations or elsewhere.
    Node { node: usize, operation: bool },
    /// Those of a relationship, in one of its operations.
    Relationship { source: usize, target: Option<usize> },
    /// Nobody's.
    Nobody,
}

/// The evaluator of plans.
pub(crate) struct Early<'p> {
    nodes: HashMap<&'p str, usize>,
    names: Vec<&'p str>,
    /// What the nodes' properties have become so far.
    properties: Vec<Map>,
    /// The node whose properties are evaluated at this moment.
    current: Option<usize>,
    inputs: Map,
    runtime_only: bool,
    /// Whether a call that has to wait was met in an operation's inputs since this was last reset.
    waiting: bool,
    budget: Budget,
}

impl<'p> Early<'p> {
    /// One for these nodes. With `runtime_only` no call is evaluated: it is only found out which operations have any.
    pub(crate) fn new(nodes: &'p [Node], inputs: Map, runtime_only: bool) -> Self {
        // Of two nodes of one name the first counts, which no parsed plan has.
        let mut by_name = HashMap::default();
        for (index, node) in nodes.iter().enumerate() {
            by_name.entry(&*node.name).or_insert(index);
        }
        Self {
            nodes: by_name,
            names: nodes.iter().map(|node| &*node.name).collect(),
            properties: nodes.iter().map(|node| node.properties.clone()).collect(),
            current: None,
            inputs,
            runtime_only,
            waiting: false,
            budget: Budget::default(),
        }
    }

    /// The position of the node of that name.
    pub(crate) fn node(&self, name: &str) -> Option<usize> {
        self.nodes.get(name).copied()
    }

    /// Evaluates a node's properties. Calls of other nodes and of the properties themselves see every result at once.
    ///
    /// # Errors
    /// When a call cannot be evaluated.
    pub(crate) fn evaluate_properties(&mut self, node: usize, place: &Place<'_>) -> Result<Option<Map>, Fault> {
        let Some(properties) = self.properties.get(node).cloned() else {
            return Ok(None);
        };
        let site = Site {
            scope: Scope::Node,
            context: &EarlyContext::Node { node, operation: false },
            place,
            depth: 0,
            in_place: true,
        };
        self.current = Some(node);
        let changed = self.evaluate_entries(&properties, &site);
        self.current = None;
        let changed = changed?;
        if let Some(changed) = &changed {
            self.properties[node] = changed.clone();
        }
        // An earlier node may have evaluated some of them already.
        Ok(changed.or(Some(properties)))
    }

    /// Whether a call that has to wait was met in an operation since this was last asked.
    pub(crate) fn take_waiting(&mut self) -> bool {
        std::mem::take(&mut self.waiting)
    }

    /// What the inputs have become: calls inside of their values are evaluated where they are first used.
    pub(crate) fn into_inputs(self) -> Map {
        self.inputs
    }

    fn input(
        &self,
        name: &Value,
        path: &[Value],
        return_type: Option<&Value>,
        site: &Site<'_, EarlyContext>,
    ) -> Result<Value, Fault> {
        refuse_calls(FunctionName::GetInput, std::iter::once(name).chain(path))?;
        let key = python::text(name);
        let value = self.inputs.get(key.as_str()).ok_or_else(|| unknown_input(&key))?;
        let value = walk::into_input(name, value, path)?;
        check_type(name, &value, return_type, site.place)?;
        Ok(value)
    }

    fn property(
        &self,
        node: &Value,
        path: &[Value],
        site: &Site<'_, EarlyContext>,
    ) -> Result<(Value, EarlyContext), Fault> {
        refuse_calls(FunctionName::GetProperty, std::iter::once(node).chain(path))?;
        let (node, context) = self.resolve(node, site)?;
        let name = self.names.get(node).copied().unwrap_or_default();
        let properties = self.properties.get(node).cloned().unwrap_or_default();
        let value = property::part(&properties, path, &mut |_| Ok(None))?
            .map_err(|missed| property::missing("get_property", name, path, &missed, site.place))?;
        Ok((value, context))
    }

    /// The node that is meant, and with whose eyes what it holds is seen.
    fn resolve(&self, node: &Value, site: &Site<'_, EarlyContext>) -> Result<(usize, EarlyContext), Fault> {
        let name = python::text(node);
        let context = *site.context;
        let missing = |what: &str| Fault::new(Class::Key, format!("{name} names no {what} here"), "");
        match name.as_str() {
            "SELF" => {
                expect_scope(&name, Scope::Node, site)?;
                match context {
                    EarlyContext::Node { node, .. } => Ok((node, context)),
                    _ => Err(missing("node")),
                }
            }
            "SOURCE" | "TARGET" => {
                expect_scope(&name, Scope::Relationship, site)?;
                let EarlyContext::Relationship { source, target } = context else {
                    return Err(missing("end of a relationship"));
                };
                let end = if name == "SOURCE" { Some(source) } else { target };
                Ok((end.ok_or_else(|| missing("node"))?, context))
            }
            name => {
                let node = self.node(name).ok_or_else(|| unknown_node(name))?;
                // What another node holds is seen with its own eyes.
                Ok((node, EarlyContext::Node { node, operation: false }))
            }
        }
    }

    /// Looks a property up without evaluating it, as it is done when a blueprint is parsed.
    ///
    /// # Errors
    /// When there is no such node or property, or the keyword means nothing in this scope.
    pub(crate) fn probe(&self, node: &Value, path: &[Value], site: &Site<'_, EarlyContext>) -> Result<(), Fault> {
        self.property(node, path, site).map(|_| ())
    }
}

impl Engine for Early<'_> {
    type Context = EarlyContext;

    fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    fn apply(
        &mut self,
        call: &Call<'_>,
        arguments: &Arguments<'_>,
        site: &Site<'_, EarlyContext>,
    ) -> Result<Given<EarlyContext>, Fault> {
        if self.runtime_only || !call.name.is_hybrid() {
            let in_operation = match site.context {
                EarlyContext::Node { operation, .. } => *operation,
                EarlyContext::Relationship { .. } => true,
                EarlyContext::Nobody => false,
            };
            self.waiting |= in_operation;
            return Ok(Given::Kept);
        }
        let context = *site.context;
        let known = |value: Option<Value>| value.map_or(Given::Kept, |value| Given::Value(value, context));
        match *arguments {
            Arguments::Input {
                name,
                path,
                return_type,
            } => Ok(known(Some(self.input(name, path, return_type, site)?))),
            Arguments::Entity { node, path } => {
                let (value, context) = self.property(node, path, site)?;
                Ok(Given::Value(value, context))
            }
            Arguments::Items(items) if call.name == FunctionName::Concat => Ok(known(compute::concat(items)?)),
            Arguments::Items(items) => Ok(known(compute::merge(items)?)),
            Arguments::Texts(items) => Ok(known(Some(compute::text_function(call.name, items)?))),
            // Hybrid functions have no other arguments.
            _ => Ok(Given::Kept),
        }
    }

    /// As in the original, a call inside of what is read is evaluated once, where it is first read.
    fn read_evaluated(&mut self, read: &Value, context: &EarlyContext, value: &Value) {
        let Some(call) = call(read) else { return };
        match Arguments::of(&call) {
            Ok(Arguments::Input { name, path, .. }) => {
                if let Some(place) = self.inputs.get_mut(python::text(name).as_str()) {
                    replace_part(place, path, value);
                }
            }
            Ok(Arguments::Entity { node, path }) => {
                let node = match (node.as_str(), *context) {
                    (Some("SELF"), EarlyContext::Node { node, .. }) => Some(node),
                    (Some("SOURCE"), EarlyContext::Relationship { source, .. }) => Some(source),
                    (Some("TARGET"), EarlyContext::Relationship { target, .. }) => target,
                    (Some(name), _) => self.node(name),
                    (None, _) => None,
                };
                if let Some(properties) = node.and_then(|node| self.properties.get_mut(node)) {
                    replace_entry(properties, path, value);
                }
            }
            _ => {}
        }
    }

    fn part_evaluated(&mut self, place: &Place<'_>, value: &Value) {
        let Some(node) = self.current else { return };
        let mut path = Vec::new();
        push_steps(place, &mut path);
        if let Some(properties) = self.properties.get_mut(node) {
            replace_entry(properties, &path, value);
        }
    }
}

/// The steps from the outermost place.
fn push_steps(place: &Place<'_>, steps: &mut Vec<Value>) {
    match place {
        Place::Root(_) => {}
        Place::Key(outer, key) => {
            push_steps(outer, steps);
            steps.push((*key).into());
        }
        Place::Item(outer, index) => {
            push_steps(outer, steps);
            steps.extend(i64::try_from(*index).map(Value::Int));
        }
    }
}

fn replace_entry(properties: &mut Map, path: &[Value], value: &Value) {
    let Some((key, rest)) = path.split_first() else { return };
    if let Some(place) = properties.get_mut(python::text(key).as_str()) {
        replace_part(place, rest, value);
    }
}

fn replace_part(place: &mut Value, path: &[Value], value: &Value) {
    let Some((key, rest)) = path.split_first() else {
        *place = value.clone();
        return;
    };
    let inner = match place {
        Value::Map(map) => map.get_mut(python::text(key).as_str()),
        list @ Value::List(_) => {
            let index = key.as_i64();
            list.as_list_mut().and_then(|items| {
                let index = compute::position(index?, items.len())?;
                items.get_mut(index)
            })
        }
        _ => None,
    };
    if let Some(inner) = inner {
        replace_part(inner, rest, value);
    }
}

fn expect_scope<C>(name: &str, scope: Scope, site: &Site<'_, C>) -> Result<(), Fault> {
    if site.scope == scope {
        return Ok(());
    }
    let wanted = match scope {
        Scope::Node => "a node template",
        _ => "a relationship",
    };
    let message = format!(
        "{name} can only be used in a context of {wanted} but appears in {}.",
        site.place
    );
    Err(Fault::new(Class::Value, message, ""))
}

/// Refuses arguments that could not be evaluated.
pub(crate) fn refuse_calls<'v>(
    function: FunctionName,
    mut arguments: impl Iterator<Item = &'v Value>,
) -> Result<(), Fault> {
    match arguments.find(|argument| is_call(argument)) {
        None => Ok(()),
        Some(argument) => {
            let shown = python::literal(argument);
            let message = format!("Unable to evaluate {function}: found an unresolved argument: {shown}");
            Err(Fault::new(Class::FunctionEvaluation, message, ""))
        }
    }
}

/// The fault of a call that names no input.
pub(crate) fn unknown_input(name: &str) -> Fault {
    let message = format!("get_input function references an unknown input '{name}'.");
    Fault::new(Class::UnknownInput, message, "")
}

/// The fault of a call that names no node.
pub(crate) fn unknown_node(name: &str) -> Fault {
    Fault::new(Class::Key, format!("Node {name} does not exist"), "")
}

/// Checks what an input gave against the call's `type`, if it has one.
pub(crate) fn check_type(
    name: &Value,
    value: &Value,
    return_type: Option<&Value>,
    place: &Place<'_>,
) -> Result<(), Fault> {
    let Some(wanted) = return_type.filter(|wanted| wanted.is_truthy()) else {
        return Ok(());
    };
    if wanted.as_str().is_some_and(|wanted| fits(wanted, value)) {
        return Ok(());
    }
    let message = format!(
        "Value '{}' of input '{}' does not match data type declared for '{place}': '{}'.",
        python::text(value),
        python::text(name),
        python::text(wanted)
    );
    Err(Fault::new(Class::InputEvaluation, message, ""))
}
