//! Real scripts, run as real processes, with the real `ctx` command.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use conclave_operations::{
    End, ErrorKind, InstanceView, NodeView, OperationCall, OperationContext, OperationServices, Outcome, Runner,
    RunnerOptions, ServiceError, Subject,
};
use conclave_runtime::{Shutdown, ShutdownTrigger};
use serde_json::{Map, Value, json};

/// The surroundings of the tests' operations: files in memory, everything else written down.
#[derive(Default)]
struct Recorder {
    files: BTreeMap<String, String>,
    lines: Mutex<Vec<String>>,
    updates: Mutex<Vec<(String, i32, Value)>>,
    conflict: bool,
}

#[async_trait::async_trait]
impl OperationServices for Recorder {
    async fn log(&self, level: &str, text: &str) {
        self.lines.lock().unwrap().push(format!("{level} {text}"));
    }

    async fn event(&self, text: &str) {
        self.lines.lock().unwrap().push(format!("event {text}"));
    }

    async fn resource(&self, path: &str) -> Result<Bytes, ServiceError> {
        self.files
            .get(path)
            .map(|text| text.clone().into())
            .ok_or_else(|| ServiceError::NotFound(path.into()))
    }

    async fn update_instance(
        &self,
        id: &str,
        version: i32,
        properties: &Map<String, Value>,
    ) -> Result<i32, ServiceError> {
        if self.conflict {
            return Err(ServiceError::Conflict(id.into()));
        }
        self.updates
            .lock()
            .unwrap()
            .push((id.into(), version, Value::Object(properties.clone())));
        Ok(version + 1)
    }
}

impl Recorder {
    fn has_line(&self, line: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|have| have == line)
    }
}

struct Bench {
    runner: Runner,
    recorder: Arc<Recorder>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(recorder: Recorder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let commands = folder.path().join("bin");
        std::fs::create_dir(&commands).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ctx"), commands.join("ctx")).unwrap();
        let options = RunnerOptions {
            work_dir: folder.path().join("work"),
            commands: Some(commands),
            account: None,
            environment: BTreeMap::new(),
        };
        Self {
            runner: Runner::new(options).unwrap(),
            recorder: Arc::new(recorder),
            folder,
        }
    }

    async fn run(&self, script: &str) -> Outcome {
        self.run_call(call(json!({"script_source": script})), Shutdown::never())
            .await
    }

    async fn run_call(&self, call: OperationCall, shutdown: Shutdown) -> Outcome {
        let services: Arc<dyn OperationServices> = self.recorder.clone();
        tokio::time::timeout(Duration::from_secs(60), self.runner.run(call, services, shutdown))
            .await
            .unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn call(inputs: Value) -> OperationCall {
    let context = json!({
        "task_name": "script_runner.tasks.run", "task_id": "t1", "execution_id": "e1", "workflow_id": "install",
        "deployment_id": "d1", "blueprint_id": "b1", "tenant": {"name": "default_tenant"},
        "operation": {"name": "cloudify.interfaces.lifecycle.create", "retry_number": 0, "max_retries": 60},
    });
    let end = End {
        node: NodeView {
            id: "web".into(),
            properties: json!({"port": 8080, "empty": ""}).as_object().unwrap().clone(),
            ..NodeView::default()
        },
        instance: InstanceView {
            id: "web_abc123".into(),
            version: 7,
            runtime_properties: json!({"before": 1}).as_object().unwrap().clone(),
            ..InstanceView::default()
        },
    };
    OperationCall {
        context: OperationContext::parse(&context).unwrap(),
        inputs: inputs.as_object().unwrap().clone(),
        subject: Subject::NodeInstance(Box::new(end)),
    }
}

fn failure(outcome: Outcome) -> conclave_operations::OperationError {
    match outcome {
        Outcome::Failed(error) => error,
        other => panic!("not a failure: {other:?}"),
    }
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether the process lives. A zombie does not.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn a_script_reads_and_sets_its_context() {
    let script = "#!/bin/bash -e
        ctx logger info \"port is $(ctx node properties port)\"
        ctx instance runtime-properties url http://localhost:$(ctx node properties port)/
        ctx instance runtime-properties nested.count @3
        test \"$(ctx instance runtime_properties before)\" = 1
        test -z \"$(ctx node properties empty)\"
        test \"$greeting\" = 'hello world'
        test \"$list\" = '[1, \"two\"]'
        test \"$(ctx -j node properties)\" = '{\"port\": 8080, \"empty\": \"\"}'
        echo to stdout
        echo to stderr >&2
        ctx send-event 'half way'
        ctx returns @'{\"done\": true}'
    ";
    let bench = Bench::new(Recorder {
        files: [("scripts/a.sh".into(), script.into())].into(),
        ..Recorder::default()
    });
    let inputs = json!({"script_path": "scripts/a.sh", "greeting": "hello world", "list": [1, "two"]});
    let outcome = bench.run_call(call(inputs), Shutdown::never()).await;
    assert_eq!(
        outcome,
        Outcome::Succeeded(json!({"done": true})),
        "{:?}",
        bench.recorder.lines.lock().unwrap()
    );
    for line in [
        "info port is 8080",
        "info <out> to stdout",
        "info <err> to stderr",
        "event half way",
    ] {
        assert!(
            bench.recorder.has_line(line),
            "{line} in {:?}",
            bench.recorder.lines.lock().unwrap()
        );
    }
    let stored = json!({"before": 1, "url": "http://localhost:8080/", "nested": {"count": 3}});
    assert_eq!(
        *bench.recorder.updates.lock().unwrap(),
        [("web_abc123".to_owned(), 7, stored)]
    );
}

#[tokio::test]
async fn a_failing_script_is_recoverable_and_keeps_what_it_set() {
    let bench = Bench::new(Recorder::default());
    let error = failure(
        bench
            .run("echo out; echo err >&2; ctx instance runtime-properties a b; exit 3")
            .await,
    );
    assert_eq!(
        (error.kind, error.type_name.as_str()),
        (ErrorKind::Recoverable, "ProcessException")
    );
    let (command, rest) = error.message.split_once(", exit_code: ").unwrap();
    assert!(
        command.starts_with("command: /") && command.ends_with("/script.sh"),
        "{command}"
    );
    // Setting a property answers nothing, and `ctx` prints nothing.
    assert_eq!(rest, "3, stdout: out\n, stderr: err\n");
    assert_eq!(bench.recorder.updates.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn updates_in_between_are_written_at_once_with_growing_versions() {
    let bench = Bench::new(Recorder::default());
    let outcome = bench
        .run("ctx instance runtime-properties a 1; ctx instance update; ctx instance runtime-properties a 2")
        .await;
    assert_eq!(outcome, Outcome::Succeeded(Value::Null));
    let versions: Vec<_> = bench
        .recorder
        .updates
        .lock()
        .unwrap()
        .iter()
        .map(|(_, version, _)| *version)
        .collect();
    assert_eq!(versions, [7, 8]);
}

#[tokio::test]
async fn a_conflict_fails_the_operation() {
    let bench = Bench::new(Recorder {
        conflict: true,
        ..Recorder::default()
    });
    let error = failure(bench.run("ctx instance runtime-properties a 1").await);
    assert_eq!(error.kind, ErrorKind::Recoverable);
    assert!(
        error.message.contains("web_abc123 was changed by somebody else"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn retry_and_abort_decide_the_outcome() {
    let bench = Bench::new(Recorder::default());
    let error = failure(bench.run("ctx operation retry 'not yet' 9").await);
    assert_eq!(
        (error.kind, error.retry_after, error.message.as_str()),
        (ErrorKind::Retry, Some(9.0), "not yet")
    );
    let error = failure(bench.run("set -e; ctx abort-operation 'never'; echo not reached").await);
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::NonRecoverable, "never")
    );
    assert!(!bench.recorder.has_line("info <out> not reached"));
    assert!(bench.recorder.has_line("info <err> never"));
    let error = failure(bench.run("ctx returns 1; ctx returns 2").await);
    assert_eq!(error.message, "ctx may only abort or return once");
    assert_eq!(error.kind, ErrorKind::NonRecoverable);
}

#[tokio::test]
async fn resources_are_downloaded() {
    let files = BTreeMap::from([("files/index.html".to_owned(), "<p>hello</p>".to_owned())]);
    let bench = Bench::new(Recorder {
        files,
        ..Recorder::default()
    });
    let outcome = bench
        .run(
            "set -e
             path=$(ctx download-resource files/index.html)
             cp $path copy.html
             ctx download-resource files/index.html $PWD/named.html
             ctx returns \"$(ctx get-resource files/index.html) $(cat named.html)\"",
        )
        .await;
    assert_eq!(outcome, Outcome::Succeeded(json!("<p>hello</p> <p>hello</p>")));
    assert_eq!(
        read(&bench.path("work/deployments/default_tenant/d1/copy.html")),
        "<p>hello</p>"
    );
    let error = failure(bench.run("ctx get-resource nothing").await);
    assert!(error.message.contains("nothing was not found"), "{}", error.message);
    let error = failure(
        bench
            .run_call(call(json!({"script_path": "nothing.sh"})), Shutdown::never())
            .await,
    );
    assert!(
        error.message.contains("the script nothing.sh can't be fetched"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_background_process_does_not_hold_the_operation() {
    let bench = Bench::new(Recorder::default());
    let pid_file = bench.path("pid");
    let script = format!("sleep 300 & echo $! > {}; echo started", pid_file.display());
    assert_eq!(bench.run(&script).await, Outcome::Succeeded(Value::Null));
    assert!(bench.recorder.has_line("info <out> started"));
    let pid = read(&pid_file);
    assert!(lives(&pid), "a started service lives on");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.parse().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
}

#[tokio::test]
async fn a_timeout_kills_the_whole_group() {
    let bench = Bench::new(Recorder::default());
    let pid_file = bench.path("pid");
    let script = format!("(trap '' TERM; sleep 300) & echo $! > {}; wait", pid_file.display());
    let mut operation = call(json!({"script_source": script}));
    operation.context.timeout = Some(0.5);
    let error = failure(bench.run_call(operation, Shutdown::never()).await);
    assert_eq!(error.kind, ErrorKind::NonRecoverable);
    assert_eq!(error.message, "Process killed due to timeout of 0.5 seconds");
    let pid = read(&pid_file);
    wait_until("the end of the group", || !lives(&pid)).await;
}

#[tokio::test]
async fn a_cancel_ends_the_script_and_writes_nothing() {
    let bench = Bench::new(Recorder::default());
    let pid_file = bench.path("pid");
    let script = format!(
        "ctx instance runtime-properties a 1; echo $$ > {}; exec sleep 300",
        pid_file.display()
    );
    let trigger = ShutdownTrigger::new();
    let shutdown = trigger.signal();
    let started = async {
        wait_until("the start of the script", || !read(&pid_file).is_empty()).await;
        trigger.fire();
    };
    let (outcome, ()) = tokio::join!(
        bench.run_call(call(json!({"script_source": script})), shutdown),
        started
    );
    assert_eq!(outcome, Outcome::Cancelled);
    assert!(bench.recorder.updates.lock().unwrap().is_empty());
    let pid = read(&pid_file);
    wait_until("the end of the script", || !lives(&pid)).await;
}

#[tokio::test]
async fn scripts_die_with_the_thread_that_started_them() {
    let bench = Bench::new(Recorder::default());
    let pid_file = bench.path("pid");
    // The subshell stands for a program that the script runs: it must end as well.
    let script = format!("(echo $BASHPID; exec sleep 300) > {} ; echo done", pid_file.display());
    let inputs = json!({"script_source": script, "process": {"command_prefix": "bash"}});
    {
        let services: Arc<dyn OperationServices> = bench.recorder.clone();
        let run = bench.runner.run(call(inputs), services, Shutdown::never());
        tokio::pin!(run);
        tokio::select! {
            outcome = &mut run => panic!("ended early: {outcome:?}"),
            () = wait_until("the start of the script", || !read(&pid_file).is_empty()) => {}
        }
        // Dropped here: the caller has lost interest.
    }
    let pid = read(&pid_file);
    wait_until("the end of the script", || !lives(&pid)).await;
}

#[tokio::test]
async fn python_scripts_run_as_processes() {
    let files = BTreeMap::from([(
        "a.py".to_owned(),
        "import os, subprocess\nsubprocess.check_call(['ctx', 'returns', 'python ' + os.environ['x']])\n".to_owned(),
    )]);
    let bench = Bench::new(Recorder {
        files,
        ..Recorder::default()
    });
    let outcome = bench
        .run_call(call(json!({"script_path": "a.py", "x": "works"})), Shutdown::never())
        .await;
    assert_eq!(outcome, Outcome::Succeeded(json!("python works")));
}

#[tokio::test]
async fn process_options_are_followed() {
    let bench = Bench::new(Recorder::default());
    let inputs = json!({
        "script_source": "pwd; echo \"$1-$2\" >&2; echo [$CTX_SOCKET_URL]",
        "process": {"cwd": "/", "args": ["a", "'b c'"], "command_prefix": "bash", "stderr_to_stdout": true, "ctx_proxy_type": "none"},
    });
    assert_eq!(
        bench.run_call(call(inputs), Shutdown::never()).await,
        Outcome::Succeeded(Value::Null)
    );
    for line in ["info <out> /", "info <out> a-b c", "info <out> []"] {
        assert!(
            bench.recorder.has_line(line),
            "{line} in {:?}",
            bench.recorder.lines.lock().unwrap()
        );
    }
    let mut other = call(json!({}));
    other.context.task_name = "my_plugin.tasks.create".into();
    let error = failure(bench.run_call(other, Shutdown::never()).await);
    assert!(
        error.message.starts_with("my_plugin.tasks.create can't be run"),
        "{}",
        error.message
    );
}
