//! Checks values against the table of elements.

use std::fmt::Write;

use conclave_yaml::{Kind, Node, Place};

use super::{BOOLEAN, Element, FLOAT, Field, Form, INTEGER, LIST, MAP, NUMBER, TEXT, Types, is_of};
use crate::diagnostic::{Report, nearest};
use crate::{Class, Fault};

/// Checks elements and reports what does not fit.
pub(crate) struct Checker<'r, 'n> {
    pub(crate) report: &'r mut Report,
    /// The minor version of the language; none when versions do not matter.
    pub(crate) minor: Option<u32>,
    path: Vec<Part<'n>>,
    /// Where unknown keys are kept rather than reported.
    held: Option<Vec<Held>>,
}

/// A fault that is to be told later, with a name that may have been meant.
pub(crate) type Held = (Fault, Place, Option<String>);

#[derive(Clone, Copy)]
enum Part<'n> {
    Name(&'n str),
    Index(usize),
}

impl<'r, 'n> Checker<'r, 'n> {
    pub(crate) fn new(report: &'r mut Report, minor: Option<u32>) -> Self {
        Self {
            report,
            minor,
            path: Vec::new(),
            held: None,
        }
    }

    /// The same, with unknown keys given back rather than reported; they alone do not make an element unsound.
    pub(crate) fn check_but_for_keys(
        &mut self,
        path: &[&'n str],
        element: &Element,
        node: &'n Node,
    ) -> (bool, Vec<Held>) {
        self.held = Some(Vec::new());
        let fits = self.check_at(path, element, node);
        (fits, self.held.take().unwrap_or_default())
    }

    /// Checks the value of a named element; true if it fits.
    pub(crate) fn check_at(&mut self, path: &[&'n str], element: &Element, node: &'n Node) -> bool {
        self.path.clear();
        self.path.extend(path.iter().map(|name| Part::Name(name)));
        self.check(element, node)
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for (at, part) in self.path.iter().enumerate() {
            let dot = if at > 0 { "." } else { "" };
            // Writing to a text does not fail.
            let _ = match part {
                Part::Name(name) => write!(path, "{dot}{name}"),
                Part::Index(index) => write!(path, "{dot}{index}"),
            };
        }
        path
    }

    fn fail(&mut self, message: String, place: Place) {
        let fault = Fault::coded(Class::Format, 1, message, self.path());
        self.report.add(fault, place);
    }

    fn check(&mut self, element: &Element, node: &'n Node) -> bool {
        if node.is_null() {
            return true;
        }
        match element.form {
            Form::Leaf(types) => self.check_type(types, node),
            Form::Map(entry) => self.check_map(entry, node),
            Form::List(item) => self.check_list(item, node),
            Form::Struct(fields) => self.check_struct(fields, node),
            Form::TextOr(_) | Form::TextOrMap(_) if node.as_str().is_some() => true,
            Form::TextOr(fields) => self.check_struct(fields, node),
            Form::TextOrMap(entry) => self.check_map(entry, node),
        }
    }

    fn check_type(&mut self, types: Types, node: &Node) -> bool {
        if is_of(types, node) {
            return true;
        }
        let message = format!("Expected {} but found '{}' type", type_names(types), node.type_name());
        if types & NUMBER != 0 || matches!(node.kind, Kind::Timestamp(_)) {
            let fault = Fault::new(Class::Value, message, self.path());
            self.report.add(fault, node.place);
        } else {
            self.fail(message, node.place);
        }
        false
    }

    fn check_map(&mut self, entry: &Element, node: &'n Node) -> bool {
        if !self.check_type(MAP, node) {
            return false;
        }
        let mut fits = true;
        for (key, value) in node.as_map().unwrap_or_default() {
            let Some(name) = self.name_of(key) else {
                fits = false;
                continue;
            };
            self.path.push(Part::Name(name));
            fits &= self.check(entry, value);
            self.path.pop();
        }
        fits
    }

    fn name_of(&mut self, key: &'n Node) -> Option<&'n str> {
        let name = key.as_str();
        if name.is_none() {
            let message = format!(
                "Dict keys must be strings but found '{}' of type '{}'",
                key.key_text(),
                key.type_name()
            );
            self.fail(message, key.place);
        }
        name
    }

    fn check_list(&mut self, item: &Element, node: &'n Node) -> bool {
        if !self.check_type(LIST, node) {
            return false;
        }
        let mut fits = true;
        for (index, value) in node.as_seq().unwrap_or_default().iter().enumerate() {
            self.path.push(Part::Index(index));
            fits &= self.check(item, value);
            self.path.pop();
        }
        fits
    }

    fn check_struct(&mut self, fields: &'static [Field], node: &'n Node) -> bool {
        if !self.check_type(MAP, node) {
            return false;
        }
        // What stands below is told first, as the original does, which reports no more than one fault.
        let mut fits = true;
        let entries = node.as_map().unwrap_or_default();
        for (key, value) in entries {
            let known = key
                .as_str()
                .and_then(|name| fields.iter().find(|field| field.name == name));
            if let Some(field) = known {
                self.path.push(Part::Name(field.name));
                fits &= self.check(field.element, value) & self.check_version(field, key, value);
                self.path.pop();
            }
        }
        for (key, _) in entries {
            match self.name_of(key) {
                None => fits = false,
                Some(name) if fields.iter().any(|field| field.name == name) => {}
                Some(name) => {
                    self.path.push(Part::Name(name));
                    self.unknown_key(name, fields, key.place);
                    self.path.pop();
                    fits &= self.held.is_some();
                }
            }
        }
        for field in fields.iter().filter(|field| field.required) {
            if node.get(field.name).is_none_or(Node::is_null) {
                let place = node.entry(field.name).map_or(node.place, |(key, _)| key.place);
                self.path.push(Part::Name(field.name));
                self.fail(
                    format!("'{}' key is required but it is currently missing", field.name),
                    place,
                );
                self.path.pop();
                fits = false;
            }
        }
        fits
    }

    fn unknown_key(&mut self, name: &str, fields: &[Field], place: Place) {
        let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
        let message = format!("'{name}' is not in schema. Valid schema values: {}", known.join(", "));
        let fault = Fault::coded(Class::Format, 1, message, self.path());
        let suggestion = nearest(name, known);
        match &mut self.held {
            Some(held) => held.push((fault, place, suggestion)),
            None => self.report.add_with(fault, place, suggestion),
        }
    }

    /// Reports a section that there is not.
    pub(crate) fn unknown_section(&mut self, name: &'n str, place: Place) {
        self.path.clear();
        self.path.push(Part::Name(name));
        if let Form::Struct(fields) = super::BLUEPRINT.form {
            self.unknown_key(name, fields, place);
        }
    }

    /// Checks that the version of the language has a key that is used.
    fn check_version(&mut self, field: &Field, key: &Node, value: &Node) -> bool {
        let Some(minor) = self.minor.filter(|minor| *minor < field.since && !value.is_null()) else {
            return true;
        };
        let fault = version_fault(field.name, minor, field.since, self.path());
        self.report.add(fault, key.place);
        false
    }

    /// The same for a section.
    pub(crate) fn check_section_version(&mut self, field: &Field, key: &'n Node, value_is_null: bool) -> bool {
        self.path.clear();
        self.path.push(Part::Name(field.name));
        let value = Node::new(if value_is_null { Kind::Null } else { Kind::Bool(true) }, key.place);
        self.check_version(field, key, &value)
    }
}

/// Something is used that a later version brought.
pub(crate) fn version_fault(what: &str, minor: u32, since: u32, path: impl Into<String>) -> Fault {
    let message =
        format!("{what} not supported in version cloudify_dsl_1_{minor}, it was added in cloudify_dsl_1_{since}");
    Fault::logic(102, message, path)
}

/// The types, as messages name them.
fn type_names(types: Types) -> String {
    let names = [
        (TEXT, "string"),
        (INTEGER, "integer"),
        (FLOAT, "float"),
        (NUMBER, "number"),
        (BOOLEAN, "boolean"),
        (LIST, "list"),
        (MAP, "dict"),
    ];
    let named: Vec<String> = names
        .into_iter()
        .filter(|(one, _)| types & one != 0)
        .map(|(_, name)| format!("'{name}'"))
        .collect();
    format!("{} type", named.join(" or "))
}
