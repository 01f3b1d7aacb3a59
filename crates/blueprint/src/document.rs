//! Several files become one document (spec/dsl.md, sections 4 and 5).

use std::collections::{HashSet, VecDeque};

use conclave_yaml::{Kind, Limits, Node, Place};
use indexmap::IndexMap;

use crate::{Diagnostic, Resolver};

/// Sections whose entries of several files are put together; only some are understood beyond that.
const MERGED: [&str; 11] = [
    "inputs",
    "outputs",
    "capabilities",
    "node_types",
    "relationships",
    "data_types",
    "node_templates",
    "plugins",
    "workflows",
    "groups",
    "labels",
];
const OTHER: [&str; 6] = [
    "tosca_definitions_version",
    "description",
    "metadata",
    "dsl_definitions",
    "imports",
    "blueprint_labels",
];
const FILES_MAX: usize = 1000;

/// An entry and the file that it stands in.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) node: Node,
    pub(crate) file: String,
}

/// The merged document.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) main: String,
    pub(crate) version: String,
    pub(crate) description: Option<String>,
    pub(crate) metadata: Option<Node>,
    pub(crate) sections: IndexMap<&'static str, IndexMap<String, Entry>>,
}

impl Document {
    pub(crate) fn section(&self, name: &str) -> impl Iterator<Item = (&str, &Entry)> {
        self.sections
            .get(name)
            .into_iter()
            .flatten()
            .map(|(key, entry)| (key.as_str(), entry))
    }

    pub(crate) fn entry(&self, section: &str, name: &str) -> Option<&Entry> {
        self.sections.get(section)?.get(name)
    }
}

/// Reads the main file and all that it imports, breadth first.
pub(crate) fn load(main: &str, resolver: &dyn Resolver) -> Result<Document, Vec<Diagnostic>> {
    let mut document = Document {
        main: main.to_owned(),
        ..Document::default()
    };
    let mut errors = Vec::new();
    let mut queue = VecDeque::from([(main.to_owned(), None::<(String, Place)>)]);
    let mut seen = HashSet::new();
    while let Some((location, from)) = queue.pop_front() {
        let importer = from.as_ref().map(|(file, _)| file.as_str());
        let (file, text) = match resolver.read(&location, importer) {
            Ok(found) => found,
            Err(why) => {
                let (at, place) = from.unwrap_or((main.to_owned(), Place::default()));
                let message = format!("Failed on import - no suitable location found for import {location}: {why}");
                errors.push(Diagnostic::new(13, message, &at, place, "imports"));
                continue;
            }
        };
        if !seen.insert(file.clone()) {
            continue;
        }
        if seen.len() > FILES_MAX {
            errors.push(Diagnostic::new(
                13,
                format!("more than {FILES_MAX} files are imported"),
                &file,
                Place::default(),
                "imports",
            ));
            break;
        }
        let root = match conclave_yaml::parse(&text, &Limits::default()) {
            Ok(root) => root,
            Err(error) => {
                let mut diagnostic =
                    Diagnostic::new(-1, format!("Illegal yaml; {}", error.message), &file, error.place, "");
                diagnostic.code = Some(-1);
                errors.push(diagnostic);
                continue;
            }
        };
        take_file(&mut document, &file, root, &mut queue, &mut errors);
    }
    if errors.is_empty() && document.version.is_empty() {
        let message =
            "'tosca_definitions_version' is missing: the first line names the version, such as cloudify_dsl_1_3";
        errors.push(Diagnostic::new(
            27,
            message,
            main,
            Place::default(),
            "tosca_definitions_version",
        ));
    }
    if errors.is_empty() { Ok(document) } else { Err(errors) }
}

type Queue = VecDeque<(String, Option<(String, Place)>)>;

fn take_file(document: &mut Document, file: &str, root: Node, queue: &mut Queue, errors: &mut Vec<Diagnostic>) {
    let place = root.place;
    let entries = match root.kind {
        Kind::Map(entries) => entries,
        Kind::Null => Vec::new(),
        _ => {
            errors.push(Diagnostic::new(
                1,
                "Expected 'dict' type but found another",
                file,
                place,
                "",
            ));
            return;
        }
    };
    let is_main = file == document.main;
    for (key, value) in entries {
        let Some(name) = key.as_str() else {
            errors.push(Diagnostic::new(
                1,
                format!("{} is no name of a section", key.key_text()),
                file,
                key.place,
                "",
            ));
            continue;
        };
        match name {
            "tosca_definitions_version" => take_version(document, file, &value, is_main, errors),
            "imports" => take_imports(file, &value, queue, errors),
            "description" if document.description.is_none() => document.description = value.as_str().map(str::to_owned),
            "metadata" if document.metadata.is_none() => document.metadata = Some(value),
            known if OTHER.contains(&known) => {}
            _ => match MERGED.into_iter().find(|section| *section == name) {
                Some(section) => merge_section(document, section, file, value, errors),
                None => {
                    let hint = crate::diagnostic::suggestion(name, MERGED.into_iter().chain(OTHER));
                    errors.push(Diagnostic::new(
                        1,
                        format!("{name:?} is not in schema{hint}"),
                        file,
                        key.place,
                        name,
                    ));
                }
            },
        }
    }
}

fn take_version(document: &mut Document, file: &str, value: &Node, is_main: bool, errors: &mut Vec<Diagnostic>) {
    let path = "tosca_definitions_version";
    let known = (0..=5)
        .map(|minor| format!("cloudify_dsl_1_{minor}"))
        .find(|known| value.as_str() == Some(known));
    match known {
        Some(version) if is_main => document.version = version,
        Some(_) => {}
        None => {
            let message = format!(
                "Unexpected tosca_definitions_version '{}'; one of cloudify_dsl_1_0 to cloudify_dsl_1_5 is expected",
                value.key_text()
            );
            errors.push(Diagnostic::new(29, message, file, value.place, path));
        }
    }
}

fn take_imports(file: &str, value: &Node, queue: &mut Queue, errors: &mut Vec<Diagnostic>) {
    let Some(items) = value.as_seq() else {
        if !value.is_null() {
            let message = format!("Expected 'list' type but found '{}' type", value.type_name());
            errors.push(Diagnostic::new(1, message, file, value.place, "imports"));
        }
        return;
    };
    for item in items {
        match item.as_str() {
            Some(location) => queue.push_back((location.to_owned(), Some((file.to_owned(), item.place)))),
            None => errors.push(Diagnostic::new(1, "an import is a text", file, item.place, "imports")),
        }
    }
}

/// New names are added; `cloudify.` names and plugins' entries of later files replace, templates' do not.
fn merge_section(
    document: &mut Document,
    section: &'static str,
    file: &str,
    value: Node,
    errors: &mut Vec<Diagnostic>,
) {
    let place = value.place;
    let entries = match value.kind {
        Kind::Map(entries) => entries,
        Kind::Null => return,
        _ => {
            errors.push(Diagnostic::new(
                1,
                "Expected 'dict' type but found another",
                file,
                place,
                section,
            ));
            return;
        }
    };
    let present = document.sections.entry(section).or_default();
    for (key, node) in entries {
        let Some(name) = key.as_str() else {
            errors.push(Diagnostic::new(
                1,
                format!("{} is no name", key.key_text()),
                file,
                key.place,
                section,
            ));
            continue;
        };
        let replaces = name.starts_with("cloudify.") || section == "workflows" || section == "labels";
        if let Some(earlier) = present.get(name)
            && !replaces
        {
            let message = format!(
                "Import failed: {section}.{name} is defined here and in {} too",
                earlier.file
            );
            errors.push(Diagnostic::new(
                4,
                message,
                file,
                key.place,
                format!("{section}.{name}"),
            ));
            continue;
        }
        present.insert(
            name.to_owned(),
            Entry {
                node,
                file: file.to_owned(),
            },
        );
    }
}
