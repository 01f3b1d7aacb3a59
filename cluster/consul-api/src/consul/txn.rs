//! `/v1/txn`: several operations on keys, all or none (spec/consul-api.md, section 5).

use std::sync::Arc;

use conclave_catalog::directory::{
    DirectoryAnswer, DirectoryCommand, KvOp, KvWrite, SessionId, TxnError, TxnRow, Value,
};
use http::StatusCode;
use serde_json::json;

use super::Api;
use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use super::fields::Fields;
use super::kv::Row;
use super::read::{Consistency, consistency};

/// Longer lists are refused.
const OPERATIONS_MAX: usize = 64;

pub(super) async fn put(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let body: serde_json::Value = serde_json::from_slice(&call.body)
        .map_err(|error| ApiError::BadRequest(format!("Failed to parse body: {error}")))?;
    let list = body
        .as_array()
        .ok_or_else(|| ApiError::BadRequest("Failed to parse body: a list is expected".into()))?;
    if list.len() > OPERATIONS_MAX {
        return Err(ApiError::TxnTooLong(list.len(), OPERATIONS_MAX));
    }
    let (mut operations, mut errors) = (Vec::new(), Vec::new());
    for (operation, entry) in list.iter().enumerate() {
        match parse(entry)? {
            Ok(parsed) => operations.push(parsed),
            Err(what) => errors.push(TxnError { operation, what }),
        }
    }
    if !errors.is_empty() {
        return show(call, Err(&errors), None);
    }
    if operations.iter().all(KvOp::is_read) {
        return read_only(api, call, &operations).await;
    }
    match api.propose(DirectoryCommand::Txn(operations)).await? {
        DirectoryAnswer::Txn(Ok(rows)) => show(call, Ok(&rows), None),
        DirectoryAnswer::Txn(Err(errors)) => show(call, Err(&errors), None),
        DirectoryAnswer::Done | DirectoryAnswer::Written(_) => Err(ApiError::Failed(
            "the transaction was answered as something else".into(),
        )),
    }
}

async fn read_only(api: &Api, call: &Call, operations: &[KvOp]) -> Result<Answer, ApiError> {
    let consistency = consistency(call)?;
    if consistency != Consistency::Stale {
        api.barrier.pass().await?;
    }
    let state = api.state();
    let outcome = state.directory().read_txn(operations);
    let index = state.directory().kv().index().max(1);
    let answer = show(call, outcome.as_deref().map_err(Vec::as_slice), Some(index))?;
    let answer = answer.with_header("x-consul-index", &index.to_string());
    Ok(api.with_freshness(answer, consistency))
}

/// 200 with what was read and written, or 409 with what did not hold.
fn show(call: &Call, outcome: Result<&[TxnRow], &[TxnError]>, read_index: Option<u64>) -> Result<Answer, ApiError> {
    match outcome {
        Ok(rows) => {
            let results: Vec<_> = rows
                .iter()
                .map(|row| json!({"KV": Row::new(&row.entry, row.with_value)}))
                .collect();
            let mut body = json!({"Results": results, "Errors": null});
            if let (Some(index), Some(fields)) = (read_index, body.as_object_mut()) {
                fields.insert("Index".into(), index.into());
                fields.insert("LastContact".into(), 0.into());
                fields.insert("KnownLeader".into(), true.into());
                fields.insert("ConsistencyLevel".into(), "leader".into());
            }
            call.json(&body)
        }
        Err(errors) => {
            let errors: Vec<_> = errors
                .iter()
                .map(|error| json!({"OpIndex": error.operation, "What": error.what}))
                .collect();
            let body = json!({"Results": null, "Errors": errors});
            Ok(call.json(&body)?.with_status(StatusCode::CONFLICT))
        }
    }
}

/// An operation; or why it fails the transaction (inner), or the whole request (outer).
fn parse(entry: &serde_json::Value) -> Result<Result<KvOp, String>, ApiError> {
    let entry = Fields::of(entry)?;
    let Some(kv) = entry.get("KV") else {
        let other = ["Node", "Service", "Check"]
            .into_iter()
            .find(|kind| entry.get(kind).is_some());
        return Ok(Err(match other {
            Some(kind) => format!("{kind} operations are not supported in transactions"),
            None => "unknown operation type".into(),
        }));
    };
    let kv = Fields::of(kv)?;
    let verb = kv.text_or_empty("Verb")?;
    let key: Arc<str> = Arc::from(kv.text_or_empty("Key")?);
    let value = match kv.text("Value")? {
        None => Value::default(),
        Some(text) => Value::from_base64(&text)
            .ok_or_else(|| ApiError::BadRequest("Failed to parse body: Value is no base64".into()))?,
    };
    let index = kv.number("Index")?.unwrap_or(0);
    let session = kv.text_or_empty("Session")?;
    let write = KvWrite {
        key: Arc::clone(&key),
        value,
        flags: kv.number("Flags")?.unwrap_or(0),
    };
    let session =
        || -> Result<SessionId, String> { session.parse().map_err(|_| format!("invalid session {session:?}")) };
    if key.is_empty() && !matches!(verb.as_str(), "get-tree" | "delete-tree") {
        return Ok(Err("Missing key name".into()));
    }
    Ok(match verb.as_str() {
        "set" => Ok(KvOp::Set(write)),
        "cas" => Ok(KvOp::Cas { write, index }),
        "lock" => session().map(|session| KvOp::Lock { write, session }),
        "unlock" => session().map(|session| KvOp::Unlock { write, session }),
        "get" => Ok(KvOp::Get { key }),
        "get-tree" => Ok(KvOp::GetTree { prefix: key }),
        "check-index" => Ok(KvOp::CheckIndex { key, index }),
        "check-session" => session().map(|session| KvOp::CheckSession { key, session }),
        "check-not-exists" => Ok(KvOp::CheckNotExists { key }),
        "delete" => Ok(KvOp::Delete { key }),
        "delete-tree" => Ok(KvOp::DeleteTree { prefix: key }),
        "delete-cas" => Ok(KvOp::DeleteCas { key, index }),
        other => Err(format!("unknown KV verb {other:?}")),
    })
}
