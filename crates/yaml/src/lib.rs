//! YAML as blueprints and configurations are written: the 1.1 rules of scalars and merges, every value with its place.
//!
//! Text becomes a tree of [`Node`]s that know line and column. Aliases are expanded under a limit, `<<` merges are
//! applied, of repeated keys the last one wins, as the reference does (spec/dsl.md, section 1). Hostile text costs bounded
//! time and memory.
//!
//! Pure; knows nothing of what the text means.

mod error;
mod node;
mod parse;
mod scalar;

pub use error::YamlError;
pub use node::{Kind, Node, Place};
pub use parse::{Limits, parse};

/// Reads a text whose places do not matter, as JSON.
///
/// # Errors
/// When it is no YAML or holds what JSON can't say.
pub fn to_json(text: &str) -> Result<serde_json::Value, YamlError> {
    Ok(parse(text, &Limits::default())?.to_json())
}
