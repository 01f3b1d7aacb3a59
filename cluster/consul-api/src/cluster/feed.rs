//! `/v1/cluster/events`: events as they happen, as server-sent events.
//!
//! A reader that comes back with `Last-Event-ID` gets what it missed, as far as this node remembers it. A reader that is too
//! slow is told how many events it lost and goes on with the newest.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use conclave_catalog::NodeId;
use conclave_consensus::{Consensus, Leadership};
use conclave_runtime::{Shutdown, clock};
use futures::{Stream, StreamExt, stream};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use super::events::{ClusterEvent, Happened, between, of_leadership, of_voters};

/// How many events a node remembers, and how many a slow reader may lag behind.
const REMEMBERED: usize = 256;
/// Voters are looked at so often: their change wakes nobody.
const VOTERS_PERIOD: Duration = Duration::from_millis(500);
/// A silent connection is kept open by a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What happened on this node's watch. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    /// Stands in front of the ids: numbers begin anew with each process, and a reader brings those of the one before.
    run: u32,
    remembered: Arc<Mutex<VecDeque<Arc<ClusterEvent>>>>,
    sender: broadcast::Sender<Arc<ClusterEvent>>,
    shutdown: Shutdown,
}

impl Feed {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self {
            run: rand::random(),
            remembered: Arc::default(),
            sender: broadcast::Sender::new(REMEMBERED),
            shutdown,
        }
    }

    fn tell(&self, happened: Happened) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Arc::new(ClusterEvent {
            number: remembered.back().map_or(1, |last| last.number + 1),
            at: clock::now(),
            kind: happened.kind,
            subject: happened.subject,
            text: happened.text,
            details: happened.details,
        });
        remembered.push_back(Arc::clone(&event));
        if remembered.len() > REMEMBERED {
            remembered.pop_front();
        }
        // Under the lock, so that a new reader sees each event once; an error means that nobody reads.
        let _nobody = self.sender.send(event);
    }

    /// Watches the cluster until the end.
    pub(crate) async fn run(self, consensus: Consensus) {
        let (mut state, mut leadership) = (consensus.state(), consensus.leadership());
        let mut known = Arc::clone(&state.borrow_and_update());
        // The first events say how things are: who leads, who votes.
        let mut led = Leadership::default();
        leadership.mark_changed();
        let mut voters: Vec<NodeId> = Vec::new();
        loop {
            let woken = async {
                tokio::select! {
                    changed = state.changed() => changed.is_ok(),
                    changed = leadership.changed() => changed.is_ok(),
                    () = tokio::time::sleep(VOTERS_PERIOD) => true,
                }
            };
            if self.shutdown.run_until(woken).await != Some(true) {
                return;
            }
            let now = Arc::clone(&state.borrow_and_update());
            let leads = leadership.borrow_and_update().clone();
            let mut happened = of_leadership(&now, &led, &leads);
            happened.extend(between(&known, &now));
            if let Some(settled) = consensus.voters() {
                let settled: Vec<NodeId> = settled.into_iter().collect();
                happened.extend(of_voters(&now, &voters, &settled));
                voters = settled;
            }
            happened.into_iter().for_each(|event| self.tell(event));
            (known, led) = (now, leads);
        }
    }

    /// The number in an id that this process gave.
    fn number(&self, last_id: &str) -> Option<u64> {
        let (run, number) = last_id.split_once('-')?;
        (u32::from_str_radix(run, 16).ok()? == self.run).then(|| number.parse().ok())?
    }

    /// What is remembered, oldest first, each event with its id: everything, or what came after the event of an id that this
    /// process gave.
    pub fn remembered(&self, after: Option<&str>) -> Vec<(String, Arc<ClusterEvent>)> {
        let seen = after.and_then(|id| self.number(id));
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let later = later(&remembered, seen).into_iter();
        later.map(|event| (id(self.run, event.number), event)).collect()
    }

    /// The stream of a reader that has seen everything up to the event of this id; without one, or with one of another process
    /// of this node, of what is still to come and what is remembered.
    pub(crate) fn read(&self, last_id: Option<&str>) -> Response {
        let seen = last_id.and_then(|id| self.number(id));
        let (missed, receiver) = {
            let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            (later(&remembered, seen), self.sender.subscribe())
        };
        let shutdown = self.shutdown.clone();
        let run = self.run;
        let live = BroadcastStream::new(receiver).map(move |received| match received {
            Ok(event) => line(run, &event),
            Err(BroadcastStreamRecvError::Lagged(count)) => {
                Event::default().event("lost").data(format!("{{\"events\":{count}}}"))
            }
        });
        let lines = stream::iter(missed)
            .map(move |event| line(run, &event))
            .chain(live)
            .map(Ok);
        let ended = async move { shutdown.requested().await };
        Sse::new(until(lines, ended))
            .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
            .into_response()
    }
}

/// The events after the one that was `seen`; all of them when none was.
fn later(remembered: &VecDeque<Arc<ClusterEvent>>, seen: Option<u64>) -> Vec<Arc<ClusterEvent>> {
    let later = remembered.iter();
    later
        .filter(|event| seen.is_none_or(|seen| event.number > seen))
        .cloned()
        .collect()
}

fn until(
    lines: impl Stream<Item = Result<Event, Infallible>>,
    ended: impl Future<Output = ()>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    lines.take_until(ended)
}

fn id(run: u32, number: u64) -> String {
    format!("{run:08x}-{number}")
}

fn line(run: u32, event: &ClusterEvent) -> Event {
    let head = Event::default().event(event.kind).id(id(run, event.number));
    // An event is plain data and always has a form in JSON.
    head.json_data(event).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_another_process_mean_nothing() {
        let feed = Feed::new(Shutdown::never());
        assert_eq!(feed.number(&id(feed.run, 7)), Some(7));
        for foreign in [
            id(feed.run ^ 1, 7),
            "7".into(),
            "-7".into(),
            String::new(),
            format!("{:x}-", feed.run),
        ] {
            assert_eq!(feed.number(&foreign), None, "{foreign}");
        }
    }
}
