//! The `ctx` command, which scripts use to talk to the manager (spec/plugins-and-agents.md, section 8).
//!
//! A start takes about a millisecond: one request over a plain socket, without a runtime.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::python_text;

/// Seconds that an answer may take, unless told otherwise.
const TIMEOUT: u64 = 30;

const USAGE: &str =
    "usage: ctx [-t|--timeout SECONDS] [--socket-url URL] [-j|--json-output] [--json-arg-prefix PREFIX] WORD...

Reads and changes the context of the running operation: ctx instance runtime-properties KEY [VALUE],
ctx node properties KEY, ctx logger info TEXT, ctx download-resource PATH, ctx returns VALUE,
ctx operation retry MESSAGE SECONDS, ctx abort-operation MESSAGE, ...
A word with the prefix (default @) is read as JSON.
";

/// What the command line asks for.
#[derive(Debug, PartialEq)]
struct Options {
    timeout: Duration,
    url: String,
    json_output: bool,
    words: Vec<Value>,
}

/// Why the command fails; the text goes to the error output.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("{USAGE}")]
    Help,
    #[error("ctx: {0}\n{USAGE}")]
    Usage(String),
    #[error("Missing CTX_SOCKET_URL environment variable or socket_url command line argument")]
    NoAddress,
    #[error("ctx can't reach the operation at {url}: {source}")]
    Unreachable { url: String, source: std::io::Error },
    #[error("ctx got an answer that it does not understand: {0}")]
    BadAnswer(String),
    #[error("{type_name}: {message}")]
    Refused { type_name: String, message: String },
    #[error("{0}")]
    Stop(String),
}

/// Runs the command with the words after its name; answers the exit code: 0, or 1 for any error, also when the word was to
/// end the operation.
pub fn run(arguments: impl IntoIterator<Item = String>) -> i32 {
    let environment = std::env::var("CTX_SOCKET_URL").ok();
    match answer(arguments, environment) {
        // No end of line, as in the original: a setter leaves no trace in the script's output.
        Ok(text) => match write!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush()) {
            Ok(()) => 0,
            Err(_) => 1,
        },
        Err(CommandError::Help) => {
            print_error(USAGE);
            0
        }
        Err(error) => {
            print_error(&error.to_string());
            1
        }
    }
}

fn print_error(text: &str) {
    // Nobody is left to tell when the error output is closed.
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

fn answer(arguments: impl IntoIterator<Item = String>, url: Option<String>) -> Result<String, CommandError> {
    let options = Options::parse(arguments, url)?;
    let body = json!({"args": options.words}).to_string();
    let reply = post(&options.url, &body, options.timeout)?;
    let payload = reply.get("payload").cloned().unwrap_or(Value::Null);
    let part = |name: &str| payload.get(name).map(python_text::display).unwrap_or_default();
    match reply.get("type").and_then(Value::as_str) {
        Some("error") => Err(CommandError::Refused {
            type_name: part("type"),
            message: part("message"),
        }),
        Some("stop_operation") => Err(CommandError::Stop(part("message"))),
        _ if options.json_output => Ok(python_text::json(&payload)),
        _ if python_text::is_falsy(&payload) => Ok(String::new()),
        _ => Ok(python_text::display(&payload)),
    }
}

impl Options {
    /// Options may stand anywhere until `--`; a word that only looks like an option is a word.
    fn parse(arguments: impl IntoIterator<Item = String>, url: Option<String>) -> Result<Self, CommandError> {
        let mut arguments = arguments.into_iter();
        let (mut timeout, mut url, mut json_output, mut prefix) = (TIMEOUT, url, false, String::from("@"));
        let mut words = Vec::new();
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            let mut value = |name: &str| {
                inline
                    .clone()
                    .or_else(|| arguments.next())
                    .ok_or_else(|| CommandError::Usage(format!("{name} needs a value")))
            };
            match name {
                "-t" | "--timeout" => {
                    let text = value(name)?;
                    timeout = text
                        .parse()
                        .map_err(|_| CommandError::Usage(format!("{text:?} is no number of seconds")))?;
                }
                "--socket-url" => url = Some(value(name)?),
                "--json-arg-prefix" => prefix = value(name)?,
                "-j" | "--json-output" => json_output = true,
                "-h" | "--help" if words.is_empty() => return Err(CommandError::Help),
                "--" => words.extend(arguments.by_ref()),
                _ => words.push(argument),
            }
        }
        let words = words
            .into_iter()
            .map(|word| read_word(word, &prefix))
            .collect::<Result<_, _>>()?;
        let url = url.filter(|url| !url.is_empty()).ok_or(CommandError::NoAddress)?;
        Ok(Self {
            timeout: Duration::from_secs(timeout.max(1)),
            url,
            json_output,
            words,
        })
    }
}

fn read_word(word: String, prefix: &str) -> Result<Value, CommandError> {
    match word.strip_prefix(prefix).filter(|_| !prefix.is_empty()) {
        Some(text) => {
            serde_json::from_str(text).map_err(|error| CommandError::Usage(format!("{word:?} is not JSON: {error}")))
        }
        None => Ok(Value::String(word)),
    }
}

/// One HTTP request, the connection closed after it.
fn post(url: &str, body: &str, timeout: Duration) -> Result<Value, CommandError> {
    let (host, path) = match url
        .strip_prefix("http://")
        .map(|rest| rest.split_once('/').unwrap_or((rest, "")))
    {
        Some(parts) => parts,
        None => return Err(CommandError::Usage(format!("{url} is no http:// address"))),
    };
    let unreachable = |source| CommandError::Unreachable {
        url: url.to_owned(),
        source,
    };
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let length = body.len();
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    parse_answer(&exchange().map_err(unreachable)?)
}

fn parse_answer(answer: &[u8]) -> Result<Value, CommandError> {
    let bad = |what: &str| CommandError::BadAnswer(what.to_owned());
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(|| bad("it has no end of headers"))?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(bad(status));
    }
    serde_json::from_slice(&answer[end + 4..]).map_err(|error| bad(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, CommandError> {
        Options::parse(
            arguments.iter().map(|text| (*text).to_owned()),
            Some("http://localhost:1/x".into()),
        )
    }

    #[test]
    fn options_and_words() {
        let options = parse(&["-j", "-t", "5", "instance", "runtime-properties", "k", "@{\"a\": 1}"]).unwrap();
        assert_eq!(options.timeout, Duration::from_secs(5));
        assert!(options.json_output);
        assert_eq!(
            options.words,
            [
                json!("instance"),
                json!("runtime-properties"),
                json!("k"),
                json!({"a": 1})
            ]
        );
        let options = parse(&["--json-arg-prefix=%", "a", "@b", "%5", "--", "-t"]).unwrap();
        assert_eq!(options.words, [json!("a"), json!("@b"), json!(5), json!("-t")]);
        assert_eq!(parse(&["logger", "info", "-5"]).unwrap().words.len(), 3);
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse(&["a", "@{"]).unwrap_err().to_string().contains("is not JSON"));
        assert!(parse(&["-t"]).unwrap_err().to_string().contains("needs a value"));
        assert!(
            parse(&["-t", "x"])
                .unwrap_err()
                .to_string()
                .contains("no number of seconds")
        );
        assert!(matches!(
            Options::parse(["a".to_owned()], None),
            Err(CommandError::NoAddress)
        ));
        assert!(
            post("unix://x", "", Duration::from_secs(1))
                .unwrap_err()
                .to_string()
                .contains("no http://")
        );
    }

    #[test]
    fn answers_are_read_with_care() {
        let body = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse_answer(body).unwrap(), json!({}));
        assert!(
            parse_answer(b"HTTP/1.1 404 Not Found\r\n\r\n")
                .unwrap_err()
                .to_string()
                .contains("404")
        );
        assert!(parse_answer(b"").is_err());
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\n\r\n{").is_err());
    }
}
