//! `/v1/operator/…` (spec/consul-api.md, section 9).

use std::time::Duration;

use conclave_catalog::directory::member_uuid;
use conclave_catalog::{NodeId, NodeRecord};
use conclave_consensus::Role;
use http::StatusCode;
use serde_json::{Value, json};

use super::agent::CONSUL_VERSION;
use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use super::{Api, duration};

/// Autopilot's defaults: a server that lags by more, or is silent for longer, is not healthy.
const TRAILING_MAX: u64 = 250;
const SILENCE_MAX: Duration = Duration::from_millis(700);

/// `leader` as `Leader`.
pub(super) fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

fn address(node: &NodeRecord) -> String {
    format!("{}:{}", node.address, node.ports.peer)
}

fn servers(api: &Api) -> Vec<Value> {
    let (facts, state) = (api.consensus.facts(), api.state());
    let leader = api.leader();
    let members = facts
        .members
        .iter()
        .filter_map(|(id, member)| Some((id, member, state.nodes().get(id)?)));
    members
        .map(|(id, member, node)| {
            json!({
                "ID": member_uuid(*id),
                "Node": node.name,
                "Address": address(node),
                "Leader": leader == Some(*id),
                "ProtocolVersion": "3",
                "Voter": member.voter,
            })
        })
        .collect()
}

/// The configuration in one line, as Consul's statistics have it.
pub(super) fn configuration_text(api: &Api) -> String {
    let servers = servers(api);
    let servers = servers.iter().map(|server| {
        let suffrage = if server["Voter"] == true { "Voter" } else { "Nonvoter" };
        let text = |field: &str| server[field].as_str().unwrap_or_default().to_owned();
        format!("{{Suffrage:{suffrage} ID:{} Address:{}}}", text("ID"), text("Address"))
    });
    format!("[{}]", servers.collect::<Vec<_>>().join(" "))
}

pub(super) async fn configuration(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    if !call.has("stale") {
        api.barrier.pass().await?;
    }
    let index = api.consensus.facts().membership_index;
    call.json(&json!({"Servers": servers(api), "Index": index}))
}

/// A member by its id, as Consul has ids or as a number, or by its address.
fn find(api: &Api, call: &Call) -> Result<NodeRecord, ApiError> {
    let state = api.state();
    let (id, wanted) = (call.value("id"), call.value("address"));
    let (kind, text) = match (id, wanted) {
        (Some(id), None) => ("id", id),
        (None, Some(address)) => ("address", address),
        _ => {
            return Err(ApiError::BadRequest(
                "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove".into(),
            ));
        }
    };
    let is_it = |node: &&NodeRecord| match kind {
        "id" => member_uuid(node.id) == text || node.id.to_string() == text,
        _ => address(node) == text,
    };
    let found = state.nodes().values().find(is_it).cloned();
    found.ok_or_else(|| ApiError::Failed(format!("{kind} {text:?} was not found in the Raft configuration")))
}

pub(super) async fn remove_peer(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let node = find(api, call)?;
    let facts = api.consensus.facts();
    let voters = facts.members.iter().filter(|(_, member)| member.voter);
    let state = api.state();
    let others: Vec<NodeId> = voters.map(|(id, _)| *id).filter(|id| *id != node.id).collect();
    let alive = others
        .iter()
        .filter(|id| state.nodes().get(id).is_some_and(|node| node.alive))
        .count();
    // What remains must be able to decide without those that are dead already.
    if others.is_empty() || alive < others.len() / 2 + 1 {
        return Err(ApiError::Failed(format!(
            "{} is not removed: the remaining servers would have no quorum",
            node.name
        )));
    }
    api.propose_any(conclave_catalog::Command::RemoveNode(node.id)).await?;
    call.json(&true)
}

pub(super) async fn transfer_leader(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let leadership = api.consensus.leadership().borrow().clone();
    if !leadership.is_leader {
        return Err(ApiError::Failed("ask the leader itself to hand leadership over".into()));
    }
    let target = if call.has("id") || call.has("address") {
        find(api, call)?.id
    } else {
        let facts = api.consensus.facts();
        let fit = facts
            .members
            .iter()
            .filter(|(id, member)| member.voter && **id != api.consensus.me());
        let best = fit.max_by_key(|(_, member)| member.matched).map(|(id, _)| *id);
        best.ok_or_else(|| ApiError::Failed("there is no other voter".into()))?
    };
    let moved = api.consensus.transfer_leader(target).await;
    moved.map_err(|error| ApiError::Failed(error.to_string()))?;
    call.json(&json!({"Success": true}))
}

/// Only the leader knows how far the others are: every node asks it for its view.
pub(super) async fn autopilot_health(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let (facts, state) = (api.consensus.facts(), api.state());
    let leader = api.leader();
    if leader.is_none() {
        return Err(ApiError::NoLeader);
    }
    let last = facts.last_log_index.unwrap_or(0);
    let mut shown = Vec::new();
    let (mut healthy_voters, mut voters) = (0_usize, 0_usize);
    for (id, member) in &facts.members {
        let Some(node) = state.nodes().get(id) else { continue };
        let leads = leader == Some(*id);
        let lags = member.matched.is_some_and(|matched| matched + TRAILING_MAX < last) && !leads;
        let silent = member.silence.is_some_and(|silence| silence > SILENCE_MAX) && !leads;
        let healthy = node.alive && !lags && !silent;
        voters += usize::from(member.voter);
        healthy_voters += usize::from(member.voter && healthy);
        let contact = if leads {
            Duration::ZERO
        } else {
            member.silence.unwrap_or_default()
        };
        shown.push(json!({
            "ID": member_uuid(*id),
            "Name": node.name,
            "Address": address(node),
            "SerfStatus": if node.alive { "alive" } else { "failed" },
            "Version": CONSUL_VERSION,
            "Leader": leads,
            "LastContact": duration::show(contact),
            "LastTerm": facts.term,
            "LastIndex": if leads { last } else { member.matched.unwrap_or(last) },
            "Healthy": healthy,
            "Voter": member.voter,
            "StableSince": node.down_since.unwrap_or(node.joined_at).to_string(),
        }));
    }
    let quorum = voters / 2 + 1;
    let all = shown.iter().all(|server| server["Healthy"] == true);
    let body = json!({
        "Healthy": all && facts.role != Role::Stopped,
        "FailureTolerance": healthy_voters.saturating_sub(quorum),
        "Servers": shown,
    });
    let status = if body["Healthy"] == true {
        StatusCode::OK
    } else {
        StatusCode::TOO_MANY_REQUESTS
    };
    Ok(call.json(&body)?.with_status(status))
}

/// What is in force; membership looks after itself by other rules, which are not settings.
pub(super) fn autopilot_configuration(call: &Call) -> Result<Answer, ApiError> {
    call.json(&json!({
        "CleanupDeadServers": false,
        "LastContactThreshold": duration::show(SILENCE_MAX),
        "MaxTrailingLogs": TRAILING_MAX,
        "MinQuorum": 0,
        "ServerStabilizationTime": "0s",
        "RedundancyZoneTag": "",
        "DisableUpgradeMigration": false,
        "UpgradeVersionTag": "",
        "CreateIndex": 1,
        "ModifyIndex": 1,
    }))
}
