//! Which secrets a deployment needs, as far as their names are written in the plan.

use indexmap::IndexSet;

use super::Surroundings;
use crate::functions::{Arguments, each_call, each_spot};
use crate::{Class, Fault, Plan};

/// Looks up every secret that a call names by a literal text.
///
/// # Errors
/// One fault for all that do not exist; another kind where secrets are not supported.
pub(super) fn check(plan: &Plan, surroundings: &dyn Surroundings) -> Result<(), Fault> {
    let mut missing = Vec::new();
    for name in names(plan) {
        match surroundings.has_secret(&name)? {
            Some(true) => {}
            Some(false) => missing.push(name),
            None => {
                let message = "The get_secret intrinsic function is not supported";
                return Err(Fault::new(Class::UnsupportedGetSecret, message, ""));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("Required secrets: [{}] don't exist in this tenant", missing.join(", "));
    Err(Fault::new(Class::UnknownSecret, message, ""))
}

fn names(plan: &Plan) -> IndexSet<String> {
    let mut names = IndexSet::new();
    each_spot(plan, &mut |spot| {
        each_call(spot.values, &spot.place, &mut |_, call, _| {
            if let Ok(Arguments::Secret { name, .. }) = Arguments::of(call)
                && let Some(name) = name.as_str()
            {
                names.insert(name.to_owned());
            }
        });
    });
    names
}
