//! What decides: without disk, network, clock or chance of its own.

pub(crate) mod brake;
pub(crate) mod fetch;
pub(crate) mod origin;
pub(crate) mod plan;
pub(crate) mod settle;
#[cfg(test)]
mod simulation;
