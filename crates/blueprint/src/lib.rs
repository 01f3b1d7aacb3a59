//! The blueprint language: from YAML to a plan, from a plan with inputs to a deployment plan, and from there to modifications
//! and updates.
//!
//! Pure: a [`Resolver`] brings the texts, an id source the ids; only [`FolderResolver`] reads files. The rules are those of
//! `spec/dsl.md`, whose sections the comments name.

mod build;
mod builtin_types;
mod class;
pub mod constraint;
pub mod deployment;
mod diagnostic;
mod document;
mod fault;
mod folder;
pub mod functions;
pub mod modification;
mod namespace;
mod parse;
pub mod plan;
mod primitive;
mod resolver;
pub mod schema;
mod shape;
mod suspicion;
pub mod topology;
pub mod update;
mod value;
mod version;
mod version_spec;

pub use class::Class;
pub use diagnostic::{Diagnostic, Diagnostics};
pub use fault::Fault;
pub use folder::FolderResolver;
pub use parse::{Options, Validation, parse, parse_with, validate};
pub use plan::Plan;
pub use resolver::{Import, PluginRecord, PluginRule, Resolver, StoredPlugin};
pub use value::{Map, Text, Value};
