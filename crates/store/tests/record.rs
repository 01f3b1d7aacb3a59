//! The record against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::time::Duration;

use conclave_store::{
    InstancePatch, ListQuery, NewBlueprint, NewDeployment, NewExecution, NewInstance, NewNode, NewToken, Resource,
    Store, StoreError, StoreOptions, StoredOperation, TenantScope, Transition,
};
use conclave_testkit::TestPostgres;
use conclave_types::{EventKind, EventRecord, ExecutionId, ExecutionStatus, OperationId, OperationState};
use serde_json::json;
use uuid::Uuid;

const TENANT: &str = "default_tenant";

fn ours() -> ListQuery {
    ListQuery::all(TenantScope::Of(vec![TENANT.into()]))
}

async fn store(server: &TestPostgres) -> Store {
    let store = Store::open(&StoreOptions {
        host: "127.0.0.1".into(),
        port: server.port,
        user: TestPostgres::USER.into(),
        password: TestPostgres::PASSWORD.into(),
        database: TestPostgres::DATABASE.into(),
        connections: 8,
        patience: Duration::from_secs(10),
        hold: tokio::sync::watch::channel(false).1,
    })
    .unwrap();
    store.migrate().await.unwrap();
    store.migrate().await.unwrap();
    store.admin_bootstrap("hash").await.unwrap();
    store
}

async fn deployed(store: &Store) {
    let blueprint = NewBlueprint {
        tenant: TENANT.into(),
        id: "bp".into(),
        visibility: "tenant".into(),
        creator: 0,
        main_file_name: "blueprint.yaml".into(),
        description: None,
        plan: json!({"nodes": []}),
        labels: json!([]),
        upload_execution: ExecutionId(Uuid::now_v7()),
    };
    store.blueprint_create(&blueprint).await.unwrap();
    let again = NewBlueprint {
        upload_execution: ExecutionId(Uuid::now_v7()),
        ..blueprint
    };
    assert!(matches!(
        store.blueprint_create(&again).await,
        Err(StoreError::Conflict(_))
    ));
    let node = |id: &str| NewNode {
        id: id.into(),
        type_name: "t".into(),
        type_hierarchy: json!(["t"]),
        host_id: None,
        properties: json!({}),
        operations: json!({}),
        relationships: json!([]),
        plugins: json!([]),
        plugins_to_install: json!([]),
        numbers: [1, 1, 1, 0, -1],
    };
    let instance = |node: &str| NewInstance {
        id: format!("{node}_abc123"),
        node_id: node.into(),
        index: 1,
        host_id: None,
        relationships: json!([]),
        scaling_groups: json!([]),
    };
    let deployment = NewDeployment {
        tenant: TENANT.into(),
        id: "dep".into(),
        display_name: "dep".into(),
        blueprint: "bp".into(),
        visibility: "tenant".into(),
        creator: 0,
        description: None,
        inputs: json!({}),
        outputs: json!({}),
        capabilities: json!({}),
        workflows: json!({}),
        groups: json!({}),
        scaling_groups: json!({}),
        labels: json!([]),
        runtime_only_evaluation: false,
        create_execution: ExecutionId(Uuid::now_v7()),
        nodes: vec![node("a"), node("b")],
        instances: vec![instance("a"), instance("b")],
    };
    store.deployment_create(&deployment).await.unwrap();
}

fn new_execution(id: ExecutionId) -> NewExecution {
    NewExecution {
        id,
        tenant: TENANT.into(),
        deployment: "dep".into(),
        workflow: "install".into(),
        parameters: json!({}),
        creator: 0,
        is_dry_run: false,
        allow_custom_parameters: false,
        force: false,
        wait_after_fail: 600,
        token_hash: "h".into(),
    }
}

fn event(execution_id: ExecutionId, text: &str) -> EventRecord {
    let kind = EventKind::Event {
        event_type: "workflow_started".into(),
    };
    let at = "2026-01-02T03:04:05.678Z".parse().unwrap();
    EventRecord {
        message: text.into(),
        ..EventRecord::new(Uuid::now_v7(), execution_id, kind, at)
    }
}

#[tokio::test]
async fn lists_filter_sort_and_page() {
    let server = TestPostgres::start().await;
    let store = store(&server).await;
    deployed(&store).await;
    let nodes = store
        .list(Resource::NODES, &ours().with("deployment_id", "dep"))
        .await
        .unwrap();
    assert_eq!((nodes.total, nodes.items[0]["id"].as_str()), (2, Some("a")));
    let query = ListQuery {
        sort: vec![("id".into(), true)],
        size: Some(1),
        ..ours()
    };
    let last = store.list(Resource::NODE_INSTANCES, &query).await.unwrap();
    assert_eq!((last.total, last.items[0]["id"].as_str()), (2, Some("b_abc123")));
    let other = ListQuery::all(TenantScope::Of(vec!["other".into()]));
    assert_eq!(store.list(Resource::DEPLOYMENTS, &other).await.unwrap().total, 0);
    let wrong = store
        .list(Resource::NODES, &ours().with("id; DROP TABLE nodes", "x"))
        .await;
    assert!(matches!(wrong, Err(StoreError::BadQuery(_))));
    let blueprint = store
        .one(Resource::BLUEPRINTS, &ours().with("id", "bp"), "bp")
        .await
        .unwrap();
    assert_eq!(
        (
            blueprint["state"].as_str(),
            blueprint["upload_execution"]["status"].as_str()
        ),
        (Some("uploaded"), Some("terminated"))
    );
    assert!(matches!(
        store.blueprint_delete(TENANT, "bp").await,
        Err(StoreError::Conflict(_))
    ));
}

#[tokio::test]
async fn a_deposed_owner_writes_nothing() {
    let server = TestPostgres::start().await;
    let store = store(&server).await;
    deployed(&store).await;
    let id = ExecutionId(Uuid::now_v7());
    store.execution_create(&new_execution(id)).await.unwrap();
    let second = new_execution(ExecutionId(Uuid::now_v7()));
    assert!(
        matches!(store.execution_create(&second).await, Err(StoreError::Conflict(_))),
        "one at a time"
    );
    let live = |name: &str| vec![name.to_owned()];
    let free = store.executions_ownerless(&live("node1")).await.unwrap();
    assert_eq!(free, vec![(id, 0)]);
    let first = store.execution_claim(id, 0, "node1").await.unwrap().unwrap();
    assert_eq!(
        store.execution_claim(id, 0, "node2").await.unwrap(),
        None,
        "a claim is a compare-and-set"
    );
    let task = StoredOperation {
        id: OperationId(Uuid::now_v7()),
        name: "create".into(),
        type_name: "RemoteWorkflowTask".into(),
        state: OperationState::Pending,
        dependencies: vec![OperationId(Uuid::now_v7())],
        parameters: json!({"x": 1}),
    };
    store
        .graph_create(&first, "install", std::slice::from_ref(&task), &[event(id, "start")])
        .await
        .unwrap();
    assert!(store.executions_ownerless(&live("node1")).await.unwrap().is_empty());
    let orphaned = store.executions_ownerless(&live("node2")).await.unwrap();
    let next = store
        .execution_claim(id, orphaned[0].1, "node2")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(next.status, ExecutionStatus::Started);
    let done = Transition {
        operation: task.id,
        state: OperationState::Succeeded,
        result: None,
        error: None,
    };
    let step = std::slice::from_ref(&done);
    let late = store
        .transitions_commit(&first, "install", step, &[], &[], &[event(id, "late")])
        .await;
    assert!(matches!(late, Err(StoreError::Fenced(_))));
    assert_eq!(
        store.graph_get(id, "install").await.unwrap(),
        vec![task.clone()],
        "nothing of it was written"
    );
    store
        .transitions_commit(&next, "install", step, &[], &[], &[event(id, "done")])
        .await
        .unwrap();
    store
        .execution_finish(&next, ExecutionStatus::Terminated, None, &[event(id, "end")])
        .await
        .unwrap();
    let events = store
        .list(Resource::EVENTS, &ours().with("execution_id", &id.to_string()))
        .await
        .unwrap();
    let texts: Vec<_> = events
        .items
        .iter()
        .map(|event| event["message"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["start", "done", "end"]);
    assert_eq!(events.items[0]["reported_timestamp"], "2026-01-02T03:04:05.678Z");
    let execution = store
        .one(Resource::EXECUTIONS, &ours().with("id", &id.to_string()), "x")
        .await
        .unwrap();
    assert_eq!(
        (
            execution["status_display"].as_str(),
            execution["finished_operations"].as_i64()
        ),
        (Some("completed"), Some(1))
    );
}

#[tokio::test]
async fn events_are_stored_once_and_listeners_are_woken() {
    use futures::StreamExt;
    let server = TestPostgres::start().await;
    let store = store(&server).await;
    deployed(&store).await;
    let mut announced = store.executions_listen().await.unwrap();
    let id = ExecutionId(Uuid::now_v7());
    store.execution_create(&new_execution(id)).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(10), announced.next())
        .await
        .unwrap();
    assert_eq!(heard, Some(id));
    let record = event(id, "nul \0 byte");
    let unknown = event(ExecutionId(Uuid::now_v7()), "nobody's");
    assert_eq!(store.events_insert(&[record.clone(), unknown]).await.unwrap(), 1);
    assert_eq!(
        store.events_insert(&[record]).await.unwrap(),
        0,
        "a redelivered message is stored once"
    );
}

#[tokio::test]
async fn instance_versions_protect_against_lost_updates() {
    let server = TestPostgres::start().await;
    let store = store(&server).await;
    deployed(&store).await;
    let patch = |version: i32| InstancePatch {
        version,
        runtime_properties: Some(json!({"v": version})),
        ..InstancePatch::default()
    };
    assert_eq!(
        store.node_instance_update(TENANT, "a_abc123", &patch(1)).await.unwrap(),
        2
    );
    assert!(matches!(
        store.node_instance_update(TENANT, "a_abc123", &patch(1)).await,
        Err(StoreError::Conflict(_))
    ));
    assert_eq!(
        store.node_instance_update(TENANT, "a_abc123", &patch(2)).await.unwrap(),
        3
    );
    let forced = InstancePatch {
        force: true,
        ..patch(0)
    };
    assert_eq!(
        store.node_instance_update(TENANT, "a_abc123", &forced).await.unwrap(),
        4
    );
    assert!(matches!(
        store.node_instance_update(TENANT, "nope", &patch(1)).await,
        Err(StoreError::NotFound(_))
    ));
    assert!(matches!(
        store.deployment_delete(TENANT, "nope", false).await,
        Err(StoreError::NotFound(_))
    ));
    store.deployment_delete(TENANT, "dep", false).await.unwrap();
}

#[tokio::test]
async fn tokens_are_their_users_and_end() {
    let server = TestPostgres::start().await;
    let store = store(&server).await;
    store.user_create("guest", "hash", "default").await.unwrap();
    let guest = store.user_find("guest").await.unwrap().unwrap().id;
    let token = |id: &str, user: i32, expires_at: &str| NewToken {
        id: id.into(),
        user,
        secret_hash: format!("hash of {id}"),
        description: Some(format!("for {id}")),
        expires_at: Some(expires_at.parse().unwrap()),
    };
    let (past, future) = ("2001-02-03T04:05:06Z", "2121-02-03T04:05:06Z");
    let made = store.token_create(&token("long", guest, future)).await.unwrap();
    let expected = json!({
        "id": "long", "username": "guest", "value": "ctok-long-********", "role": "default",
        "expiration_date": "2121-02-03T04:05:06.000Z", "last_used": null, "description": "for long",
    });
    assert_eq!(made, expected);
    let found = async |id: &str| store.token_find(id).await.unwrap();
    let long = found("long").await.unwrap();
    assert_eq!(
        (long.user.id, long.secret_hash.as_str(), long.expired),
        (guest, "hash of long", false)
    );
    for (id, user) in [("over", guest), ("admins", 0)] {
        store.token_create(&token(id, user, past)).await.unwrap();
        assert!(found(id).await.unwrap().expired);
    }
    let endless = NewToken {
        expires_at: None,
        ..token("endless", guest, past)
    };
    store.token_create(&endless).await.unwrap();
    assert!(!found("endless").await.unwrap().expired);
    assert_eq!(
        (found("over").await, found("admins").await.is_some()),
        (None, true),
        "a user's new token takes the place of those of the same user that are over"
    );
    let again = store.token_create(&token("long", 0, future)).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))));
    let odd = NewToken {
        description: Some("nul \0 byte".into()),
        ..token("odd", guest, future)
    };
    assert!(matches!(store.token_create(&odd).await, Err(StoreError::BadQuery(_))));

    let missing = |outcome: Result<(), StoreError>| assert!(matches!(outcome, Err(StoreError::NotFound(_))));
    missing(store.token_delete("admins", Some(guest)).await);
    missing(store.token_delete("nope", None).await);
    store.token_delete("long", Some(guest)).await.unwrap();
    missing(store.token_delete("long", Some(guest)).await);
    store.token_delete("endless", None).await.unwrap();
    assert_eq!((found("long").await, found("endless").await), (None, None));
}
