//! The blueprint language: from YAML to a plan, and from a plan with inputs to a deployment plan.
//!
//! Pure: a [`Resolver`] brings the texts, an [`IdSource`] the ids. The rules are those of `spec/dsl.md`. What stands here is
//! the part that deployments of scripts need: imports, types with derivation, properties, interfaces, relationships,
//! plugins, inputs, outputs, workflows, and the functions `get_input`, `get_property`, `get_attribute` and `concat`. Sections
//! that it does not know are refused, not skipped.

mod deployment;
mod diagnostic;
mod document;
mod functions;
mod operations;
mod parse;
mod resolver;
mod types;
mod value;

pub use deployment::{DeploymentError, DeploymentPlan, DeploymentRequest, IdSource, deployment_plan};
pub use diagnostic::Diagnostic;
pub use functions::{EvaluationContext, EvaluationError, Storage, evaluate, has_functions};
pub use parse::{Plan, parse};
pub use resolver::{FolderResolver, Resolver};
pub use value::{Map, Text, Value};
