//! Everything that speaks AMQP, and the node's own RabbitMQ.
//!
//! The only crate that names lapin. [`Broker`] supervises this node's `rabbitmq-server`; [`Publisher`] hands messages to
//! whichever broker of the cluster takes them first; [`Consumer`] takes them from one. The brokers of different nodes know
//! nothing of each other (no Erlang clustering).
//!
//! A message is a transport and never a record: whoever publishes keeps what must not be lost until it is recorded
//! elsewhere, and whoever consumes acknowledges after its commit and expects repetitions. This crate knows nothing of what
//! the messages say. Source: `spec/messaging.md`.

mod access;
mod broker;
mod connection;
mod consumer;
mod error;
mod publisher;
pub mod topology;

pub use access::{Access, BrokerAddress, USER, password};
pub use broker::{Broker, BrokerOptions, BrokerState, BrokerStatus};
pub use consumer::{Consumer, ConsumerOptions, Delivery};
pub use error::MessagingError;
pub use publisher::{Message, Publisher};
