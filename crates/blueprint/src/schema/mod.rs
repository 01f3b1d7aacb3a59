//! Schemas of properties and data types, and what they make of values (spec/dsl.md, section 7).
//!
//! Works on values, so that plans that were stored long ago complete their inputs in the same way as blueprints do.

mod complete;

pub(crate) use complete::{Completion, Problem, PropertyFault};
pub use complete::{complete, fill_defaults};

pub use crate::primitive::{fits, is_id_type, is_pattern, is_primitive, primitive_types};

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use crate::document::Named;
use crate::{Map, Text, Value};

/// What a property may be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Property {
    /// None for any value.
    pub(crate) type_name: Option<Text>,
    /// Completed with the defaults of its data type.
    pub(crate) default: Option<Value>,
    /// The default as written in the type itself, before anything was inherited.
    pub(crate) own_default: Option<Value>,
    pub(crate) required: bool,
    /// As plans show it.
    pub(crate) written: Map,
    /// Whether the default needs no second look where nothing replaces it: with, and without what is required.
    pub(crate) is_settled: Settled,
}

/// Whether a default passes all checks, so that it can be taken as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Settled {
    /// With all that is required.
    pub(crate) strict: bool,
    /// Apart from what is missing.
    pub(crate) lenient: bool,
}

/// Properties by name.
pub(crate) type Properties = Named<Property>;

/// Data types by name.
#[derive(Debug, Clone, Default)]
pub struct DataTypes {
    types: HashMap<Text, Arc<Properties>, BuildHasherDefault<rustc_hash::FxHasher>>,
}

impl DataTypes {
    /// Those of a plan's section `data_types`.
    pub fn new(section: &Map) -> Self {
        let mut types = Self::default();
        for (name, data_type) in section.iter() {
            let properties = data_type.get("properties").and_then(Value::as_map);
            let read = |(name, schema): (&Text, &Value)| {
                let written = schema.as_map().cloned().unwrap_or_default();
                (name.clone(), Property::of_plan(written))
            };
            let properties = properties.into_iter().flat_map(Map::iter).map(read).collect();
            types.insert(name.clone(), Arc::new(properties));
        }
        types
    }

    pub(crate) fn insert(&mut self, name: Text, properties: Arc<Properties>) {
        self.types.insert(name, properties);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Properties>> {
        self.types.get(name)
    }
}

impl Property {
    /// What a schema means that is complete already.
    fn of_plan(written: Map) -> Self {
        Self {
            type_name: written.get("type").and_then(Value::as_str).map(Text::from),
            default: written.get("default").cloned(),
            own_default: None,
            required: written.get("required").is_none_or(Value::is_truthy),
            is_settled: Settled::default(),
            written,
        }
    }

    /// Finds out whether the default can be taken as it is.
    pub(crate) fn settle(&mut self, types: &DataTypes) {
        let Some(default) = &self.default else { return };
        let check = |lenient| {
            let mut completion = Completion::new(types, lenient);
            completion.value(default, Some(default), self.type_name.as_deref());
            completion.faults.is_empty()
        };
        self.is_settled = Settled {
            strict: check(false),
            lenient: check(true),
        };
    }
}
