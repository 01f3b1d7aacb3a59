//! Types: derivation, property schemas, defaults (spec/dsl.md, sections 7 and 8).

use conclave_yaml::Node;
use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::Diagnostic;
use crate::diagnostic::suggestion;
use crate::document::{Document, Entry};
use crate::functions::is_function;
use crate::operations::{Interfaces, TypeOperation};

/// What a property may be.
#[derive(Debug, Clone, Default)]
pub(crate) struct PropertySchema {
    pub(crate) type_name: Option<String>,
    pub(crate) default: Option<Value>,
    pub(crate) required: bool,
}

/// A node or relationship type with all that it inherits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Type {
    /// Root first, own name last.
    pub(crate) hierarchy: Vec<String>,
    pub(crate) properties: IndexMap<String, PropertySchema>,
    /// By the key that holds them: `interfaces`, `source_interfaces`, `target_interfaces`.
    pub(crate) interfaces: IndexMap<&'static str, Interfaces>,
}

/// All types of one section.
#[derive(Debug, Default)]
pub(crate) struct Types {
    pub(crate) by_name: IndexMap<String, Type>,
}

impl Types {
    /// Derives every type of `section`.
    pub(crate) fn derive(
        document: &Document,
        section: &'static str,
        interface_keys: &[&'static str],
        errors: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut types = Self::default();
        for (name, _) in document.section(section) {
            types.derive_one(document, section, interface_keys, name, &mut Vec::new(), errors);
        }
        types
    }

    fn derive_one(
        &mut self,
        document: &Document,
        section: &'static str,
        keys: &[&'static str],
        name: &str,
        path: &mut Vec<String>,
        errors: &mut Vec<Diagnostic>,
    ) {
        if self.by_name.contains_key(name) {
            return;
        }
        let Some(entry) = document.entry(section, name) else {
            return;
        };
        let at = format!("{section}.{name}");
        if path.iter().any(|seen| seen == name) {
            let message = format!(
                "Parsing failed: types derive from each other: {} --> {name}",
                path.join(" --> ")
            );
            errors.push(Diagnostic::new(100, message, &entry.file, entry.node.place, at));
            return;
        }
        let mut derived = Type::default();
        if let Some(parent) = entry.node.get("derived_from") {
            let parent_name = parent.key_text();
            if document.entry(section, &parent_name).is_none() {
                let hint = suggestion(&parent_name, document.section(section).map(|(name, _)| name));
                let message = format!("Missing definition for type {parent_name} that {name} is derived from{hint}");
                errors.push(Diagnostic::new(
                    103,
                    message,
                    &entry.file,
                    parent.place,
                    format!("{at}.derived_from"),
                ));
            } else {
                path.push(name.to_owned());
                self.derive_one(document, section, keys, &parent_name, path, errors);
                path.pop();
                derived = self.by_name.get(&parent_name).cloned().unwrap_or_default();
            }
        }
        derived.hierarchy.push(name.to_owned());
        derived.properties.extend(schemas(entry, "properties", &at, errors));
        for key in keys {
            let own = Interfaces::of_type(entry.node.get(key), &entry.file, &format!("{at}.{key}"), errors);
            derived.interfaces.entry(key).or_default().inherit(own);
        }
        self.by_name.insert(name.to_owned(), derived);
    }
}

impl Type {
    pub(crate) fn operations(&self, key: &str) -> impl Iterator<Item = (&str, &str, &TypeOperation)> {
        self.interfaces.get(key).into_iter().flat_map(Interfaces::iter)
    }
}

/// Reads the schemas below `key` of an entry.
pub(crate) fn schemas(
    entry: &Entry,
    key: &str,
    at: &str,
    errors: &mut Vec<Diagnostic>,
) -> IndexMap<String, PropertySchema> {
    let Some(node) = entry.node.get(key).filter(|node| !node.is_null()) else {
        return IndexMap::new();
    };
    let Some(entries) = node.as_map() else {
        errors.push(Diagnostic::new(
            1,
            "Expected 'dict' type but found another",
            &entry.file,
            node.place,
            format!("{at}.{key}"),
        ));
        return IndexMap::new();
    };
    entries
        .iter()
        .map(|(name, schema)| (name.key_text(), schema_of(schema)))
        .collect()
}

pub(crate) fn schema_of(node: &Node) -> PropertySchema {
    PropertySchema {
        type_name: node.get("type").and_then(Node::as_str).map(str::to_owned),
        default: node.get("default").map(Node::to_json),
        required: node
            .get("required")
            .is_none_or(|node| node.to_json() != Value::Bool(false)),
    }
}

/// Where values stand, for messages.
pub(crate) struct Where<'a> {
    pub(crate) file: &'a str,
    pub(crate) node: &'a Node,
    pub(crate) path: String,
}

/// The values of a template over the defaults of its type: unknown names and wrong types are faults, as are missing
/// required ones.
pub(crate) fn instantiate(
    schemas: &IndexMap<String, PropertySchema>,
    given: Option<&Node>,
    place: &Where<'_>,
    errors: &mut Vec<Diagnostic>,
) -> Map<String, Value> {
    let mut values: Map<String, Value> = Map::new();
    for (name, schema) in schemas {
        if let Some(default) = &schema.default {
            values.insert(name.clone(), default.clone());
        }
    }
    for (key, value) in given.and_then(Node::as_map).unwrap_or_default() {
        let name = key.key_text();
        let at = format!("{}.{name}", place.path);
        let Some(schema) = schemas.get(&name) else {
            let hint = suggestion(&name, schemas.keys().map(String::as_str));
            let message = format!("Undefined property {name}{hint}");
            errors.push(Diagnostic::new(106, message, place.file, key.place, at));
            continue;
        };
        let json = value.to_json();
        if !fits(schema.type_name.as_deref(), &json) {
            let wanted = schema.type_name.as_deref().unwrap_or("any");
            let message = format!(
                "Property type validation failed in '{name}': the defined type is '{wanted}', yet it was assigned the value {json}"
            );
            errors.push(Diagnostic::new(105, message, place.file, value.place, at));
            continue;
        }
        let merged = match (values.get(&name), &json) {
            // A data type's fields are completed one by one.
            (Some(Value::Object(default)), Value::Object(own)) if is_data_type(schema) && !is_function(&json) => {
                let mut merged = default.clone();
                merged.extend(own.clone());
                Value::Object(merged)
            }
            _ => json,
        };
        values.insert(name, merged);
    }
    let excused = values
        .get("use_external_resource")
        .is_some_and(|value| *value == Value::Bool(true));
    for (name, schema) in schemas.iter().filter(|(_, schema)| schema.required && !excused) {
        if !values.contains_key(name) && !is_data_type(schema) {
            let message = format!("Missing value for required property '{name}'");
            errors.push(Diagnostic::new(
                107,
                message,
                place.file,
                place.node.place,
                format!("{}.{name}", place.path),
            ));
        }
    }
    values
}

fn is_data_type(schema: &PropertySchema) -> bool {
    schema.type_name.as_deref().is_some_and(|name| name.contains('.'))
}

/// Whether a value fits a primitive type; a function fits every type, texts are never checked.
pub(crate) fn fits(type_name: Option<&str>, value: &Value) -> bool {
    if is_function(value) {
        return true;
    }
    match type_name {
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("float") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("list") => value.is_array(),
        Some("dict") => value.is_object(),
        _ => true,
    }
}
