//! What `imports` may hold, and what its entries say (spec/dsl.md, section 5).

use std::collections::HashSet;
use std::sync::Arc;

use conclave_yaml::{Kind, Node, Place};

use super::{Body, Document};
use crate::diagnostic::Report;
use crate::functions::is_call;
use crate::namespace::DELIMITER;
use crate::shape::{Checker, IMPORT_ENTRY};
use crate::{Class, Fault, Value};

/// An entry of `imports`.
pub(super) struct Entry {
    /// As written.
    pub(super) text: String,
    pub(super) namespace: Option<String>,
    /// What stands behind the name space.
    pub(super) resource: String,
    pub(super) target: Target,
    /// Values for properties of the plugins in the file.
    pub(super) properties: Option<Node>,
    pub(super) place: Place,
}

/// What an entry names.
pub(super) enum Target {
    Url(String),
    Plugin(String),
    Blueprint(String),
    Path(String),
}

impl Target {
    fn parse(resource: &str) -> Self {
        let behind = |prefix: &str| resource.strip_prefix(prefix).map(str::to_owned);
        if let Some(spec) = behind("plugin:") {
            return Self::Plugin(spec);
        }
        if let Some(id) = behind("blueprint:") {
            return Self::Blueprint(id);
        }
        let scheme = resource.split(':').next().unwrap_or_default();
        if matches!(scheme, "http" | "https" | "file" | "ftp") {
            Self::Url(resource.to_owned())
        } else {
            Self::Path(resource.to_owned())
        }
    }
}

/// The entries of a file. Those of the main file are checked in form; in others what is no import is refused where it is met.
pub(super) fn entries_of(document: &Document, is_main: bool, minor: Option<u32>, report: &mut Report) -> Vec<Entry> {
    let Some(section) = document.section("imports") else {
        return Vec::new();
    };
    let node = section.to_node();
    let Some(items) = node.as_seq() else {
        let fault = if node.is_null() {
            Fault::new(
                Class::Type,
                "a list of imports is expected, but nothing follows",
                "imports",
            )
        } else {
            let message = format!("Expected 'list' type but found '{}' type", node.type_name());
            Fault::coded(Class::Format, 1, message, "imports")
        };
        report.add(fault, section.key.place);
        return Vec::new();
    };
    let mut known = HashSet::new();
    let mut entries = Vec::new();
    for item in items {
        if is_main && !is_sound(item, minor, report) {
            continue;
        }
        let (text, properties) = match &item.kind {
            Kind::Str(text) => (text.to_string(), None),
            Kind::Map(map) if !map.is_empty() => (map[0].0.key_text(), Some(map[0].1.clone())),
            _ => {
                let message = format!("an import is a text, found '{}'", item.type_name());
                report.add(Fault::new(Class::Type, message, "imports"), item.place);
                continue;
            }
        };
        if is_main && !known.insert(text.clone()) {
            let message = format!("Duplicate imports: '{text}'");
            report.add(Fault::coded(Class::Format, 2, message, "imports"), item.place);
            continue;
        }
        match entry(text, properties.filter(|properties| !properties.is_null()), item.place) {
            Ok(entry) => entries.push(entry),
            Err(fault) => report.add(fault, item.place),
        }
    }
    entries
}

fn entry(text: String, properties: Option<Node>, place: Place) -> Result<Entry, Fault> {
    let (namespace, resource) = match text.rsplit_once(DELIMITER) {
        Some((namespace, resource)) => (Some(namespace).filter(|namespace| !namespace.is_empty()), resource),
        None => (None, text.as_str()),
    };
    if namespace.is_some_and(|namespace| namespace.contains(DELIMITER)) {
        let message = format!("Invalid '{text}': import's namespace cannot contain namespace delimiter");
        return Err(Fault::logic(212, message, "imports"));
    }
    Ok(Entry {
        namespace: namespace.map(str::to_owned),
        resource: resource.to_owned(),
        target: Target::parse(resource),
        properties,
        place,
        text,
    })
}

/// Checks the form of an entry of the main file.
fn is_sound(item: &Node, minor: Option<u32>, report: &mut Report) -> bool {
    if item.is_null() {
        let message = "The import statement should be either a string or a dictionary";
        report.add(Fault::coded(Class::Format, 220, message, "imports"), item.place);
        return false;
    }
    if !Checker::new(report, minor).check_at(&["imports"], &IMPORT_ENTRY, item) {
        return false;
    }
    let Some(map) = item.as_map() else { return true };
    let fault = if let Some(minor) = minor.filter(|minor| *minor < 5 && !map.is_empty()) {
        crate::shape::version_fault("properties of imports", minor, 5, "imports")
    } else if map.len() != 1 {
        let message = "Import with properties should be a single-entry dictionary";
        Fault::coded(Class::Format, 220, message, "imports")
    } else if map[0]
        .1
        .as_map()
        .unwrap_or_default()
        .iter()
        .all(|(_, value)| is_property(value))
    {
        return true;
    } else {
        let message = "Properties of imported node should either be strings, integers, floats, booleans, lists or intrinsic functions";
        Fault::coded(Class::Format, 220, message, "imports")
    };
    report.add(fault, item.place);
    false
}

fn is_property(value: &Node) -> bool {
    match value.kind {
        Kind::Null | Kind::Timestamp(_) => false,
        Kind::Map(_) => is_call(&Value::from(value)),
        _ => true,
    }
}

/// Whether a file is one of built-in types: it defines the root of all node types itself.
///
/// # Errors
/// When the sections that tell are no mappings.
pub(super) fn is_builtin_types(document: &Document) -> Result<bool, Fault> {
    for name in ["metadata", "node_types"] {
        if document.plain(name).is_some() {
            let message = format!("'{name}' is expected to be a dictionary");
            return Err(Fault::new(Class::Value, message, name));
        }
    }
    let root = document
        .entries("node_types")
        .and_then(|types| types.get("cloudify.nodes.Root"));
    Ok(root.is_some_and(|root| !root.is_builtin))
}

/// Puts the properties of an import into the plugins of the imported file.
///
/// # Errors
/// When a property is of the wrong type or no plugin has it; with the place if it is in the imported file.
pub(super) fn set_plugin_properties(
    document: &mut Document,
    properties: Option<&Node>,
) -> Result<(), (Fault, Option<Place>)> {
    let Some(section) = document.sections.get_mut("plugins") else {
        return Ok(());
    };
    let no_mapping = |what: &str, place| {
        let message = format!("'{what}' is expected to be a dictionary");
        Err((Fault::new(Class::Value, message, "plugins"), Some(place)))
    };
    let Body::Entries { entries, .. } = &mut section.body else {
        return no_mapping("plugins", section.key.place);
    };
    let mut problems = Vec::new();
    for (name, entry) in entries.iter_mut() {
        if entry.value.as_map().is_none() {
            return no_mapping(name, entry.key.place);
        }
        let Some((_, declared)) = entry.value.entry("properties") else {
            continue;
        };
        let Some(declared) = declared.as_map() else {
            return no_mapping("properties", entry.key.place);
        };
        let mut declared = declared.to_vec();
        let mut given: Vec<&(Node, Node)> = properties.and_then(Node::as_map).unwrap_or_default().iter().collect();
        for (name, property) in &mut declared {
            if property.as_map().is_none() {
                return no_mapping(&name.key_text(), name.place);
            }
            let Some(at) = given.iter().position(|(key, _)| key.kind == name.kind) else {
                continue;
            };
            let (_, value) = given.remove(at);
            let type_name = property
                .get("type")
                .and_then(Node::as_str)
                .unwrap_or_default()
                .to_owned();
            match fits_property(value, &type_name) {
                None => {
                    let message = "Properties should either be strings, integers, floats, booleans, or lists.";
                    return Err((Fault::coded(Class::Format, 220, message, "imports"), None));
                }
                Some(false) if !is_call(&Value::from(value)) => {
                    problems.push(format!(
                        "Property {}: value '{}' should be of type {type_name}",
                        name.key_text(),
                        value.to_json()
                    ));
                }
                Some(_) => set_value(property, value),
            }
        }
        if !given.is_empty() {
            let names: Vec<String> = given.iter().map(|(key, _)| key.key_text()).collect();
            problems.push(format!(
                "Properties for imported plugin are redundant: {}, consider updating import lines",
                names.join(", ")
            ));
        }
        replace(&mut entry.value, "properties", declared);
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err((Fault::logic(221, problems.join(". "), "imports"), None))
    }
}

/// Whether a value fits the type of a plugin's property; none for a type that such properties cannot have.
fn fits_property(value: &Node, type_name: &str) -> Option<bool> {
    let kind = &value.kind;
    let is_whole = matches!(kind, Kind::Int(_) | Kind::BigInt(_) | Kind::Bool(_));
    Some(match type_name {
        "string" => is_whole || matches!(kind, Kind::Str(_)),
        "integer" => is_whole,
        "float" => is_whole || matches!(kind, Kind::Float(_)),
        "boolean" => matches!(kind, Kind::Bool(_)),
        "list" => matches!(kind, Kind::Seq(_)),
        _ => return None,
    })
}

fn set_value(property: &mut Node, value: &Node) {
    let Kind::Map(entries) = &mut property.kind else { return };
    let entries = Arc::make_mut(entries);
    match entries.iter_mut().find(|(key, _)| key.as_str() == Some("value")) {
        Some((_, own)) => *own = value.clone(),
        None => entries.push((Node::text("value", value.place), value.clone())),
    }
}

fn replace(node: &mut Node, key: &str, entries: Vec<(Node, Node)>) {
    let Kind::Map(own) = &mut node.kind else { return };
    if let Some((_, value)) = Arc::make_mut(own)
        .iter_mut()
        .find(|(name, _)| name.as_str() == Some(key))
    {
        value.kind = Kind::Map(Arc::new(entries));
    }
}
