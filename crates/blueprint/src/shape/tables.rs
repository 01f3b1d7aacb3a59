//! The table of all elements.

use super::{ANY, BOOLEAN, Element, FLOAT, Field, Form, INTEGER, LIST, MAP, NUMBER, TEXT};

type F = Field;

const fn f(name: &'static str, element: &'static Element) -> Field {
    Field::new(name, element)
}

/// A reference to something that has a name: it follows that name into a name space.
static REFERENCE: Element = Element::leaf(TEXT);
/// A text that means itself.
static WORDS: Element = Element::leaf(TEXT).unspaced();
static FLAG: Element = Element::leaf(BOOLEAN).unspaced();
static WHOLE: Element = Element::leaf(INTEGER);
static QUANTITY: Element = Element::leaf(NUMBER);
static FREE_MAP: Element = Element::leaf(MAP);
static FREE_LIST: Element = Element::leaf(LIST);
static VALUE: Element = Element::leaf(ANY);
static PLAIN_VALUE: Element = Element::leaf(ANY).unspaced();

// Schemas (7, 12, 13).

const TYPE: Field = f("type", &REFERENCE);
const DEFAULT: Field = f("default", &PLAIN_VALUE);
const DESCRIPTION: Field = f("description", &WORDS);
const REQUIRED: Field = f("required", &FLAG).since(2);
const ITEM_TYPE: Field = f("item_type", &REFERENCE).since(4);
const DISPLAY_LABEL: Field = f("display_label", &WORDS).since(3);

static PROPERTY: Element = Element::new(Form::Struct(&[REQUIRED, DEFAULT, DESCRIPTION, TYPE]));
static PROPERTIES: Element = Element::new(Form::Map(&PROPERTY)).unspaced();
static CONSTRAINT: Element = Element::leaf(MAP).unspaced();
static CONSTRAINTS: Element = Element::new(Form::List(&CONSTRAINT));
static DISPLAY: Element = Element::new(Form::Struct(&[f("rows", &WHOLE)]));
static INPUT: Element = Element::new(Form::Struct(&[
    REQUIRED,
    DEFAULT,
    DESCRIPTION,
    TYPE,
    ITEM_TYPE,
    f("constraints", &CONSTRAINTS),
    DISPLAY_LABEL,
    F::new("hidden", &FLAG).since(3),
    f("display", &DISPLAY),
]));
static INPUTS: Element = Element::new(Form::Map(&INPUT));
static PARAMETER: Element = Element::new(Form::Struct(&[
    REQUIRED,
    DEFAULT,
    DESCRIPTION,
    TYPE,
    ITEM_TYPE,
    f("constraints", &CONSTRAINTS),
]));
static PARAMETERS: Element = Element::new(Form::Map(&PARAMETER)).unspaced();

// Operations (9).

static OPERATION_INPUT_SCHEMAS: Element = Element::new(Form::Map(&INPUT)).unspaced();
static OPERATION_INPUTS: Element = Element::leaf(MAP).unspaced();
const IMPLEMENTATION: Field = f("implementation", &REFERENCE);
const EXECUTOR: Field = f("executor", &WORDS);
const MAX_RETRIES: Field = f("max_retries", &WHOLE).since(1);
const RETRY_INTERVAL: Field = f("retry_interval", &QUANTITY).since(1);
const TIMEOUT: Field = f("timeout", &QUANTITY);
static RECOVERABLE: Element = Element::leaf(BOOLEAN);
const TIMEOUT_RECOVERABLE: Field = f("timeout_recoverable", &RECOVERABLE);

static TYPE_OPERATION: Element = Element::new(Form::TextOr(&[
    IMPLEMENTATION,
    f("inputs", &OPERATION_INPUT_SCHEMAS),
    EXECUTOR,
    MAX_RETRIES,
    RETRY_INTERVAL,
    TIMEOUT,
    TIMEOUT_RECOVERABLE,
]));
static TYPE_INTERFACE: Element = Element::new(Form::Map(&TYPE_OPERATION)).unspaced();
static TYPE_INTERFACES: Element = Element::new(Form::Map(&TYPE_INTERFACE)).unspaced();
static TEMPLATE_OPERATION: Element = Element::new(Form::TextOr(&[
    IMPLEMENTATION,
    f("inputs", &OPERATION_INPUTS),
    EXECUTOR,
    MAX_RETRIES,
    RETRY_INTERVAL,
    TIMEOUT,
    TIMEOUT_RECOVERABLE,
]));
static TEMPLATE_INTERFACE: Element = Element::new(Form::Map(&TEMPLATE_OPERATION)).unspaced();
static TEMPLATE_INTERFACES: Element = Element::new(Form::Map(&TEMPLATE_INTERFACE)).unspaced();

// Types (7, 8).

static NODE_TYPE: Element = Element::new(Form::Struct(&[
    f("derived_from", &REFERENCE),
    f("interfaces", &TYPE_INTERFACES),
    f("properties", &PROPERTIES),
    f("runtime_properties", &PROPERTIES),
]));
static NODE_TYPES: Element = Element::new(Form::Map(&NODE_TYPE));
static RELATIONSHIP_TYPE: Element = Element::new(Form::Struct(&[
    f("derived_from", &REFERENCE),
    f("properties", &PROPERTIES),
    f("source_interfaces", &TYPE_INTERFACES),
    f("target_interfaces", &TYPE_INTERFACES),
]));
static RELATIONSHIP_TYPES: Element = Element::new(Form::Map(&RELATIONSHIP_TYPE));
static DATA_TYPE: Element = Element::new(Form::Struct(&[
    f("properties", &PROPERTIES),
    // The original forgets to exempt these two texts.
    f("description", &REFERENCE),
    f("derived_from", &REFERENCE),
    f("version", &REFERENCE),
]));
static DATA_TYPES: Element = Element::new(Form::Map(&DATA_TYPE));

// Templates (8).

static INSTANCES: Element = Element::new(Form::Struct(&[f("deploy", &WHOLE).required()]));
static COUNT: Element = Element::leaf(INTEGER | MAP);
static COUNT_MAX: Element = Element::leaf(INTEGER | TEXT | MAP);
static SCALABLE_PROPERTIES: Element = Element::new(Form::Struct(&[
    f("min_instances", &COUNT),
    f("max_instances", &COUNT_MAX),
    f("default_instances", &COUNT),
]))
.unspaced();
static SCALABLE: Element = Element::new(Form::Struct(&[f("properties", &SCALABLE_PROPERTIES)]));
static NODE_CAPABILITIES: Element = Element::new(Form::Struct(&[f("scalable", &SCALABLE)]));
static RELATIONSHIP: Element = Element::new(Form::Struct(&[
    f("type", &REFERENCE).required(),
    f("target", &REFERENCE).required(),
    f("properties", &FREE_MAP),
    f("source_interfaces", &TEMPLATE_INTERFACES),
    f("target_interfaces", &TEMPLATE_INTERFACES),
]));
static RELATIONSHIPS: Element = Element::new(Form::List(&RELATIONSHIP));
static NODE_TEMPLATE: Element = Element::new(Form::Struct(&[
    f("type", &REFERENCE).required(),
    f("instances", &INSTANCES),
    f("capabilities", &NODE_CAPABILITIES).since(3),
    f("interfaces", &TEMPLATE_INTERFACES),
    f("relationships", &RELATIONSHIPS),
    f("properties", &FREE_MAP),
]));
static NODE_TEMPLATES: Element = Element::new(Form::Map(&NODE_TEMPLATE));

// Plugins (10).

static PLUGIN_VALUE: Element = Element::leaf(TEXT | INTEGER | FLOAT | BOOLEAN | LIST | MAP);
static PLUGIN_PROPERTY: Element = Element::new(Form::Struct(&[
    DESCRIPTION,
    TYPE,
    DISPLAY_LABEL,
    f("value", &PLUGIN_VALUE),
]));
static PLUGIN_PROPERTIES: Element = Element::new(Form::Map(&PLUGIN_PROPERTY));
static PLUGIN: Element = Element::new(Form::Struct(&[
    f("source", &WORDS),
    f("executor", &WORDS).required(),
    f("install", &FLAG),
    f("install_arguments", &WORDS).since(1),
    f("package_name", &WORDS).since(2),
    f("package_version", &WORDS).since(2),
    f("supported_platform", &WORDS).since(2),
    f("distribution", &WORDS).since(2),
    f("distribution_version", &WORDS).since(2),
    f("distribution_release", &WORDS).since(2),
    f("properties_description", &WORDS).since(5),
    f("properties", &PLUGIN_PROPERTIES).since(5),
]));
static PLUGINS: Element = Element::new(Form::Map(&PLUGIN));

// Groups and policies (11).

static POLICY_TYPE: Element = Element::new(Form::Struct(&[
    f("properties", &PROPERTIES),
    f("source", &WORDS).required(),
]));
static POLICY_TYPES: Element = Element::new(Form::Map(&POLICY_TYPE));
static POLICY_TRIGGER: Element = Element::new(Form::Struct(&[
    f("parameters", &PROPERTIES),
    f("source", &WORDS).required(),
]));
static POLICY_TRIGGERS: Element = Element::new(Form::Map(&POLICY_TRIGGER));
static GROUP_TRIGGER: Element = Element::new(Form::Struct(&[
    f("type", &REFERENCE).required(),
    f("parameters", &FREE_MAP),
]));
static GROUP_TRIGGERS: Element = Element::new(Form::Map(&GROUP_TRIGGER));
static GROUP_POLICY: Element = Element::new(Form::Struct(&[
    f("type", &REFERENCE).required(),
    f("properties", &FREE_MAP),
    f("triggers", &GROUP_TRIGGERS),
]));
static GROUP_POLICIES: Element = Element::new(Form::Map(&GROUP_POLICY));
static REFERENCES: Element = Element::new(Form::List(&REFERENCE));
static GROUP: Element = Element::new(Form::Struct(&[
    f("members", &REFERENCES).required(),
    f("policies", &GROUP_POLICIES),
]));
static GROUPS: Element = Element::new(Form::Map(&GROUP));
static POLICY: Element = Element::new(Form::Struct(&[
    f("type", &REFERENCE).required(),
    f("properties", &SCALABLE_PROPERTIES),
    f("targets", &REFERENCES).required(),
]));
static POLICIES: Element = Element::new(Form::Map(&POLICY));

// Workflows, labels, settings (13).

static ACTIVE: Element = Element::leaf(LIST).unspaced();
static TYPE_NAMES: Element = Element::new(Form::List(&WORDS)).unspaced();
static AVAILABILITY: Element = Element::new(Form::Struct(&[
    f("available", &FLAG),
    f("node_instances_active", &ACTIVE),
    f("node_types_required", &TYPE_NAMES),
]))
.unspaced();
static WORKFLOW: Element = Element::new(Form::TextOr(&[
    f("mapping", &REFERENCE).required(),
    f("parameters", &PARAMETERS),
    f("is_cascading", &FLAG),
    f("availability_rules", &AVAILABILITY).since(4),
]));
static WORKFLOWS: Element = Element::new(Form::Map(&WORKFLOW));
static LABEL: Element = Element::new(Form::Struct(&[f("values", &FREE_LIST).required()]));
static LABELS: Element = Element::new(Form::Map(&LABEL));
static OUTPUT: Element = Element::new(Form::Struct(&[DESCRIPTION, f("value", &VALUE).required()]));
static OUTPUTS: Element = Element::new(Form::Map(&OUTPUT));
static RESOURCE_TAGS: Element = Element::new(Form::Map(&VALUE));
static EXECUTION_ARGUMENTS: Element = Element::new(Form::Struct(&[
    f("force", &FLAG),
    f("is_dry_run", &FLAG),
    f("wait_after_fail", &WHOLE),
    f("allow_custom_parameters", &FLAG),
]));
static SCHEDULE: Element = Element::new(Form::Struct(&[
    f("workflow", &REFERENCE).required(),
    f("execution_arguments", &EXECUTION_ARGUMENTS),
    f("workflow_parameters", &FREE_MAP),
    f("since", &REFERENCE).required(),
    f("until", &REFERENCE),
    f("recurrence", &REFERENCE),
    f("timezone", &REFERENCE),
    f("weekdays", &REFERENCES),
    f("count", &WHOLE),
    f("default_enabled", &FLAG),
    f("stop_after_fail", &FLAG),
    f("slip", &WHOLE),
]));
static SCHEDULES: Element = Element::new(Form::Map(&SCHEDULE));
static DISPLAY_NAME: Element = Element::leaf(TEXT | MAP);
static SETTINGS: Element = Element::new(Form::Struct(&[
    f("default_schedules", &SCHEDULES),
    f("default_groups", &FREE_LIST),
    f("id_template", &REFERENCE),
    f("display_name", &DISPLAY_NAME),
]));

// Imports (5).

static IMPORT_PROPERTY: Element = Element::leaf(TEXT | INTEGER | FLOAT | BOOLEAN | LIST | MAP);
static IMPORT_PROPERTIES: Element = Element::new(Form::Map(&IMPORT_PROPERTY));
/// An entry of `imports` in the main file.
pub(crate) static IMPORT_ENTRY: Element = Element::new(Form::TextOrMap(&IMPORT_PROPERTIES));
static IMPORTED: Element = Element::leaf(TEXT);
static IMPORTED_BLUEPRINTS: Element = Element::new(Form::List(&IMPORTED));
static NAMESPACES: Element = Element::new(Form::Map(&WORDS));
static DEFINITIONS: Element = Element::leaf(MAP | LIST);
static VERSION: Element = Element::leaf(TEXT).unspaced();

/// The sections of a blueprint (4).
pub(crate) static BLUEPRINT: Element = Element::new(Form::Struct(&[
    f("tosca_definitions_version", &VERSION),
    f("description", &REFERENCE).since(2),
    f("imports", &REFERENCES),
    f("dsl_definitions", &DEFINITIONS).since(2),
    f("metadata", &FREE_MAP),
    f("inputs", &INPUTS),
    f("plugins", &PLUGINS),
    f("node_types", &NODE_TYPES),
    f("relationships", &RELATIONSHIP_TYPES),
    f("node_templates", &NODE_TEMPLATES),
    f("policy_types", &POLICY_TYPES),
    f("policy_triggers", &POLICY_TRIGGERS),
    f("groups", &GROUPS),
    f("policies", &POLICIES).since(3),
    f("workflows", &WORKFLOWS),
    f("outputs", &OUTPUTS),
    f("data_types", &DATA_TYPES).since(2),
    f("capabilities", &OUTPUTS),
    f("imported_blueprints", &IMPORTED_BLUEPRINTS),
    f("namespaces_mapping", &NAMESPACES),
    f("labels", &LABELS),
    f("blueprint_labels", &LABELS),
    f("deployment_settings", &SETTINGS),
    f("resource_tags", &RESOURCE_TAGS).since(3),
]));

/// The form of a section.
pub(crate) fn section(name: &str) -> Option<&'static Field> {
    BLUEPRINT.field(name)
}
