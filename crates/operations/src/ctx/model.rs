//! The state of a running operation's `ctx` and the answers to requests.

use serde_json::{Map, Value, json};

use super::attributes::{Function, Place};
use super::path;
use crate::call::{End, EndOfRelationship, OperationCall, Subject};
use crate::outcome::OperationError;
use crate::python_text;

/// The `ctx` object of one operation.
#[derive(Debug)]
pub struct CtxModel {
    call: OperationCall,
    stored: Vec<(EndOfRelationship, Map<String, Value>)>,
    verdict: Verdict,
    /// Set by `ctx operation retry`, which leaves the script running and the verdict open.
    retry: Option<(String, Option<f64>)>,
}

/// What the script said about its own outcome.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing.
    Open,
    /// `ctx returns`.
    Returned(Value),
    /// `ctx abort-operation`.
    Aborted(String),
    /// `ctx retry-operation` or `ctx operation retry`.
    Retry {
        /// For people.
        message: String,
        /// Seconds before the next attempt.
        retry_after: Option<f64>,
    },
    /// More than one of these.
    Illegal,
}

/// What a request leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// An answer.
    Answer(Answer),
    /// Something outside has to be done first.
    Effect(Effect),
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A value.
    Result(Value),
    /// The request failed; the script decides what that means.
    Error {
        /// Name of the error's class.
        type_name: &'static str,
        /// For people.
        message: String,
    },
    /// The script asked for the end of the operation: its `ctx` command fails, so that `set -e` ends the script.
    Stop {
        /// For people.
        message: String,
    },
}

/// What the proxy does for a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Record a log line.
    Log {
        /// debug, info, warning, error or critical.
        level: &'static str,
        /// The line.
        text: String,
    },
    /// Record an event.
    Event(String),
    /// Write an instance's runtime properties back now, then [`CtxModel::written`].
    Write(Dirty),
    /// Answer with a file's content as text.
    GetResource(String),
    /// Put a file on this machine's disk and answer with its path.
    DownloadResource {
        /// The resource.
        path: String,
        /// Where to; chosen by the proxy if the script does not care.
        target: Option<String>,
    },
}

/// Runtime properties that differ from the record.
#[derive(Debug, Clone, PartialEq)]
pub struct Dirty {
    /// Which instance of the operation.
    pub end: EndOfRelationship,
    /// Its id.
    pub instance_id: String,
    /// The version that the changes are based on.
    pub version: i32,
    /// All of its runtime properties.
    pub runtime_properties: Map<String, Value>,
}

/// A request that can't be answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    type_name: &'static str,
    message: String,
}

impl Failure {
    fn runtime(message: impl Into<String>) -> Self {
        Self {
            type_name: "RuntimeError",
            message: message.into(),
        }
    }

    pub(crate) fn non_recoverable(message: impl Into<String>) -> Self {
        Self {
            type_name: "NonRecoverableError",
            message: message.into(),
        }
    }
}

const ILLEGAL: &str = "ctx may only abort or return once";
const READ_ONLY: &str = "Cannot override read only properties";

impl Subject {
    pub(crate) fn end(&self, which: EndOfRelationship) -> Option<&End> {
        match (self, which) {
            (Self::NodeInstance(end), EndOfRelationship::Own) => Some(end),
            (Self::Relationship { source, .. }, EndOfRelationship::Source) => Some(source),
            (Self::Relationship { target, .. }, EndOfRelationship::Target) => Some(target),
            _ => None,
        }
    }

    fn end_mut(&mut self, which: EndOfRelationship) -> Option<&mut End> {
        match (self, which) {
            (Self::NodeInstance(end), EndOfRelationship::Own) => Some(end),
            (Self::Relationship { source, .. }, EndOfRelationship::Source) => Some(source),
            (Self::Relationship { target, .. }, EndOfRelationship::Target) => Some(target),
            _ => None,
        }
    }
}

impl CtxModel {
    /// The object at the start of an operation.
    pub fn new(call: OperationCall) -> Self {
        let ends = [
            EndOfRelationship::Own,
            EndOfRelationship::Source,
            EndOfRelationship::Target,
        ];
        let stored = ends
            .into_iter()
            .filter_map(|which| Some((which, call.subject.end(which)?.instance.runtime_properties.clone())))
            .collect();
        Self {
            call,
            stored,
            verdict: Verdict::Open,
            retry: None,
        }
    }

    /// Answers one request.
    pub fn handle(&mut self, arguments: &[Value]) -> Step {
        match self.walk(arguments) {
            Ok(step) => step,
            Err(Failure { type_name, message }) => Step::Answer(Answer::Error { type_name, message }),
        }
    }

    /// What the script said about the outcome.
    pub fn verdict(&self) -> Verdict {
        match (&self.verdict, &self.retry) {
            (Verdict::Open | Verdict::Returned(_), Some((message, retry_after))) => Verdict::Retry {
                message: message.clone(),
                retry_after: *retry_after,
            },
            (verdict, _) => verdict.clone(),
        }
    }

    /// The instances whose runtime properties differ from the record.
    pub fn dirty(&self) -> Vec<Dirty> {
        self.stored
            .iter()
            .filter_map(|(which, _)| self.dirty_end(*which))
            .collect()
    }

    /// The runtime properties of `dirty` are in the record now, under `version`.
    pub fn written(&mut self, dirty: Dirty, version: i32) {
        if let Some(end) = self.call.subject.end_mut(dirty.end) {
            end.instance.version = version;
        }
        if let Some((_, stored)) = self.stored.iter_mut().find(|(which, _)| *which == dirty.end) {
            *stored = dirty.runtime_properties;
        }
    }

    /// The error for a verdict that no result may follow.
    pub(crate) fn verdict_error(verdict: &Verdict) -> Option<OperationError> {
        use crate::outcome::ErrorKind;
        match verdict {
            Verdict::Open | Verdict::Returned(_) => None,
            Verdict::Illegal => Some(OperationError::non_recoverable(ILLEGAL)),
            Verdict::Aborted(message) => Some(OperationError::non_recoverable(message)),
            Verdict::Retry { message, retry_after } => Some(OperationError {
                retry_after: *retry_after,
                ..OperationError::new(ErrorKind::Retry, "OperationRetry", message)
            }),
        }
    }

    fn dirty_end(&self, which: EndOfRelationship) -> Option<Dirty> {
        let (_, stored) = self.stored.iter().find(|(end, _)| *end == which)?;
        let instance = &self.call.subject.end(which)?.instance;
        (*stored != instance.runtime_properties).then(|| Dirty {
            end: which,
            instance_id: instance.id.clone(),
            version: instance.version,
            runtime_properties: instance.runtime_properties.clone(),
        })
    }

    fn walk(&mut self, arguments: &[Value]) -> Result<Step, Failure> {
        let mut place = Place::Root;
        let mut rest = arguments;
        while let [word, tail @ ..] = rest {
            let next = match word {
                Value::String(word) => place.attribute(&self.call, word)?,
                _ => None,
            };
            let Some(next) = next else { break };
            place = next;
            rest = tail;
        }
        match place {
            Place::Function(function) => self.call_function(&function, rest),
            Place::RuntimeProperties(which) => self.runtime_properties(which, rest),
            Place::Value(Value::Object(map)) => read_only(map, rest),
            Place::Value(value) if rest.is_empty() => Ok(result(value)),
            _ => Err(cannot_process(rest, arguments)),
        }
    }

    fn runtime_properties(&mut self, which: EndOfRelationship, rest: &[Value]) -> Result<Step, Failure> {
        let properties = self.properties_mut(which)?;
        match rest {
            [] => Ok(result(Value::Object(properties.clone()))),
            [key] => {
                let value = path::get(properties, &python_text::display(key));
                value
                    .cloned()
                    .map(result)
                    .map_err(|error| Failure::runtime(error.to_string()))
            }
            [key, value] => path::set(properties, &python_text::display(key), value.clone())
                .map(|()| result(Value::Null))
                .map_err(|error| Failure::runtime(error.to_string())),
            _ => Err(Failure::runtime("Illegal argument while accessing dict")),
        }
    }

    fn properties_mut(&mut self, which: EndOfRelationship) -> Result<&mut Map<String, Value>, Failure> {
        let end = self
            .call
            .subject
            .end_mut(which)
            .ok_or_else(|| Failure::runtime("there is no such node instance"))?;
        Ok(&mut end.instance.runtime_properties)
    }

    fn call_function(&mut self, function: &Function, words: &[Value]) -> Result<Step, Failure> {
        let arguments = Arguments::of(words);
        match function {
            // A mapping as the only word is the value, not a list of named arguments, which would be an error.
            Function::Returns => match words {
                [value] => self.returns(value.clone()),
                _ => self.returns(arguments.required(0, "value")?),
            },
            Function::AbortOperation => {
                let message = arguments.message();
                self.conclude(Verdict::Aborted(message.clone()), message)
            }
            Function::RetryOperation => {
                let (message, retry_after) = arguments.retry();
                self.conclude(
                    Verdict::Retry {
                        message: message.clone(),
                        retry_after,
                    },
                    message,
                )
            }
            Function::Retry => {
                self.retry = Some(arguments.retry());
                Ok(result(Value::Null))
            }
            Function::Log(level) => {
                let text = python_text::display(&arguments.required(0, "msg")?);
                let values = arguments.positional.get(1..).unwrap_or_default();
                let text = if values.is_empty() {
                    text
                } else {
                    python_text::interpolate(&text, values)
                };
                Ok(Step::Effect(Effect::Log { level, text }))
            }
            Function::SendEvent => Ok(Step::Effect(Effect::Event(python_text::display(
                &arguments.required(0, "event")?,
            )))),
            Function::GetResource => Ok(Step::Effect(Effect::GetResource(python_text::display(
                &arguments.required(0, "resource_path")?,
            )))),
            Function::DownloadResource => Ok(Step::Effect(Effect::DownloadResource {
                path: python_text::display(&arguments.required(0, "resource_path")?),
                target: arguments
                    .optional(1, "target_path")
                    .map(|target| python_text::display(&target)),
            })),
            Function::Render(name) => Err(Failure {
                type_name: "NotImplementedError",
                message: format!("ctx {name} is not offered: download the resource and fill it in in the script"),
            }),
            Function::Update(which) => Ok(self
                .dirty_end(*which)
                .map_or_else(|| result(Value::Null), |dirty| Step::Effect(Effect::Write(dirty)))),
            Function::Refresh(which) => match self.dirty_end(*which) {
                None => Ok(result(Value::Null)),
                Some(_) => Err(Failure::non_recoverable(
                    "runtime_properties are dirty: refreshing now would destroy local changes",
                )),
            },
            Function::PropertiesGet(_)
            | Function::PropertiesPop(_)
            | Function::PropertiesUpdate(_)
            | Function::PropertiesClear(_) => self.properties_method(function, &arguments),
        }
    }

    fn properties_method(&mut self, function: &Function, arguments: &Arguments) -> Result<Step, Failure> {
        let value = match function {
            Function::PropertiesGet(which) => {
                let key = python_text::display(&arguments.required(0, "key")?);
                let found = self.properties_mut(*which)?.get(&key).cloned();
                found
                    .or_else(|| arguments.optional(1, "default"))
                    .unwrap_or(Value::Null)
            }
            Function::PropertiesPop(which) => {
                let key = python_text::display(&arguments.required(0, "key")?);
                let removed = self.properties_mut(*which)?.shift_remove(&key);
                let missing = || Failure {
                    type_name: "KeyError",
                    message: format!("'{key}'"),
                };
                removed
                    .or_else(|| arguments.optional(1, "default"))
                    .ok_or_else(missing)?
            }
            Function::PropertiesUpdate(which) => {
                let properties = self.properties_mut(*which)?;
                properties.extend(arguments.named.iter().map(|(key, value)| (key.clone(), value.clone())));
                Value::Null
            }
            Function::PropertiesClear(which) => {
                self.properties_mut(*which)?.clear();
                Value::Null
            }
            other => return Err(Failure::runtime(format!("{other:?} is no method of a mapping"))),
        };
        Ok(result(value))
    }

    fn returns(&mut self, value: Value) -> Result<Step, Failure> {
        if self.verdict != Verdict::Open {
            self.verdict = Verdict::Illegal;
            return Err(Failure::runtime(ILLEGAL));
        }
        // Returning nothing leaves the verdict open, as it does in the original.
        if !value.is_null() {
            self.verdict = Verdict::Returned(value);
        }
        Ok(result(Value::Null))
    }

    fn conclude(&mut self, verdict: Verdict, message: String) -> Result<Step, Failure> {
        if self.verdict != Verdict::Open {
            self.verdict = Verdict::Illegal;
            return Err(Failure::runtime(ILLEGAL));
        }
        self.verdict = verdict;
        Ok(Step::Answer(Answer::Stop { message }))
    }
}

fn result(value: Value) -> Step {
    Step::Answer(Answer::Result(value))
}

fn read_only(map: Map<String, Value>, rest: &[Value]) -> Result<Step, Failure> {
    match rest {
        [] => Ok(result(Value::Object(map))),
        [key] => path::get(&map, &python_text::display(key))
            .cloned()
            .map(result)
            .map_err(|error| Failure::runtime(error.to_string())),
        [_, _] => Err(Failure::non_recoverable(READ_ONLY)),
        _ => Err(Failure::runtime("Illegal argument while accessing dict")),
    }
}

fn cannot_process(rest: &[Value], arguments: &[Value]) -> Failure {
    let all = python_text::display(&json!(arguments));
    match rest.first() {
        Some(word) => Failure::runtime(format!("{} cannot be processed in {all}", python_text::display(word))),
        None => Failure {
            type_name: "TypeError",
            message: format!("{all} names an object that has no JSON form"),
        },
    }
}

/// The words behind a function: a mapping at the end names arguments.
struct Arguments {
    positional: Vec<Value>,
    named: Map<String, Value>,
}

impl Arguments {
    fn of(words: &[Value]) -> Self {
        match words {
            [positional @ .., Value::Object(named)] => Self {
                positional: positional.to_vec(),
                named: named.clone(),
            },
            positional => Self {
                positional: positional.to_vec(),
                named: Map::new(),
            },
        }
    }

    fn optional(&self, position: usize, name: &str) -> Option<Value> {
        self.positional
            .get(position)
            .or_else(|| self.named.get(name))
            .filter(|value| !value.is_null())
            .cloned()
    }

    fn required(&self, position: usize, name: &str) -> Result<Value, Failure> {
        self.positional
            .get(position)
            .or_else(|| self.named.get(name))
            .cloned()
            .ok_or_else(|| Failure {
                type_name: "TypeError",
                message: format!("missing 1 required positional argument: '{name}'"),
            })
    }

    fn message(&self) -> String {
        self.optional(0, "message")
            .map(|message| python_text::display(&message))
            .unwrap_or_default()
    }

    fn retry(&self) -> (String, Option<f64>) {
        let after = self.optional(1, "retry_after").as_ref().and_then(python_text::seconds);
        (self.message(), after.filter(|seconds| *seconds >= 0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{InstanceView, NodeView, OperationContext};

    fn end(id: &str) -> Box<End> {
        let map = |value: Value| value.as_object().unwrap().clone();
        Box::new(End {
            node: NodeView {
                id: id.into(),
                type_name: "t".into(),
                properties: map(json!({"port": 80, "deep": {"list": [1, 2]}})),
                ..NodeView::default()
            },
            instance: InstanceView {
                id: format!("{id}_1"),
                version: 3,
                host_ip: Some("10.0.0.1".into()),
                runtime_properties: map(json!({"a": {"b": 1}})),
                ..InstanceView::default()
            },
        })
    }

    fn model(subject: Subject) -> CtxModel {
        let context = json!({
            "task_name": "script_runner.tasks.run", "execution_id": "e1", "deployment_id": "d1",
            "tenant": {"name": "t1"}, "operation": {"name": "x.create", "retry_number": 2, "max_retries": 60},
        });
        let context = OperationContext::parse(&context).unwrap();
        CtxModel::new(OperationCall {
            context,
            inputs: Map::new(),
            subject,
        })
    }

    fn on_node() -> CtxModel {
        model(Subject::NodeInstance(end("web")))
    }

    fn ask(model: &mut CtxModel, arguments: Value) -> Step {
        model.handle(arguments.as_array().unwrap())
    }

    fn message(step: Step) -> String {
        match step {
            Step::Answer(Answer::Error { message, .. }) => message,
            other => panic!("not an error: {other:?}"),
        }
    }

    #[test]
    fn reads_what_is_there() {
        let mut ctx = on_node();
        for (arguments, value) in [
            (json!(["node", "properties", "port"]), json!(80)),
            (json!(["node", "properties", "deep.list[1]"]), json!(2)),
            (
                json!(["node", "properties"]),
                json!({"port": 80, "deep": {"list": [1, 2]}}),
            ),
            (json!(["node", "id"]), json!("web")),
            (json!(["instance", "id"]), json!("web_1")),
            (json!(["instance", "host_ip"]), json!("10.0.0.1")),
            (json!(["instance", "host-ip"]), json!("10.0.0.1")),
            (json!(["instance", "runtime-properties", "a.b"]), json!(1)),
            (json!(["instance", "runtime_properties", "get", "x", 5]), json!(5)),
            (json!(["execution-id"]), json!("e1")),
            (json!(["deployment", "id"]), json!("d1")),
            (json!(["tenant-name"]), json!("t1")),
            (json!(["operation", "retry-number"]), json!(2)),
            (json!(["operation", "name"]), json!("x.create")),
            (json!(["type"]), json!("node-instance")),
        ] {
            assert_eq!(ask(&mut ctx, arguments.clone()), result(value), "{arguments}");
        }
        assert!(ctx.dirty().is_empty());
    }

    #[test]
    fn says_what_is_not_there() {
        let mut ctx = on_node();
        assert_eq!(
            message(ask(&mut ctx, json!(["nothing", "x"]))),
            "nothing cannot be processed in ['nothing', 'x']"
        );
        assert_eq!(
            message(ask(&mut ctx, json!(["instance", "runtime-properties", "x"]))),
            "illegal path: x"
        );
        assert_eq!(
            message(ask(&mut ctx, json!(["node", "properties", "port", 81]))),
            READ_ONLY
        );
        assert!(message(ask(&mut ctx, json!(["source", "node"]))).contains("relationship-instance context"));
        assert!(message(ask(&mut ctx, json!([]))).contains("no JSON form"));
        assert!(message(ask(&mut ctx, json!(["node", "id", "x"]))).contains("cannot be processed"));
    }

    #[test]
    fn runtime_properties_become_dirty_and_clean_again() {
        let mut ctx = on_node();
        ask(&mut ctx, json!(["instance", "runtime-properties", "new.key", "v"]));
        let Step::Effect(Effect::Write(dirty)) = ask(&mut ctx, json!(["instance", "update"])) else {
            panic!()
        };
        assert_eq!((dirty.instance_id.as_str(), dirty.version), ("web_1", 3));
        assert_eq!(
            Value::Object(dirty.runtime_properties.clone()),
            json!({"a": {"b": 1}, "new": {"key": "v"}})
        );
        ctx.written(dirty, 4);
        assert!(ctx.dirty().is_empty());
        ask(&mut ctx, json!(["instance", "runtime-properties", "pop", "a"]));
        assert_eq!(ctx.dirty()[0].version, 4);
        assert!(message(ask(&mut ctx, json!(["instance", "refresh"]))).contains("dirty"));
    }

    #[test]
    fn a_change_that_was_undone_is_not_written() {
        let mut ctx = on_node();
        ask(&mut ctx, json!(["instance", "runtime-properties", "a.b", 2]));
        ask(&mut ctx, json!(["instance", "runtime-properties", "a.b", 1]));
        assert!(ctx.dirty().is_empty());
        assert_eq!(ask(&mut ctx, json!(["instance", "update"])), result(Value::Null));
    }

    #[test]
    fn both_ends_of_a_relationship_can_be_changed() {
        let mut ctx = model(Subject::Relationship {
            source: end("app"),
            target: end("db"),
        });
        assert_eq!(ask(&mut ctx, json!(["target", "node", "name"])), result(json!("db")));
        ask(&mut ctx, json!(["source", "instance", "runtime-properties", "x", 1]));
        ask(&mut ctx, json!(["target", "instance", "runtime-properties", "y", 2]));
        let ids: Vec<_> = ctx.dirty().into_iter().map(|dirty| dirty.instance_id).collect();
        assert_eq!(ids, ["app_1", "db_1"]);
        assert!(message(ask(&mut ctx, json!(["instance", "id"]))).contains("node-instance context"));
    }

    #[test]
    fn the_outcome_is_said_once() {
        let mut ctx = on_node();
        ask(&mut ctx, json!(["returns", {"a": 1}]));
        assert_eq!(ctx.verdict(), Verdict::Returned(json!({"a": 1})));
        assert_eq!(message(ask(&mut ctx, json!(["abort-operation", "no"]))), ILLEGAL);
        assert_eq!(ctx.verdict(), Verdict::Illegal);
    }

    #[test]
    fn abort_and_retry_stop_the_script() {
        let mut ctx = on_node();
        assert_eq!(
            ask(&mut ctx, json!(["abort-operation", "no way"])),
            Step::Answer(Answer::Stop {
                message: "no way".into()
            })
        );
        assert_eq!(ctx.verdict(), Verdict::Aborted("no way".into()));
        let mut ctx = on_node();
        ask(&mut ctx, json!(["retry-operation", "wait", {"retry_after": 3}]));
        assert_eq!(
            ctx.verdict(),
            Verdict::Retry {
                message: "wait".into(),
                retry_after: Some(3.0)
            }
        );
        let mut ctx = on_node();
        assert_eq!(
            ask(&mut ctx, json!(["operation", "retry", "wait", "9"])),
            result(Value::Null)
        );
        assert_eq!(
            ctx.verdict(),
            Verdict::Retry {
                message: "wait".into(),
                retry_after: Some(9.0)
            }
        );
    }

    #[test]
    fn what_lies_outside_becomes_an_effect() {
        let mut ctx = on_node();
        assert_eq!(
            ask(&mut ctx, json!(["logger", "info", "%s done", "half"])),
            Step::Effect(Effect::Log {
                level: "info",
                text: "half done".into()
            })
        );
        assert_eq!(
            ask(&mut ctx, json!(["logger", "warn", "100% done"])),
            Step::Effect(Effect::Log {
                level: "warning",
                text: "100% done".into()
            })
        );
        assert_eq!(
            ask(&mut ctx, json!(["download-resource", "a/b.txt"])),
            Step::Effect(Effect::DownloadResource {
                path: "a/b.txt".into(),
                target: None
            })
        );
        assert_eq!(
            ask(&mut ctx, json!(["get-resource", "x"])),
            Step::Effect(Effect::GetResource("x".into()))
        );
        assert!(message(ask(&mut ctx, json!(["get-resource"]))).contains("resource_path"));
    }
}
