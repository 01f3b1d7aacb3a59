//! Steps of an update.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::Text;

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It goes.
    Remove,
    /// It comes.
    Add,
    /// It changes.
    Modify,
}

impl Action {
    /// As clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::Add => "add",
            Self::Modify => "modify",
        }
    }
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntityType {
    /// A node.
    Node,
    /// A relationship of a node.
    Relationship,
    /// A property of a node or relationship.
    Property,
    /// An operation of a node or relationship.
    Operation,
    /// A workflow.
    Workflow,
    /// An output.
    Output,
    /// The description.
    Description,
    /// A group.
    Group,
    /// A plugin of a node.
    Plugin,
}

impl EntityType {
    /// As clients see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Relationship => "relationship",
            Self::Property => "property",
            Self::Operation => "operation",
            Self::Workflow => "workflow",
            Self::Output => "output",
            Self::Description => "description",
            Self::Group => "group",
            Self::Plugin => "plugin",
        }
    }
}

/// A part of the way to an entity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// A name: of a section, or of what is in it.
    Name(Text),
    /// A position among relationships.
    Index(usize),
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => serializer.serialize_str(name),
            Self::Index(index) => serializer.serialize_u64(*index as u64),
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub action: Action,
    /// What it happens to.
    pub entity_type: EntityType,
    /// The way to it, from the section on. A relationship that moves has two positions: the old one and the new one.
    pub entity_id: Vec<Part>,
    /// For nodes that are added: higher ones are added first, so that targets are there before what is related to them.
    pub topology_order: usize,
    supported: bool,
}

impl Step {
    pub(super) fn new(action: Action, entity_type: EntityType, entity_id: Vec<Part>) -> Self {
        Self {
            action,
            entity_type,
            entity_id,
            topology_order: 0,
            supported: true,
        }
    }

    pub(super) fn unsupported(self) -> Self {
        Self {
            supported: false,
            ..self
        }
    }

    /// Whether an update can do it.
    pub fn is_supported(&self) -> bool {
        self.supported
    }

    /// The name of what it happens to, unless that has none.
    pub fn entity_name(&self) -> Option<&Text> {
        match self.entity_id.last() {
            Some(Part::Name(name)) => Some(name),
            _ => None,
        }
    }
}

/// `action`, `entity_type`, `entity_id` (a list), `topology_order`.
impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut step = serializer.serialize_struct("Step", 4)?;
        step.serialize_field("action", self.action.as_str())?;
        step.serialize_field("entity_type", self.entity_type.as_str())?;
        step.serialize_field("entity_id", &self.entity_id)?;
        step.serialize_field("topology_order", &self.topology_order)?;
        step.end()
    }
}

/// As older clients name entities: `add nodes:a:relationships:[0]`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.action.as_str())?;
        for (index, part) in self.entity_id.iter().enumerate() {
            f.write_str(if index == 0 { " " } else { ":" })?;
            match part {
                Part::Name(name) => f.write_str(name)?,
                Part::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
