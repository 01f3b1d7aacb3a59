//! The canonical form of plans, deployment plans and modifications: two results are equal exactly when their canonical forms
//! are.

mod colour;
mod instances;
mod plan;
mod text;

pub use instances::{Renamed, instances, modification};
pub use plan::{deployment, plan, with_digests};
pub use text::text;
