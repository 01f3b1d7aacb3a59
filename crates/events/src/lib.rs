//! Logs and events on their way between operations, brokers and the record.
//!
//! [`EventOutlet`] is where a manager's own operations send their lines: they are published as Cloudify-shaped JSON to the
//! first broker that takes them. [`EventPipeline`] takes what comes out of this node's broker, from this manager, from others
//! and from foreign producers, and stores it in batches, each message once.
//!
//! A message is a transport, never a record. The outlet holds every line until it is known to be recorded: by its own
//! pipeline, which tells it, or by storing the line itself, when no broker takes it, when nobody tells in time, or when an
//! operation has ended and its lines are waited for. Lines carry ids, so that a line that goes both ways is stored once.
//!
//! Wire format: `spec/logs-events-metrics.md`, section 1. This crate knows nothing of AMQP (`messaging` does) and of SQL
//! (`store` does).

mod identity;
mod outlet;
mod parking;
mod pipeline;
mod recent;
mod record;
mod tracker;
mod wire;

pub use outlet::{EventOutlet, OutletStatus};
pub use pipeline::{EventPipeline, PipelineOptions, PipelineStatus};
pub use wire::{Malformed, encode, parse};
