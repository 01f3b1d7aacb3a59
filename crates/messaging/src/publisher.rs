//! Hands messages to the first broker that takes them.
//!
//! A connection to every broker of the ring is kept open, so that a publisher never waits for one to be made. Publishing is
//! mandatory and confirmed: a broker has taken a message when it has routed it to a queue and written it to disk. What the
//! first broker does not take goes to the next. A broker that fails in the middle leaves the outcome of what it had not
//! confirmed unknown; those messages go to the next one under the same ids, and consumers have to tell repetitions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_runtime::{Backoff, Shutdown, ShutdownTrigger, Tasks};
use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Notify, watch};

use crate::access::{Access, BrokerAddress};
use crate::connection::{Session, within};
use crate::error::MessagingError;

/// A broker that has not confirmed a batch by then is given up for the next one. Confirmed means on disk.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MOST: Duration = Duration::from_secs(2);
/// AMQP's number for "keep it on disk".
const PERSISTENT: u8 = 2;

/// A message to be published.
#[derive(Debug, Clone)]
pub struct Message {
    /// Where to.
    pub exchange: &'static str,
    /// Empty for fanout exchanges.
    pub routing_key: &'static str,
    /// By which a repetition is told; at most 255 bytes.
    pub id: String,
    /// UTF-8 JSON.
    pub body: Vec<u8>,
}

/// Publishes. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

struct Inner {
    access: Access,
    brokers: watch::Receiver<Vec<BrokerAddress>>,
    links: Mutex<BTreeMap<BrokerAddress, Link>>,
    /// Wakes whoever waits for a broker.
    changed: watch::Sender<()>,
}

struct Link {
    open: watch::Receiver<Option<Arc<Open>>>,
    stop: ShutdownTrigger,
}

/// An open connection of the publisher.
struct Open {
    session: Session,
    /// Something went wrong on it: it is used no more, closed, and made anew.
    is_broken: AtomicBool,
    broken: Notify,
}

impl Open {
    fn give_up(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
        self.broken.notify_one();
    }
}

impl Publisher {
    /// Starts connecting to the brokers. Their order is the order in which they are tried: the own one first, then along the
    /// ring.
    pub fn start(access: Access, brokers: watch::Receiver<Vec<BrokerAddress>>, tasks: &Tasks) -> Self {
        let inner = Arc::new(Inner {
            access,
            brokers: brokers.clone(),
            links: Mutex::default(),
            changed: watch::channel(()).0,
        });
        let publisher = Self { inner };
        tasks.spawn("publisher", publisher.clone().keep_links(brokers, tasks.clone()));
        publisher
    }

    /// Publishes a batch, in its order. Tells for each message the name of the node whose broker has taken it; `None` when
    /// none has, or none is known to have. It waits for no broker that is not connected, and no longer for one that is than
    /// it takes to see that it does not confirm.
    pub async fn publish(&self, messages: &[Message]) -> Vec<Option<String>> {
        let mut taken: Vec<Option<String>> = vec![None; messages.len()];
        let order = self.inner.brokers.borrow().clone();
        for address in &order {
            let left: Vec<usize> = (0..messages.len()).filter(|index| taken[*index].is_none()).collect();
            if left.is_empty() {
                break;
            }
            let Some(open) = self.inner.open_link(address) else {
                continue;
            };
            let confirmed = send(&open.session.channel, messages, &left).await;
            if confirmed.len() < left.len() {
                tracing::info!(
                    broker = %address,
                    sent = left.len(),
                    confirmed = confirmed.len(),
                    "a broker did not take all messages; the next one gets them"
                );
                open.give_up();
            }
            for index in confirmed {
                taken[index] = Some(address.name.clone());
            }
        }
        taken
    }

    /// Whether some broker is connected.
    pub fn is_connected(&self) -> bool {
        let order = self.inner.brokers.borrow().clone();
        order.iter().any(|address| self.inner.open_link(address).is_some())
    }

    /// Waits until some broker is connected.
    pub async fn connected(&self) {
        let mut changed = self.inner.changed.subscribe();
        while !self.is_connected() {
            if changed.changed().await.is_err() {
                // The sender lives as long as this value.
                return;
            }
        }
    }

    /// Keeps one link a broker, as the list says.
    async fn keep_links(self, mut brokers: watch::Receiver<Vec<BrokerAddress>>, tasks: Tasks) {
        let shutdown = tasks.shutdown();
        while !shutdown.is_requested() {
            let wanted = brokers.borrow_and_update().clone();
            {
                let mut links = self.inner.lock_links();
                links.retain(|address, link| {
                    let stays = wanted.contains(address);
                    if !stays {
                        link.stop.fire();
                    }
                    stays
                });
                for address in wanted {
                    links.entry(address.clone()).or_insert_with(|| {
                        let (publish, open) = watch::channel(None);
                        let stop = shutdown.child();
                        tasks.spawn(
                            "publisher link",
                            self.clone().keep_open(address, publish, stop.signal()),
                        );
                        Link { open, stop }
                    });
                }
            }
            if !matches!(shutdown.run_until(brokers.changed()).await, Some(Ok(()))) {
                break;
            }
        }
    }

    async fn keep_open(self, address: BrokerAddress, state: watch::Sender<Option<Arc<Open>>>, stop: Shutdown) {
        let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MOST);
        while !stop.is_requested() {
            match stop.run_until(connect(&address, &self.inner.access)).await {
                None => return,
                Some(Err(error)) => tracing::debug!(broker = %address, %error, "publisher is not connected"),
                Some(Ok(session)) => {
                    tracing::info!(broker = %address, "publisher connected");
                    backoff.reset();
                    let lost = session.lost();
                    let open = Arc::new(Open {
                        session,
                        is_broken: AtomicBool::new(false),
                        broken: Notify::new(),
                    });
                    state.send_replace(Some(Arc::clone(&open)));
                    self.inner.changed.send_replace(());
                    tokio::select! {
                        () = stop.requested() => {}
                        () = open.broken.notified() => {}
                        why = lost => tracing::info!(broker = %address, why, "publisher lost its connection"),
                    }
                    state.send_replace(None);
                    open.session.close().await;
                }
            }
            if !stop.sleep(backoff.next_delay()).await {
                return;
            }
        }
    }
}

impl Inner {
    fn lock_links(&self) -> MutexGuard<'_, BTreeMap<BrokerAddress, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_link(&self, address: &BrokerAddress) -> Option<Arc<Open>> {
        let open = self.lock_links().get(address)?.open.borrow().clone();
        open.filter(|open| !open.is_broken.load(Ordering::Relaxed) && !open.session.is_blocked())
    }
}

async fn connect(address: &BrokerAddress, access: &Access) -> Result<Session, MessagingError> {
    let session = Session::open(address, access, "publisher").await?;
    let confirming = session.channel.confirm_select(ConfirmSelectOptions::default());
    within("ask for confirms", confirming).await?;
    Ok(session)
}

/// Sends the messages with these indices one after the other and waits for all confirms together. Returns the indices of
/// those that are confirmed.
async fn send(channel: &Channel, messages: &[Message], indices: &[usize]) -> Vec<usize> {
    let end = tokio::time::Instant::now() + CONFIRM_TIMEOUT;
    let mut confirms = Vec::with_capacity(indices.len());
    for index in indices {
        let message = &messages[*index];
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(message.id.as_str().into());
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publishing = channel.basic_publish(
            message.exchange.into(),
            message.routing_key.into(),
            options,
            &message.body,
            properties,
        );
        match tokio::time::timeout_at(end, publishing).await {
            Ok(Ok(confirm)) => confirms.push((*index, confirm)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "publishing failed");
                break;
            }
            Err(_) => break,
        }
    }
    let waits = confirms.into_iter().map(|(index, confirm)| async move {
        match tokio::time::timeout_at(end, confirm).await {
            Ok(Ok(Confirmation::Ack(None))) => Some(index),
            // Returned as unroutable, refused, lost, or too late.
            _ => None,
        }
    });
    join_all(waits).await.into_iter().flatten().collect()
}
