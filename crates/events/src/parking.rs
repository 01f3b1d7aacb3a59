//! Messages whose execution is not known yet. Pure.
//!
//! A producer may be faster than the row of its execution is visible here. So such a message waits for some seconds, is
//! looked up again, and only then given up.

use std::collections::VecDeque;
use std::time::Duration;

use conclave_types::ExecutionId;
use tokio::time::Instant;

/// How long a message waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How often the record is asked again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The waiting messages, oldest first.
#[derive(Debug)]
pub(crate) struct Parking<T> {
    places: usize,
    waiting: VecDeque<Parked<T>>,
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Parked<T> {
    execution: ExecutionId,
    until: Instant,
    item: T,
}

/// What leaves the parking place.
#[derive(Debug)]
pub(crate) struct Leaving<T> {
    /// Their executions are known by now.
    pub(crate) known: Vec<T>,
    /// They have waited long enough.
    pub(crate) given_up: Vec<(ExecutionId, T)>,
}

impl<T> Parking<T> {
    pub(crate) fn new(places: usize) -> Self {
        Self {
            places,
            waiting: VecDeque::new(),
            next_look: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes one; when all places are taken, the oldest has to go.
    pub(crate) fn park(&mut self, now: Instant, execution: ExecutionId, item: T) -> Option<(ExecutionId, T)> {
        let until = now + PATIENCE;
        self.waiting.push_back(Parked { execution, until, item });
        self.next_look.get_or_insert(now + LOOK_AGAIN);
        let crowded = self.waiting.len() > self.places;
        let oldest = crowded.then(|| self.waiting.pop_front()).flatten()?;
        Some((oldest.execution, oldest.item))
    }

    /// When to look again.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// The executions that are waited for.
    pub(crate) fn executions(&self) -> Vec<ExecutionId> {
        let mut ids: Vec<ExecutionId> = self.waiting.iter().map(|parked| parked.execution).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Lets go of those that are known and of those that have waited long enough.
    pub(crate) fn look(&mut self, now: Instant, is_known: impl Fn(ExecutionId) -> bool) -> Leaving<T> {
        let mut leaving = Leaving {
            known: Vec::new(),
            given_up: Vec::new(),
        };
        for parked in std::mem::take(&mut self.waiting) {
            if is_known(parked.execution) {
                leaving.known.push(parked.item);
            } else if parked.until <= now {
                leaving.given_up.push((parked.execution, parked.item));
            } else {
                self.waiting.push_back(parked);
            }
        }
        self.next_look = (!self.waiting.is_empty()).then(|| now + LOOK_AGAIN);
        leaving
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn execution(number: u128) -> ExecutionId {
        ExecutionId(Uuid::from_u128(number))
    }

    #[test]
    fn messages_wait_until_known_or_too_old() {
        let (now, mut parking) = (Instant::now(), Parking::new(10));
        assert_eq!(parking.next_look(), None);
        assert!(parking.park(now, execution(1), "a").is_none());
        assert!(parking.park(now, execution(2), "b").is_none());
        assert!(parking.park(now, execution(1), "c").is_none());
        assert_eq!(parking.next_look(), Some(now + LOOK_AGAIN));
        assert_eq!(parking.executions(), [execution(1), execution(2)]);
        let leaving = parking.look(now + LOOK_AGAIN, |id| id == execution(1));
        assert_eq!(
            (leaving.known, leaving.given_up.len(), parking.len()),
            (vec!["a", "c"], 0, 1)
        );
        let leaving = parking.look(now + PATIENCE, |_| false);
        assert_eq!(
            (leaving.given_up, parking.next_look()),
            (vec![(execution(2), "b")], None)
        );
    }

    #[test]
    fn a_crowd_pushes_the_oldest_out() {
        let (now, mut parking) = (Instant::now(), Parking::new(1));
        assert!(parking.park(now, execution(1), "a").is_none());
        assert_eq!(parking.park(now, execution(2), "b"), Some((execution(1), "a")));
        assert_eq!(parking.len(), 1);
    }
}
