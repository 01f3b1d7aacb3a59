//! YAML as blueprints and configurations are written: the 1.1 rules of scalars and merges, every value with its place.
//!
//! Text becomes a tree of [`Node`]s that know file, line and column. Aliases share what they name, under a limit for their
//! expanded size; `<<` merges are applied; of repeated keys the last one wins (spec/dsl.md, section 1). Hostile text costs
//! bounded time and memory.
//!
//! A scanner cuts the text into tokens, a composer makes the tree of them. Pure; knows nothing of what the text means.

mod block_scalar;
mod compose;
mod construct;
mod cursor;
mod error;
mod flow_scalar;
mod node;
mod parse;
mod scalar;
mod scanner;
mod tag;
mod timestamp;
mod token;

pub use error::{Stage, YamlError};
pub use node::{Kind, Node, Place, Text};
pub use parse::{Limits, parse, parse_source};

/// Reads a text whose places do not matter, as JSON.
///
/// # Errors
/// When it is no YAML or holds what JSON can't say.
pub fn to_json(text: &str) -> Result<serde_json::Value, YamlError> {
    Ok(parse(text, &Limits::default())?.to_json())
}
