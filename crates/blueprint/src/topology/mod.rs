//! Templates and their instances: how node templates and scaling groups lie in each other, and what instances that gives
//! (spec/dsl.md, sections 16 and 17).
//!
//! The deployment plan expands templates from nothing; a modification expands them again around the instances that there are.
//! Both are one expansion.

mod connect;
mod expand;
mod graph;
mod instance;

pub use instance::{GroupInstance, IdSource, Instance, InstanceRelationship};

pub(crate) use connect::{Ends, connect};
pub(crate) use expand::{Existing, Expansion, Origin, expand};
pub(crate) use graph::{Graph, Template, VertexId};
