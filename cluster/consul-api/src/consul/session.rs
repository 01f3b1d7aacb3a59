//! `/v1/session/…` (spec/consul-api.md, section 4).

use std::time::Duration;

use conclave_catalog::directory::{Behavior, DirectoryCommand, NewSession, SERF_HEALTH, Session, SessionId, Ttl};
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use super::fields::{Fields, object};
use super::{Api, duration};
use crate::keeper::{Renewal, Timer};
use crate::watch::Topic;

const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
const LOCK_DELAY_DEFAULT: Duration = Duration::from_secs(15);
const LOCK_DELAY_MAX: Duration = Duration::from_secs(60);
/// A lock-delay that is a number below this means seconds, another one nanoseconds.
const SECONDS_BELOW: f64 = 1000.0;

fn row(session: &Session) -> Value {
    let service_checks: Vec<_> = session
        .service_checks
        .iter()
        .map(|id| json!({"ID": id, "Namespace": ""}))
        .collect();
    json!({
        "ID": session.id,
        "Name": session.name,
        "Node": session.node,
        "LockDelay": session.lock_delay_ns,
        "Behavior": match session.behavior {
            Behavior::Release => "release",
            Behavior::Delete => "delete",
        },
        "TTL": session.ttl.as_ref().map_or("", |ttl| &ttl.text),
        "NodeChecks": session.node_checks,
        "Checks": session.node_checks,
        "ServiceChecks": if service_checks.is_empty() { Value::Null } else { service_checks.into() },
        "CreateIndex": session.create_index,
        "ModifyIndex": session.modify_index,
    })
}

fn id(text: &str) -> Result<SessionId, ApiError> {
    text.parse()
        .map_err(|_| ApiError::Failed(format!("invalid session {text:?}")))
}

pub(super) async fn create(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let body = object(&call.body)?;
    let new = parse(api, &Fields::new(&body))?;
    let id = new.id;
    api.propose(DirectoryCommand::CreateSession(new)).await?;
    call.json(&json!({"ID": id}))
}

fn parse(api: &Api, fields: &Fields<'_>) -> Result<NewSession, ApiError> {
    let behavior = match fields.text_or_empty("Behavior")?.as_str() {
        "" | "release" => Behavior::Release,
        "delete" => Behavior::Delete,
        other => return Err(ApiError::Failed(format!("Invalid Behavior setting '{other}'"))),
    };
    // No list means the default; an empty one means none.
    let node_checks = match fields.texts("NodeChecks")? {
        Some(checks) => checks,
        None => fields.texts("Checks")?.unwrap_or_else(|| vec![SERF_HEALTH.to_owned()]),
    };
    let service_checks = fields.list("ServiceChecks")?.into_iter().flatten();
    let service_checks = service_checks.map(|check| match check {
        Value::String(id) => Ok(id.clone()),
        other => Fields::of(other)?.text_or_empty("ID"),
    });
    Ok(NewSession {
        id: SessionId(uuid::Uuid::new_v4()),
        name: fields.text_or_empty("Name")?,
        node: fields
            .text("Node")?
            .filter(|node| !node.is_empty())
            .unwrap_or_else(|| api.node_name()),
        lock_delay_ns: u64::try_from(lock_delay(fields)?.as_nanos()).unwrap_or(u64::MAX),
        behavior,
        ttl: ttl(api, &fields.text_or_empty("TTL")?)?,
        node_checks,
        service_checks: service_checks.collect::<Result<_, _>>()?,
    })
}

fn lock_delay(fields: &Fields<'_>) -> Result<Duration, ApiError> {
    let wrong = || ApiError::BadRequest("Request decode failed: LockDelay: a duration of 0s to 60s is expected".into());
    let delay = match fields.get("LockDelay") {
        None => LOCK_DELAY_DEFAULT,
        Some(Value::String(text)) => duration::parse(text).ok_or_else(wrong)?,
        Some(Value::Number(number)) => {
            let number = number.as_f64().filter(|number| *number >= 0.0).ok_or_else(wrong)?;
            let seconds = if number < SECONDS_BELOW { number } else { number / 1e9 };
            Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?
        }
        Some(_) => return Err(wrong()),
    };
    if delay > LOCK_DELAY_MAX {
        return Err(wrong());
    }
    Ok(delay)
}

fn ttl(api: &Api, text: &str) -> Result<Option<Ttl>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = || ApiError::Failed(format!("Session TTL '{text}' invalid: it is no duration"));
    let ttl = duration::parse(text).ok_or_else(malformed)?;
    if ttl.is_zero() {
        return Ok(None);
    }
    if ttl < api.session_ttl_min || ttl > TTL_MAX {
        let (min, max) = (duration::show(api.session_ttl_min), duration::show(TTL_MAX));
        let nanos = ttl.as_nanos();
        return Err(ApiError::Failed(format!(
            "Invalid Session TTL '{nanos}', must be between [{min}={max}]"
        )));
    }
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    Ok(Some(Ttl {
        text: text.to_owned(),
        millis,
    }))
}

pub(super) async fn destroy(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    api.propose(DirectoryCommand::EndSessions(vec![id(&call.rest)?]))
        .await?;
    call.json(&true)
}

pub(super) async fn renew(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let id = id(&call.rest)?;
    let unknown = || ApiError::NotFound(format!("Session id '{id}' not found"));
    if api.renewing.renew(&Timer::Session(id)).await? == Renewal::Unknown {
        return Err(unknown());
    }
    let known = |api: &Api| api.state().directory().sessions().get(&id).cloned();
    let session = match known(api) {
        Some(session) => session,
        None => {
            // This node lags behind the leader.
            api.barrier.pass().await?;
            known(api).ok_or_else(unknown)?
        }
    };
    call.json(&[row(&session)])
}

pub(super) async fn info(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let id = id(&call.rest)?;
    api.read(
        call,
        Topic::Session(id),
        |state| state.sessions().index_of(&id),
        |state| {
            let rows: Vec<_> = state
                .sessions()
                .get(&id)
                .map(|session| row(session))
                .into_iter()
                .collect();
            call.json(&rows)
        },
    )
    .await
}

pub(super) async fn list(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    select(api, call, |_| true).await
}

pub(super) async fn of_node(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    select(api, call, |session| *session.node == *call.rest).await
}

async fn select(api: &Api, call: &Call, wanted: impl Fn(&Session) -> bool) -> Result<Answer, ApiError> {
    api.read(
        call,
        Topic::Sessions,
        |state| state.sessions().index(),
        |state| {
            let sessions = state.sessions().entries().values();
            let rows: Vec<_> = sessions
                .filter(|session| wanted(session))
                .map(|session| row(session))
                .collect();
            call.json(&rows)
        },
    )
    .await
}
