//! What is to be run: the operation's context (spec/messaging.md, section 4.2), its inputs and its node instances.

use serde_json::{Map, Value};

/// One attempt at an operation.
#[derive(Debug, Clone)]
pub struct OperationCall {
    /// Who asks, in which execution, what function.
    pub context: OperationContext,
    /// The operation's inputs, evaluated.
    pub inputs: Map<String, Value>,
    /// What it works on, as read from the record before the call.
    pub subject: Subject,
}

/// What an operation works on.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// The deployment as a whole.
    Deployment,
    /// A node instance.
    NodeInstance(Box<End>),
    /// A relationship between two node instances.
    Relationship {
        /// Where it starts.
        source: Box<End>,
        /// Where it leads.
        target: Box<End>,
    },
}

/// Which node instance of the subject is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOfRelationship {
    /// The only one, in an operation on a node instance.
    Own,
    /// A relationship's source.
    Source,
    /// A relationship's target.
    Target,
}

/// A node instance with its node.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// The node.
    pub node: NodeView,
    /// The instance.
    pub instance: InstanceView,
}

/// What an operation sees of a node. Its properties are read-only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeView {
    /// The node's id, which is also its name.
    pub id: String,
    /// Its type.
    pub type_name: String,
    /// Its type and the types that it is derived from, the root first.
    pub type_hierarchy: Vec<String>,
    /// Its properties, evaluated.
    pub properties: Map<String, Value>,
    /// How many instances it has.
    pub number_of_instances: u32,
}

/// What an operation sees of a node instance. Its runtime properties may be changed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InstanceView {
    /// Its id.
    pub id: String,
    /// The version that was read; an update names it.
    pub version: i32,
    /// Its number within the node, from 1.
    pub index: i32,
    /// The instance that it runs on.
    pub host_id: Option<String>,
    /// The address of that instance: its runtime property `ip`, else its node's property `ip`.
    pub host_ip: Option<String>,
    /// Its runtime properties, evaluated.
    pub runtime_properties: Map<String, Value>,
    /// Its system properties.
    pub system_properties: Map<String, Value>,
    /// Its relationships, as the API lists them.
    pub relationships: Vec<Value>,
    /// The scaling groups that it belongs to.
    pub scaling_groups: Vec<Value>,
}

/// The fields of `__cloudify_context` that decide something here; the rest is kept for `ctx` to read.
#[derive(Debug, Clone, Default)]
pub struct OperationContext {
    /// The attempt's id.
    pub task_id: Option<String>,
    /// Dotted path of the function, such as `script_runner.tasks.run`.
    pub task_name: String,
    /// The execution that it belongs to.
    pub execution_id: Option<String>,
    /// The deployment.
    pub deployment_id: Option<String>,
    /// The blueprint.
    pub blueprint_id: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// `interface.operation`.
    pub operation_name: Option<String>,
    /// Seconds after which the process is killed.
    pub timeout: Option<f64>,
    /// Whether a timeout may be retried.
    pub timeout_recoverable: bool,
    /// Extra environment variables.
    pub execution_env: Vec<(String, String)>,
    /// All fields as they came.
    pub fields: Map<String, Value>,
}

/// The context of an operation can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// A field is absent.
    #[error("the operation's context has no {0:?}")]
    Missing(&'static str),
    /// A field has another form than the protocol says.
    #[error("the operation's context has a {field:?} that is not {expected}")]
    Malformed {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl OperationContext {
    /// Reads the context. Unknown fields are kept, known ones must have their form.
    ///
    /// # Errors
    /// When `task_name` is absent or a known field has another form.
    pub fn parse(context: &Value) -> Result<Self, ContextError> {
        let fields = context.as_object().ok_or(ContextError::Malformed {
            field: "__cloudify_context",
            expected: "an object",
        })?;
        let operation = match fields.get("operation") {
            None | Some(Value::Null) => None,
            Some(Value::Object(operation)) => Some(operation),
            Some(_) => {
                return Err(ContextError::Malformed {
                    field: "operation",
                    expected: "an object",
                });
            }
        };
        let tenant = match fields.get("tenant") {
            Some(Value::Object(tenant)) => text(tenant, "name")?,
            _ => text(fields, "tenant_name")?,
        };
        Ok(Self {
            task_id: text(fields, "task_id")?,
            task_name: text(fields, "task_name")?.ok_or(ContextError::Missing("task_name"))?,
            execution_id: text(fields, "execution_id")?,
            deployment_id: text(fields, "deployment_id")?,
            blueprint_id: text(fields, "blueprint_id")?,
            tenant,
            operation_name: operation
                .map(|operation| text(operation, "name"))
                .transpose()?
                .flatten(),
            timeout: timeout(fields)?,
            timeout_recoverable: fields
                .get("timeout_recoverable")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            execution_env: environment(fields)?,
            fields: fields.clone(),
        })
    }
}

impl OperationCall {
    /// The call of an operation's message: its `kwargs`, with the context among them as `__cloudify_context`.
    ///
    /// # Errors
    /// See [`OperationContext::parse`].
    pub fn from_kwargs(mut kwargs: Map<String, Value>, subject: Subject) -> Result<Self, ContextError> {
        let context = kwargs
            .shift_remove("__cloudify_context")
            .ok_or(ContextError::Missing("__cloudify_context"))?;
        Ok(Self {
            context: OperationContext::parse(&context)?,
            inputs: kwargs,
            subject,
        })
    }
}

fn text(fields: &Map<String, Value>, field: &'static str) -> Result<Option<String>, ContextError> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ContextError::Malformed {
            field,
            expected: "a string",
        }),
    }
}

fn timeout(fields: &Map<String, Value>) -> Result<Option<f64>, ContextError> {
    let malformed = ContextError::Malformed {
        field: "timeout",
        expected: "a positive number of seconds",
    };
    match fields.get("timeout") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match crate::python_text::seconds(value) {
            // Python treats zero as "no timeout".
            Some(0.0) => Ok(None),
            Some(seconds) if seconds > 0.0 => Ok(Some(seconds)),
            _ => Err(malformed),
        },
    }
}

fn environment(fields: &Map<String, Value>) -> Result<Vec<(String, String)>, ContextError> {
    match fields.get("execution_env") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(variables)) => Ok(variables
            .iter()
            .map(|(name, value)| (name.clone(), crate::python_text::environment_value(value)))
            .collect()),
        Some(_) => Err(ContextError::Malformed {
            field: "execution_env",
            expected: "an object",
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_a_context_and_leaves_the_inputs() {
        let kwargs = json!({
            "script_path": "a.sh",
            "__cloudify_context": {
                "task_name": "script_runner.tasks.run", "task_id": "t", "tenant": {"name": "default_tenant"},
                "operation": {"name": "cloudify.interfaces.lifecycle.create", "retry_number": 0}, "timeout": "2.5",
                "execution_env": {"A": 1},
            },
        });
        let call = OperationCall::from_kwargs(kwargs.as_object().unwrap().clone(), Subject::Deployment).unwrap();
        assert_eq!(call.inputs.len(), 1);
        assert_eq!(call.context.tenant.as_deref(), Some("default_tenant"));
        assert_eq!(
            call.context.operation_name.as_deref(),
            Some("cloudify.interfaces.lifecycle.create")
        );
        assert_eq!(call.context.timeout, Some(2.5));
        assert_eq!(call.context.execution_env, [("A".to_string(), "1".to_string())]);
    }

    #[test]
    fn names_what_is_wrong() {
        let parse = |value: Value| OperationContext::parse(&value).map(|_| ()).unwrap_err();
        assert_eq!(parse(json!({})), ContextError::Missing("task_name"));
        assert!(parse(json!({"task_name": 1})).to_string().contains("task_name"));
        assert!(
            parse(json!({"task_name": "a", "timeout": -1}))
                .to_string()
                .contains("timeout")
        );
        assert!(parse(json!([])).to_string().contains("an object"));
    }
}
