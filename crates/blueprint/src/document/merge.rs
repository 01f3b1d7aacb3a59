//! Merges the files of a blueprint, in the order of the imports (spec/dsl.md, section 5).

use std::sync::Arc;

use conclave_yaml::{Kind, Node};

use super::{Body, Document, Entry, Named, Section};
use crate::diagnostic::Report;
use crate::namespace::{Renamer, SHARED_PREFIX};
use crate::shape::{Form, section};
use crate::{Class, Fault};

/// Sections whose entries are merged in every version.
const MERGED: [&str; 9] = [
    "interfaces",
    "node_types",
    "plugins",
    "workflows",
    "relationships",
    "policy_types",
    "groups",
    "policy_triggers",
    "data_types",
];
/// Sections whose entries are merged from 1_3 on.
const MERGED_1_3: [&str; 7] = [
    "inputs",
    "outputs",
    "node_templates",
    "capabilities",
    "blueprint_labels",
    "labels",
    "resource_tags",
];
/// Sections of which the first stands.
const FIRST_ONLY: [&str; 2] = ["description", "metadata"];
/// Sections that do not leave their file.
const OWN: [&str; 3] = ["dsl_definitions", "imports", "tosca_definitions_version"];
/// Sections whose names may repeat; the first stands.
const REPEATABLE: [&str; 3] = ["blueprint_labels", "labels", "resource_tags"];

/// What is merged from, and how.
pub(crate) struct Merger<'r> {
    pub(crate) report: &'r mut Report,
    /// The minor version of the main file.
    pub(crate) minor: u32,
    /// See [`Renamer::new`].
    pub(crate) list_inputs: bool,
}

impl Merger<'_> {
    /// Adds a file to what is merged already. `namespace` is what it was imported under; a file of built-in types has none.
    pub(crate) fn merge(&mut self, into: &mut Document, from: Document, namespace: Option<&str>, is_types: bool) {
        for (name, mut section) in from.sections {
            if is_types && let Some(entries) = section.entries_mut() {
                entries.values_mut().for_each(|entry| entry.is_builtin = true);
            }
            if OWN.contains(&&*name) {
                continue;
            }
            if &*name == "imported_blueprints" {
                self.join_lists(into, &section);
                continue;
            }
            if let Some(namespace) = namespace {
                section = self.renamed(&name, section, namespace);
            }
            let Some(present) = into.sections.get_mut(&name) else {
                into.sections.insert(name, section);
                continue;
            };
            let merges = MERGED.contains(&&*name) || (self.minor >= 3 && MERGED_1_3.contains(&&*name));
            if merges || &*name == "namespaces_mapping" {
                self.merge_section(&name, present, section);
            } else if !FIRST_ONLY.contains(&&*name) {
                let hint = if MERGED_1_3.contains(&&*name) {
                    format!(". {name} can be imported multiple times only from cloudify_dsl_1_3 and above.")
                } else {
                    String::new()
                };
                let message = format!("Import failed: non-mergeable field: '{name}'{hint}");
                self.report.add(Fault::logic(3, message, &*name), section.key.place);
            }
        }
    }

    fn join_lists(&mut self, into: &mut Document, section: &Section) {
        let Body::Plain(list) = &section.body else { return };
        let Some(present) = into.sections.get_mut("imported_blueprints") else {
            into.sections.insert("imported_blueprints".into(), section.clone());
            return;
        };
        let Body::Plain(Node {
            kind: Kind::Seq(items), ..
        }) = &mut present.body
        else {
            return;
        };
        let items = Arc::make_mut(items);
        for item in list.as_seq().unwrap_or_default() {
            if !items.iter().any(|known| known.kind == item.kind) {
                items.push(item.clone());
            }
        }
    }

    fn renamed(&mut self, name: &str, mut from: Section, namespace: &str) -> Section {
        let renamer = Renamer::new(namespace, self.list_inputs);
        let form = section(name).map(|field| &field.element.form);
        if let Some(entries) = from.entries_mut() {
            *entries = std::mem::take(entries)
                .into_iter()
                .map(|(name, entry)| {
                    if entry.is_builtin {
                        return (name, entry);
                    }
                    let key = renamer.name(&entry.key);
                    let value = match form {
                        Some(Form::Map(element)) => renamer.entry(element, &entry.value),
                        _ => entry.value,
                    };
                    let name = key.as_text().cloned().unwrap_or(name);
                    (
                        name,
                        Entry {
                            key,
                            value,
                            is_builtin: false,
                        },
                    )
                })
                .collect();
        }
        if let Some(place) = renamer.fault() {
            let message = format!("a call in '{name}' has an argument that the name space '{namespace}' cannot rename");
            self.report.add(Fault::new(Class::Value, message, name), place);
        }
        from
    }

    fn merge_section(&mut self, name: &str, into: &mut Section, from: Section) {
        let place = from.key.place;
        let into_place = into.key.place;
        let Body::Entries {
            entries: from,
            odd_keys: odd,
            ..
        } = from.body
        else {
            self.broken(name, place);
            return;
        };
        let Body::Entries { entries, odd_keys, .. } = &mut into.body else {
            if !(from.is_empty() && odd.is_empty()) {
                self.broken(name, into_place);
            }
            return;
        };
        odd_keys.extend(odd);
        for (entry_name, entry) in from {
            self.merge_entry(name, entries, &entry_name, entry);
        }
    }

    fn broken(&mut self, name: &str, place: conclave_yaml::Place) {
        let message = format!("Import failed: '{name}' cannot be merged, as it is no mapping here");
        self.report.add(Fault::new(Class::Value, message, name), place);
    }

    fn merge_entry(&mut self, section: &str, into: &mut Named<Entry>, name: &str, from: Entry) {
        let Some(present) = into.get_mut(name) else {
            into.insert(name.into(), from);
            return;
        };
        if from.is_builtin || name.starts_with(SHARED_PREFIX) {
            *present = from;
            return;
        }
        let place = from.key.place;
        let merged = match section {
            "node_templates" => merge_templates(&mut present.value, &from.value),
            "workflows" => match merge_workflows(&mut present.value, &from.value) {
                Some(()) => Some(()),
                None => {
                    let message = format!("Import failed: the workflow '{name}' is defined twice, in different ways");
                    let fault = Fault::new(Class::Type, message, format!("workflows.{name}"));
                    self.report.add(fault, place);
                    return;
                }
            },
            repeatable if REPEATABLE.contains(&repeatable) => Some(()),
            _ => None,
        };
        if merged.is_none() {
            let (line, file) = (
                present.key.place.line,
                self.report.source_name(present.key.place).to_owned(),
            );
            let message = format!(
                "Import failed: Could not merge '{section}' due to conflict on '{name}', which line {line} of {file} defines too"
            );
            self.report
                .add(Fault::logic(4, message, format!("{section}.{name}")), place);
        }
    }
}

/// Whether a template says nothing but relationships.
fn has_only_relationships(template: &Node) -> bool {
    template.get("relationships").is_some() && template.as_map().is_some_and(|entries| entries.len() == 1)
}

/// Adds the relationships of a template that has nothing else to the other one. None when both have more.
fn merge_templates(into: &mut Node, from: &Node) -> Option<()> {
    into.get("relationships")?;
    let is_extension = has_only_relationships(from);
    if has_only_relationships(into) && (from.get("type").is_some() || is_extension) {
        let Kind::Map(entries) = &mut into.kind else {
            return None;
        };
        let entries = Arc::make_mut(entries);
        for (key, value) in from.as_map()? {
            match &value.kind {
                Kind::Seq(items) if key.as_str() == Some("relationships") => {
                    extend(&mut entries.first_mut()?.1, items)?
                }
                Kind::Map(_) | Kind::Str(_) => entries.push((key.clone(), value.clone())),
                _ => {}
            }
        }
        return Some(());
    }
    if !is_extension {
        return None;
    }
    let Kind::Map(entries) = &mut into.kind else {
        return None;
    };
    let own = Arc::make_mut(entries)
        .iter_mut()
        .find(|(key, _)| key.as_str() == Some("relationships"))?;
    extend(&mut own.1, from.get("relationships")?.as_seq()?)
}

fn extend(list: &mut Node, items: &[Node]) -> Option<()> {
    let Kind::Seq(own) = &mut list.kind else { return None };
    Arc::make_mut(own).extend_from_slice(items);
    Some(())
}

/// Fills the keys that the earlier one lacks. None where the two cannot be merged.
fn merge_workflows(into: &mut Node, from: &Node) -> Option<()> {
    match (&mut into.kind, &from.kind) {
        (Kind::Map(own), Kind::Map(others)) => {
            let own = Arc::make_mut(own);
            for (key, value) in others.iter() {
                if !own.iter().any(|(known, _)| known.kind == key.kind) {
                    own.push((key.clone(), value.clone()));
                }
            }
            Some(())
        }
        // The original looks for each letter of the later text in the earlier one.
        (Kind::Str(own), Kind::Str(other)) => other.chars().all(|letter| own.contains(letter)).then_some(()),
        (_, Kind::Map(others)) => others.is_empty().then_some(()),
        _ => None,
    }
}
