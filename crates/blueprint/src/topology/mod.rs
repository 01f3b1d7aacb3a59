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

pub(crate) use connect::{Chosen, connect};
pub(crate) use expand::{Existing, Expansion, Placed, expand};
pub(crate) use graph::{Connection, Graph, Template, VertexId};
