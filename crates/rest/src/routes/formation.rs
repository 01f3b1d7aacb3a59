//! `/cluster`, as 4.x knew it (spec/rest-api.md, section 11): who is a member, who is the active one.
//!
//! There, managers were installed first and made into a cluster through their API. Here a node belongs to a cluster before
//! its manager starts, so what founds and joins is refused, and says which command does it.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::guard::Caller;
use crate::list::{pairs, whole};
use crate::state::{NodeView, Object, RestState};

/// What a state consists of. The last two are shown to those alone who ask for them.
const FIELDS: [&str; 4] = ["initialized", "consul", "error", "logs"];
const SHOWN_UNASKED: usize = 2;

pub(super) async fn state(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    caller.may("cluster_status_get")?;
    let asked = pairs(query.as_deref());
    let named = |name: &str| {
        let found = asked.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let fields: Vec<&str> =
        named("_include").map_or(FIELDS[..SHOWN_UNASKED].to_vec(), |list| list.split(',').collect());
    Ok(Json(shown(&state, &fields, named("since"))?))
}

/// The fields of the cluster's state that are asked for.
fn shown(state: &RestState, fields: &[&str], since: Option<&str>) -> Result<Object, ApiError> {
    let field = |name: &&str| {
        let value = match *name {
            "initialized" => Value::Bool(true),
            "consul" => json!({"leader": state.cluster.leader_address()}),
            // What makes a node unfit for its cluster ends its manager: no member has such an error.
            "error" => Value::Null,
            "logs" => state
                .cluster
                .log(since)
                .into_iter()
                .map(|line| json!({"message": line.text, "timestamp": line.at, "cursor": line.cursor}))
                .collect(),
            other => {
                let message = format!("there is no field {other}; there are {}", FIELDS.join(", "));
                return Err(ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "no_such_include_field_error",
                    message,
                ));
            }
        };
        Ok(((*name).to_owned(), value))
    };
    let object: Map<String, Value> = fields.iter().map(field).collect::<Result<_, _>>()?;
    Ok(Value::Object(object))
}

fn as_usual(state: &RestState) -> Result<Json<Object>, ApiError> {
    Ok(Json(shown(state, &FIELDS[..SHOWN_UNASKED], None)?))
}

pub(super) async fn found(caller: Caller, Json(body): Json<Value>) -> Result<Json<Object>, ApiError> {
    caller.may("cluster_start_or_join")?;
    required(&body, "host_ip")?;
    required(&body, "node_name")?;
    Err(ApiError::conflict(
        "This manager is a member of a cluster already: a node founds one with `conclave cluster init`, or joins one with \
         `conclave cluster join --token TOKEN --peer HOST:PORT`, before its manager starts",
    ))
}

pub(super) async fn update(
    State(state): State<RestState>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<Json<Object>, ApiError> {
    caller.may("cluster_config_update")?;
    let settings = settings(&body)?;
    if let Some(unknown) = settings.keys().find(|key| *key != "master") {
        return Err(ApiError::illegal(format!(
            "The cluster has no setting {unknown:?} here: `master` hands over to another node; what `conclave manager` reads from \
             its configuration file is set there"
        )));
    }
    if let Some(wanted) = settings.get("master") {
        let name = wanted
            .as_str()
            .ok_or_else(|| ApiError::bad("master: a node's name is expected"))?;
        hand_over(&state, name).await?;
    }
    as_usual(&state)
}

async fn hand_over(state: &RestState, name: &str) -> Result<(), ApiError> {
    let node = one(state, name).await?;
    if !node.online {
        return Err(ApiError::illegal(format!(
            "{name} is offline and cannot be the active node: {}",
            node.failures.join("; ")
        )));
    }
    Ok(state.cluster.make_active(name).await?)
}

pub(super) async fn nodes(State(state): State<RestState>, caller: Caller) -> Result<Json<Object>, ApiError> {
    caller.may("cluster_node_list")?;
    Ok(whole(state.cluster.nodes().await.iter().map(member).collect()))
}

pub(super) async fn node(
    State(state): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Object>, ApiError> {
    caller.may("cluster_node_get")?;
    Ok(Json(detailed(&one(&state, &name).await?)))
}

pub(super) async fn invite(
    State(state): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<Value>,
) -> Result<Json<Object>, ApiError> {
    caller.may("cluster_node_validate")?;
    let (address, own_name) = (required(&body, "host_ip")?, required(&body, "node_name")?);
    if own_name != name {
        return Err(ApiError::bad(format!(
            "node_name: {own_name:?} is not the {name:?} of the path"
        )));
    }
    let members = state.cluster.nodes().await;
    if let Some(taken) = members.iter().find(|node| node.name == name || node.address == address) {
        return Err(ApiError::conflict(format!(
            "{} at {} is in the cluster already; choose another name and address, or remove that node first",
            taken.name, taken.address
        )));
    }
    let invitation = state.cluster.invite().await?;
    Ok(Json(json!({
        "name": name, "id": name, "host_ip": address, "public_ip": null, "master": false, "online": false,
        "initialized": false, "remote_database": false,
        "checks": {"consul": false, "services": false, "database": false, "heartbeat": false},
        "credentials": invitation.token, "required": {"peer": invitation.peer},
    })))
}

pub(super) async fn node_update(
    State(state): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<Value>,
) -> Result<Json<Object>, ApiError> {
    caller.may("cluster_node_config_update")?;
    let node = one(&state, &name).await?;
    if let Some(option) = settings(&body)?.keys().next() {
        return Err(ApiError::illegal(format!(
            "A node has no option {option:?} here: it is set up by its own configuration file, which `conclave manager` reads when \
             it starts, and `conclave cluster status` shows how it is"
        )));
    }
    Ok(Json(detailed(&node)))
}

pub(super) async fn remove(
    State(state): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Object>, ApiError> {
    caller.may("cluster_node_remove")?;
    let node = one(&state, &name).await?;
    if node.leads {
        return Err(ApiError::illegal(format!(
            "{name} is the active node: make another one active first, with `cfy cluster set-active` or `conclave cluster \
             set-active`"
        )));
    }
    state.cluster.remove(&name).await?;
    Ok(Json(member(&node)))
}

async fn one(state: &RestState, name: &str) -> Result<NodeView, ApiError> {
    let nodes = state.cluster.nodes().await;
    let found = nodes.iter().find(|node| node.name == name).cloned();
    found.ok_or_else(|| {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        ApiError::not_found(format!("no node is named {name:?}; there are {}", names.join(", ")))
    })
}

fn member(node: &NodeView) -> Value {
    json!({
        "name": node.name, "id": node.name, "host_ip": node.address, "public_ip": node.address, "master": node.leads,
        "online": node.online, "initialized": true, "remote_database": false,
        "checks": {
            "consul": node.checks.raft, "services": node.checks.services, "database": node.checks.database,
            "heartbeat": node.checks.heartbeat,
        },
    })
}

/// With the options that 4.x had. None of them means anything here, and clients read them all.
fn detailed(node: &NodeView) -> Value {
    let mut object = member(node);
    object["options"] = json!({"check_ttl_multiplier": null, "check_fail_fast": null, "consul_raft_multiplier": null});
    object
}

fn required<'b>(body: &'b Value, key: &str) -> Result<&'b str, ApiError> {
    let found = body[key].as_str().filter(|text| !text.is_empty());
    found.ok_or_else(|| ApiError::bad(format!("{key} is missing from json request body")))
}

/// The settings that a body gives; null is none.
fn settings(body: &Value) -> Result<Map<String, Value>, ApiError> {
    let object = body
        .as_object()
        .ok_or_else(|| ApiError::bad("a JSON object is expected"))?;
    let given = object.iter().filter(|(_, value)| !value.is_null());
    Ok(given.map(|(key, value)| (key.clone(), value.clone())).collect())
}
