//! What is checked about calls when a blueprint is parsed (spec/dsl.md, section 14, "Parse-time validation"), and what they
//! ask of the deployment's surroundings.

use super::arguments::Arguments;
use super::call::{Call, FunctionName, call, is_call};
use super::compute;
use super::early::{Early, unknown_input};
use super::engine::{Scope, Site};
use super::python;
use super::scan::{Spot, each_call, each_spot};
use super::walk::Place;
use crate::{Class, Fault, Map, Plan, Value};

/// What `get_sys` knows.
const SYSTEM: [(&str, &[&str]); 2] = [
    ("tenant", &["name"]),
    ("deployment", &["id", "name", "blueprint", "owner"]),
];

/// Checks every call in the plan's scanned places: the shape of its arguments, whether the version of the language knows it,
/// and whether the inputs, nodes and properties that it names exist. One fault per bad call.
pub fn check_plan(plan: &Plan) -> Vec<Fault> {
    check_all(plan, None)
}

/// What a plan lacks because it is at fault itself.
pub(crate) trait LeftOut {
    fn input(&self, name: &str) -> bool;
    fn node(&self, name: &str) -> bool;
}

/// The same for a plan that lacks something: tells only what would be a fault if that were there.
pub(crate) fn check_partial_plan(plan: &Plan, left_out: &dyn LeftOut) -> Vec<Fault> {
    check_all(plan, Some(left_out))
}

fn check_all(plan: &Plan, left_out: Option<&dyn LeftOut>) -> Vec<Fault> {
    let check = Check {
        plan,
        early: Early::new(&plan.nodes, Map::new(), false),
        left_out,
    };
    let mut faults = Vec::new();
    each_spot(plan, &mut |spot| {
        each_call(spot.values, &spot.place, &mut |_, call, place| {
            if let Err(fault) = check.call(call, place, spot) {
                faults.push(super::engine::placed(fault, place));
            }
        });
    });
    faults
}

/// Checks the shape of the arguments, if the value is a call.
///
/// # Errors
/// When the function takes no such arguments.
pub fn check_shape(value: &Value, path: &str) -> Result<(), Fault> {
    let Some(call) = call(value) else { return Ok(()) };
    Arguments::of(&call).map(|_| ()).map_err(|fault| Fault {
        path: path.to_owned(),
        ..fault
    })
}

struct Check<'p> {
    plan: &'p Plan,
    early: Early<'p>,
    left_out: Option<&'p dyn LeftOut>,
}

impl Check<'_> {
    fn call(&self, call: &Call<'_>, place: &Place<'_>, spot: &Spot<'_>) -> Result<(), Fault> {
        match Arguments::of(call)? {
            Arguments::Input { name, .. } => self.input(name),
            Arguments::Entity { node, path } => {
                if is_call(node) || path.iter().any(is_call) {
                    return Ok(());
                }
                if call.name != FunctionName::GetProperty {
                    return self.entity(call.name, node, place, spot.scope);
                }
                if self.left_out.is_some() {
                    // The way to a property may lead through what is left out; that the node is there can be told.
                    return match node.as_str() {
                        Some("SELF" | "SOURCE" | "TARGET") | None => Ok(()),
                        Some(_) => self.entity(call.name, node, place, spot.scope),
                    };
                }
                let site = Site {
                    scope: spot.scope,
                    context: &spot.context,
                    place,
                    depth: 0,
                    in_place: true,
                };
                self.early.probe(node, path, &site)
            }
            // Parts of ways are not looked at here, as in the original.
            Arguments::EntityPaths { node, .. } if is_call(node) => Ok(()),
            Arguments::EntityPaths { node, .. } => self.entity(call.name, node, place, spot.scope),
            Arguments::Sys { entity, property } => check_system(entity, property),
            Arguments::Items(items) => check_items(call.name, items, place, self.plan),
            Arguments::Texts(items) => compute::validate_texts(call.name, items),
            Arguments::Secret { .. } | Arguments::Capability(_) | Arguments::Label { .. } | Arguments::Consumers(_) => {
                Ok(())
            }
        }
    }

    fn input(&self, name: &Value) -> Result<(), Fault> {
        let is_known = |name: &str| {
            self.plan.inputs.contains_key(name) || self.left_out.is_some_and(|left_out| left_out.input(name))
        };
        if is_call(name) || name.as_str().is_some_and(is_known) {
            return Ok(());
        }
        Err(unknown_input(&python::text(name)))
    }

    fn entity(&self, function: FunctionName, node: &Value, place: &Place<'_>, scope: Scope) -> Result<(), Fault> {
        let name = python::text(node);
        let refused: &[&str] = match (name.as_str(), scope) {
            ("SELF" | "SOURCE" | "TARGET", Scope::Outputs) => &["SELF", "SOURCE", "TARGET"],
            ("SELF" | "SOURCE" | "TARGET", Scope::Relationship) => &["SELF"],
            ("SELF" | "SOURCE" | "TARGET", Scope::Node) => &["SOURCE", "TARGET"],
            ("SELF" | "SOURCE" | "TARGET", Scope::Section(section)) => {
                let message = format!("{name} means nothing in {section}");
                return Err(Fault::new(Class::Key, message, ""));
            }
            ("SELF" | "SOURCE" | "TARGET", Scope::Free) => &[],
            (other, _) => {
                if self.early.node(other).is_some() || self.left_out.is_some_and(|left_out| left_out.node(other)) {
                    return Ok(());
                }
                let message = format!("{function} function node reference '{other}' does not exist.");
                return Err(Fault::new(Class::Key, message, ""));
            }
        };
        if refused.contains(&name.as_str()) {
            let message = format!("{name} cannot be used with {function} function in {place}");
            return Err(Fault::new(Class::Value, message, ""));
        }
        Ok(())
    }
}

fn check_system(entity: &Value, property: &Value) -> Result<(), Fault> {
    if is_call(entity) {
        return Ok(());
    }
    let known = SYSTEM.iter().find(|(name, _)| entity.as_str() == Some(*name));
    let Some((_, properties)) = known else {
        let message = format!("get_sys function unable to determine entity: {}", python::text(entity));
        return Err(Fault::new(Class::UnknownSysEntity, message, ""));
    };
    if is_call(property) || property.as_str().is_some_and(|property| properties.contains(&property)) {
        return Ok(());
    }
    let (entity, property) = (python::text(entity), python::text(property));
    let message = format!("get_sys function unable to determine property: {entity} {property}");
    Err(Fault::new(Class::UnknownSysProperty, message, ""))
}

fn check_items(function: FunctionName, items: &[Value], place: &Place<'_>, plan: &Plan) -> Result<(), Fault> {
    let since = if function == FunctionName::Concat {
        (1, 1)
    } else {
        (1, 3)
    };
    let unfit = |message: String| Err(Fault::new(Class::FunctionValidation, message, ""));
    if plan.version.definitions_version < since {
        return unfit(format!(
            "Unable to validate Using {function} requires using dsl version {}_{} or greater, but found: {} in {place}. function",
            since.0, since.1, plan.version.raw
        ));
    }
    if function == FunctionName::Merge
        && let Some(item) = items.iter().find(|item| item.as_map().is_none())
    {
        let shown = python::text(item);
        return unfit(format!(
            "Unable to validate Encountered non-dict element for merge: {shown} function"
        ));
    }
    Ok(())
}

/// What the plan's calls ask of its surroundings: `parent_capabilities`, the arguments of `get_environment_capability`, and
/// `secrets`, those of `get_secret`; in order, repeats kept. Calls with arguments of a wrong shape are left out.
pub fn requirements(plan: &Plan) -> Map {
    let mut capabilities: Vec<Value> = Vec::new();
    let mut secrets: Vec<Value> = Vec::new();
    each_spot(plan, &mut |spot| {
        each_call(
            spot.values,
            &spot.place,
            &mut |_, call, _| match (call.name, Arguments::of(call)) {
                (FunctionName::GetEnvironmentCapability, Ok(Arguments::Capability(path))) => {
                    capabilities.push(path.to_vec().into());
                }
                (FunctionName::GetSecret, Ok(_)) => secrets.push(call.argument.clone()),
                _ => {}
            },
        );
    });
    Map::from_iter([
        ("parent_capabilities", Value::from(capabilities)),
        ("secrets", Value::from(secrets)),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(outputs: serde_json::Value) -> Plan {
        Plan::from_json(&json!({
            "version": {"raw": "cloudify_dsl_1_3", "definitions_name": "cloudify_dsl", "definitions_version": [1, 3]},
            "inputs": {"i": {}},
            "outputs": outputs.as_object().unwrap().iter().map(|(name, value)| (name.clone(), json!({"value": value}))).collect::<serde_json::Map<_, _>>(),
        }))
        .unwrap()
    }

    #[test]
    fn every_bad_call_is_reported_with_its_place() {
        let plan = plan(json!({
            "a": {"get_input": "i"},
            "b": [{"get_input": "x"}],
            "c": {"get_property": ["n", "p"]},
            "d": {"get_attribute": ["SELF", "p"]},
            "e": {"merge": [1]},
            "f": {"get_sys": ["deployment", "x"]},
            "g": {"concat": [{"get_input": "y"}]},
        }));
        let faults = check_plan(&plan);
        let seen: Vec<_> = faults.iter().map(|fault| (fault.path.as_str(), fault.class)).collect();
        assert_eq!(
            seen,
            [
                ("outputs.b.value[0]", Class::UnknownInput),
                ("outputs.c.value", Class::Key),
                ("outputs.d.value", Class::Value),
                ("outputs.e.value", Class::FunctionValidation),
                ("outputs.f.value", Class::UnknownSysProperty),
                ("outputs.g.value.concat[0]", Class::UnknownInput),
            ]
        );
    }

    #[test]
    fn requirements_keep_repeats() {
        let plan = plan(json!({
            "a": [{"get_secret": "s"}, {"get_secret": ["s", "k"]}],
            "b": {"get_environment_capability": "c"},
            "c": {"get_secret": "s"},
        }));
        let requirements = Value::from(requirements(&plan));
        assert_eq!(
            requirements.to_json(),
            json!({"parent_capabilities": [["c"]], "secrets": ["s", ["s", "k"], "s"]})
        );
    }
}
