//! Reads schemas of properties, inputs and parameters (spec/dsl.md, sections 7, 12, 13).

use conclave_yaml::{Node, Place, Text};

use super::context::Context;
use crate::constraint::{Beside, check_form};
use crate::primitive::{ID_TYPES_1_4, ID_TYPES_1_5, is_primitive, primitive_types};
use crate::schema::{Completion, DataTypes, Properties, Property, Settled};
use crate::{Class, Fault, Map, Value};

/// Whose schema is read.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// A property: its default is completed as far as it goes, and what is of a data type always has one.
    Property,
    /// An input of a blueprint or operation: its default is complete.
    Input,
    /// A parameter of a workflow: the same, but constraints carry no message.
    Parameter,
}

/// Reads properties by name.
pub(super) struct Schemas<'t> {
    pub(super) types: &'t DataTypes,
    /// Names of data types that are at fault themselves.
    pub(super) kind: Kind,
}

impl Schemas<'_> {
    /// Reads all schemas of an element; one that is at fault is left out.
    pub(super) fn read_all(
        &self,
        context: &mut Context<'_>,
        node: Option<&Node>,
        owner: &str,
        path: &str,
    ) -> Properties {
        let mut properties = Properties::default();
        for (key, value) in node.and_then(Node::as_map).unwrap_or_default() {
            let Some(name) = key.as_text() else { continue };
            let path = format!("{path}.{name}");
            if let Some(property) = self.read(context, name, value, key.place, owner, &path) {
                properties.insert(name.clone(), property);
            }
        }
        properties
    }

    /// Reads one schema. None when it is at fault.
    pub(super) fn read(
        &self,
        context: &mut Context<'_>,
        name: &Text,
        node: &Node,
        place: Place,
        owner: &str,
        path: &str,
    ) -> Option<Property> {
        let type_node = node.get("type").filter(|value| !value.is_null());
        let type_name = type_node.and_then(Node::as_text);
        if self.kind != Kind::Property {
            self.check_extras(context, node, type_name, path)?;
        }
        if let Some((type_name, node)) = type_name.zip(type_node) {
            self.check_type(context, type_name, node.place, &format!("{path}.type"))?;
        }
        let faults = context.report.count();
        let default = self.default(context, node, type_name, name, owner, path, place);
        if context.report.count() > faults {
            return None;
        }
        let mut written = Map::with_capacity(node.as_map().map_or(0, <[_]>::len) + 1);
        for (key, value) in node.as_map().unwrap_or_default() {
            if let Some(key) = key.as_text() {
                written.insert(key.clone(), Value::from(value));
            }
        }
        if let Some(default) = &default {
            written.insert("default", default.clone());
        }
        let mut property = Property {
            type_name: type_name.cloned(),
            own_default: node.get("default").map(Value::from).filter(|value| !value.is_null()),
            required: written.get("required").is_none_or(Value::is_truthy),
            default,
            written,
            is_settled: Settled::default(),
        };
        property.settle(self.types);
        Some(property)
    }

    fn check_type(&self, context: &mut Context<'_>, name: &Text, place: Place, path: &str) -> Option<()> {
        if is_primitive(name) {
            let since = if ID_TYPES_1_5.contains(&&**name) {
                5
            } else if ID_TYPES_1_4.contains(&&**name) {
                4
            } else {
                0
            };
            return context
                .allows(&format!("type '{name}'"), since, path, place)
                .then_some(());
        }
        if self.types.get(name).is_some() {
            return Some(());
        }
        if !context.has("data_types", name) {
            let known = context.type_names();
            let fault = Fault::logic(103, format!("Illegal type name '{name}'"), path);
            context.fail_name(fault, place, name, known);
        }
        None
    }

    #[expect(clippy::too_many_arguments)]
    fn default(
        &self,
        context: &mut Context<'_>,
        node: &Node,
        type_name: Option<&Text>,
        name: &Text,
        owner: &str,
        path: &str,
        place: Place,
    ) -> Option<Value> {
        let written = node.get("default");
        let is_property = self.kind == Kind::Property;
        let is_data_type = type_name.is_some_and(|name| !is_primitive(name));
        let value = match written {
            Some(value) if !value.is_null() => Value::from(value),
            _ if is_property && is_data_type => context.empty.clone().into(),
            other => return other.map(Value::from),
        };
        let mut completion = Completion::new(self.types, is_property);
        let completed = completion.value(&value, None, type_name.map(|name| &**name));
        let faults = std::mem::take(&mut completion.faults);
        let owner = if is_property {
            format!("default of property '{name}' of '{owner}'")
        } else {
            format!("input '{name}'")
        };
        context.fail_properties(faults, &owner, &format!("{path}.default"), written, place);
        Some(completed)
    }

    /// What inputs and parameters may say besides.
    fn check_extras(&self, context: &mut Context<'_>, node: &Node, type_name: Option<&Text>, path: &str) -> Option<()> {
        let faults = context.report.count();
        let constraints = node.get("constraints").and_then(Node::as_seq).unwrap_or_default();
        for (index, constraint) in constraints.iter().enumerate() {
            self.check_constraint(context, constraint, &format!("{path}.constraints.{index}"));
        }
        if let Some(item_type) = node.get("item_type").filter(|value| !value.is_null()) {
            let (path, name) = (format!("{path}.item_type"), item_type.as_str().unwrap_or_default());
            if type_name.is_none_or(|name| &**name != "list") {
                let message = format!(
                    "Property item_type defined for unsupported type: '{}'",
                    type_name.map_or("none", |name| name)
                );
                context.fail(Fault::logic(218, message, path), item_type.place);
            } else if !is_primitive(name) {
                let fault = Fault::logic(217, format!("Illegal item_type '{name}'"), path);
                context.fail_name(fault, item_type.place, name, primitive_types().collect::<Vec<_>>());
            }
        }
        (context.report.count() == faults).then_some(())
    }

    fn check_constraint(&self, context: &mut Context<'_>, constraint: &Node, path: &str) {
        let Value::Map(definition) = Value::from(constraint) else {
            let message = "a constraint is a mapping of one operator";
            context.fail(Fault::new(Class::Type, message, path), constraint.place);
            return;
        };
        let beside = match context.minor {
            _ if self.kind == Kind::Parameter => Beside::Nothing,
            None => Beside::Nothing,
            Some(minor) if minor >= 5 => Beside::Message,
            Some(_) => Beside::Gated,
        };
        if let Err(fault) = check_form(&definition, beside, path) {
            context.fail(fault, constraint.place);
        }
    }
}

/// The properties of a type over those of its parent: an own schema replaces the inherited one of the same name, but keeps the
/// parent's default per field where both are of one data type.
pub(super) fn inherit(parent: &Properties, mut own: Properties, types: &DataTypes) -> Properties {
    for (name, inherited) in parent {
        let Some(property) = own.get_mut(name) else {
            own.insert(name.clone(), inherited.clone());
            continue;
        };
        let (Some(type_name), Some(default)) = (&property.type_name, &inherited.default) else {
            continue;
        };
        if inherited.type_name.as_ref() != Some(type_name)
            || is_primitive(type_name)
            || types.get(type_name).is_none()
            || default.is_null()
        {
            continue;
        }
        let value = property.own_default.clone().unwrap_or_else(|| Map::new().into());
        let mut completion = Completion::new(types, true);
        let completed = completion.value(&value, Some(default), Some(type_name));
        if completed.is_truthy() && completion.faults.is_empty() {
            property.written.insert("default", completed.clone());
            property.default = Some(completed);
            property.settle(types);
        }
    }
    own
}

/// Properties as plans show them.
pub(super) fn to_map(properties: &Properties) -> Map {
    properties
        .iter()
        .map(|(name, property)| (name.clone(), property.written.clone()))
        .collect()
}
