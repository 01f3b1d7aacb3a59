//! `/v1/agent/…`: the answering node itself (spec/consul-api.md, section 6).

use std::collections::BTreeMap;

use conclave_catalog::NodeRecord;
use conclave_catalog::directory::member_uuid;
use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;
use super::{Api, DATACENTER};

/// What this API is compatible with (spec/consul-api.md); clients branch on it.
pub(super) const CONSUL_VERSION: &str = "1.8.7";
/// Gossip's port, shown with every member.
const SERF_PORT: u16 = 8301;
const ALIVE: u8 = 1;
const FAILED: u8 = 4;

fn member(api: &Api, node: &NodeRecord) -> Value {
    let cluster = api
        .state()
        .facts()
        .map(|facts| facts.cluster_id.clone())
        .unwrap_or_default();
    json!({
        "Name": node.name,
        "Addr": node.address,
        "Port": SERF_PORT,
        "Tags": {
            "acls": if api.access.is_enforced(&api.state()) { "1" } else { "0" },
            "build": format!("{CONSUL_VERSION}:conclave"),
            "cluster": cluster,
            "dc": DATACENTER,
            "id": member_uuid(node.id),
            "port": node.ports.peer.to_string(),
            "raft_vsn": "3",
            "role": "consul",
            "segment": "",
            "vsn": "2",
            "vsn_max": "3",
            "vsn_min": "2",
        },
        "Status": if node.alive { ALIVE } else { FAILED },
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    })
}

pub(super) fn members(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let state = api.state();
    let members: Vec<_> = state.nodes().values().map(|node| member(api, node)).collect();
    call.json(&members)
}

fn text(number: Option<u64>) -> String {
    number.unwrap_or(0).to_string()
}

pub(super) fn own(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    let state = api.state();
    let me = state.nodes().get(&api.consensus.me());
    let failed = state.nodes().values().filter(|node| !node.alive).count();
    let body = json!({
        "Config": {
            "Datacenter": DATACENTER,
            "NodeName": api.node_name(),
            "NodeID": member_uuid(api.consensus.me()),
            "Revision": "conclave",
            "Server": true,
            "Version": CONSUL_VERSION,
            // Absent in Consul when it is the default; Patroni then takes 10 s for it.
            "SessionTTLMin": u64::try_from(api.session_ttl_min.as_nanos()).unwrap_or(u64::MAX),
        },
        "DebugConfig": {
            "Datacenter": DATACENTER,
            "NodeName": api.node_name(),
            "ServerMode": true,
            "SessionTTLMin": super::duration::show(api.session_ttl_min),
            "Version": CONSUL_VERSION,
        },
        "Coord": {"Vec": vec![0; 8], "Error": 1.5, "Adjustment": 0, "Height": 0.00001},
        "Member": me.map(|node| member(api, node)),
        "Stats": stats(api, state.nodes().len(), failed),
        "Meta": {"consul-network-segment": ""},
    });
    call.json(&body)
}

/// Figures by group; Consul's are all texts.
fn stats(api: &Api, members: usize, failed: usize) -> BTreeMap<&'static str, BTreeMap<&'static str, String>> {
    let (facts, state) = (api.consensus.facts(), api.state());
    let leadership = api.consensus.leadership().borrow().clone();
    let leader = leadership.leader.and_then(|id| state.nodes().get(&id));
    let voters = facts.members.values().filter(|member| member.voter).count();
    let own = state.directory().services().node(&api.node_name());
    let count = |count: Option<usize>| count.unwrap_or(0).to_string();
    let contact = facts
        .last_contact
        .map_or_else(|| "never".to_owned(), super::duration::show);
    let group = |pairs: Vec<(&'static str, String)>| pairs.into_iter().collect::<BTreeMap<_, _>>();
    BTreeMap::from([
        (
            "agent",
            group(vec![
                ("check_monitors", "0".into()),
                ("check_ttls", "0".into()),
                ("checks", count(own.map(|node| node.checks.len()))),
                ("services", count(own.map(|node| node.services.len()))),
            ]),
        ),
        (
            "build",
            group(vec![
                ("prerelease", String::new()),
                ("revision", "conclave".into()),
                ("version", CONSUL_VERSION.into()),
            ]),
        ),
        (
            "consul",
            group(vec![
                (
                    "acl",
                    if api.access.is_enforced(&state) {
                        "enabled"
                    } else {
                        "disabled"
                    }
                    .into(),
                ),
                ("bootstrap", "false".into()),
                ("known_datacenters", "1".into()),
                ("leader", leadership.is_leader.to_string()),
                (
                    "leader_addr",
                    leader.map_or_else(String::new, |node| format!("{}:{}", node.address, node.ports.peer)),
                ),
                ("server", "true".into()),
            ]),
        ),
        (
            "raft",
            group(vec![
                ("applied_index", text(facts.applied)),
                ("commit_index", text(facts.committed.max(facts.applied))),
                ("fsm_pending", "0".into()),
                ("last_contact", contact),
                ("last_log_index", text(facts.last_log_index)),
                ("last_log_term", facts.term.to_string()),
                ("last_snapshot_index", text(facts.snapshot.map(|(index, _)| index))),
                ("last_snapshot_term", text(facts.snapshot.map(|(_, term)| term))),
                ("latest_configuration", super::operator::configuration_text(api)),
                ("latest_configuration_index", facts.membership_index.to_string()),
                ("num_peers", voters.saturating_sub(1).to_string()),
                ("protocol_version", "3".into()),
                ("state", super::operator::title(facts.role.as_str())),
                ("term", facts.term.to_string()),
            ]),
        ),
        (
            "runtime",
            group(vec![
                ("arch", std::env::consts::ARCH.into()),
                ("os", std::env::consts::OS.into()),
                (
                    "cpu_count",
                    std::thread::available_parallelism().map_or_else(|_| "1".into(), |count| count.to_string()),
                ),
            ]),
        ),
        (
            "serf_lan",
            group(vec![
                ("failed", failed.to_string()),
                ("health_score", "0".into()),
                ("left", "0".into()),
                ("members", members.to_string()),
            ]),
        ),
    ])
}

pub(super) fn version(call: &Call) -> Result<Answer, ApiError> {
    call.json(&json!({
        "SHA": "conclave",
        "HumanVersion": CONSUL_VERSION,
        "FIPS": "",
        "Conclave": env!("CARGO_PKG_VERSION"),
    }))
}

pub(super) fn metrics(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    if call.value("format") == Some("prometheus") {
        let text = api.metrics_text();
        return Ok(Answer::of_type("text/plain; version=0.0.4; charset=utf-8", text));
    }
    call.json(&api.metrics_json())
}

/// Members come with tokens and go by an operator's word, with the programs of the cluster.
pub(super) fn refuse_membership(_call: &Call) -> Result<Answer, ApiError> {
    Err(ApiError::Forbidden(
        "Permission denied: members join and leave this cluster with `conclave cluster join` and `conclave cluster remove`".into(),
    ))
}

/// There is nothing to read again: what can be changed while the node runs is in the replicated state.
pub(super) fn reload() -> Answer {
    Answer::empty()
}
