//! Evaluation from the inside out, shared by what happens when a deployment plan is made and what happens at run time.
//!
//! A value is only copied where a call in it gave something else: [`Engine::evaluate`] answers nothing for a value that stays as
//! it is, and so does every level above.

use super::arguments::Arguments;
use super::call::{Call, call};
use super::walk::Place;
use crate::{Class, Fault, Map, Value};

/// How deep values and calls may lie within each other, each level of a value counting as one.
pub(crate) const DEPTH_MAX: usize = 50;
/// How often the result of a call may be a call again before it is taken for a circle.
const REWRITES_MAX: usize = 1_000;
/// How many values one evaluation may look at. A value that names another twice, which names another twice, and so on, doubles
/// at every step: no honest blueprint comes near this.
const STEPS_MAX: u64 = 50_000_000;
/// How much text the calls of one evaluation may give altogether, in bytes.
const RESULT_BYTES_MAX: usize = 256 << 20;

/// Where a call stands, as far as its meaning depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Properties and operations of a node; payloads with a `self`.
    Node,
    /// Operations of a relationship; payloads with source and target.
    Relationship,
    /// Outputs.
    Outputs,
    /// Everywhere else, by the name of the section.
    Section(&'static str),
    /// A payload that says nothing about where it stands, or the inside of a node's value.
    Free,
}

/// What a call gave.
pub(crate) enum Given<C> {
    /// It stays as it is, for now.
    Kept,
    /// A value, which is to be evaluated with the eyes of the given context.
    Value(Value, C),
}

/// What decides about single calls.
pub(crate) trait Engine {
    /// With whose eyes SELF and the like are seen.
    type Context: Clone;

    /// What is spent.
    fn budget(&mut self) -> &mut Budget;

    /// Evaluates one call whose arguments are evaluated already.
    fn apply(
        &mut self,
        call: &Call<'_>,
        arguments: &Arguments<'_>,
        site: &Site<'_, Self::Context>,
    ) -> Result<Given<Self::Context>, Fault>;

    /// Told when the parts of what a call read (`context` is that of the call) were evaluated where it was read: `value` is
    /// what became of it.
    fn read_evaluated(&mut self, _call: &Value, _context: &Self::Context, _value: &Value) {}

    /// Told what became of a part of a value that is evaluated where it stands, before the next part is looked at.
    fn part_evaluated(&mut self, _place: &Place<'_>, _value: &Value) {}

    /// Evaluates every call in `value` from the inside out, until nothing changes. Nothing means that it stays as it is.
    fn evaluate(&mut self, value: &Value, site: &Site<'_, Self::Context>) -> Result<Option<Value>, Fault> {
        self.budget().step()?;
        if site.depth >= DEPTH_MAX {
            return Err(too_deep(site.place));
        }
        if !matches!(value, Value::List(_) | Value::Map(_)) {
            return Ok(None);
        }
        let mut current: Option<Value> = None;
        let mut context: Option<Self::Context> = None;
        // The call whose result is looked at, if it read something, and with whose eyes.
        let mut source: Option<(Value, Self::Context)> = None;
        for _ in 0..REWRITES_MAX {
            let seen = current.as_ref().unwrap_or(value);
            let inner = Site {
                context: context.as_ref().unwrap_or(site.context),
                in_place: site.in_place && source.is_none(),
                ..*site
            };
            if let Some(changed) = self.evaluate_parts(seen, &inner)? {
                if let Some((read, reader)) = &source {
                    self.read_evaluated(read, reader, &changed);
                }
                current = Some(changed);
            }
            let seen = current.as_ref().unwrap_or(value);
            let Some(call) = call(seen) else { return Ok(current) };
            let at = |fault: Fault| placed(fault, site.place);
            let arguments = Arguments::of(&call).map_err(at)?;
            match self.apply(&call, &arguments, &inner).map_err(at)? {
                Given::Kept => return Ok(current),
                Given::Value(given, _) if given == *seen => return Ok(current),
                Given::Value(given, with) => {
                    if let Value::String(text) = &given {
                        self.budget().text(text.len())?;
                    }
                    source = Some((seen.clone(), inner.context.clone()));
                    current = Some(given);
                    context = Some(with);
                }
            }
            // What is no container has no parts and is no call.
            if !matches!(current, Some(Value::List(_) | Value::Map(_))) {
                return Ok(current);
            }
        }
        Err(too_deep(site.place))
    }

    /// Evaluates the parts of a value, but not the value itself.
    fn evaluate_parts(&mut self, value: &Value, site: &Site<'_, Self::Context>) -> Result<Option<Value>, Fault> {
        match value {
            Value::Map(map) => Ok(self.evaluate_entries(map, site)?.map(Value::Map)),
            Value::List(items) => {
                let mut changed: Option<Vec<Value>> = None;
                for (index, item) in items.iter().enumerate() {
                    let place = Place::Item(site.place, index);
                    if let Some(new) = self.evaluate(item, &site.inside(&place))? {
                        if site.in_place {
                            self.part_evaluated(&place, &new);
                        }
                        changed.get_or_insert_with(|| items.to_vec())[index] = new;
                    }
                }
                Ok(changed.map(Value::from))
            }
            _ => Ok(None),
        }
    }

    /// Evaluates the values of a mapping.
    fn evaluate_entries(&mut self, map: &Map, site: &Site<'_, Self::Context>) -> Result<Option<Map>, Fault> {
        let mut changed: Option<Map> = None;
        for (key, value) in map.iter() {
            let place = Place::Key(site.place, key);
            if let Some(new) = self.evaluate(value, &site.inside(&place))? {
                if site.in_place {
                    self.part_evaluated(&place, &new);
                }
                changed.get_or_insert_with(|| map.clone()).insert(key.clone(), new);
            }
        }
        Ok(changed)
    }
}

/// Where something is evaluated.
pub(crate) struct Site<'s, C> {
    /// Which rules hold.
    pub(crate) scope: Scope,
    /// With whose eyes.
    pub(crate) context: &'s C,
    /// Where it stands.
    pub(crate) place: &'s Place<'s>,
    /// How many levels lie above.
    pub(crate) depth: usize,
    /// Whether it stands there itself, and was not read from somewhere else.
    pub(crate) in_place: bool,
}

impl<C> Clone for Site<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Site<'_, C> {}

impl<'s, C> Site<'s, C> {
    /// The same, one level further in.
    fn inside(&self, place: &'s Place<'s>) -> Self {
        Self {
            place,
            depth: self.depth + 1,
            ..*self
        }
    }
}

/// What one evaluation has spent.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    steps: u64,
    bytes: usize,
}

impl Budget {
    fn step(&mut self) -> Result<(), Fault> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            let message = format!("the evaluation looks at more than {STEPS_MAX} values");
            return Err(Fault::new(Class::Limit, message, ""));
        }
        Ok(())
    }

    fn text(&mut self, bytes: usize) -> Result<(), Fault> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > RESULT_BYTES_MAX {
            let message = format!("functions give more than {RESULT_BYTES_MAX} bytes of text");
            return Err(Fault::new(Class::Limit, message, ""));
        }
        Ok(())
    }
}

fn too_deep(place: &Place<'_>) -> Fault {
    let message = format!(
        "The recursion limit ({DEPTH_MAX}) has been reached while evaluating the deployment. \
         Limit was reached with the following path - {place}"
    );
    Fault::new(Class::EvaluationRecursionLimit, message, place.to_string())
}

/// Adds the place to a fault that has none.
pub(crate) fn placed(mut fault: Fault, place: &Place<'_>) -> Fault {
    if fault.path.is_empty() {
        fault.path = place.to_string();
    }
    fault
}
