//! Deployments: creation, lists, outputs.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use conclave_blueprint::deployment::{DeploymentPlan, DeploymentRequest, Surroundings, deployment_plan, indexes};
use conclave_blueprint::functions::EvaluationContext;
use conclave_blueprint::plan::Node;
use conclave_blueprint::topology::IdSource;
use conclave_blueprint::{Fault, Map as PlanMap, Plan, Value as PlanValue};
use conclave_executor::DeploymentData;
use conclave_store::{NewDeployment, NewInstance, NewNode, Resource};
use conclave_types::ExecutionId;
use rand::Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use super::identity::check_id;
use crate::error::ApiError;
use crate::guard::Caller;
use crate::list::{Asked, flag};
use crate::state::{Object, RestState};

struct RandomSuffix;

impl IdSource for RandomSuffix {
    fn suffix(&mut self) -> String {
        const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut random = rand::rng();
        (0..6)
            .map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())]))
            .collect()
    }
}

/// This manager keeps no secrets: a deployment that needs one is refused.
struct WithoutSecrets;

impl Surroundings for WithoutSecrets {
    fn has_secret(&self, _: &str) -> Result<Option<bool>, Fault> {
        Ok(Some(false))
    }
}

pub(super) async fn list(
    State(state): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    Asked::read(
        Resource::DEPLOYMENTS,
        caller.scope("deployment_list")?,
        query.as_deref(),
    )?
    .answer_as(&state.store, Resource::DEPLOYMENTS, with_workflow_list)
    .await
}

pub(super) async fn get(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    let whole = Asked::read(Resource::DEPLOYMENTS, caller.scope("deployment_get")?, None)?;
    let object = with_workflow_list(whole.one(&state.store, Resource::DEPLOYMENTS, &id).await?);
    let include: String = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| pair.starts_with("_include="))
        .collect();
    let asked = Asked::read(Resource::DEPLOYMENTS, caller.scope("deployment_get")?, Some(&include))?;
    Ok(Json(asked.shape(object)?))
}

/// Clients read a deployment's workflows as a list of objects, in lists of deployments too: the 7.0.5 client cannot read the
/// stored mapping, whatever older managers answered there (spec/rest-api.md, trap 6).
fn with_workflow_list(mut object: Value) -> Value {
    let workflows = object["workflows"].as_object().cloned().unwrap_or_default();
    object["workflows"] = workflows
        .into_iter()
        .map(|(name, workflow)| {
            json!({
                "name": name, "plugin": workflow["plugin"], "operation": workflow["operation"],
                "parameters": workflow["parameters"], "is_cascading": workflow["is_cascading"], "is_available": true,
                "availability_rules": workflow["availability_rules"],
            })
        })
        .collect();
    object
}

pub(super) async fn create(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Object>), ApiError> {
    let tenant = caller.tenant("deployment_create")?.to_owned();
    check_id("deployment_id", &id)?;
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    let blueprint =
        text("blueprint_id").ok_or_else(|| ApiError::bad("blueprint_id is missing from json request body"))?;
    let inputs = match &body["inputs"] {
        Value::Null => PlanMap::new(),
        Value::Object(inputs) => inputs
            .iter()
            .map(|(name, value)| (name.as_str(), PlanValue::from(value)))
            .collect(),
        _ => return Err(ApiError::bad("inputs parameter is expected to be of type dict")),
    };
    let stored = state.store.blueprint_plan_get(&tenant, &blueprint).await?;
    let plan = Plan::from_json(&stored).map_err(|error| ApiError::internal(error.to_string()))?;
    let request = DeploymentRequest {
        inputs,
        runtime_only: body["runtime_only_evaluation"] == Value::Bool(true),
        auto_correct: body["auto_correct_types"] == Value::Bool(true),
        taken_ids: Vec::new(),
    };
    let made = deployment_plan(&plan, &request, &WithoutSecrets, &mut RandomSuffix)?;
    let section = |map: &PlanMap| PlanValue::from(map.clone()).to_json();
    let new = NewDeployment {
        tenant,
        id: id.clone(),
        display_name: text("display_name").unwrap_or_else(|| id.clone()),
        blueprint,
        visibility: text("visibility").unwrap_or_else(|| "tenant".into()),
        creator: caller.principal.user.id,
        description: plan.description.as_str().map(str::to_owned),
        inputs: section(&made.plan.inputs),
        outputs: section(&made.plan.outputs),
        capabilities: section(&made.plan.capabilities),
        workflows: section(&made.plan.workflows),
        groups: section(&made.plan.groups),
        scaling_groups: section(&made.plan.scaling_groups),
        labels: json!([]),
        runtime_only_evaluation: request.runtime_only,
        create_execution: ExecutionId(Uuid::new_v4()),
        nodes: made.plan.nodes.iter().map(new_node).collect(),
        instances: new_instances(&made),
    };
    state.store.deployment_create(&new).await?;
    let asked = Asked::read(Resource::DEPLOYMENTS, caller.scope("deployment_get")?, None)?;
    let object = asked.one(&state.store, Resource::DEPLOYMENTS, &id).await?;
    Ok((StatusCode::CREATED, Json(with_workflow_list(object))))
}

fn new_node(node: &Node) -> NewNode {
    let number = |key: &str, default: i32| {
        let number = node.scalable().get(key).and_then(PlanValue::as_i64);
        number.and_then(|number| i32::try_from(number).ok()).unwrap_or(default)
    };
    let json = serde_json::to_value(node).unwrap_or_default();
    let mut relationships = json["relationships"].clone();
    for relationship in relationships.as_array_mut().into_iter().flatten() {
        if let Some(relationship) = relationship.as_object_mut() {
            relationship.shift_remove("source_interfaces");
            relationship.shift_remove("target_interfaces");
        }
    }
    NewNode {
        id: node.name.to_string(),
        type_name: node.type_name.to_string(),
        type_hierarchy: json["type_hierarchy"].clone(),
        host_id: node.host_id.as_deref().map(str::to_owned),
        properties: json["properties"].clone(),
        operations: json["operations"].clone(),
        relationships,
        plugins: json["plugins"].clone(),
        plugins_to_install: json["plugins_to_install"].clone(),
        numbers: [
            number("current_instances", 1),
            number("planned_instances", 1),
            number("default_instances", 1),
            number("min_instances", 0),
            number("max_instances", -1),
        ],
    }
}

fn new_instances(plan: &DeploymentPlan) -> Vec<NewInstance> {
    let list = |value: Result<Value, serde_json::Error>| value.unwrap_or_else(|_| json!([]));
    indexes(&plan.instances, &PlanMap::new())
        .map(|(instance, index)| NewInstance {
            id: instance.id.to_string(),
            node_id: instance.node_id.to_string(),
            index: i32::try_from(index).unwrap_or(i32::MAX),
            host_id: instance.host_id.as_deref().map(str::to_owned),
            relationships: list(serde_json::to_value(&instance.relationships)),
            scaling_groups: list(serde_json::to_value(&instance.scaling_groups)),
        })
        .collect()
}

pub(super) async fn delete(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Object>, ApiError> {
    let tenant = caller.tenant("deployment_delete")?.to_owned();
    let asked = Asked::read(Resource::DEPLOYMENTS, caller.scope("deployment_get")?, None)?;
    let object = with_workflow_list(asked.one(&state.store, Resource::DEPLOYMENTS, &id).await?);
    let force = flag(query.as_deref(), "force") || flag(query.as_deref(), "ignore_live_nodes");
    state
        .store
        .deployment_delete(&tenant, &id, force)
        .await
        .map_err(|error| ApiError::from(error).conflict_as("dependent_exists_error"))?;
    state.files.remove(&format!("deployments/{tenant}/{id}")).await?;
    Ok(Json(object))
}

pub(super) async fn outputs(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Object>, ApiError> {
    let tenant = caller.tenant("deployment_modification_outputs")?;
    evaluated(&state, tenant, &id, "outputs").await
}

pub(super) async fn capabilities(
    State(state): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Object>, ApiError> {
    let tenant = caller.tenant("deployment_capabilities")?;
    evaluated(&state, tenant, &id, "capabilities").await
}

/// Values of outputs or capabilities as they are now. One that has no value shows the reason.
async fn evaluated(state: &RestState, tenant: &str, id: &str, section: &str) -> Result<Json<Object>, ApiError> {
    let rows = state.store.deployment_rows_get(tenant, id).await?;
    let declared = rows.deployment[section].as_object().cloned().unwrap_or_default();
    let data = DeploymentData::new(rows);
    let values: BTreeMap<String, Value> = declared
        .into_iter()
        .map(|(name, output)| {
            let value = data.evaluate(&output["value"], &EvaluationContext::default());
            (
                name,
                value.unwrap_or_else(|error| Value::String(format!("<ERROR: {error}>"))),
            )
        })
        .collect();
    Ok(Json(json!({"deployment_id": id, section: values})))
}

pub(super) async fn evaluate(
    State(state): State<RestState>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<Json<Object>, ApiError> {
    let tenant = caller.tenant("functions_evaluate")?;
    let id = body["deployment_id"]
        .as_str()
        .ok_or_else(|| ApiError::bad("deployment_id is missing"))?;
    let data = DeploymentData::new(state.store.deployment_rows_get(tenant, id).await?);
    let instance = |key: &str| body["context"][key].as_str().map(str::to_owned);
    let context = EvaluationContext {
        self_id: instance("self"),
        source_id: instance("source"),
        target_id: instance("target"),
        ..EvaluationContext::default()
    };
    let payload = data
        .evaluate(&body["payload"], &context)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "functions_evaluation_error", error.to_string()))?;
    Ok(Json(json!({"deployment_id": id, "payload": payload})))
}
