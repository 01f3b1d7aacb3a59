//! What is wrong with a text.

use crate::Place;

/// Why a text can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {message}", place.line, place.column)]
pub struct YamlError {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Place,
}

impl YamlError {
    pub(crate) fn new(message: impl Into<String>, place: Place) -> Self {
        Self {
            message: message.into(),
            place,
        }
    }
}
