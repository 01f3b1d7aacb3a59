//! Checks of the answering node (spec/consul-api.md, section 7).

use conclave_catalog::directory::{CheckKind, CheckStatus, DirectoryCommand, Registration, cut_output};
use serde_json::Map;

use super::answer::Answer;
use super::call::Call;
use super::catalog::refuse_filter;
use super::error::ApiError;
use super::fields::{Fields, object};
use super::{Api, registration, rows};
use crate::keeper::Timer;

pub(super) async fn list(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    refuse_filter(call)?;
    let state = api.visible(call).await;
    let node = state.services().node(&api.node_name());
    let checks = node
        .into_iter()
        .flat_map(|node| node.checks.values().map(move |check| (node, check)));
    // The check of the cluster itself was registered by nobody.
    let own = checks.filter(|(_, check)| *check.id != *conclave_catalog::directory::SERF_HEALTH);
    let shown: Map<_, _> = own
        .map(|(node, check)| (check.id.to_string(), rows::check(node, check)))
        .collect();
    call.json(&shown)
}

pub(super) async fn register(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let body = object(&call.body)?;
    let check = registration::agent_check(&Fields::new(&body))?;
    let registration = Registration {
        node: api.node_name(),
        facts: None,
        service: None,
        checks: vec![check],
        replace_checks: false,
    };
    api.propose(DirectoryCommand::Register(Box::new(registration))).await?;
    Ok(Answer::empty())
}

pub(super) async fn deregister(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let command = DirectoryCommand::Deregister {
        node: api.node_name(),
        service: None,
        check: Some(call.rest.clone()),
    };
    api.propose(command).await?;
    Ok(Answer::empty())
}

pub(super) async fn pass(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    report(api, call, CheckStatus::Passing, noted(call)).await
}

pub(super) async fn warn(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    report(api, call, CheckStatus::Warning, noted(call)).await
}

pub(super) async fn fail(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    report(api, call, CheckStatus::Critical, noted(call)).await
}

fn noted(call: &Call) -> String {
    call.value("note").unwrap_or_default().to_owned()
}

pub(super) async fn update(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let body = object(&call.body)?;
    let fields = Fields::new(&body);
    let text = fields.text_or_empty("Status")?;
    let malformed = |()| ApiError::BadRequest(format!("Invalid check status: '{text}'"));
    let status = text.parse().map_err(malformed)?;
    report(api, call, status, fields.text_or_empty("Output")?).await
}

/// A result goes into the log when it says something new; that it came at all is told to the leader, who measures.
async fn report(api: &Api, call: &Call, status: CheckStatus, output: String) -> Result<Answer, ApiError> {
    let (node, id) = (api.node_name(), call.rest.as_str());
    // Confirmed: a result that this node takes for known may have been overtaken by an expiry.
    api.barrier.pass().await?;
    let state = api.state();
    let found = state
        .directory()
        .services()
        .node(&node)
        .and_then(|node| node.checks.get(id))
        .cloned();
    let Some(check) = found.filter(|check| matches!(check.definition.kind, CheckKind::Ttl { .. })) else {
        return Err(ApiError::Failed(format!("CheckID {id:?} does not have associated TTL")));
    };
    let output = cut_output(output);
    if check.status != status || check.output != output {
        let command = DirectoryCommand::UpdateCheck {
            node: node.clone(),
            check: id.to_owned(),
            status,
            output,
        };
        api.propose(command).await?;
    }
    if status != CheckStatus::Critical {
        api.renewing.renew(&Timer::Check(node.into(), id.into())).await?;
    }
    Ok(Answer::empty())
}
