//! Intrinsic functions (spec/dsl.md, section 14): recognition, the checks made when a blueprint is parsed, evaluation when a
//! deployment plan is made, and evaluation at run time.
//!
//! `get_input`, `get_property`, `concat`, `merge` and the text functions are evaluated as soon as there are inputs. The others
//! stay in the plan as they are and are evaluated on request, against a [`Storage`] that the REST API and the workflow engine
//! each bring. Both evaluators share one engine, which works from the inside out and copies nothing that holds no call.

mod arguments;
mod call;
mod compute;
mod early;
mod engine;
mod evaluate;
mod instance;
mod late;
mod property;
mod python;
mod scan;
mod storage;
mod validate;
mod walk;

pub use call::{Call, FunctionName, call, holds_calls, is_call};
pub use evaluate::{
    evaluate, evaluate_capabilities, evaluate_node, evaluate_node_instance, evaluate_outputs, evaluate_payload,
};
pub use late::EvaluationContext;
pub use storage::{Storage, StoredInstance, StoredNode, not_found};
pub(crate) use validate::{LeftOut, check_partial_plan};
pub use validate::{check_plan, check_shape, requirements};

pub(crate) use arguments::Arguments;
pub(crate) use early::{Early, EarlyContext};
pub(crate) use engine::{Engine, Scope, Site};
pub(crate) use python::{literal as python_literal, text as python_text, type_name as python_type};
pub(crate) use scan::{Quiet, each_call, each_spot};
pub(crate) use walk::Place;
