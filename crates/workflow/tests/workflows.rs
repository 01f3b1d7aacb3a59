//! Plans and runs of small deployments.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeMap;

use conclave_types::{OperationId, OperationState};
use conclave_workflow::{
    Engine, Failure, FailureKind, Graph, IdSource, Settings, Task, TaskKind, Topology, Verdict, WorkflowCall, plan,
};
use proptest::prelude::*;
use serde_json::{Value, json};

struct Ids(u128);

impl IdSource for Ids {
    fn next(&mut self) -> OperationId {
        self.0 += 1;
        OperationId(uuid::Uuid::from_u128(self.0))
    }
}

fn settings() -> Settings {
    Settings {
        max_retries: 2,
        retry_interval: 1.0,
        wait_after_fail: 600.0,
    }
}

/// `count` nodes, each connected to the one before; every node has create and start.
fn chain(count: usize, state: &str) -> Topology {
    let operation = |script: &str| {
        json!({"plugin": "script", "operation": "script_runner.tasks.run", "executor": "central_deployment_agent",
               "inputs": {"script_path": script}, "has_intrinsic_functions": false})
    };
    let related = |n: usize| {
        if n == 0 {
            json!([])
        } else {
            json!([{"type": "connected", "target_id": format!("n{}", n - 1),
        "source_operations": {"cloudify.interfaces.relationship_lifecycle.establish": operation("link.sh")}, "target_operations": {}}])
        }
    };
    let nodes: Vec<Value> = (0..count)
        .map(|n| {
            json!({"id": format!("n{n}"), "type_hierarchy": ["t"], "relationships": related(n), "operations": {
                "cloudify.interfaces.lifecycle.create": operation("create.sh"),
                "cloudify.interfaces.lifecycle.start": operation("start.sh"),
                "cloudify.interfaces.lifecycle.stop": operation("stop.sh")}})
        })
        .collect();
    let instances: Vec<Value> = (0..count)
        .map(|n| {
            let links = if n == 0 { json!([]) } else { json!([{"type": "connected", "target_name": format!("n{}", n - 1), "target_id": format!("n{}_x", n - 1)}]) };
            json!({"id": format!("n{n}_x"), "node_id": format!("n{n}"), "state": state, "relationships": links})
        })
        .collect();
    Topology::new(&nodes, &instances)
}

fn call(function: &str, parameters: Value) -> WorkflowCall {
    WorkflowCall {
        function: format!("cloudify.plugins.workflows.{function}"),
        parameters,
    }
}

/// What a stored graph would look like.
#[derive(Default)]
struct Record {
    tasks: Vec<Task>,
    notes: Vec<String>,
    states: Vec<String>,
    attempts: BTreeMap<String, usize>,
}

/// Runs a graph to its end; `fail` decides about each attempt, `crash_after` ends the first engine after so many commits and
/// goes on with a new one from the record.
fn run(graph: Graph, fail: impl Fn(&str, i64) -> Option<FailureKind>, crash_after: Option<usize>) -> (Verdict, Record) {
    let mut ids = Ids(1 << 64);
    let mut record = Record {
        tasks: graph.tasks.clone(),
        ..Record::default()
    };
    let mut engine = Engine::new(graph, settings());
    let (mut now, mut commits) = (0, 0);
    loop {
        let step = engine.step(now, &mut ids);
        if step.is_empty() {
            if let Some(verdict) = engine.verdict(now) {
                return (verdict, record);
            }
            now = engine.next_wake_ms().expect("something must happen");
            continue;
        }
        for (id, state, _, _) in &step.transitions {
            record.tasks.iter_mut().find(|task| task.id == *id).unwrap().state = *state;
        }
        record.tasks.extend(step.retries.iter().cloned());
        record.notes.extend(step.notes.iter().map(|note| note.message.clone()));
        record.states.extend(
            step.instances
                .iter()
                .map(|change| format!("{}:{}", change.instance, change.state)),
        );
        let started = engine.committed(step, now);
        commits += 1;
        for id in &started {
            let operation = engine.operation(*id).unwrap().clone();
            *record
                .attempts
                .entry(format!("{}:{}", operation.instance, operation.operation))
                .or_default() += 1;
        }
        if crash_after == Some(commits) {
            // The operations under way die with their manager.
            engine = Engine::new(
                Graph {
                    tasks: record.tasks.clone(),
                },
                settings(),
            );
            continue;
        }
        for id in started {
            let operation = engine.operation(id).unwrap().clone();
            match fail(
                &format!("{}:{}", operation.instance, operation.operation),
                operation.retry_number,
            ) {
                None => engine.succeeded(id, Value::Null),
                Some(kind) => {
                    let failure = Failure {
                        kind,
                        retry_after: None,
                        text: "E: no".into(),
                        error: json!({}),
                        causes: json!([]),
                    };
                    engine.failed(id, failure);
                }
            }
        }
    }
}

fn planned(topology: &Topology, function: &str, parameters: Value) -> Graph {
    plan(&call(function, parameters), topology, &mut Ids(0)).unwrap()
}

#[test]
fn install_reports_every_step_in_order() {
    let (verdict, record) = run(
        planned(&chain(1, "uninitialized"), "install", json!({})),
        |_, _| None,
        None,
    );
    assert_eq!(verdict, Verdict::Succeeded);
    let texts: Vec<&str> = record.notes.iter().map(String::as_str).collect();
    assert_eq!(
        texts,
        [
            "Validating node instance before creation: nothing to do",
            "Precreating node instance: nothing to do",
            "Creating node instance",
            "Sending task 'script_runner.tasks.run'",
            "Task started 'script_runner.tasks.run'",
            "Task succeeded 'script_runner.tasks.run'",
            "Node instance created",
            "Configuring node instance: nothing to do",
            "Starting node instance",
            "Sending task 'script_runner.tasks.run'",
            "Task started 'script_runner.tasks.run'",
            "Task succeeded 'script_runner.tasks.run'",
            "Poststarting node instance: nothing to do",
            "Node instance started",
        ]
    );
    let states = [
        "initializing",
        "creating",
        "created",
        "configuring",
        "configured",
        "starting",
        "started",
    ];
    assert_eq!(record.states, states.map(|state| format!("n0_x:{state}")));
}

#[test]
fn uninstall_goes_the_other_way() {
    let (verdict, record) = run(planned(&chain(2, "started"), "uninstall", json!({})), |_, _| None, None);
    assert_eq!(verdict, Verdict::Succeeded);
    let deleted: Vec<_> = record
        .states
        .iter()
        .filter(|state| state.ends_with("deleted"))
        .collect();
    assert_eq!(deleted, ["n1_x:deleted", "n0_x:deleted"]);
}

#[test]
fn a_recoverable_failure_is_retried_until_the_attempts_are_used_up() {
    let create = |name: &str| name == "n0_x:cloudify.interfaces.lifecycle.create";
    let graph = || planned(&chain(2, "uninitialized"), "install", json!({}));
    let once = |name: &str, attempt: i64| (create(name) && attempt == 0).then_some(FailureKind::Recoverable);
    let (verdict, record) = run(graph(), once, None);
    assert_eq!(
        (verdict, record.attempts["n0_x:cloudify.interfaces.lifecycle.create"]),
        (Verdict::Succeeded, 2)
    );
    assert!(
        record
            .notes
            .contains(&"Task succeeded 'script_runner.tasks.run' [retry 1/2]".to_owned())
    );
    let always = |name: &str, _: i64| create(name).then_some(FailureKind::Recoverable);
    let (verdict, record) = run(graph(), always, None);
    assert_eq!(record.attempts["n0_x:cloudify.interfaces.lifecycle.create"], 3);
    assert!(
        !record
            .attempts
            .contains_key("n1_x:cloudify.interfaces.lifecycle.create"),
        "what depends on it never runs"
    );
    let Verdict::Failed(text) = verdict else {
        panic!("it must fail")
    };
    assert_eq!(
        text,
        "Task failed: script_runner.tasks.run (n0_x:cloudify.interfaces.lifecycle.create): E: no"
    );
    let never = |name: &str, _: i64| create(name).then_some(FailureKind::NonRecoverable);
    assert_eq!(
        run(graph(), never, None).1.attempts["n0_x:cloudify.interfaces.lifecycle.create"],
        1
    );
}

#[test]
fn an_ignored_failure_stops_nothing() {
    let graph = planned(&chain(2, "started"), "uninstall", json!({"ignore_failure": true}));
    let (verdict, record) = run(graph, |_, _| Some(FailureKind::NonRecoverable), None);
    assert_eq!(verdict, Verdict::Succeeded);
    assert!(
        record
            .notes
            .iter()
            .any(|note| note == "Ignoring task script_runner.tasks.run failure")
    );
}

#[test]
fn an_unknown_workflow_is_refused() {
    assert!(plan(&call("heal", json!({})), &chain(1, "started"), &mut Ids(0)).is_err());
}

proptest! {
    /// Whenever the manager dies, everything is done in the end, and nothing but what was under way is done twice.
    #[test]
    fn a_crash_costs_one_attempt_at_most(count in 1usize..6, crash in 1usize..60) {
        let (verdict, record) = run(planned(&chain(count, "uninitialized"), "install", json!({})), |_, _| None, Some(crash));
        prop_assert_eq!(verdict, Verdict::Succeeded);
        prop_assert!(record.tasks.iter().all(|task| task.state == OperationState::Succeeded));
        let operations = record.tasks.iter().filter(|task| matches!(task.kind, TaskKind::Operation(_))).count();
        let attempts: usize = record.attempts.values().sum();
        prop_assert!(attempts >= operations && record.attempts.values().all(|attempts| *attempts <= 2));
    }

    /// An instance starts after all that it has relationships to.
    #[test]
    fn targets_start_before_sources(count in 2usize..8) {
        let (_, record) = run(planned(&chain(count, "uninitialized"), "install", json!({})), |_, _| None, None);
        let started = |n: usize| record.states.iter().position(|state| *state == format!("n{n}_x:started")).unwrap();
        let creating = |n: usize| record.states.iter().position(|state| *state == format!("n{n}_x:creating")).unwrap();
        for n in 1..count {
            prop_assert!(started(n - 1) < creating(n));
        }
    }
}
