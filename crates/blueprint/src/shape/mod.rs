//! What every element of a blueprint may look like, as a table: types of values, known keys, required keys, the version that
//! brought them, and what a name space does to names and texts in it (spec/dsl.md, sections 2–6).
//!
//! One table serves both the check of shapes and the renaming under name spaces, as both follow the same structure.

mod check;
mod tables;

pub(crate) use check::{Checker, Held, version_fault};
pub(crate) use tables::{BLUEPRINT, IMPORT_ENTRY, section};

use conclave_yaml::{Kind, Node};

/// A set of types of values.
pub(crate) type Types = u8;

pub(crate) const TEXT: Types = 1;
pub(crate) const INTEGER: Types = 2;
pub(crate) const FLOAT: Types = 4;
pub(crate) const BOOLEAN: Types = 8;
pub(crate) const LIST: Types = 16;
pub(crate) const MAP: Types = 32;
/// Any number. The original cannot name this type and fails in its own code when another is found.
pub(crate) const NUMBER: Types = 64;
/// Whatever may be a value.
pub(crate) const ANY: Types = TEXT | BOOLEAN | LIST | MAP | NUMBER;

/// What an element looks like.
pub(crate) struct Element {
    pub(crate) form: Form,
    /// Whether names (of a mapping's entries) or the text (of a leaf) get the prefix under a name space.
    pub(crate) spaced: bool,
}

/// The structure of an element.
pub(crate) enum Form {
    /// A value without elements below.
    Leaf(Types),
    /// Any names, one form of value.
    Map(&'static Element),
    /// Items of one form.
    List(&'static Element),
    /// Known keys only.
    Struct(&'static [Field]),
    /// A text, or known keys.
    TextOr(&'static [Field]),
    /// A text, or any names.
    TextOrMap(&'static Element),
}

/// A known key.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) element: &'static Element,
    pub(crate) required: bool,
    /// The minor version of the language that brought it.
    pub(crate) since: u32,
}

impl Element {
    const fn new(form: Form) -> Self {
        Self { form, spaced: true }
    }

    const fn leaf(types: Types) -> Self {
        Self::new(Form::Leaf(types))
    }

    /// The same, untouched by name spaces.
    const fn unspaced(self) -> Self {
        Self {
            form: self.form,
            spaced: false,
        }
    }

    /// The form of a known key.
    pub(crate) fn field(&self, name: &str) -> Option<&'static Field> {
        match self.form {
            Form::Struct(fields) | Form::TextOr(fields) => fields.iter().find(|field| field.name == name),
            _ => None,
        }
    }
}

impl Field {
    const fn new(name: &'static str, element: &'static Element) -> Self {
        Self {
            name,
            element,
            required: false,
            since: 0,
        }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn since(self, minor: u32) -> Self {
        Self { since: minor, ..self }
    }
}

/// Whether a value is of one of the types. Truth values are whole numbers too, as in the language of the original.
pub(crate) fn is_of(types: Types, node: &Node) -> bool {
    let own = match node.kind {
        Kind::Null | Kind::Timestamp(_) => 0,
        Kind::Bool(_) => BOOLEAN | INTEGER | NUMBER,
        Kind::Int(_) | Kind::BigInt(_) => INTEGER | NUMBER,
        Kind::Float(_) => FLOAT | NUMBER,
        Kind::Str(_) => TEXT,
        Kind::Seq(_) => LIST,
        Kind::Map(_) => MAP,
    };
    types & own != 0
}
