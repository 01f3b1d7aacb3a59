//! Takes messages from a queue of one broker.
//!
//! The connection is kept open and made anew when it is lost. Deliveries come through a bounded channel; no more of them are
//! under way than the prefetch allows. What is not acknowledged when the connection is lost comes again.

use std::time::Duration;

use conclave_runtime::{Backoff, Shutdown, Tasks};
use futures::StreamExt;
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use tokio::sync::{mpsc, watch};

use crate::access::{Access, BrokerAddress};
use crate::connection::{Session, within};
use crate::error::MessagingError;

const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MOST: Duration = Duration::from_secs(2);

/// What to consume.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// Which broker.
    pub broker: BrokerAddress,
    /// How to log in.
    pub access: Access,
    /// Which queue.
    pub queue: &'static str,
    /// Most messages that are delivered and not acknowledged.
    pub prefetch: u16,
}

/// A message that was delivered.
pub struct Delivery {
    /// The content.
    pub body: Vec<u8>,
    /// The producer's name for the message, if it gave one.
    pub message_id: Option<String>,
    /// Whether it was delivered before, perhaps.
    pub redelivered: bool,
    /// Grows with each connection: what was not acknowledged in one comes again in the next.
    pub session: u64,
    acker: Acker,
}

impl Delivery {
    /// The message is done with; the broker may forget it. Without effect when the connection is lost: then it comes again.
    pub async fn ack(&self) {
        let acking = self.acker.ack(BasicAckOptions::default());
        if let Err(error) = within("acknowledge a message", acking).await {
            tracing::debug!(%error, "a message was not acknowledged and will come again");
        }
    }

    /// The message can never be dealt with; the broker drops it.
    pub async fn reject(&self) {
        let rejecting = self.acker.reject(BasicRejectOptions { requeue: false });
        if let Err(error) = within("reject a message", rejecting).await {
            tracing::debug!(%error, "a message was not rejected and will come again");
        }
    }
}

/// A running consumer.
pub struct Consumer {
    connected: watch::Receiver<bool>,
}

impl Consumer {
    /// Starts consuming.
    pub fn start(options: ConsumerOptions, tasks: &Tasks) -> (Self, mpsc::Receiver<Delivery>) {
        let (sender, deliveries) = mpsc::channel(usize::from(options.prefetch).max(1));
        let (state, connected) = watch::channel(false);
        let task = Task {
            options,
            sender,
            state,
            session: 0,
        };
        tasks.spawn("consumer", task.run(tasks.shutdown()));
        (Self { connected }, deliveries)
    }

    /// Whether it is connected.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

struct Task {
    options: ConsumerOptions,
    sender: mpsc::Sender<Delivery>,
    state: watch::Sender<bool>,
    session: u64,
}

impl Task {
    async fn run(mut self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MOST);
        while !shutdown.is_requested() && !self.sender.is_closed() {
            match shutdown.run_until(self.open()).await {
                None => return,
                Some(Err(error)) => {
                    tracing::debug!(broker = %self.options.broker, %error, "consumer is not connected");
                }
                Some(Ok((session, consumer))) => {
                    tracing::info!(broker = %self.options.broker, queue = self.options.queue, "consumer connected");
                    backoff.reset();
                    self.session += 1;
                    self.state.send_replace(true);
                    self.take(&session, consumer, &shutdown).await;
                    self.state.send_replace(false);
                    session.close().await;
                }
            }
            if !shutdown.sleep(backoff.next_delay()).await {
                return;
            }
        }
    }

    async fn open(&self) -> Result<(Session, lapin::Consumer), MessagingError> {
        let session = Session::open(&self.options.broker, &self.options.access, "consumer").await?;
        let limiting = session
            .channel
            .basic_qos(self.options.prefetch, BasicQosOptions::default());
        within("limit the prefetch", limiting).await?;
        let consuming = session.channel.basic_consume(
            self.options.queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = within("consume", consuming).await?;
        Ok((session, consumer))
    }

    /// Passes deliveries on until the connection, the queue or the receiver is gone.
    async fn take(&self, session: &Session, mut consumer: lapin::Consumer, shutdown: &Shutdown) {
        let mut lost = std::pin::pin!(session.lost());
        loop {
            let delivery = tokio::select! {
                () = shutdown.requested() => return,
                why = &mut lost => {
                    tracing::info!(broker = %self.options.broker, why, "consumer lost its connection");
                    return;
                }
                next = consumer.next() => match next {
                    Some(Ok(delivery)) => delivery,
                    Some(Err(error)) => {
                        tracing::info!(broker = %self.options.broker, %error, "consumer lost its connection");
                        return;
                    }
                    None => {
                        tracing::info!(broker = %self.options.broker, "the broker ended the consumer");
                        return;
                    }
                },
            };
            let delivery = Delivery {
                message_id: delivery.properties.message_id().as_ref().map(ToString::to_string),
                redelivered: delivery.redelivered,
                session: self.session,
                acker: delivery.acker,
                body: delivery.data,
            };
            if !matches!(shutdown.run_until(self.sender.send(delivery)).await, Some(Ok(()))) {
                return;
            }
        }
    }
}
