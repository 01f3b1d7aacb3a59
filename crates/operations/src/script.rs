//! The inputs of the script runner: what to run and how (spec/plugins-and-agents.md, section 8). Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::outcome::OperationError;
use crate::python_text;

/// The inputs of `script_runner.tasks.run`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScriptInputs {
    pub source: ScriptSource,
    pub process: ProcessOptions,
    /// Inputs as environment variables; those of `process.env` come after the others.
    pub environment: BTreeMap<String, String>,
}

/// Where the script comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ScriptSource {
    /// A resource, an `http(s)` address or a `file://` path.
    Path(String),
    /// The text itself.
    Inline(String),
}

/// The input `process`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProcessOptions {
    pub directory: Option<String>,
    pub arguments: Vec<String>,
    pub command_prefix: Option<String>,
    pub eval_python: Option<bool>,
    /// Whether the script is given a `ctx` to talk to.
    pub ctx_proxy: bool,
    pub log_stdout: bool,
    pub log_stderr: bool,
    pub stderr_to_stdout: bool,
}

impl ScriptInputs {
    /// Reads the inputs.
    ///
    /// # Errors
    /// Non-recoverable ones: the blueprint is wrong.
    pub(crate) fn parse(inputs: &Map<String, Value>) -> Result<Self, OperationError> {
        let text = |name: &str| {
            inputs
                .get(name)
                .filter(|value| !value.is_null())
                .map(python_text::display)
        };
        let source = match (text("script_path"), text("script_source")) {
            (None, None) => return Err(wrong("Either script_path or script_source must be provided")),
            (Some(_), Some(_)) => return Err(wrong("Only provide script_path or script_source, not both")),
            (Some(path), None) => ScriptSource::Path(path),
            (None, Some(text)) => ScriptSource::Inline(dedent(&text)),
        };
        let empty = Map::new();
        let options = match inputs.get("process") {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(options)) => options,
            Some(_) => return Err(wrong("the input process must be a mapping")),
        };
        Ok(Self {
            source,
            process: ProcessOptions::parse(options)?,
            environment: environment(inputs, options)?,
        })
    }

    /// The last part of the script's name, which tells its language.
    pub(crate) fn file_name(&self) -> String {
        match &self.source {
            ScriptSource::Path(path) => {
                let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
                let name: String = name.chars().filter(|letter| !letter.is_control()).collect();
                if matches!(name.as_str(), "" | "." | "..") {
                    "script".into()
                } else {
                    name
                }
            }
            ScriptSource::Inline(_) if self.process.eval_python == Some(true) => "script.py".into(),
            ScriptSource::Inline(_) => "script.sh".into(),
        }
    }

    /// The shell's command line for the script at `path` that begins with `content`.
    pub(crate) fn command(&self, path: &str, content: &[u8]) -> String {
        let extension = self
            .file_name()
            .rsplit_once('.')
            .map(|(_, extension)| extension.to_lowercase());
        let python = self.process.eval_python.unwrap_or(extension.as_deref() == Some("py"));
        let prefix = match &self.process.command_prefix {
            Some(prefix) => Some(prefix.as_str()),
            None if python && !content.starts_with(b"#!") => Some("python3"),
            None if extension.as_deref() == Some("ps1") => Some("powershell"),
            None => None,
        };
        let words = prefix.into_iter().map(str::to_owned).chain([quoted_if_needed(path)]);
        words
            .chain(self.process.arguments.iter().cloned())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl ProcessOptions {
    fn parse(options: &Map<String, Value>) -> Result<Self, OperationError> {
        let text = |name: &str| {
            options
                .get(name)
                .filter(|value| !python_text::is_falsy(value))
                .map(python_text::display)
        };
        let flag = |name: &str, default| options.get(name).map_or(default, |value| !python_text::is_falsy(value));
        let arguments = match options.get("args") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(arguments)) => arguments.iter().map(python_text::display).collect(),
            Some(_) => return Err(wrong("the input process.args must be a list")),
        };
        // The socket kinds of old releases are served over HTTP: the `ctx` command does not see a difference.
        let ctx_proxy = match text("ctx_proxy_type").as_deref() {
            None | Some("auto" | "http" | "unix" | "tcp") => true,
            Some("none") => false,
            Some(other) => return Err(wrong(&format!("Unsupported proxy type: {other}"))),
        };
        Ok(Self {
            directory: text("cwd"),
            arguments,
            command_prefix: text("command_prefix"),
            eval_python: options.get("eval_python").and_then(Value::as_bool),
            ctx_proxy,
            log_stdout: flag("log_stdout", true),
            log_stderr: flag("log_stderr", true),
            stderr_to_stdout: flag("stderr_to_stdout", false),
        })
    }
}

/// Inputs that are not part of the environment.
const OWN_INPUTS: [&str; 5] = ["script_path", "script_source", "process", "ssl_cert_content", "ctx"];

fn environment(
    inputs: &Map<String, Value>,
    options: &Map<String, Value>,
) -> Result<BTreeMap<String, String>, OperationError> {
    let empty = Map::new();
    let explicit = match options.get("env") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(variables)) => variables,
        Some(_) => return Err(wrong("the input process.env must be a mapping")),
    };
    let mut environment = BTreeMap::new();
    for (name, value) in inputs
        .iter()
        .filter(|(name, _)| !OWN_INPUTS.contains(&name.as_str()))
        .chain(explicit)
    {
        let value = python_text::environment_value(value);
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(wrong(&format!(
                "the input {name:?} can't be an environment variable: it holds = or NUL"
            )));
        }
        environment.insert(name.clone(), value);
    }
    Ok(environment)
}

fn wrong(message: &str) -> OperationError {
    OperationError::non_recoverable(message)
}

/// Quotes for the shell only what needs it, so that commands in logs look as users know them.
fn quoted_if_needed(path: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    if path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

/// Takes away the indentation that all lines share.
fn dedent(text: &str) -> String {
    let indentation = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let shared = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(indentation)
        .min()
        .unwrap_or(0);
    let lines = text
        .lines()
        .map(|line| line.get(shared.min(indentation(line))..).unwrap_or_default());
    let mut dedented = lines.collect::<Vec<_>>().join("\n");
    if text.ends_with('\n') {
        dedented.push('\n');
    }
    dedented
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(inputs: Value) -> Result<ScriptInputs, OperationError> {
        ScriptInputs::parse(inputs.as_object().unwrap())
    }

    #[test]
    fn inputs_become_the_environment() {
        let inputs = parse(json!({
            "script_path": "scripts/a.sh", "name": "x", "port": 80, "list": ["a", 1], "flag": false, "none": null,
            "process": {"env": {"port": 81}},
        }))
        .unwrap();
        let expected = [
            ("flag", "false"),
            ("list", r#"["a", 1]"#),
            ("name", "x"),
            ("none", "None"),
            ("port", "81"),
        ];
        assert_eq!(
            inputs.environment,
            expected.map(|(name, value)| (name.into(), value.into())).into()
        );
    }

    #[test]
    fn wrong_inputs_are_named() {
        let message = |inputs| parse(inputs).unwrap_err().message;
        assert_eq!(
            message(json!({})),
            "Either script_path or script_source must be provided"
        );
        assert!(message(json!({"script_path": "a", "script_source": "b"})).contains("not both"));
        let proxy = json!({"script_path": "a", "process": {"ctx_proxy_type": "carrier-pigeon"}});
        assert_eq!(message(proxy), "Unsupported proxy type: carrier-pigeon");
        assert!(message(json!({"script_path": "a", "b\u{0}": 1})).contains("NUL"));
        assert!(message(json!({"script_path": "a", "process": {"args": "x"}})).contains("process.args"));
    }

    #[test]
    fn the_command_follows_the_language() {
        let command = |inputs: Value, content: &str| parse(inputs).unwrap().command("/tmp/s", content.as_bytes());
        assert_eq!(command(json!({"script_path": "a.sh"}), "#!/bin/bash"), "/tmp/s");
        assert_eq!(command(json!({"script_path": "a.py"}), "import os"), "python3 /tmp/s");
        assert_eq!(
            command(json!({"script_path": "a.py"}), "#!/usr/bin/env python3"),
            "/tmp/s"
        );
        assert_eq!(
            command(json!({"script_path": "a.py", "process": {"eval_python": false}}), ""),
            "/tmp/s"
        );
        assert_eq!(command(json!({"script_path": "a.ps1"}), ""), "powershell /tmp/s");
        let prefixed = json!({"script_path": "a.py", "process": {"command_prefix": "bash -x", "args": ["1", 2]}});
        assert_eq!(command(prefixed, ""), "bash -x /tmp/s 1 2");
        assert_eq!(quoted_if_needed("/tmp/it's here"), r"'/tmp/it'\''s here'");
    }

    #[test]
    fn names_and_texts_are_tidied() {
        let name = |path: &str| parse(json!({"script_path": path})).unwrap().file_name();
        assert_eq!(name("http://host/x/run.sh"), "run.sh");
        assert_eq!(name("a/.."), "script");
        assert_eq!(name(r"c:\x\run.ps1"), "run.ps1");
        assert_eq!(dedent("  a\n    b\n\n  c\n"), "a\n  b\n\nc\n");
    }
}
