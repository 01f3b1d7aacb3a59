//! What is done for one node instance (spec/workflows.md, sections 4 to 7).

use conclave_types::OperationId;

use crate::graph::{Graph, IdSource, OperationTask, Sequence, TaskKind};
use crate::topology::{Related, Topology};

const LIFECYCLE: &str = "cloudify.interfaces.lifecycle";
const VALIDATION: &str = "cloudify.interfaces.validation";
const MONITORING: &str = "cloudify.interfaces.monitoring";
const RELATIONSHIP: &str = "cloudify.interfaces.relationship_lifecycle";

/// The tasks of one instance in the making.
struct Steps<'s, 'g> {
    topology: &'s Topology,
    instance: &'s str,
    sequence: Sequence<'g>,
    ignore_failure: bool,
}

impl Steps<'_, '_> {
    fn event(&self, message: &str) -> TaskKind {
        TaskKind::NodeEvent {
            instance: self.instance.into(),
            node: self.topology.node_of(self.instance).into(),
            message: message.into(),
        }
    }

    fn state(&self, state: &str) -> TaskKind {
        let node = self.topology.node_of(self.instance).into();
        TaskKind::SetState {
            instance: self.instance.into(),
            node,
            state: state.into(),
        }
    }

    fn run(&mut self, mut call: OperationTask) {
        call.ignore_failure = self.ignore_failure;
        self.sequence.add(vec![TaskKind::Operation(Box::new(call))]);
    }

    /// An operation between two events, or the event that there is nothing to do.
    fn operation(&mut self, name: &str, before: (&str, Option<&str>), after: (&str, Option<&str>), nothing: &str) {
        let with = |steps: &Self, (message, state): (&str, Option<&str>)| {
            let event = (!message.is_empty()).then(|| steps.event(message));
            event
                .into_iter()
                .chain(state.map(|state| steps.state(state)))
                .collect::<Vec<_>>()
        };
        match self.topology.operation(self.instance, name) {
            Some(call) => {
                self.sequence.add(with(self, before));
                self.run(call);
                self.sequence.add(with(self, after));
            }
            None => {
                self.sequence.add(with(self, (nothing, before.1)));
                self.sequence.add(with(self, ("", after.1)));
            }
        }
    }

    fn has(&self, names: &[&str]) -> bool {
        names
            .iter()
            .any(|name| self.topology.operation(self.instance, name).is_some())
    }

    /// Relationship operations: groups of consecutive relationships to one node, one group after the other.
    fn relationships(&mut self, operation: &str, before: &str, after: &str, reverse: bool) {
        let name = format!("{RELATIONSHIP}.{operation}");
        let mut groups: Vec<(&str, Vec<TaskKind>)> = Vec::new();
        let related: Vec<Related<'_>> = self.topology.relationships(self.instance);
        for relationship in &related {
            let mut calls = self
                .topology
                .relationship_operations(self.instance, relationship, &name);
            for call in &mut calls {
                if let TaskKind::Operation(call) = call {
                    call.ignore_failure = self.ignore_failure;
                }
            }
            match groups.last_mut() {
                Some((node, group)) if *node == relationship.target_node => group.extend(calls),
                _ => groups.push((relationship.target_node, calls)),
            }
        }
        if groups.iter().all(|(_, calls)| calls.is_empty()) {
            return;
        }
        if reverse {
            groups.reverse();
        }
        let (before, after) = (self.event(before), self.event(after));
        self.sequence.add(vec![before]);
        for (_, calls) in groups {
            self.sequence.add(calls);
        }
        self.sequence.add(vec![after]);
    }

    fn has_relationship_work(&self, operations: &[&str]) -> bool {
        let related = self.topology.relationships(self.instance);
        operations.iter().any(|operation| {
            let name = format!("{RELATIONSHIP}.{operation}");
            related.iter().any(|one| {
                !self
                    .topology
                    .relationship_operations(self.instance, one, &name)
                    .is_empty()
            })
        })
    }
}

fn lifecycle(operation: &str) -> String {
    format!("{LIFECYCLE}.{operation}")
}

/// Installs an instance after the given tasks; returns what comes last. Where an earlier install stopped, it goes on.
pub(crate) fn install(
    topology: &Topology,
    instance: &str,
    graph: &mut Graph,
    ids: &mut dyn IdSource,
    after: Vec<OperationId>,
) -> Vec<OperationId> {
    let state = topology.state_of(instance).to_owned();
    let is = |states: &[&str]| states.contains(&state.as_str());
    let sequence = Sequence::new(graph, ids, after);
    let mut steps = Steps {
        topology,
        instance,
        sequence,
        ignore_failure: false,
    };
    let operations: Vec<String> = ["precreate", "create", "configure", "start", "poststart"]
        .map(lifecycle)
        .to_vec();
    let validation = format!("{VALIDATION}.create");
    let monitoring = format!("{MONITORING}.start");
    let mut all: Vec<&str> = operations.iter().map(String::as_str).collect();
    all.extend([validation.as_str(), monitoring.as_str()]);
    if is(&["started"]) {
        return steps.sequence.end();
    }
    if !steps.has(&all) && !steps.has_relationship_work(&["preconfigure", "postconfigure", "establish"]) {
        let done = vec![
            steps.event("Node instance started (nothing to do)"),
            steps.state("started"),
        ];
        steps.sequence.add(done);
        return steps.sequence.end();
    }
    if is(&["uninitialized", "initializing", "deleted"]) {
        let state = vec![steps.state("initializing")];
        steps.sequence.add(state);
        let texts = (
            "Validating node instance before creation",
            "Node instance validated before creation",
        );
        let nothing = "Validating node instance before creation: nothing to do";
        steps.operation(&validation, (texts.0, None), (texts.1, None), nothing);
        let nothing = "Precreating node instance: nothing to do";
        steps.operation(
            &lifecycle("precreate"),
            ("Precreating node instance", None),
            ("Node instance precreated", None),
            nothing,
        );
    }
    if !is(&["created", "configuring", "configured", "starting"]) {
        let before = ("Creating node instance", Some("creating"));
        let nothing = "Creating node instance: nothing to do";
        steps.operation(
            &lifecycle("create"),
            before,
            ("Node instance created", Some("created")),
            nothing,
        );
    }
    if !is(&["configured", "starting"]) {
        steps.relationships(
            "preconfigure",
            "Pre-configuring relationships",
            "Relationships pre-configured",
            false,
        );
        let before = ("Configuring node instance", Some("configuring"));
        let nothing = "Configuring node instance: nothing to do";
        steps.operation(
            &lifecycle("configure"),
            before,
            ("Node instance configured", Some("configured")),
            nothing,
        );
    }
    steps.relationships(
        "postconfigure",
        "Post-configuring relationships",
        "Relationships post-configured",
        false,
    );
    let before = ("Starting node instance", Some("starting"));
    steps.operation(
        &lifecycle("start"),
        before,
        ("", None),
        "Starting node instance: nothing to do",
    );
    let nothing = "Poststarting node instance: nothing to do";
    steps.operation(
        &lifecycle("poststart"),
        ("Poststarting node instance", None),
        ("Node instance poststarted", None),
        nothing,
    );
    if let Some(call) = topology.operation(instance, &monitoring) {
        steps.run(call);
    }
    steps.relationships(
        "establish",
        "Establishing relationships",
        "Relationships established",
        false,
    );
    let done = vec![steps.event("Node instance started"), steps.state("started")];
    steps.sequence.add(done);
    steps.sequence.end()
}

/// Uninstalls an instance after the given tasks; returns what comes last.
pub(crate) fn uninstall(
    topology: &Topology,
    instance: &str,
    ignore_failure: bool,
    graph: &mut Graph,
    ids: &mut dyn IdSource,
    after: Vec<OperationId>,
) -> Vec<OperationId> {
    let state = topology.state_of(instance).to_owned();
    let is = |states: &[&str]| states.contains(&state.as_str());
    let sequence = Sequence::new(graph, ids, after);
    let mut steps = Steps {
        topology,
        instance,
        sequence,
        ignore_failure,
    };
    if is(&["stopped", "deleting", "deleted", "uninitialized", "configured"]) {
        let skipped = vec![steps.event(&format!("Stop: instance already {state}"))];
        steps.sequence.add(skipped);
    } else {
        let begin = vec![steps.event("Stopping node instance"), steps.state("stopping")];
        steps.sequence.add(begin);
        let validation = format!("{VALIDATION}.delete");
        let texts = (
            "Validating node instance before deletion",
            "Node instance validated before deletion",
        );
        let nothing = "Validating node instance after deletion: nothing to do";
        steps.operation(&validation, (texts.0, None), (texts.1, None), nothing);
        if let Some(call) = topology.operation(instance, &format!("{MONITORING}.stop")) {
            steps.run(call);
        }
        steps.operation(
            &lifecycle("prestop"),
            ("Prestopping node instance", None),
            ("Node instance prestopped", None),
            "",
        );
        let nothing = "Stopped node instance: nothing to do";
        steps.operation(&lifecycle("stop"), ("", None), ("Stopped node instance", None), nothing);
    }
    if !is(&["stopped", "deleting", "deleted"]) {
        let stopped = vec![steps.state("stopped")];
        steps.sequence.add(stopped);
    }
    if is(&["deleted", "uninitialized"]) {
        let skipped = vec![steps.event(&format!("Delete: instance already {state}"))];
        steps.sequence.add(skipped);
    } else {
        steps.relationships("unlink", "Unlinking relationships", "Relationships unlinked", true);
        let before = ("Deleting node instance", Some("deleting"));
        steps.operation(
            &lifecycle("delete"),
            before,
            ("", None),
            "Deleting node instance: nothing to do",
        );
        steps.operation(
            &lifecycle("postdelete"),
            ("Postdeleting node instance", None),
            ("Node instance postdeleted", None),
            "",
        );
    }
    if !is(&["deleted"]) {
        let done = vec![steps.event("Deleted node instance"), steps.state("deleted")];
        steps.sequence.add(done);
    }
    steps.sequence.end()
}
