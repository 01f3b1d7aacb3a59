//! `/v1/kv/KEY` (spec/consul-api.md, section 3).

use std::sync::Arc;

use conclave_catalog::directory::{DirectoryAnswer, DirectoryCommand, KvEntry, KvOp, KvWrite, SessionId};
use serde::Serialize;

use super::Api;
use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use crate::watch::Topic;

/// An entry as Consul shows it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Row<'a> {
    lock_index: u64,
    key: &'a str,
    flags: u64,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionId>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> Row<'a> {
    pub(super) fn new(entry: &'a KvEntry, with_value: bool) -> Self {
        Self {
            lock_index: entry.lock_index,
            key: &entry.key,
            flags: entry.flags,
            value: if with_value { entry.value.to_base64() } else { None },
            session: entry.session,
            create_index: entry.create_index,
            modify_index: entry.modify_index,
        }
    }
}

pub(super) async fn get(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    if call.has("keys") {
        return keys(api, call).await;
    }
    if call.has("recurse") {
        return list(api, call).await;
    }
    let key = call.rest.as_str();
    if key.is_empty() {
        return Err(ApiError::BadRequest("Missing key name".into()));
    }
    // A list shows nothing without a token; a single key would tell whether it is there.
    if !call.trusted {
        return Err(ApiError::PermissionDenied);
    }
    let show = |state: &conclave_catalog::directory::Directory| match state.kv().get(key) {
        None => Ok(Answer::missing()),
        Some(entry) if call.has("raw") => {
            let raw = Answer::of_type("text/plain; charset=utf-8", entry.value.bytes().to_vec());
            Ok(raw
                .with_header("x-content-type-options", "nosniff")
                .with_header("content-security-policy", "sandbox"))
        }
        Some(entry) => call.json(&[Row::new(entry, true)]),
    };
    let topic = Topic::Key(key.to_owned());
    api.read(call, topic, |state| state.kv().index_of_key(key), show).await
}

async fn list(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let prefix = call.rest.as_str();
    let topic = Topic::Prefix(prefix.to_owned());
    let index = |state: &conclave_catalog::directory::Directory| state.kv().index_of_prefix(prefix);
    api.read(call, topic, index, |state| {
        let rows: Vec<_> = state.kv().list(prefix).map(|entry| Row::new(entry, true)).collect();
        if rows.is_empty() {
            Ok(Answer::missing())
        } else {
            call.json(&rows)
        }
    })
    .await
}

async fn keys(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let prefix = call.rest.as_str();
    let topic = Topic::Prefix(prefix.to_owned());
    let index = |state: &conclave_catalog::directory::Directory| state.kv().index_of_prefix(prefix);
    api.read(call, topic, index, |state| {
        let names = state.kv().names(prefix, call.value("separator"));
        if names.is_empty() {
            Ok(Answer::missing())
        } else {
            call.json(&names)
        }
    })
    .await
}

/// Two conditions at once have no meaning.
fn refuse_conflict(call: &Call, flags: &[&str]) -> Result<(), ApiError> {
    if flags.iter().filter(|flag| call.has(flag)).count() > 1 {
        return Err(ApiError::BadRequest(format!("Conflicting flags: {}", call.raw_query())));
    }
    Ok(())
}

fn session(text: &str) -> Result<SessionId, ApiError> {
    // The same beginning as for a session that has ended: to a client it is as good as that.
    text.parse()
        .map_err(|_| ApiError::Failed(format!("invalid session {text:?}")))
}

fn key(call: &Call) -> Result<Arc<str>, ApiError> {
    if call.rest.is_empty() {
        return Err(ApiError::BadRequest("Missing key name".into()));
    }
    Ok(Arc::from(call.rest.as_str()))
}

pub(super) async fn put(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_conflict(call, &["cas", "acquire", "release"])?;
    let write = KvWrite {
        key: key(call)?,
        value: call.body.as_ref().into(),
        flags: call.number("flags")?.unwrap_or(0),
    };
    let operation = match (call.number("cas")?, call.value("acquire"), call.value("release")) {
        (Some(index), _, _) => KvOp::Cas { write, index },
        (None, Some(by), _) => KvOp::Lock {
            write,
            session: session(by)?,
        },
        (None, None, Some(by)) => KvOp::Unlock {
            write,
            session: session(by)?,
        },
        (None, None, None) => KvOp::Set(write),
    };
    operate(api, call, operation).await
}

pub(super) async fn delete(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_conflict(call, &["recurse", "cas"])?;
    let operation = if call.has("recurse") {
        KvOp::DeleteTree {
            prefix: Arc::from(call.rest.as_str()),
        }
    } else {
        let key = key(call)?;
        match call.number("cas")? {
            Some(index) => KvOp::DeleteCas { key, index },
            None => KvOp::Delete { key },
        }
    };
    operate(api, call, operation).await
}

async fn operate(api: &Api, call: &Call, operation: KvOp) -> Result<Answer, ApiError> {
    let answer = api.propose(DirectoryCommand::Kv(operation)).await?;
    call.json(&(answer == DirectoryAnswer::Written(true)))
}
