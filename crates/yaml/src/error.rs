//! What is wrong with a text.

use crate::Place;

/// Which part of reading a text failed.
///
/// Those who speak to clients of the original tell grammar errors (`Parser`) from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Characters that are not allowed.
    Reader,
    /// Indentation, quotes, indicators.
    Scanner,
    /// The order of what was scanned.
    Parser,
    /// Anchors, aliases, several documents.
    Composer,
    /// Tags, keys, merges, numbers and dates out of range.
    Constructor,
    /// A text with other characters than those of ASCII, where only these are wanted.
    Charset,
    /// A limit of this reader.
    Limit,
}

/// Why a text can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {message}", place.line, place.column)]
pub struct YamlError {
    /// Which part of reading failed.
    pub stage: Stage,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Place,
}

impl YamlError {
    pub(crate) fn new(stage: Stage, message: impl Into<String>, place: Place) -> Self {
        Self {
            stage,
            message: message.into(),
            place,
        }
    }
}
