//! Exchanges, queues and bindings of the virtual host `/` (spec/messaging.md, section 3.1), as far as logs and events need
//! them.
//!
//! Foreign producers declare the same objects: kind and flags have to be equal, or the broker closes the channel of whoever
//! comes second. For the same reason the queue's bound is a policy of the broker and no argument of the declaration.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};

use crate::MessagingError;
use crate::connection::within;

/// Logs are published here, without a routing key.
pub const LOGS: &str = "cloudify-logs";
/// Events are published here (4.5.5 and later).
pub const EVENTS: &str = "cloudify-events-topic";
/// Events were published here (up to 4.5).
pub const OLD_EVENTS: &str = "cloudify-events";
/// Routing key of events.
pub const EVENT_KEY: &str = "events";
/// Logs and events on their way to the record.
pub const LOGS_EVENTS_QUEUE: &str = "cloudify-logs-events";

/// Name, queue, routing key.
const BINDINGS: [(&str, &str); 3] = [(LOGS, ""), (EVENTS, "events.#"), (OLD_EVENTS, "")];

/// Makes what is not there.
pub(crate) async fn declare(channel: &Channel) -> Result<(), MessagingError> {
    let exchanges = [
        (LOGS, ExchangeKind::Fanout),
        (EVENTS, ExchangeKind::Topic),
        (OLD_EVENTS, ExchangeKind::Fanout),
    ];
    for (name, kind) in exchanges {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declaring = channel.exchange_declare(name.into(), kind, options, FieldTable::default());
        within("declare an exchange", declaring).await?;
    }
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare(LOGS_EVENTS_QUEUE.into(), durable, FieldTable::default());
    within("declare a queue", declaring).await?;
    for (exchange, key) in BINDINGS {
        let binding = channel.queue_bind(
            LOGS_EVENTS_QUEUE.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        within("bind a queue", binding).await?;
    }
    Ok(())
}

/// How many messages wait in the queue of logs and events.
pub(crate) async fn backlog(channel: &Channel) -> Result<u32, MessagingError> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let asking = channel.queue_declare(LOGS_EVENTS_QUEUE.into(), passive, FieldTable::default());
    Ok(within("look at a queue", asking).await?.message_count())
}
