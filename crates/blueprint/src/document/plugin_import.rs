//! `plugin:` imports: which stored plugin is meant, which of its files, and what its record adds (spec/dsl.md, section 5).

use conclave_yaml::{Kind, Node, Place};

use super::Document;
use crate::namespace::prefixed;
use crate::resolver::{PluginRecord, Resolver, StoredPlugin};
use crate::version_spec::{Specifier, Version, accepts_all};
use crate::{Class, Fault, Value};

/// What an import asks for.
#[derive(Debug, PartialEq)]
struct Wanted<'a> {
    package: &'a str,
    specifiers: Vec<Specifier>,
    distributions: Vec<&'a str>,
}

fn invalid(message: String) -> Fault {
    Fault::new(Class::InvalidBlueprintImport, message, "imports")
}

/// Reads `<package>[?version=<specifiers>&distribution=<name>]`.
fn parse(spec: &str) -> Result<Wanted<'_>, Fault> {
    let (package, parameters) = spec.split_once('?').unwrap_or((spec, ""));
    let mut wanted = Wanted {
        package: package.trim(),
        specifiers: Vec::new(),
        distributions: Vec::new(),
    };
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.trim() {
            "version" => wanted.specifiers.extend(specifiers(value, spec)?),
            "distribution" => wanted.distributions.push(value.trim()),
            other => {
                return Err(invalid(format!(
                    "Error parsing spec for plugin {spec}: unknown parameter '{other}'"
                )));
            }
        }
    }
    Ok(wanted)
}

fn specifiers(text: &str, spec: &str) -> Result<Vec<Specifier>, Fault> {
    let one = |item: &str| {
        Specifier::parse(item).ok_or_else(|| {
            invalid(format!(
                "Error parsing spec for plugin {spec}: invalid version specifier '{item}'"
            ))
        })
    };
    text.split(',').map(one).collect()
}

/// The stored plugin that an import means, and the location of its file for a version of the language.
///
/// # Errors
/// When the import cannot be understood or nothing fulfils it.
pub(super) fn find(spec: &str, resolver: &dyn Resolver, minor: u32) -> Result<(StoredPlugin, String), Fault> {
    let mut wanted = parse(spec)?;
    let rule = resolver.plugin_rule(wanted.package);
    if let Some(mapping) = &rule.mapping {
        wanted.specifiers = specifiers(mapping, spec)?;
    }
    if let Some(constraint) = &rule.constraint {
        wanted.specifiers.extend(specifiers(constraint, spec)?);
    }
    let fits = |plugin: &StoredPlugin| {
        accepts_all(&wanted.specifiers, &plugin.version)
            && wanted.distributions.iter().all(|wanted| {
                plugin
                    .distribution
                    .as_deref()
                    .is_some_and(|own| own.eq_ignore_ascii_case(wanted))
            })
    };
    let found = resolver
        .plugins(wanted.package)
        .into_iter()
        .filter(fits)
        .max_by_key(|plugin| Version::parse(&plugin.version));
    let Some(plugin) = found else {
        let message =
            format!("Plugin {spec} not found: no stored plugin has this name and fulfils what is asked of it");
        return Err(invalid(message));
    };
    let Some(file) = file_for(&plugin.files, minor) else {
        return Err(invalid(format!(
            "Plugin {spec} has no yaml file for cloudify_dsl_1_{minor}"
        )));
    };
    let file = file.to_owned();
    Ok((plugin, file))
}

/// The file for the version, or else the first that is for no version in particular.
fn file_for(files: &[String], minor: u32) -> Option<&str> {
    if let [only] = files {
        return Some(only);
    }
    let own = format!("1_{minor}.yaml");
    let name = |file: &str| file.rsplit_once('/').map_or(file, |(_, name)| name).to_owned();
    let mut ordered: Vec<&String> = files.iter().collect();
    ordered.sort();
    ordered
        .iter()
        .find(|file| name(file).contains(&own))
        .or_else(|| ordered.iter().find(|file| !is_versioned(file)))
        .map(|file| file.as_str())
}

/// Whether a name ends in `_<digit>_<digits>.yaml`.
fn is_versioned(file: &str) -> bool {
    let Some((rest, minor)) = file.strip_suffix(".yaml").and_then(|name| name.rsplit_once('_')) else {
        return false;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let major = rest.rsplit_once('_').map_or("", |(_, major)| major);
    is_number(minor) && major.len() == 1 && is_number(major)
}

/// Labels and tags come from the plugin's record, not from its file.
pub(super) fn take_record(document: &mut Document, record: &PluginRecord, namespace: Option<&str>) {
    let place = document.place;
    for (name, values, wrapped) in [
        ("blueprint_labels", &record.blueprint_labels, true),
        ("labels", &record.labels, true),
        ("resource_tags", &record.resource_tags, false),
    ] {
        document.sections.shift_remove(name);
        let Some(map) = values.as_map().filter(|map| !map.is_empty()) else {
            continue;
        };
        let entries = map.iter().map(|(key, value)| {
            let value = to_node(value, place);
            let value = if wrapped {
                Node::map(vec![(Node::text("values", place), value)], place)
            } else {
                value
            };
            (Node::text(key.clone(), place), value)
        });
        let body = Node::map(entries.collect(), place);
        // The original renames the section itself, which then nobody knows.
        match namespace {
            Some(namespace) => document.set(&prefixed(namespace, name), body),
            None => document.set(name, body),
        }
    }
}

/// A value as if it had been written at a place.
pub(super) fn to_node(value: &Value, place: Place) -> Node {
    let kind = match value {
        Value::Null => Kind::Null,
        Value::Bool(value) => Kind::Bool(*value),
        Value::Int(value) => Kind::Int(*value),
        Value::BigInt(digits) => Kind::BigInt(digits.clone()),
        Value::Float(value) => Kind::Float(*value),
        Value::String(text) => Kind::Str(text.clone()),
        Value::Date(text) => Kind::Timestamp(text.clone()),
        Value::List(items) => return Node::seq(items.iter().map(|item| to_node(item, place)).collect(), place),
        Value::Map(map) => {
            let entries = map
                .iter()
                .map(|(key, value)| (Node::text(key.clone(), place), to_node(value, place)));
            return Node::map(entries.collect(), place);
        }
    };
    Node::new(kind, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_read() {
        let wanted = parse("p?version=>=1.0,<2&version=!=1.5&distribution=centos").unwrap();
        assert_eq!((wanted.package, wanted.specifiers.len()), ("p", 3));
        assert_eq!(wanted.distributions, ["centos"]);
        for spec in ["p?colour=red", "p?version=", "p?version=1,,2", "p?version=>=x"] {
            assert!(parse(spec).is_err(), "{spec}");
        }
    }

    #[test]
    fn the_file_for_the_version_is_taken() {
        let files = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let both = files(&["a/plugin.yaml", "a/plugin_1_4.yaml"]);
        assert_eq!(file_for(&both, 4), Some("a/plugin_1_4.yaml"));
        assert_eq!(file_for(&both, 3), Some("a/plugin.yaml"));
        assert_eq!(file_for(&files(&["a/plugin_1_4.yaml"]), 3), Some("a/plugin_1_4.yaml"));
        assert_eq!(file_for(&files(&["a/p_1_4.yaml", "a/p_1_5.yaml"]), 3), None);
    }
}
