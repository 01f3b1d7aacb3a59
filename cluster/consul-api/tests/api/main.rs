//! The API over HTTPS, on real nodes with a real Raft group (spec/consul-api.md, section by section).

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod blocking;
mod cluster;
mod kv;
mod services;
mod sessions;
mod support;
