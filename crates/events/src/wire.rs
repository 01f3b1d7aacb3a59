//! Cloudify's JSON for logs and events, both ways. Pure.
//!
//! Beside the fields that every producer since 4.4 sends, ours carry `message_id`, by which repetitions are told, and
//! `reported_timestamp` with microseconds: in the milliseconds of `timestamp` the order of a script's lines would be lost.

use conclave_executor::LogLine;
use conclave_types::{EventKind, EventRecord, ExecutionId};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The queue and worker of operations that managers run themselves.
const MANAGEMENT: &str = "cloudify.management";

/// Why a message cannot be recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is no JSON object.
    #[error("it is no JSON object")]
    NoObject,
    /// It is neither a log nor an event.
    #[error("its type {0} is neither cloudify_log nor cloudify_event")]
    Type(String),
    /// It names no execution, or not by a UUID.
    #[error("its context.execution_id {0} is no UUID")]
    Execution(String),
    /// Its time cannot be read.
    #[error("its timestamp {0} cannot be read")]
    Time(String),
    /// An event without a type.
    #[error("it is an event without event_type")]
    EventType,
}

/// The message of a line.
pub fn encode(line: &LogLine) -> Value {
    let (record, origin) = (&line.record, &line.origin);
    let mut context = Map::new();
    let mut put = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            context.insert(key.to_owned(), value.into());
        }
    };
    let (execution, task) = (record.execution_id.to_string(), origin.task_id.to_string());
    put("blueprint_id", Some(&origin.blueprint_id));
    put("deployment_id", Some(&origin.deployment_id));
    put("execution_id", Some(&execution));
    put("workflow_id", Some(&origin.workflow_id));
    put("task_id", Some(&task));
    put("task_name", Some(&origin.task_name));
    put("task_queue", Some(MANAGEMENT));
    put("task_target", Some(MANAGEMENT));
    put("operation", record.operation.as_deref());
    put("plugin", Some(&origin.plugin));
    put("node_id", record.node_instance_id.as_deref());
    put("node_name", record.node_name.as_deref());
    put("source_id", record.source_id.as_deref());
    put("target_id", record.target_id.as_deref());
    context.insert("tenant".into(), json!({"name": origin.tenant}));
    if let Some(causes) = &record.error_causes {
        context.insert("task_error_causes".into(), causes.clone());
    }
    let mut message = json!({
        "type": "cloudify_log",
        "timestamp": format!("{:.3}", record.reported_timestamp),
        "context": context,
        "message_code": null,
        "message_id": record.message_id,
        "reported_timestamp": format!("{:.6}", record.reported_timestamp),
        "manager_name": record.manager_name,
        "agent_name": record.agent_name,
    });
    match &record.kind {
        EventKind::Log { logger, level } => {
            message["logger"] = logger.as_str().into();
            message["level"] = level.as_str().into();
            message["message"] = json!({"text": record.message});
        }
        EventKind::Event { event_type } => {
            message["type"] = "cloudify_event".into();
            message["event_type"] = event_type.as_str().into();
            message["message"] = json!({"text": record.message, "arguments": null});
        }
    }
    message
}

/// The record of a message. `id` is for messages that carry none of their own, `arrival` for those without a time.
///
/// # Errors
/// When it is none of the two kinds, or says not whose it is.
pub fn parse(body: &[u8], id: impl FnOnce() -> Uuid, arrival: Timestamp) -> Result<EventRecord, Malformed> {
    let mut message: Value = serde_json::from_slice(body).map_err(|_| Malformed::NoObject)?;
    if !message.is_object() {
        return Err(Malformed::NoObject);
    }
    without_nul(&mut message);
    let context = &message["context"];
    let execution = &context["execution_id"];
    let execution_id: ExecutionId = execution
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Malformed::Execution(execution.to_string()))?;
    let kind = kind(&message)?;
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let operation = match &context["operation"] {
        Value::Object(operation) => operation.get("name").and_then(text),
        other => text(other),
    };
    let said = &message["message"];
    let own_id = message["message_id"].as_str().and_then(|text| text.parse().ok());
    Ok(EventRecord {
        message: text(if said.is_object() { &said["text"] } else { said }).unwrap_or_default(),
        operation,
        node_name: text(&context["node_name"]),
        node_instance_id: text(&context["node_id"]),
        source_id: text(&context["source_id"]),
        target_id: text(&context["target_id"]),
        error_causes: Some(&context["task_error_causes"])
            .filter(|causes| !causes.is_null())
            .cloned(),
        manager_name: text(&message["manager_name"]),
        agent_name: text(&message["agent_name"]),
        ..EventRecord::new(own_id.unwrap_or_else(id), execution_id, kind, time(&message, arrival)?)
    })
}

fn kind(message: &Value) -> Result<EventKind, Malformed> {
    match message["type"].as_str() {
        Some("cloudify_log") => Ok(EventKind::Log {
            logger: message["logger"].as_str().unwrap_or_default().to_owned(),
            level: message["level"].as_str().unwrap_or("info").to_lowercase(),
        }),
        Some("cloudify_event") => match message["event_type"].as_str() {
            Some(event_type) => Ok(EventKind::Event {
                event_type: event_type.to_owned(),
            }),
            None => Err(Malformed::EventType),
        },
        _ => Err(Malformed::Type(message["type"].to_string())),
    }
}

/// The producer's time. Old producers leave out the zone; it is UTC.
fn time(message: &Value, arrival: Timestamp) -> Result<Timestamp, Malformed> {
    let given = [&message["reported_timestamp"], &message["timestamp"]]
        .into_iter()
        .find(|value| !value.is_null());
    let Some(given) = given else { return Ok(arrival) };
    let read = |text: &str| {
        let zoned = text.parse::<Timestamp>().ok();
        zoned.or_else(|| {
            text.parse::<DateTime>()
                .ok()?
                .to_zoned(TimeZone::UTC)
                .ok()
                .map(|zoned| zoned.timestamp())
        })
    };
    given
        .as_str()
        .and_then(read)
        .ok_or_else(|| Malformed::Time(given.to_string()))
}

/// PostgreSQL's texts cannot hold NUL, and one of them would refuse a whole batch.
fn without_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "<NUL>"),
        Value::Array(items) => items.iter_mut().for_each(without_nul),
        Value::Object(fields) => fields.values_mut().for_each(without_nul),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use conclave_types::{EventOrigin, OperationId};

    use super::*;

    fn line(kind: EventKind) -> LogLine {
        let at = "2026-03-04T05:06:07.123456Z".parse().unwrap();
        let record = EventRecord {
            message: "hello\n".into(),
            operation: Some("cloudify.interfaces.lifecycle.create".into()),
            node_name: Some("vm".into()),
            node_instance_id: Some("vm_x1".into()),
            source_id: Some("vm_x1".into()),
            target_id: Some("net_y2".into()),
            error_causes: Some(json!([{"type": "E", "message": "m", "traceback": "t"}])),
            manager_name: Some("node1".into()),
            ..EventRecord::new(Uuid::now_v7(), ExecutionId(Uuid::new_v4()), kind, at)
        };
        let origin = EventOrigin {
            tenant: "default_tenant".into(),
            blueprint_id: "bp".into(),
            deployment_id: "dep".into(),
            workflow_id: "install".into(),
            task_id: OperationId(Uuid::new_v4()),
            task_name: "script_runner.tasks.run".into(),
            plugin: "script".into(),
        };
        LogLine {
            record,
            origin: Arc::new(origin),
        }
    }

    fn kinds() -> [EventKind; 2] {
        let log = EventKind::Log {
            logger: "ctx.1".into(),
            level: "warning".into(),
        };
        let event = EventKind::Event {
            event_type: "plugin_event".into(),
        };
        [log, event]
    }

    fn read(body: &Value) -> Result<EventRecord, Malformed> {
        parse(body.to_string().as_bytes(), Uuid::nil, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn what_is_written_is_read_back() {
        for kind in kinds() {
            let line = line(kind);
            assert_eq!(read(&encode(&line)).unwrap(), line.record);
        }
    }

    #[test]
    fn a_message_has_the_fields_that_cloudify_sends() {
        let [log, event] = kinds().map(|kind| encode(&line(kind)));
        assert_eq!(
            (&log["type"], &log["timestamp"]),
            (&json!("cloudify_log"), &json!("2026-03-04T05:06:07.123Z"))
        );
        assert_eq!(
            (&log["level"], &log["message"]),
            (&json!("warning"), &json!({"text": "hello\n"}))
        );
        assert_eq!(log["context"]["node_id"], "vm_x1");
        assert_eq!(log["context"]["tenant"], json!({"name": "default_tenant"}));
        assert_eq!(event["event_type"], "plugin_event");
        assert!(event.get("level").is_none());
    }

    #[test]
    fn a_foreign_log_is_read() {
        // As the Python library 5.0 sends it.
        let execution = Uuid::new_v4();
        let body = json!({
            "type": "cloudify_log", "logger": "ctx.f3", "level": "info", "message": {"text": "a\u{0}b"}, "message_code": null,
            "timestamp": "2019-05-06T07:08:09.123Z",
            "context": {
                "blueprint_id": "bp", "deployment_id": "dep", "execution_id": execution, "workflow_id": "install",
                "task_id": "f3", "task_name": "p.t", "task_queue": "vm_1", "task_target": "vm_1", "plugin": "p",
                "operation": "cloudify.interfaces.lifecycle.start", "node_id": "vm_1", "node_name": "vm",
                "tenant": {"name": "default_tenant"}},
        });
        let record = read(&body).unwrap();
        assert_eq!(record.execution_id, ExecutionId(execution));
        assert_eq!((record.message.as_str(), record.message_id), ("a<NUL>b", Uuid::nil()));
        assert_eq!(record.reported_timestamp.to_string(), "2019-05-06T07:08:09.123Z");
        assert_eq!(record.node_instance_id.as_deref(), Some("vm_1"));
    }

    #[test]
    fn old_times_have_no_zone_and_some_messages_have_no_time() {
        let mut body = encode(&line(kinds()[0].clone()));
        body["reported_timestamp"] = Value::Null;
        body["timestamp"] = "2018-01-02 03:04:05.678".into();
        assert_eq!(
            read(&body).unwrap().reported_timestamp.to_string(),
            "2018-01-02T03:04:05.678Z"
        );
        body["timestamp"] = Value::Null;
        assert_eq!(read(&body).unwrap().reported_timestamp, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn what_cannot_be_recorded_is_told_apart() {
        let good = encode(&line(kinds()[0].clone()));
        let with = |pointer: &str, value: Value| {
            let mut body = good.clone();
            *body.pointer_mut(pointer).unwrap() = value;
            read(&body).unwrap_err()
        };
        assert_eq!(parse(b"{", Uuid::nil, Timestamp::UNIX_EPOCH), Err(Malformed::NoObject));
        assert_eq!(read(&json!([1])), Err(Malformed::NoObject));
        assert!(matches!(with("/type", "other".into()), Malformed::Type(_)));
        assert!(matches!(with("/type", "cloudify_event".into()), Malformed::EventType));
        assert!(matches!(with("/context", Value::Null), Malformed::Execution(_)));
        assert!(matches!(
            with("/context/execution_id", "x".into()),
            Malformed::Execution(_)
        ));
        assert!(matches!(
            with("/reported_timestamp", "yesterday".into()),
            Malformed::Time(_)
        ));
    }
}
