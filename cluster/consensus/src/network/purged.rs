//! Ends a stream of appends that cannot go on.
//!
//! openraft keeps entries that a stream of appends is about to send. But a failure of the stream before, when it is reported
//! late, lets them go, and the stream that has begun meanwhile reads nothing where they were. openraft turns what it reads
//! into an append without entries, again and again, and looks for no other work as long as it believes that there are more:
//! a member that got a snapshot in the meantime would never get what follows it. After an error openraft begins anew, from
//! what the member has by then.

use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt};
use openraft::errors::Unreachable;
use openraft::raft::AppendEntriesRequest;

use crate::types::{Group, LogId};

/// Whether a stream was ended.
#[derive(Clone, Default)]
pub(crate) struct Stuck(Arc<AtomicBool>);

impl Stuck {
    /// What its answers end with.
    pub(crate) fn check(&self) -> Result<(), Unreachable<Group>> {
        if self.0.load(Ordering::Relaxed) {
            return Err(super::unreachable("the entries to append have been purged"));
        }
        Ok(())
    }
}

/// Ends `requests` at the second append without entries behind which `is_purged` finds the log gone. One alone is a heartbeat
/// to a member that waits for a snapshot.
pub(crate) fn until_stuck<S>(
    requests: S,
    is_purged: impl Fn(Option<LogId>) -> bool + Send + 'static,
) -> (
    impl Stream<Item = AppendEntriesRequest<Group>> + Send + Unpin + 'static,
    Stuck,
)
where
    S: Stream<Item = AppendEntriesRequest<Group>> + Send + Unpin + 'static,
{
    let stuck = Stuck::default();
    let flag = stuck.clone();
    let mut before = false;
    let requests = requests.take_while(move |request| {
        let nothing = request.entries.is_empty() && is_purged(request.prev_log_id);
        let ends = nothing && before;
        before = nothing;
        if ends {
            flag.0.store(true, Ordering::Relaxed);
        }
        future::ready(!ends)
    });
    (requests, stuck)
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_proto::consensus as proto;

    use crate::types::{Entry, Vote};
    use crate::wire::log_id_in;

    fn log_id(index: u64) -> LogId {
        log_id_in(proto::LogId { term: 1, index })
    }

    fn append(previous: u64, entries: u64) -> AppendEntriesRequest<Group> {
        let entry = |index| Entry {
            log_id: log_id(index),
            payload: openraft::EntryPayload::Blank,
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(previous)),
            leader_commit: None,
            entries: (previous + 1..=previous + entries).map(entry).collect(),
        }
    }

    /// How many of the requests go out when the log is purged up to 50, and whether an error follows.
    async fn sent(requests: Vec<AppendEntriesRequest<Group>>) -> (usize, bool) {
        let is_purged = |previous: Option<LogId>| previous.is_none_or(|previous| previous.index < 50);
        let (stream, stuck) = until_stuck(futures::stream::iter(requests), is_purged);
        (stream.count().await, stuck.check().is_err())
    }

    #[tokio::test]
    async fn a_stream_ends_where_it_would_repeat_itself_for_ever() {
        assert_eq!(sent(vec![append(39, 0), append(39, 0), append(39, 0)]).await, (1, true));
        assert_eq!(sent(vec![append(37, 2), append(39, 0), append(39, 0)]).await, (2, true));
    }

    #[tokio::test]
    async fn a_stream_goes_on_where_there_is_more() {
        assert_eq!(sent(vec![append(39, 0)]).await, (1, false));
        assert_eq!(
            sent(vec![append(50, 0), append(50, 0), append(50, 0)]).await,
            (3, false)
        );
        assert_eq!(
            sent(vec![append(39, 0), append(39, 20), append(59, 0)]).await,
            (3, false)
        );
    }
}
