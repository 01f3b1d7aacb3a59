//! A blueprint as text says it, before it means anything: sections of named entries, from one file or merged from many.

mod imports;
mod load;
mod locate;
mod merge;
mod plugin_import;

pub(crate) use load::{Budget, Loaded, Loader};
pub(crate) use locate::locate;

use std::hash::BuildHasherDefault;

use conclave_yaml::{Kind, Node, Place, Text};
use indexmap::IndexMap;

/// By name, in the order of the text.
pub(crate) type Named<T> = IndexMap<Text, T, BuildHasherDefault<rustc_hash::FxHasher>>;

/// The sections of a file, or of many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document {
    pub(crate) place: Place,
    pub(crate) sections: Named<Section>,
}

/// A section.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    /// Its name, with its place.
    pub(crate) key: Node,
    pub(crate) body: Body,
}

/// What a section holds.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// Entries by name.
    Entries {
        place: Place,
        entries: Named<Entry>,
        /// Keys that are no texts.
        odd_keys: Vec<Node>,
    },
    /// Anything but a mapping.
    Plain(Node),
}

/// An entry of a section.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its name, with its place.
    pub(crate) key: Node,
    pub(crate) value: Node,
    /// Whether it comes from a file of built-in types: it then replaces others, and no name space touches it.
    pub(crate) is_builtin: bool,
}

impl Section {
    pub(crate) fn new(key: Node, value: Node) -> Self {
        let body = match value.kind {
            Kind::Map(entries) => {
                let mut named = Named::default();
                let mut odd_keys = Vec::new();
                named.reserve(entries.len());
                for (key, value) in entries.iter() {
                    match key.as_text() {
                        Some(name) => {
                            let entry = Entry {
                                key: key.clone(),
                                value: value.clone(),
                                is_builtin: false,
                            };
                            named.insert(name.clone(), entry);
                        }
                        None => odd_keys.push(key.clone()),
                    }
                }
                Body::Entries {
                    place: value.place,
                    entries: named,
                    odd_keys,
                }
            }
            _ => Body::Plain(value),
        };
        Self { key, body }
    }

    /// The entries; none where the section is no mapping.
    pub(crate) fn entries(&self) -> Option<&Named<Entry>> {
        match &self.body {
            Body::Entries { entries, .. } => Some(entries),
            Body::Plain(_) => None,
        }
    }

    pub(crate) fn entries_mut(&mut self) -> Option<&mut Named<Entry>> {
        match &mut self.body {
            Body::Entries { entries, .. } => Some(entries),
            Body::Plain(_) => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.body, Body::Plain(node) if node.is_null())
    }

    /// The whole as one value again.
    pub(crate) fn to_node(&self) -> Node {
        match &self.body {
            Body::Plain(node) => node.clone(),
            Body::Entries { place, entries, .. } => Node::map(
                entries
                    .values()
                    .map(|entry| (entry.key.clone(), entry.value.clone()))
                    .collect(),
                *place,
            ),
        }
    }
}

impl Document {
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.get(name)
    }

    /// The entries of a section; none where there is no such section or it is no mapping.
    pub(crate) fn entries(&self, section: &str) -> Option<&Named<Entry>> {
        self.section(section)?.entries()
    }

    /// A section that is not written as entries.
    pub(crate) fn plain(&self, section: &str) -> Option<&Node> {
        match &self.section(section)?.body {
            Body::Plain(node) => Some(node),
            Body::Entries { .. } => None,
        }
    }

    /// A section that is not written as entries and holds something.
    pub(crate) fn set(&mut self, name: &str, value: Node) {
        let key = Node::text(name, value.place);
        self.sections.insert(name.into(), Section::new(key, value));
    }
}
