//! The `ctx` object of a running operation: what scripts read, set and ask for (spec/plugins-and-agents.md, sections 3, 8).
//!
//! Pure: a request is answered from memory, or turned into an [`Effect`] that the proxy carries out. Requests name a path
//! through the object, one word per argument.

mod attributes;
mod model;
mod path;

pub use model::{Answer, CtxModel, Dirty, Effect, Step, Verdict};
