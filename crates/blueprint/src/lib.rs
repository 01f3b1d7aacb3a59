//! The blueprint language: from YAML to a plan, from a plan with inputs to a deployment plan, and from there to modifications
//! and updates.
//!
//! Pure: a [`Resolver`] brings the texts, an id source the ids. The rules are those of `spec/dsl.md`.

mod class;
mod fault;
pub mod plan;
mod resolver;
mod value;

pub use class::Class;
pub use fault::Fault;
pub use plan::Plan;
pub use resolver::{FolderResolver, Resolver};
pub use value::{Map, Text, Value};
