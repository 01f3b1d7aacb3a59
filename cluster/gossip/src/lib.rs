//! Failure detection on port 8301: who hears whom, since when not, and why.
//!
//! Every node sends every other one a beat (UDP, sealed with a key that derives from the cluster's) a few times a second. Whoever
//! has been silent for too long is asked over TCP with mutual TLS, so that lost datagrams, a process that is gone and a machine
//! that is cut off look different. Each beat says whom its sender hears: a link that works in one direction alone is noticed
//! at both ends.
//!
//! What is found out is suspicion, for people, dashboards and hints. Nothing's correctness rests on it: leaders are elected and
//! primaries promoted by consensus alone.
//!
//! [`detector`] decides and is pure; [`Gossip`] is its shell. Neither knows what the suspicion is used for. Why this is not a
//! library's gossip: docs/decisions/0013.

pub mod detector;
mod error;
mod service;
mod wire;

pub use error::GossipError;
pub use service::{Gossip, GossipOptions, PORT_DEFAULT};
