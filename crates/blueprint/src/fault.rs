//! A fault without its place in a file: what checks of values report, by the dotted path of the element.

use crate::Class;

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Its kind.
    pub class: Class,
    /// Its number (spec/dsl.md, section 19), where the kind has numbers.
    pub code: Option<i32>,
    /// What is wrong, in words.
    pub message: String,
    /// Where: the dotted path within the plan or blueprint, such as `nodes.a.properties.b`; empty for the whole.
    pub path: String,
}

impl Fault {
    /// One with a number.
    pub fn coded(class: Class, code: i32, message: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            class,
            code: Some(code),
            message: message.into(),
            path: path.into(),
        }
    }

    /// One that its kind alone tells.
    pub fn new(class: Class, message: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            class,
            code: None,
            message: message.into(),
            path: path.into(),
        }
    }

    /// A fault of logic.
    pub fn logic(code: i32, message: impl Into<String>, path: impl Into<String>) -> Self {
        Self::coded(Class::Logic, code, message, path)
    }
}
