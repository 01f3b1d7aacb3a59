//! From a merged document to a plan: elements in the order of their dependencies, every fault reported (spec/dsl.md, 7–13).
//!
//! An element that is at fault is left out and remembered, so that what refers to it is not blamed as well.

mod bases;
mod containment;
mod context;
mod data_types;
mod inputs;
mod interfaces;
mod order;
mod policies;
mod properties;
mod relationships;
mod resolve;
mod scalable;
mod scaling;
mod schedules;
mod sections;
mod template_relationships;
mod templates;
mod types;
mod usage;
mod workflows;

pub(crate) use schedules::Today;

use context::Context;
use resolve::Plugins;

use crate::diagnostic::{Report, Stage};
use crate::document::{Loaded, locate};
use crate::functions::{self, LeftOut};
use crate::plan::Plan;
use crate::resolver::Resolver;
use crate::version::plan_version;
use crate::{Class, Fault, Map, Text, Value};

/// How a document is read.
pub(crate) struct Settings<'a> {
    pub(crate) resolver: &'a dyn Resolver,
    /// Whether the version of the language matters.
    pub(crate) checks_version: bool,
    /// Whether calls and defaults of inputs are checked; not in imported blueprints.
    pub(crate) checks_calls: bool,
    pub(crate) today: Today,
}

/// Makes the plan. It is complete only if the report gained no faults.
pub(crate) fn build(loaded: &Loaded, settings: &Settings<'_>, report: &mut Report) -> Plan {
    let faults_before = report.count();
    report.enter(Stage::Build);
    let mut context = Context::new(
        &loaded.document,
        report,
        settings.checks_version.then_some(loaded.minor),
    );
    context.check_shapes();
    let data_types = data_types::build(&mut context);
    let plugins = Plugins::build(&mut context, settings.resolver, &loaded.main);
    let node_types = types::build_node_types(&mut context, &data_types);
    let relationship_types = relationships::build_types(&mut context, &data_types, &plugins);
    let inputs = inputs::build(&mut context, &data_types);
    let nodes = templates::build(&mut context, &data_types, &plugins, &node_types, &relationship_types);
    let policy_types = policies::build_types(&mut context, &data_types);
    let groups = policies::build_groups(&mut context, &data_types, &policy_types);
    let policies = policies::build_policies(&mut context, &groups);
    let scaling_groups = scaling::build(&mut context, &policies, &groups, &nodes);
    let workflows = workflows::build(&mut context, &data_types, &plugins);
    let usage = usage::whole_plan(&nodes);
    let mut plan = Plan {
        version: plan_version(&loaded.version, loaded.minor),
        description: context.plain_value("description"),
        metadata: context.plain_value("metadata"),
        inputs,
        relationships: relationship_types.to_map(),
        data_types: data_types.to_map(),
        policy_types: policy_types.types_map(),
        policy_triggers: policy_types.triggers_map(),
        workflow_plugins_to_install: workflows.plugins,
        workflows: workflows.entries,
        policies,
        groups,
        scaling_groups,
        outputs: sections::outputs(&context, "outputs"),
        capabilities: sections::outputs(&context, "capabilities"),
        labels: sections::labels(&mut context, "labels"),
        blueprint_labels: sections::labels(&mut context, "blueprint_labels"),
        resource_tags: context.map_value("resource_tags"),
        deployment_settings: schedules::settings(&mut context, &settings.today),
        deployment_plugins_to_install: usage.deployment,
        host_agent_plugins_to_install: usage.host_agent,
        imported_blueprints: texts(&context.plain_value("imported_blueprints")),
        namespaces_mapping: context.map_value("namespaces_mapping"),
        requirements: Map::new(),
        nodes,
    };
    context.report_all_held();
    context.check_sections();
    let is_clean = context.report.count() == faults_before;
    context.report.enter(Stage::Check);
    if settings.checks_calls {
        inputs::check_defaults(&mut context, &mut plan.inputs);
        let faults = if is_clean {
            functions::check_plan(&plan)
        } else {
            functions::check_partial_plan(&plan, &context)
        };
        for fault in faults {
            report_call(&mut context, fault);
        }
    }
    if is_clean {
        plan.requirements = functions::requirements(&plan);
    }
    context.report.enter(Stage::Load);
    plan
}

/// Reports the faults of shape alone: what there is to say of a document of which a part could not be read. What it refers to may
/// stand in that part.
pub(crate) fn check_shapes(loaded: &Loaded, settings: &Settings<'_>, report: &mut Report) {
    report.enter(Stage::Build);
    let minor = settings.checks_version.then_some(loaded.minor);
    let mut context = Context::new(&loaded.document, report, minor);
    context.check_shapes();
    context.report_all_held();
    context.check_sections();
    context.report.enter(Stage::Load);
}

fn texts(list: &Value) -> Vec<Text> {
    let items = list.as_list().unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(Text::from).collect()
}

/// A blueprint at fault still says which names there are.
impl LeftOut for Context<'_> {
    fn input(&self, name: &str) -> bool {
        self.has("inputs", name)
    }

    fn node(&self, name: &str) -> bool {
        self.has("node_templates", name)
    }
}

/// Reports the fault of a call where the text has it.
fn report_call(context: &mut Context<'_>, mut fault: Fault) {
    if let Some(rest) = fault.path.strip_prefix("nodes.") {
        let rest = rest.replacen(".operations.", ".interfaces.", 1);
        fault.path = format!("node_templates.{rest}");
    }
    let place = locate(context.document, &fault.path);
    let suggestion = match fault.class {
        Class::UnknownInput => context.suggest_from_message(&fault.message, "inputs"),
        Class::Key => context.suggest_from_message(&fault.message, "node_templates"),
        _ => None,
    };
    context.report.add_with(fault, place, suggestion);
}
