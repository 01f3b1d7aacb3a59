//! How an operation ended, and its form in a reply (spec/messaging.md, section 4.4).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How an operation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Well, with this result (null when there is none).
    Succeeded(Value),
    /// With an error; its kind says whether another attempt makes sense.
    Failed(OperationError),
    /// It was told to stop. Nothing was written back and nothing is replied.
    Cancelled,
}

/// Whether a failed operation may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Yes, while attempts are left.
    Recoverable,
    /// No.
    NonRecoverable,
    /// The operation itself asks for another attempt.
    Retry,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationError {
    /// Whether another attempt makes sense.
    pub kind: ErrorKind,
    /// Seconds to wait before the next attempt, if the operation says so.
    pub retry_after: Option<f64>,
    /// Name of the error's class, as clients know it (`ProcessException`, `NonRecoverableError`, ...).
    #[serde(rename = "type")]
    pub type_name: String,
    /// For people.
    pub message: String,
    /// Where it happened, if known.
    pub traceback: Option<String>,
    /// What led to it; the error itself comes last.
    pub causes: Vec<ErrorCause>,
}

/// One entry of an error's causes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCause {
    /// For people.
    pub message: String,
    /// Name of the error's class.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Where it happened, empty if unknown.
    pub traceback: String,
}

impl OperationError {
    /// An error of which nothing but class and message is known.
    pub fn new(kind: ErrorKind, type_name: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let cause = ErrorCause {
            message: message.clone(),
            type_name: type_name.to_owned(),
            traceback: String::new(),
        };
        let causes = if kind == ErrorKind::Retry {
            Vec::new()
        } else {
            vec![cause]
        };
        Self {
            kind,
            retry_after: None,
            type_name: type_name.to_owned(),
            message,
            traceback: None,
            causes,
        }
    }

    /// `NonRecoverableError` with this message.
    pub fn non_recoverable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NonRecoverable, "NonRecoverableError", message)
    }

    /// `RecoverableError` with this message.
    pub fn recoverable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Recoverable, "RecoverableError", message)
    }

    /// The error as it stands in a reply and in the record.
    pub fn to_wire(&self) -> Value {
        let (known, arguments) = match self.kind {
            ErrorKind::Recoverable => ("RecoverableError", json!([self.retry_after])),
            ErrorKind::NonRecoverable => ("NonRecoverableError", json!([])),
            ErrorKind::Retry => ("OperationRetry", json!([self.retry_after])),
        };
        json!({
            "exception_type": self.type_name,
            "message": self.message,
            "known_exception_type": known,
            "known_exception_type_args": arguments,
            "known_exception_type_kwargs": {"causes": self.causes},
            "append_message": false,
            "traceback": self.traceback,
        })
    }
}

impl Outcome {
    /// The body of the reply; `None` when nothing is replied.
    pub fn to_reply(&self) -> Option<Value> {
        match self {
            Self::Succeeded(result) => Some(json!({"ok": true, "result": result})),
            Self::Failed(error) => Some(json!({"ok": false, "error": error.to_wire()})),
            Self::Cancelled => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_has_the_form_that_workers_expect() {
        let error = OperationError {
            retry_after: Some(9.0),
            ..OperationError::new(ErrorKind::Retry, "OperationRetry", "not yet")
        };
        let reply = Outcome::Failed(error).to_reply().unwrap();
        assert_eq!(reply["ok"], false);
        assert_eq!(reply["error"]["known_exception_type"], "OperationRetry");
        assert_eq!(reply["error"]["known_exception_type_args"], json!([9.0]));
        assert_eq!(
            Outcome::Succeeded(json!(1)).to_reply().unwrap(),
            json!({"ok": true, "result": 1})
        );
        assert_eq!(Outcome::Cancelled.to_reply(), None);
    }
}
