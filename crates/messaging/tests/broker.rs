//! Supervision, publishing and consuming against a real RabbitMQ.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use conclave_messaging::topology::{LOGS, LOGS_EVENTS_QUEUE};
use conclave_messaging::{Access, BrokerAddress, BrokerState, Consumer, ConsumerOptions, Delivery, Message, Publisher};
use conclave_runtime::Tasks;
use conclave_testkit::{TestBroker, free_port};
use tokio::sync::{mpsc, watch};

const DEADLINE: Duration = Duration::from_secs(60);

fn message(number: usize) -> Message {
    Message {
        exchange: LOGS,
        routing_key: "",
        id: format!("id-{number}"),
        body: format!("{{\"number\": {number}}}").into_bytes(),
    }
}

fn consume(broker: &TestBroker, tasks: &Tasks) -> mpsc::Receiver<Delivery> {
    let options = ConsumerOptions {
        broker: broker.address(),
        access: broker.access(),
        queue: LOGS_EVENTS_QUEUE,
        prefetch: 100,
    };
    Consumer::start(options, tasks).1
}

async fn publisher(brokers: Vec<BrokerAddress>, access: Access, tasks: &Tasks) -> Publisher {
    let publisher = Publisher::start(access, watch::channel(brokers).1, tasks);
    tokio::time::timeout(DEADLINE, publisher.connected()).await.unwrap();
    publisher
}

async fn next(deliveries: &mut mpsc::Receiver<Delivery>) -> Delivery {
    tokio::time::timeout(DEADLINE, deliveries.recv())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_through_a_broker_and_survive_its_crash() {
    let broker = TestBroker::start().await;
    let tasks = Tasks::new("test");
    let status = broker.broker().status().borrow().clone();
    eprintln!("started in {:?} ms", status.start_ms);
    assert_eq!((status.cause, status.backlog), (None, Some(0)));

    // The round trip; a broker that nobody listens at is passed over.
    let deaf = BrokerAddress {
        name: "deaf".into(),
        host: "127.0.0.1".into(),
        port: free_port(),
    };
    let sender = publisher(vec![deaf, broker.address()], broker.access(), &tasks).await;
    let taken = sender.publish(&[message(0), message(1)]).await;
    assert_eq!(taken, [Some("node1".to_owned()), Some("node1".to_owned())]);
    let mut deliveries = consume(&broker, &tasks);
    for number in 0..2 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.message_id.as_deref(), Some(format!("id-{number}").as_str()));
        delivery.ack().await;
    }

    // What cannot be routed is not taken.
    let lost = Message {
        exchange: "amq.direct",
        ..message(2)
    };
    assert_eq!(sender.publish(&[lost]).await, [None]);
    tokio::time::timeout(DEADLINE, sender.connected()).await.unwrap();

    // Confirmed messages survive the server's crash, and the unacknowledged ones come again.
    let batch: Vec<Message> = (10..40).map(message).collect();
    let taken = sender.publish(&batch).await;
    assert!(taken.iter().all(Option::is_some), "{taken:?}");
    let unacknowledged = next(&mut deliveries).await;
    broker.crash().await;
    assert_eq!(broker.broker().status().borrow().restarts, 1);
    let mut seen = BTreeSet::new();
    while seen.len() < batch.len() {
        let delivery = next(&mut deliveries).await;
        if delivery.session > unacknowledged.session {
            seen.insert(delivery.message_id.clone().unwrap());
        }
        delivery.ack().await;
    }
    let expected: BTreeSet<String> = (10..40).map(|number| format!("id-{number}")).collect();
    assert_eq!(seen, expected);

    // After the crash the publisher comes back by itself.
    tokio::time::timeout(DEADLINE, sender.connected()).await.unwrap();
    let begun = Instant::now();
    for round in 0..20 {
        let batch: Vec<Message> = (0..500).map(|number| message(1000 + round * 500 + number)).collect();
        let taken = sender.publish(&batch).await;
        assert!(taken.iter().all(Option::is_some));
        for _ in 0..500 {
            next(&mut deliveries).await.ack().await;
        }
    }
    eprintln!(
        "10000 messages published, confirmed and consumed in {:?}",
        begun.elapsed()
    );

    tasks.stop(DEADLINE).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_adopted_and_stopped_by_the_next_manager() {
    let broker = TestBroker::start().await;
    let pid = broker.pid();
    let tasks = Tasks::new("next manager");
    let again = broker.supervise_again(&tasks);
    let mut status = again.status();
    let running = status.wait_for(|status| status.state == BrokerState::Running);
    let seen = tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap().clone();
    assert_eq!((seen.pid, seen.start_ms), (Some(pid), None));

    assert_listens_on_loopback_alone(pid);
    assert!(
        !std::fs::read_to_string(format!("/proc/{pid}/environ"))
            .unwrap_or_default()
            .contains(&broker.access().password)
    );

    // Wrong passwords and unknown authorities are refused.
    let wrong = Access {
        password: "wrong".into(),
        ..broker.access()
    };
    let stranger = Publisher::start(wrong, watch::channel(vec![broker.address()]).1, &tasks);
    let guest = Access {
        username: "guest".into(),
        password: "guest".into(),
        ..broker.access()
    };
    let guest = Publisher::start(guest, watch::channel(vec![broker.address()]).1, &tasks);
    let mut known = publisher(vec![broker.address()], broker.access(), &tasks).await;
    known = known.clone();
    assert!(known.is_connected() && !stranger.is_connected() && !guest.is_connected());

    tasks.stop(DEADLINE).await;
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}/exe")).exists(),
        "the ordinary stop ends the server"
    );
    broker.stop().await;
}

/// Every listening socket of the process, by the kernel's table, is on 127.0.0.1.
fn assert_listens_on_loopback_alone(pid: i32) {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let mut listening = 0;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == "0A" && inodes.iter().any(|inode| inode == fields[9]) {
                assert!(fields[1].starts_with("0100007F:"), "it listens on {}", fields[1]);
                listening += 1;
            }
        }
    }
    assert_eq!(listening, 2, "AMQP over TLS and Erlang distribution");
}
