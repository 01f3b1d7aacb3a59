//! Groups, event policies with their types and triggers, and scaling policies (spec/dsl.md, section 11).

use conclave_yaml::{Node, Place, Text};

use super::context::Context;
use super::data_types::DataTypes;
use super::properties::{Kind, Schemas, to_map};
use super::scalable;
use super::templates::complete_properties;
use crate::document::Named;
use crate::schema::Properties;
use crate::{Class, Fault, Map, Value};

/// The one kind of policies that groups are scaled by.
const SCALING: &str = "cloudify.policies.scaling";
const TYPES: &str = "policy_types";
const TRIGGERS: &str = "policy_triggers";

/// What event policies may be, and what they may trigger.
pub(super) struct PolicyTypes {
    types: Named<(Map, Properties)>,
    triggers: Named<(Map, Properties)>,
}

impl PolicyTypes {
    /// As plans show them.
    pub(super) fn types_map(&self) -> Map {
        shown(&self.types)
    }

    /// As plans show them.
    pub(super) fn triggers_map(&self) -> Map {
        shown(&self.triggers)
    }
}

fn shown(types: &Named<(Map, Properties)>) -> Map {
    types
        .iter()
        .map(|(name, (shown, _))| (name.clone(), shown.clone()))
        .collect()
}

/// Reads policy types and triggers.
pub(super) fn build_types(context: &mut Context<'_>, data_types: &DataTypes) -> PolicyTypes {
    PolicyTypes {
        types: read_types(context, data_types, TYPES, "properties"),
        triggers: read_types(context, data_types, TRIGGERS, "parameters"),
    }
}

fn read_types(
    context: &mut Context<'_>,
    data_types: &DataTypes,
    section: &'static str,
    key: &'static str,
) -> Named<(Map, Properties)> {
    let schemas = Schemas {
        types: &data_types.types,
        kind: Kind::Property,
    };
    let mut types = Named::default();
    for (name, entry) in context.sound_entries(section) {
        let path = format!("{section}.{name}.{key}");
        let properties = schemas.read_all(context, entry.value.get(key), name, &path);
        let mut shown = Map::new();
        if !entry.value.is_null() {
            shown.insert(key, to_map(&properties));
            shown.insert("source", entry.value.get("source").map_or(Value::Null, Value::from));
        }
        types.insert(name.clone(), (shown, properties));
    }
    types
}

/// Reads all groups.
pub(super) fn build_groups(context: &mut Context<'_>, data_types: &DataTypes, policy_types: &PolicyTypes) -> Map {
    const SECTION: &str = "groups";
    let mut groups = Map::new();
    for (name, entry) in context.sound_entries(SECTION) {
        let path = format!("{SECTION}.{name}");
        if context.has("node_templates", name) {
            let message = format!("Both a group and a node template are named '{name}'");
            context.fail(Fault::logic(211, message, &*path), entry.key.place);
        }
        let mut group = Map::new();
        if !entry.value.is_null() {
            group.insert("members", members(context, name, &entry.value, entry.key.place, &path));
            let mut policies = Map::new();
            let reader = GroupPolicyReader {
                data_types,
                policy_types,
                group: name,
            };
            for (key, policy) in entry.value.get("policies").and_then(Node::as_map).unwrap_or_default() {
                let Some(policy_name) = key.as_text() else { continue };
                let path = format!("{path}.policies.{policy_name}");
                policies.insert(
                    policy_name.clone(),
                    reader.read(context, policy_name, policy, key.place, &path),
                );
            }
            group.insert("policies", policies);
        }
        context.report_held(SECTION, name);
        groups.insert(name.clone(), group);
    }
    groups
}

fn members(context: &mut Context<'_>, group: &str, node: &Node, place: Place, path: &str) -> Value {
    let items = node.get("members").and_then(Node::as_seq).unwrap_or_default();
    if items.is_empty() {
        let message = "At least one member should be specified";
        context.fail(
            Fault::coded(Class::Format, 1, message, format!("{path}.members")),
            place,
        );
    }
    let mut members: Named<()> = Named::default();
    for item in items {
        let Some(name) = item.as_text() else { continue };
        if !context.has("node_templates", name) && !context.has("groups", name) {
            let message = format!("Member '{name}' of group '{group}' does not match any defined node");
            let fault = Fault::logic(40, message, format!("{path}.members"));
            let known: Vec<&str> = context.names("node_templates").chain(context.names("groups")).collect();
            context.fail_name(fault, item.place, name, known);
        }
        members.insert(name.clone(), ());
    }
    members.keys().collect()
}

/// Reads the event policies of a group.
struct GroupPolicyReader<'t> {
    data_types: &'t DataTypes,
    policy_types: &'t PolicyTypes,
    group: &'t str,
}

impl GroupPolicyReader<'_> {
    fn read(&self, context: &mut Context<'_>, name: &str, node: &Node, place: Place, path: &str) -> Map {
        let mut policy = Map::new();
        if node.is_null() {
            return policy;
        }
        let owner = format!("group '{}', policy '{name}'", self.group);
        policy.insert("type", node.get("type").map_or(Value::Null, Value::from));
        let properties = self.values(context, (TYPES, 41), node, "properties", &owner, place, path);
        policy.insert("properties", properties);
        let mut triggers = Map::new();
        for (key, trigger) in node.get("triggers").and_then(Node::as_map).unwrap_or_default() {
            let Some(trigger_name) = key.as_text() else { continue };
            let path = format!("{path}.triggers.{trigger_name}");
            let mut shown = Map::new();
            if !trigger.is_null() {
                let owner = format!("{owner} trigger '{trigger_name}'");
                shown.insert("type", trigger.get("type").map_or(Value::Null, Value::from));
                let parameters = self.values(context, (TRIGGERS, 42), trigger, "parameters", &owner, key.place, &path);
                shown.insert("parameters", parameters);
            }
            triggers.insert(trigger_name.clone(), shown);
        }
        policy.insert("triggers", triggers);
        policy
    }

    /// Properties or parameters of a policy or trigger of a known type.
    #[expect(clippy::too_many_arguments)]
    fn values(
        &self,
        context: &mut Context<'_>,
        (section, code): (&'static str, i32),
        node: &Node,
        key: &str,
        owner: &str,
        place: Place,
        path: &str,
    ) -> Map {
        let Some(type_node) = node.get("type") else {
            return context.empty.clone();
        };
        let type_name = type_node.as_str().unwrap_or_default();
        let known = if section == TYPES {
            &self.policy_types.types
        } else {
            &self.policy_types.triggers
        };
        let Some((_, schema)) = known.get(type_name) else {
            if !context.has(section, type_name) {
                let what = if section == TYPES {
                    "policy type"
                } else {
                    "policy trigger"
                };
                let message = format!("{owner} references a non existent {what} '{type_name}'");
                let names: Vec<&str> = context.names(section).collect();
                context.fail_name(
                    Fault::logic(code, message, format!("{path}.type")),
                    type_node.place,
                    type_name,
                    names,
                );
            }
            return context.empty.clone();
        };
        let written = node.get(key).filter(|written| !written.is_null());
        let owner = || owner.to_owned();
        let path = || format!("{path}.{key}");
        complete_properties(context, self.data_types, schema, written, &owner, &path, place)
    }
}

/// Reads scaling policies.
pub(super) fn build_policies(context: &mut Context<'_>, groups: &Map) -> Map {
    const SECTION: &str = "policies";
    let mut policies = Map::new();
    for (name, entry) in context.sound_entries(SECTION) {
        let node = &entry.value;
        let path = format!("{SECTION}.{name}");
        if node.is_null() {
            let message = format!("the policy '{name}' has no type");
            context.fail(Fault::new(Class::Key, message, path), entry.key.place);
            continue;
        }
        let type_name = node.get("type").and_then(Node::as_str).unwrap_or_default();
        if type_name != SCALING {
            let message =
                format!("'{type_name}' policy type is not implemented. Only '{SCALING}' policy type is supported.");
            let place = node.get("type").map_or(entry.key.place, |node| node.place);
            context.fail_name(
                Fault::logic(204, message, format!("{path}.type")),
                place,
                type_name,
                [SCALING],
            );
        }
        let targets = targets(context, name, node, groups, entry.key.place, &path);
        let properties = node.get("properties").filter(|properties| !properties.is_null());
        let properties = match properties {
            None => scalable::defaults(),
            Some(_) => scalable::read(context, properties, &format!("{path}.properties"), entry.key.place),
        };
        let policy = Map::from_iter([
            ("type", Value::from(type_name)),
            ("properties", properties.into()),
            ("targets", targets.iter().collect()),
        ]);
        policies.insert(name.clone(), policy);
    }
    policies
}

fn targets(context: &mut Context<'_>, policy: &str, node: &Node, groups: &Map, place: Place, path: &str) -> Vec<Text> {
    let items = node.get("targets").and_then(Node::as_seq).unwrap_or_default();
    let path = format!("{path}.targets");
    if items.is_empty() {
        let message =
            format!("Policy '{policy}' has no targets groups defined for it. At least one target group is required.");
        context.fail(Fault::logic(206, message, path.clone()), place);
    }
    let mut targets = Vec::with_capacity(items.len());
    for item in items {
        let Some(name) = item.as_text() else { continue };
        if !groups.contains_key(&**name) && !context.has("groups", name) {
            let message = format!("'{name}' is not a valid policy target. Only groups are valid policy targets.");
            let known: Vec<&str> = context.names("groups").collect();
            context.fail_name(Fault::logic(205, message, path.clone()), item.place, name, known);
        }
        targets.push(name.clone());
    }
    targets
}
