//! Proposals go to Raft in groups: while one is on its way to the disks of a majority, the next gathers.
//!
//! A group costs one append, one sync and one message to each follower, however many proposals are in it. Proposals that come over
//! connections of their own arrive one by one, and would make many small groups at nearly the price of large ones. A proposal
//! that comes alone does not wait. (DeWitt and others, "Implementation Techniques for Main Memory Database Systems", 1984.)

use std::collections::VecDeque;
use std::time::Duration;

use conclave_runtime::{Shutdown, Tasks};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::errors::ClientWriteError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::packed::Packed;
use crate::server::Forwarded;
use crate::types::Raft;

/// Proposals that may wait to be gathered; further ones wait at the door.
const WAITING: usize = 1024;
/// A group of this size does not wait for the one before it: what it would save is small by then, and the processor would idle
/// while the disk works. Measured: docs/benchmarks.md, "The Raft group".
const WORTH_ITS_PRICE: usize = 16;
/// A smaller group does not wait longer than this: the one before it may be stuck, and Raft may have an answer for this one (it leads
/// no more). Nothing but throughput depends on it.
const PATIENCE: Duration = Duration::from_millis(20);

struct Waiting {
    proposal: Packed,
    answer: oneshot::Sender<Forwarded>,
}

/// The way to Raft's log on the leader. Cheap to clone.
#[derive(Clone)]
pub(crate) struct GroupCommit {
    queue: mpsc::Sender<Waiting>,
}

impl GroupCommit {
    /// Its task ends when the node stops. Clones stay in many hands until the process ends.
    pub(crate) fn new(raft: Raft, tasks: &Tasks) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        tasks.spawn("group commit", run(raft, waiting, tasks.shutdown()));
        Self { queue }
    }

    /// Commits a proposal, if this node leads. Whoever stops waiting leaves the outcome unknown.
    pub(crate) async fn propose(&self, proposal: Packed) -> Forwarded {
        let ended = || Forwarded::Failed("this node is stopping".into());
        let (answer, outcome) = oneshot::channel();
        if self.queue.send(Waiting { proposal, answer }).await.is_err() {
            return ended();
        }
        outcome.await.unwrap_or_else(|_| ended())
    }
}

/// Without a majority a group is never answered, so nobody waits for those under way when the node stops: their outcomes are unknown,
/// and whoever still wants one asks the next leader under the same request id.
async fn run(raft: Raft, mut waiting: mpsc::Receiver<Waiting>, shutdown: Shutdown) {
    let mut under_way = FuturesUnordered::new();
    let mut gathered = Vec::new();
    let mut patience = Instant::now();
    loop {
        let due = under_way.is_empty() || gathered.len() >= WORTH_ITS_PRICE || Instant::now() >= patience;
        if due && !gathered.is_empty() {
            under_way.push(commit(raft.clone(), std::mem::take(&mut gathered)));
            patience = Instant::now() + PATIENCE;
        }
        let someone_waits = !gathered.is_empty();
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            Some(()) = under_way.next() => {}
            taken = waiting.recv_many(&mut gathered, WAITING) => if taken == 0 { return },
            () = tokio::time::sleep_until(patience), if someone_waits => {}
        }
    }
}

/// Sends a group to Raft and hands its outcomes on.
async fn commit(raft: Raft, group: Vec<Waiting>) {
    let (proposals, mut answers): (Vec<_>, VecDeque<_>) =
        group.into_iter().map(|one| (one.proposal, one.answer)).unzip();
    let mut failure = "raft gave no outcome".to_owned();
    match raft.client_write_many(proposals).await {
        Ok(mut results) => {
            while let Some(result) = results.next().await {
                let outcome = match result {
                    Ok(Ok(written)) => Forwarded::Applied(written.response),
                    Ok(Err(ClientWriteError::ForwardToLeader(_))) => Forwarded::NotLeader,
                    Ok(Err(error)) => Forwarded::Failed(error.to_string()),
                    Err(error) => {
                        failure = error.to_string();
                        break;
                    }
                };
                if let Some(answer) = answers.pop_front() {
                    // Whoever asked may have given up.
                    let _given_up = answer.send(outcome);
                }
            }
        }
        Err(error) => failure = error.to_string(),
    }
    for answer in answers {
        let _given_up = answer.send(Forwarded::Failed(failure.clone()));
    }
}
