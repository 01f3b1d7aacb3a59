//! Between openraft's types and the protobuf messages that the log on disk and the append stream are made of.

use std::io;

use bytes::Bytes;
use conclave_proto::consensus as proto;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult};
use openraft::vote::{RaftLeaderId, RaftVote};

use crate::packed::{Packed, pack, unpack};
use crate::types::{Entry, Group, LeaderId, LogId, Vote};

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message without {what}"))
}

pub(crate) fn vote_out(vote: &Vote) -> proto::VoteId {
    proto::VoteId {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_in(vote: &proto::VoteId) -> Vote {
    Vote::from_leader_id(LeaderId::new(vote.term, vote.node), vote.committed)
}

pub(crate) fn log_id_out(log_id: LogId) -> proto::LogId {
    proto::LogId {
        term: log_id.leader_id.term,
        index: log_id.index,
    }
}

pub(crate) fn log_id_in(log_id: proto::LogId) -> LogId {
    LogId {
        // In the standard mode a committed leader id is the term; whose it was does not count.
        leader_id: LeaderId::new(log_id.term, 0).to_committed(),
        index: log_id.index,
    }
}

pub(crate) fn entry_out(entry: Entry) -> io::Result<proto::LogEntry> {
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(packed) => Some(proto::log_entry::Payload::Proposal(packed.0)),
        EntryPayload::Membership(membership) => {
            Some(proto::log_entry::Payload::Membership(Bytes::from(pack(&membership)?)))
        }
    };
    Ok(proto::LogEntry {
        term: entry.log_id.leader_id.term,
        index: entry.log_id.index,
        payload,
    })
}

pub(crate) fn entry_in(entry: proto::LogEntry) -> io::Result<Entry> {
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(proto::log_entry::Payload::Proposal(bytes)) => EntryPayload::Normal(Packed(bytes)),
        Some(proto::log_entry::Payload::Membership(bytes)) => EntryPayload::Membership(unpack(&bytes)?),
    };
    let log_id = log_id_in(proto::LogId {
        term: entry.term,
        index: entry.index,
    });
    Ok(Entry { log_id, payload })
}

pub(crate) fn append_out(request: AppendEntriesRequest<Group>) -> io::Result<proto::AppendRequest> {
    Ok(proto::AppendRequest {
        vote: Some(vote_out(&request.vote)),
        previous: request.prev_log_id.map(log_id_out),
        committed: request.leader_commit.map(log_id_out),
        entries: request.entries.into_iter().map(entry_out).collect::<Result<_, _>>()?,
    })
}

/// Refuses a hole: openraft compares the entry before the first one and takes for granted that the rest follows it.
pub(crate) fn append_in(request: proto::AppendRequest) -> io::Result<AppendEntriesRequest<Group>> {
    let first = request.previous.map_or(0, |previous| previous.index + 1);
    if let Some((wanted, entry)) = (first..)
        .zip(&request.entries)
        .find(|(wanted, entry)| entry.index != *wanted)
    {
        let found = entry.index;
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("an append with entry {found} in the place of entry {wanted}"),
        ));
    }
    Ok(AppendEntriesRequest {
        vote: vote_in(&request.vote.ok_or_else(|| missing("a vote"))?),
        prev_log_id: request.previous.map(log_id_in),
        leader_commit: request.committed.map(log_id_in),
        entries: request.entries.into_iter().map(entry_in).collect::<Result<_, _>>()?,
    })
}

pub(crate) fn result_out(result: StreamAppendResult<Group>) -> proto::AppendResponse {
    use proto::append_response::Result as Outcome;
    let outcome = match result {
        Ok(last) => Outcome::Matched(proto::Matched {
            last: last.map(log_id_out),
        }),
        Err(StreamAppendError::Conflict(log_id)) => Outcome::Conflict(log_id_out(log_id)),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::HigherVote(vote_out(&vote)),
    };
    proto::AppendResponse { result: Some(outcome) }
}

pub(crate) fn result_in(response: proto::AppendResponse) -> io::Result<StreamAppendResult<Group>> {
    use proto::append_response::Result as Outcome;
    Ok(match response.result.ok_or_else(|| missing("a result"))? {
        Outcome::Matched(matched) => Ok(matched.last.map(log_id_in)),
        Outcome::Conflict(log_id) => Err(StreamAppendError::Conflict(log_id_in(log_id))),
        Outcome::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote_in(&vote))),
    })
}

/// The answer to one append, for the unary call.
pub(crate) fn response_in(response: proto::AppendResponse) -> io::Result<AppendEntriesResponse<Group>> {
    Ok(match result_in(response)? {
        Ok(_) => AppendEntriesResponse::Success,
        Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
        Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn log_id(term: u64, index: u64) -> LogId {
        log_id_in(proto::LogId { term, index })
    }

    #[test]
    fn an_append_comes_through() {
        let membership = openraft::Membership::new_with_defaults(vec![[1, 2].into(), [1].into()], [1, 2]);
        let request = AppendEntriesRequest::<Group> {
            vote: Vote::new_committed(7, 3),
            prev_log_id: Some(log_id(6, 41)),
            leader_commit: None,
            entries: vec![
                Entry {
                    log_id: log_id(7, 42),
                    payload: EntryPayload::Blank,
                },
                Entry {
                    log_id: log_id(7, 43),
                    payload: EntryPayload::Normal(Packed(Bytes::from_static(b"bytes"))),
                },
                Entry {
                    log_id: log_id(7, 44),
                    payload: EntryPayload::Membership(membership),
                },
            ],
        };
        let bytes = append_out(request.clone()).unwrap().encode_to_vec();
        let back = append_in(proto::AppendRequest::decode(&bytes[..]).unwrap()).unwrap();
        assert_eq!(
            (back.vote, back.prev_log_id, back.leader_commit),
            (request.vote, request.prev_log_id, None)
        );
        assert_eq!(back.entries, request.entries);
    }

    #[test]
    fn an_append_with_a_hole_is_refused() {
        let request = |previous: Option<u64>, indexes: &[u64]| proto::AppendRequest {
            vote: Some(vote_out(&Vote::new_committed(7, 3))),
            previous: previous.map(|index| proto::LogId { term: 6, index }),
            committed: None,
            entries: indexes
                .iter()
                .map(|index| proto::LogEntry {
                    term: 7,
                    index: *index,
                    payload: None,
                })
                .collect(),
        };
        for (previous, indexes) in [
            (None, &[1][..]),
            (Some(39), &[47]),
            (Some(39), &[40, 42]),
            (Some(39), &[39]),
        ] {
            assert!(
                append_in(request(previous, indexes)).is_err(),
                "{previous:?} {indexes:?}"
            );
        }
        for (previous, indexes) in [(None, &[0, 1][..]), (Some(39), &[]), (Some(39), &[40, 41])] {
            assert!(
                append_in(request(previous, indexes)).is_ok(),
                "{previous:?} {indexes:?}"
            );
        }
    }

    #[test]
    fn an_answer_comes_through() {
        for result in [
            Ok(None),
            Ok(Some(log_id(3, 4))),
            Err(StreamAppendError::Conflict(log_id(3, 4))),
            Err(StreamAppendError::HigherVote(Vote::new(9, 2))),
        ] {
            let bytes = result_out(result.clone()).encode_to_vec();
            assert_eq!(
                result_in(proto::AppendResponse::decode(&bytes[..]).unwrap()).unwrap(),
                result
            );
        }
    }
}
