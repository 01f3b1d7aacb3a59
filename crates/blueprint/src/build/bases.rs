//! What templates of a type share: merged interfaces and resolved operations, computed once per type.

use std::sync::Arc;

use conclave_yaml::{Place, Text};

use super::context::Context;
use super::interfaces::{Interface, Interfaces, RawOperation, merge};
use super::resolve::{Plugins, SharedOperation, Subject, report};
use crate::document::Named;
use crate::plan::Operations;
use crate::{Fault, Map, Value};

/// The interfaces of a type as a template gets them that overrides nothing.
pub(super) struct Base {
    interfaces: Named<Named<Operation>>,
    shown: Map,
    operations: Operations,
    /// In how many interfaces an operation's name occurs.
    counts: Named<u32>,
    has_faults: bool,
}

/// An operation of a type, as a template gets it.
#[derive(Clone)]
struct Operation {
    of_type: Arc<RawOperation>,
    /// Whether the type has it.
    is_known: bool,
    shown: Value,
    resolved: SharedOperation,
    missing: Vec<Text>,
    /// What its implementation does wrong.
    fault: Option<(Fault, Option<String>)>,
    place: Place,
}

/// Interfaces of a template: as plans show them, and resolved.
#[derive(Clone)]
pub(super) struct Resolved {
    pub(super) shown: Map,
    pub(super) operations: Operations,
}

/// Makes and merges bases.
pub(super) struct Resolver<'p> {
    plugins: &'p Plugins<'p>,
    /// The number of the fault of an operation that means nothing.
    code: i32,
    no_op: SharedOperation,
}

impl<'p> Resolver<'p> {
    pub(super) fn new(plugins: &'p Plugins<'p>, code: i32) -> Self {
        Self {
            plugins,
            code,
            no_op: Arc::new(crate::plan::Operation::no_op()),
        }
    }

    fn operation(
        &self,
        name: &str,
        of_type: Option<&Arc<RawOperation>>,
        own: Option<&Arc<RawOperation>>,
        path: &str,
    ) -> Operation {
        let (merged, missing) = merge(of_type.map(|raw| &**raw), own);
        let subject = Subject {
            kind: "operation",
            name,
            code: self.code,
            path,
        };
        let (resolved, fault) = if merged.implementation.is_empty() {
            (self.no_op.clone(), None)
        } else {
            match self.plugins.operation(&merged, subject) {
                Ok(operation) => (Arc::new(operation), None),
                Err(fault) => (self.no_op.clone(), Some(fault)),
            }
        };
        Operation {
            is_known: of_type.is_some(),
            of_type: of_type.or(own).cloned().unwrap_or_else(|| merged.clone()),
            shown: merged.to_map().into(),
            resolved,
            missing,
            fault,
            place: merged.place,
        }
    }

    /// The base of a type.
    pub(super) fn base(&self, interfaces: &Interfaces, path: &str) -> Base {
        let mut all = Named::default();
        for (interface_name, operations) in interfaces.iter() {
            let mut interface = Named::default();
            for (name, raw) in operations.iter() {
                let path = format!("{path}.{interface_name}.{name}");
                interface.insert(name.clone(), self.operation(name, Some(raw), None, &path));
            }
            all.insert(interface_name.clone(), interface);
        }
        let mut counts = Named::default();
        for name in all.values().flat_map(Named::keys) {
            *counts.entry(name.clone()).or_insert(0) += 1;
        }
        Base {
            counts,
            shown: shown(&all),
            operations: flatten(&all),
            has_faults: all.values().flat_map(Named::values).any(Operation::is_faulty),
            interfaces: all,
        }
    }

    /// The interfaces of a template of that type. Faults stand at the operation, or at the template where an input has no value.
    pub(super) fn resolve(
        &self,
        context: &mut Context<'_>,
        base: &Base,
        own: &Named<Interface>,
        path: &str,
        place: Place,
    ) -> Resolved {
        if own.is_empty() {
            if base.has_faults {
                report_all(context, &base.interfaces, path, place);
            }
            return Resolved {
                shown: base.shown.clone(),
                operations: base.operations.clone(),
            };
        }
        let overrides = self.overrides(base, own, path);
        let mut shown_all = base.shown.clone();
        for (interface, operations) in &overrides {
            // Taken out rather than cloned, so that it is copied once at most.
            let mut shown_interface = match std::mem::take(shown_all.entry((*interface).clone())) {
                Value::Map(map) => map,
                _ => Map::with_capacity(operations.len()),
            };
            for (name, operation) in operations {
                shown_interface.insert((*name).clone(), operation.shown.clone());
            }
            shown_all.insert((*interface).clone(), shown_interface);
        }
        let overridden = || overrides.iter().flat_map(|(_, operations)| operations);
        let is_simple = !base.has_faults
            && overridden().all(|(name, operation)| {
                !operation.is_faulty() && operation.is_known && base.counts.contains_key(&***name)
            });
        let operations = if is_simple {
            patched(base, &overrides)
        } else {
            let mut all = base.interfaces.clone();
            for (interface, operations) in &overrides {
                let interface = all.entry((*interface).clone()).or_default();
                for (name, operation) in operations {
                    interface.insert((*name).clone(), operation.clone());
                }
            }
            report_all(context, &all, path, place);
            flatten(&all)
        };
        Resolved {
            shown: shown_all,
            operations,
        }
    }

    fn overrides<'o>(&self, base: &Base, own: &'o Named<Interface>, path: &str) -> Overrides<'o> {
        let mut overrides = Vec::with_capacity(own.len());
        for (interface, operations) in own {
            let known = base.interfaces.get(interface);
            let operation = |(name, raw): (&'o Text, &Arc<RawOperation>)| {
                let of_type = known
                    .and_then(|known| known.get(name))
                    .map(|operation| &operation.of_type);
                let path = format!("{path}.{interface}.{name}");
                (name, self.operation(name, of_type, Some(raw), &path))
            };
            overrides.push((interface, operations.iter().map(operation).collect()));
        }
        overrides
    }
}

/// What a template writes, by interface and operation.
type Overrides<'o> = Vec<(&'o Text, Vec<(&'o Text, Operation)>)>;

impl Operation {
    fn is_faulty(&self) -> bool {
        !self.missing.is_empty() || self.fault.is_some()
    }
}

fn report_all(context: &mut Context<'_>, interfaces: &Named<Named<Operation>>, path: &str, place: Place) {
    for (interface, operations) in interfaces {
        for (name, operation) in operations {
            let path = || format!("{path}.{interface}.{name}");
            if let Some(fault) = &operation.fault {
                let at = if operation.place.line > 0 {
                    operation.place
                } else {
                    place
                };
                report(context, fault.clone(), at);
            }
            if !operation.missing.is_empty() {
                let names: Vec<String> = operation.missing.iter().map(|input| format!("'{input}'")).collect();
                let (inputs, are) = if names.len() == 1 {
                    ("Input", "is")
                } else {
                    ("Inputs", "are")
                };
                let message = format!(
                    "{inputs} {} of operation '{interface}.{name}' {are} missing a value",
                    names.join(", ")
                );
                context.fail(Fault::logic(107, message, path()), place);
            }
        }
    }
}

fn shown(interfaces: &Named<Named<Operation>>) -> Map {
    let operations = |interface: &Named<Operation>| -> Map {
        interface
            .iter()
            .map(|(name, operation)| (name.clone(), operation.shown.clone()))
            .collect()
    };
    interfaces
        .iter()
        .map(|(name, interface)| (name.clone(), operations(interface)))
        .collect()
}

/// Operations by `interface.operation`, and by their name alone where it occurs once.
fn flatten(interfaces: &Named<Named<Operation>>) -> Operations {
    let mut all: Named<Option<SharedOperation>> = Named::default();
    for (interface, operations) in interfaces {
        for (name, operation) in operations {
            let short = if all.contains_key(name) {
                None
            } else {
                Some(operation.resolved.clone())
            };
            all.insert(name.clone(), short);
            all.insert(dotted(interface, name), Some(operation.resolved.clone()));
        }
    }
    all.into_iter()
        .filter_map(|(name, operation)| Some((name, operation?)))
        .collect()
}

/// The operations of a type with those that a template overrides and none that it adds.
fn patched(base: &Base, overrides: &Overrides<'_>) -> Operations {
    let mut operations = base.operations.clone();
    for (interface, overridden) in overrides {
        for (name, operation) in overridden {
            operations.insert(dotted(interface, name), operation.resolved.clone());
            if base.counts.get(&***name) == Some(&1) {
                operations.insert((*name).clone(), operation.resolved.clone());
            }
        }
    }
    operations
}

fn dotted(interface: &str, name: &str) -> Text {
    format!("{interface}.{name}").into()
}
