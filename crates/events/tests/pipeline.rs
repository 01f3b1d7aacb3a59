//! From operations and foreign producers into the record, through a real RabbitMQ and a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use conclave_events::{EventOutlet, EventPipeline, PipelineOptions, PipelineStatus};
use conclave_executor::{LogLine, LogOutlet};
use conclave_messaging::{BrokerAddress, Message, Publisher, topology};
use conclave_runtime::{Tasks, clock};
use conclave_store::{ListQuery, NewBlueprint, Resource, Store, StoreOptions, TenantScope};
use conclave_testkit::{TestBroker, TestPostgres, free_port};
use conclave_types::{EventKind, EventOrigin, EventRecord, ExecutionId, OperationId};
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

const TENANT: &str = "default_tenant";
const DEADLINE: Duration = Duration::from_secs(60);

struct Place {
    postgres: TestPostgres,
    broker: TestBroker,
    store: Store,
}

impl Place {
    async fn new() -> Self {
        let postgres = TestPostgres::start().await;
        let broker = TestBroker::start().await;
        let options = StoreOptions {
            host: "127.0.0.1".into(),
            port: postgres.port,
            user: TestPostgres::USER.into(),
            password: TestPostgres::PASSWORD.into(),
            database: TestPostgres::DATABASE.into(),
            connections: 8,
            patience: Duration::from_secs(10),
            hold: tokio::sync::watch::channel(false).1,
        };
        let store = Store::open(&options).unwrap();
        store.migrate().await.unwrap();
        store.admin_bootstrap("hash").await.unwrap();
        Self {
            postgres,
            broker,
            store,
        }
    }

    /// An execution: the one of a blueprint's upload.
    async fn execution(&self, id: ExecutionId) -> ExecutionId {
        let blueprint = NewBlueprint {
            tenant: TENANT.into(),
            id: format!("bp-{id}"),
            visibility: "tenant".into(),
            creator: 0,
            main_file_name: "blueprint.yaml".into(),
            description: None,
            plan: json!({"nodes": []}),
            labels: json!([]),
            upload_execution: id,
        };
        self.store.blueprint_create(&blueprint).await.unwrap();
        id
    }

    fn publisher(&self, tasks: &Tasks) -> Publisher {
        let brokers = watch::channel(vec![self.broker.address()]).1;
        Publisher::start(self.broker.access(), brokers, tasks)
    }

    fn pipeline(&self, outlet: &EventOutlet, tasks: &Tasks) -> EventPipeline {
        let options = PipelineOptions {
            broker: self.broker.address(),
            access: self.broker.access(),
            store: self.store.clone(),
            ready: watch::channel(true).1,
        };
        EventPipeline::start(options, outlet, tasks)
    }

    /// The texts that are recorded for an execution, in the order of clients.
    async fn texts(&self, execution: ExecutionId) -> Vec<String> {
        let mut query =
            ListQuery::all(TenantScope::Of(vec![TENANT.into()])).with("execution_id", &execution.to_string());
        query.size = Some(100_000);
        let page = self.store.list(Resource::EVENTS, &query).await.unwrap();
        let text = |item: &Value| item["message"].as_str().unwrap().to_owned();
        page.items.iter().map(text).collect()
    }

    async fn wait_texts(&self, execution: ExecutionId, count: usize) -> Vec<String> {
        let end = Instant::now() + DEADLINE;
        loop {
            let texts = self.texts(execution).await;
            if texts.len() >= count {
                return texts;
            }
            assert!(Instant::now() < end, "{} of {count} lines are recorded", texts.len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.broker.stop().await;
        drop(self.postgres);
    }
}

fn line(execution: ExecutionId, text: &str) -> LogLine {
    let kind = EventKind::Log {
        logger: "ctx.1".into(),
        level: "info".into(),
    };
    let origin = EventOrigin {
        tenant: TENANT.into(),
        blueprint_id: "bp".into(),
        deployment_id: "dep".into(),
        workflow_id: "install".into(),
        task_id: OperationId(Uuid::new_v4()),
        task_name: "script_runner.tasks.run".into(),
        plugin: "script".into(),
    };
    LogLine {
        record: EventRecord {
            message: text.into(),
            ..EventRecord::new(Uuid::now_v7(), execution, kind, clock::now())
        },
        origin: Arc::new(origin),
    }
}

/// As the Python library of 4.4 to 6.1 sends it.
fn foreign(execution: ExecutionId, text: &str) -> Message {
    let body = json!({
        "type": "cloudify_event", "event_type": "task_started", "timestamp": "2026-01-02T03:04:05.678Z", "message_code": null,
        "message": {"text": text, "arguments": null},
        "context": {"blueprint_id": "bp", "deployment_id": "dep", "execution_id": execution, "workflow_id": "install",
            "node_id": "vm_1", "node_name": "vm", "operation": "cloudify.interfaces.lifecycle.start",
            "task_current_retries": 0, "task_total_retries": 60, "tenant": {"name": TENANT}},
    });
    Message {
        exchange: topology::EVENTS,
        routing_key: topology::EVENT_KEY,
        id: "not a uuid".into(),
        body: body.to_string().into_bytes(),
    }
}

async fn connected(outlet: &EventOutlet, pipeline: &EventPipeline) {
    let end = Instant::now() + DEADLINE;
    while !(outlet.status().connected && pipeline.status().consuming) {
        assert!(Instant::now() < end, "outlet and pipeline connect");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_reach_the_record_once_and_in_order() {
    let place = Place::new().await;
    let tasks = Tasks::new("test");
    let publisher = place.publisher(&tasks);
    let outlet = EventOutlet::start("node1".into(), place.store.clone(), publisher.clone(), &tasks);
    let pipeline = place.pipeline(&outlet, &tasks);
    connected(&outlet, &pipeline).await;
    let execution = place.execution(ExecutionId(Uuid::new_v4())).await;

    // One line after the other: how soon each is visible.
    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        let begun = Instant::now();
        outlet.send(line(execution, &format!("line {number:05}"))).await;
        place.wait_texts(execution, number + 1).await;
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("a line is visible after at most {slowest:?}");

    // As fast as a script can.
    let begun = Instant::now();
    for number in 20..5020 {
        outlet.send(line(execution, &format!("line {number:05}"))).await;
    }
    outlet.flush(execution).await;
    eprintln!("5000 lines recorded in {:?}", begun.elapsed());
    let expected: Vec<String> = (0..5020).map(|number| format!("line {number:05}")).collect();
    assert_eq!(place.texts(execution).await, expected);
    let status = (outlet.status(), pipeline.status());
    // How many went to the record directly depends on how long the broker kept them waiting.
    assert_eq!((status.0.under_way, status.1.rejected), (0, 0), "{status:?}");
    assert_eq!((status.0.published, status.1.recorded), (5020, 5020), "{status:?}");

    // Foreign messages: two equal ones are two; one of ours that comes twice is one.
    let other = place.execution(ExecutionId(Uuid::new_v4())).await;
    let twice = line(other, "twice");
    let repeated = Message {
        exchange: topology::LOGS,
        routing_key: "",
        id: twice.record.message_id.to_string(),
        body: conclave_events::encode(&twice).to_string().into_bytes(),
    };
    let malformed = Message {
        body: b"{\"type\": \"cloudify_log\"}".to_vec(),
        ..repeated.clone()
    };
    let batch = [
        foreign(other, "same"),
        foreign(other, "same"),
        malformed,
        repeated.clone(),
        repeated,
    ];
    assert!(publisher.publish(&batch).await.iter().all(Option::is_some));
    assert_eq!(place.wait_texts(other, 3).await, ["same", "same", "twice"]);
    assert_eq!(pipeline.status().rejected, 1);

    // Unknown executions: one appears in time, one never.
    let (late, never) = (ExecutionId(Uuid::new_v4()), ExecutionId(Uuid::new_v4()));
    assert!(
        publisher
            .publish(&[foreign(late, "late"), foreign(never, "never")])
            .await
            .iter()
            .all(Option::is_some)
    );
    let end = Instant::now() + DEADLINE;
    while pipeline.status().parked < 2 {
        assert!(Instant::now() < end, "both are parked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    place.execution(late).await;
    assert_eq!(place.wait_texts(late, 1).await, ["late"]);
    let given_up = |status: PipelineStatus| (status.unknown, status.parked) == (1, 0);
    while !given_up(pipeline.status()) {
        assert!(Instant::now() < end, "the other is given up: {:?}", pipeline.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The broker dies in mid-stream: everything is there, once.
    let third = place.execution(ExecutionId(Uuid::new_v4())).await;
    let sender = outlet.clone();
    let sending = tasks.spawn("sender", async move {
        for number in 0..6000 {
            sender.send(line(third, &format!("line {number:05}"))).await;
            if number % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    place.wait_texts(third, 1000).await;
    place.broker.crash().await;
    sending.join().await.unwrap();
    outlet.flush(third).await;
    let expected: Vec<String> = (0..6000).map(|number| format!("line {number:05}")).collect();
    assert_eq!(place.texts(third).await, expected);
    let direct = outlet.status().direct;
    eprintln!("{direct} of 6000 lines went straight to the record while the broker was away");
    connected(&outlet, &pipeline).await;

    // What comes again from the broker's disk is not stored again.
    outlet.send(line(third, "line last")).await;
    outlet.flush(third).await;
    assert_eq!(place.texts(third).await.len(), 6001);

    tasks.stop(DEADLINE).await;
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_a_broker() {
    let place = Place::new().await;
    let execution = place.execution(ExecutionId(Uuid::new_v4())).await;

    // No broker answers.
    let tasks = Tasks::new("test");
    let nobody = BrokerAddress {
        name: "node1".into(),
        host: "127.0.0.1".into(),
        port: free_port(),
    };
    let publisher = Publisher::start(place.broker.access(), watch::channel(vec![nobody]).1, &tasks);
    let outlet = EventOutlet::start("node1".into(), place.store.clone(), publisher, &tasks);
    let recorded = async {
        outlet.send(line(execution, "direct")).await;
        outlet.flush(execution).await;
    };
    tokio::time::timeout(DEADLINE, recorded).await.unwrap();
    assert_eq!(place.texts(execution).await, ["direct"]);
    assert_eq!(outlet.status().direct, 1);

    // Another node's broker takes a line, and that node's pipeline does not store it: whoever waits gets it recorded.
    let publisher = place.publisher(&tasks);
    tokio::time::timeout(DEADLINE, publisher.connected()).await.unwrap();
    let away = EventOutlet::start("node2".into(), place.store.clone(), publisher, &tasks);
    away.send(line(execution, "away")).await;
    tokio::time::timeout(DEADLINE, away.flush(execution)).await.unwrap();
    assert_eq!(place.texts(execution).await, ["direct", "away"]);
    assert_eq!((away.status().published, away.status().direct), (1, 1));

    // When that pipeline comes back, the line is stored already.
    let pipeline = place.pipeline(&away, &tasks);
    let end = Instant::now() + DEADLINE;
    while pipeline.status().recorded < 1 {
        assert!(Instant::now() < end, "the pipeline takes the line");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(place.texts(execution).await.len(), 2);

    // What is under way at the stop is stored.
    for number in 0..100 {
        outlet.send(line(execution, &format!("last {number}"))).await;
    }
    tasks.stop(DEADLINE).await;
    assert_eq!(place.texts(execution).await.len(), 102);
    place.stop().await;
}
