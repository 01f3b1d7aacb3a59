//! `/v1/status/…` (spec/consul-api.md, section 6): open to everybody.

use super::Api;
use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;

/// Where the leader is reached; nothing when there is none.
pub(super) fn leader(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let state = api.state();
    let address = api
        .leader()
        .and_then(|id| state.nodes().get(&id))
        .map(|node| format!("{}:{}", node.address, node.ports.peer));
    call.json(&address.unwrap_or_default())
}

/// Where those who vote are reached.
pub(super) fn peers(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let (facts, state) = (api.consensus.facts(), api.state());
    let voters = facts.members.iter().filter(|(_, member)| member.voter);
    let addresses = voters.filter_map(|(id, _)| state.nodes().get(id));
    let addresses: Vec<_> = addresses
        .map(|node| format!("{}:{}", node.address, node.ports.peer))
        .collect();
    call.json(&addresses)
}
