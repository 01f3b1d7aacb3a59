//! What every step of building a plan shares: the document, the report, and what is known to be broken.

use std::collections::{HashMap, HashSet};

use conclave_yaml::{Node, Place, Text};

use crate::diagnostic::{Report, nearest};
use crate::document::{Body, Document, Entry, Named};
use crate::functions::FunctionName;
use crate::primitive::primitive_types;
use crate::schema::{Problem, PropertyFault};
use crate::shape::{self, BLUEPRINT, Checker, Form, Held, version_fault};
use crate::{Class, Fault, Map, Value};

type Names = HashSet<Text, std::hash::BuildHasherDefault<rustc_hash::FxHasher>>;

/// Sections in whose entries an unknown key is told last: it often is a known one with a slip, whose value is then missed.
const HELD: [&str; 7] = [
    "data_types",
    "groups",
    "inputs",
    "node_templates",
    "node_types",
    "relationships",
    "workflows",
];

/// The state of building one plan.
pub(super) struct Context<'a> {
    pub(super) document: &'a Document,
    pub(super) report: &'a mut Report,
    /// The minor version of the language; none when versions do not matter.
    pub(super) minor: Option<u32>,
    /// By section: entries that are at fault.
    broken: HashMap<&'static str, Names>,
    /// Unknown keys that are to be told after what is wrong with the values beside them.
    held: HashMap<(&'static str, Text), Vec<Held>>,
    /// What stands for all mappings without entries.
    pub(super) empty: Map,
}

impl<'a> Context<'a> {
    pub(super) fn new(document: &'a Document, report: &'a mut Report, minor: Option<u32>) -> Self {
        Self {
            document,
            report,
            minor,
            broken: HashMap::new(),
            held: HashMap::new(),
            empty: Map::new(),
        }
    }

    /// Checks the shape of everything.
    pub(super) fn check_shapes(&mut self) {
        let document = self.document;
        for (name, section) in &document.sections {
            let mut checker = Checker::new(self.report, self.minor);
            let Some(field) = shape::section(name) else { continue };
            let entry_element = match (&field.element.form, &section.body) {
                (Form::Map(element), Body::Entries { .. }) => element,
                (Form::Struct(_), _) => {
                    let node = section.to_node();
                    if !checker.check_at(&[field.name], field.element, &node) {
                        self.mark_broken(field.name, name.clone());
                    }
                    continue;
                }
                (_, Body::Plain(node)) => {
                    checker.check_at(&[field.name], field.element, node);
                    continue;
                }
                (_, Body::Entries { place, .. }) => {
                    // A mapping where something else is expected; what is in it does not matter.
                    let node = Node::map(Vec::new(), *place);
                    checker.check_at(&[field.name], field.element, &node);
                    continue;
                }
            };
            let Body::Entries { entries, odd_keys, .. } = &section.body else {
                continue;
            };
            let mut broken = Vec::new();
            let holds_keys = HELD.contains(&field.name);
            let mut held = Vec::new();
            for (entry_name, entry) in entries {
                let path = [field.name, &**entry_name];
                let fits = if holds_keys {
                    let (fits, keys) = checker.check_but_for_keys(&path, entry_element, &entry.value);
                    if !keys.is_empty() {
                        held.push((entry_name.clone(), keys));
                    }
                    fits
                } else {
                    checker.check_at(&path, entry_element, &entry.value)
                };
                if !fits {
                    broken.push(entry_name.clone());
                }
            }
            self.held
                .extend(held.into_iter().map(|(name, keys)| ((field.name, name), keys)));
            for key in odd_keys {
                let message = format!(
                    "Dict keys must be strings but found '{}' of type '{}'",
                    key.key_text(),
                    key.type_name()
                );
                self.fail(Fault::coded(Class::Format, 1, message, field.name), key.place);
            }
            for entry_name in broken {
                self.mark_broken(field.name, entry_name);
            }
        }
    }

    /// Checks that the language has the sections, in this version. Told last, as the original does, which reports no more than
    /// one fault; entries of sections that a later version brought are of use nevertheless.
    pub(super) fn check_sections(&mut self) {
        for (name, section) in &self.document.sections {
            let mut checker = Checker::new(self.report, self.minor);
            if let Some(field) = shape::section(name) {
                checker.check_section_version(field, &section.key, section.is_null());
            }
        }
        for (name, section) in self
            .document
            .sections
            .iter()
            .filter(|(name, _)| shape::section(name).is_none())
        {
            Checker::new(self.report, self.minor).unknown_section(name, section.key.place);
        }
    }

    pub(super) fn fail(&mut self, fault: Fault, place: Place) {
        self.report.add(fault, place);
    }

    /// Reports a name that is not known, with one that may have been meant.
    pub(super) fn fail_name<'n>(
        &mut self,
        fault: Fault,
        place: Place,
        name: &str,
        known: impl IntoIterator<Item = &'n str>,
    ) {
        self.report.add_with(fault, place, nearest(name, known));
    }

    /// Reports unknown keys of an entry that were held back; true if there were any.
    pub(super) fn report_held(&mut self, section: &'static str, name: &Text) -> bool {
        let Some(keys) = self.held.remove(&(section, name.clone())) else {
            return false;
        };
        for (fault, place, suggestion) in keys {
            self.report.add_with(fault, place, suggestion);
        }
        true
    }

    /// Reports what is still held back, of entries that were not looked at.
    pub(super) fn report_all_held(&mut self) {
        let mut left: Vec<_> = std::mem::take(&mut self.held).into_values().flatten().collect();
        left.sort_by_key(|(_, place, _)| *place);
        for (fault, place, suggestion) in left {
            self.report.add_with(fault, place, suggestion);
        }
    }

    pub(super) fn mark_broken(&mut self, section: &'static str, name: Text) {
        self.broken.entry(section).or_default().insert(name);
    }

    pub(super) fn is_broken(&self, section: &str, name: &str) -> bool {
        self.broken.get(section).is_some_and(|names| names.contains(name))
    }

    /// The entries of a section; none where there are none.
    pub(super) fn entries(&self, section: &str) -> Option<&'a Named<Entry>> {
        self.document.entries(section)
    }

    /// The entries of a section whose shape is sound.
    pub(super) fn sound_entries(&self, section: &'static str) -> Vec<(&'a Text, &'a Entry)> {
        self.entries(section)
            .into_iter()
            .flatten()
            .filter(|(name, _)| !self.is_broken(section, name))
            .collect()
    }

    /// The names of a section's entries, sound or not.
    pub(super) fn names(&self, section: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.document
            .entries(section)
            .into_iter()
            .flat_map(Named::keys)
            .map(|name| &**name)
    }

    /// The names of all types that a property may be of.
    pub(super) fn type_names(&self) -> Vec<&'a str> {
        let mut names: Vec<&'a str> = primitive_types().collect();
        names.extend(self.names("data_types"));
        names
    }

    /// Whether a section has an entry of that name, sound or not.
    pub(super) fn has(&self, section: &str, name: &str) -> bool {
        self.entries(section).is_some_and(|entries| entries.contains_key(name))
    }

    /// A section that is taken as it is.
    pub(super) fn plain_value(&self, section: &str) -> Value {
        self.document
            .section(section)
            .map_or(Value::Null, |section| Value::from(&section.to_node()))
    }

    /// A section that is taken as it is and is a mapping in the plan.
    pub(super) fn map_value(&self, section: &str) -> Map {
        match self.plain_value(section) {
            Value::Map(map) => map,
            _ => self.empty.clone(),
        }
    }

    /// Checks that the version of the language has something; true if it has.
    pub(super) fn allows(&mut self, what: &str, since: u32, path: &str, place: Place) -> bool {
        match self.minor {
            Some(minor) if minor < since => {
                self.fail(version_fault(what, minor, since, path), place);
                false
            }
            _ => true,
        }
    }

    /// Reports what does not fit a schema. `owner` is what has the properties, `node` where they are written, if anywhere.
    pub(super) fn fail_properties(
        &mut self,
        faults: Vec<PropertyFault>,
        owner: &str,
        path: &str,
        node: Option<&Node>,
        otherwise: Place,
    ) {
        for fault in faults {
            let below = fault.dotted();
            let full = if below.is_empty() {
                path.to_owned()
            } else {
                format!("{path}.{below}")
            };
            let place = place_below(node, &fault.path, otherwise);
            let suggestion = match (&fault.problem, fault.path.last()) {
                (Problem::Undefined(known), Some(name)) => nearest(name, known.iter().map(|known| &**known)),
                (Problem::WrongType { value, .. }, _) => nearest_call(value),
                _ => None,
            };
            let report = Fault::logic(fault.code(), fault.message(owner), full);
            self.report.add_with(report, place, suggestion);
        }
    }

    /// A known name near to one that a message puts in quotes or words.
    pub(super) fn suggest_from_message(&self, message: &str, section: &str) -> Option<String> {
        let words = message.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '[' | ']' | ',' | '(' | ')'));
        words
            .map(|word| word.trim_end_matches(['.', ':', ';']))
            .filter(|word| word.len() > 2)
            .find_map(|word| nearest(word, self.names(section)))
    }
}

/// The function that a mapping of one key may have meant to call.
pub(super) fn nearest_call(value: &Value) -> Option<String> {
    let map = value.as_map().filter(|map| map.len() == 1)?;
    nearest(
        map.keys().next()?,
        FunctionName::ALL.into_iter().map(FunctionName::as_str),
    )
}

/// The place of what a path of names leads to, or as near to it as the text goes.
pub(super) fn place_below(node: Option<&Node>, path: &[Text], otherwise: Place) -> Place {
    let Some(mut node) = node else { return otherwise };
    let mut place = node.place;
    for name in path {
        let Some((key, value)) = node.entry(name) else { break };
        place = if matches!(value.kind, conclave_yaml::Kind::Map(_) | conclave_yaml::Kind::Null) {
            key.place
        } else {
            value.place
        };
        node = value;
    }
    if place.line == 0 { otherwise } else { place }
}

/// The version field of a section is looked up by name in one table only.
const _: () = assert!(matches!(BLUEPRINT.form, Form::Struct(_)));
