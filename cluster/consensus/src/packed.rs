//! A proposal as the log and the network carry it: packed once, by whoever proposes, and opened once per node, when it is
//! applied. In between it is bytes that are shared, not copied.
//!
//! MessagePack with field names: a field that a version does not know is skipped, one that is missing takes its default, so
//! that a log outlives the version that wrote it.

use std::io;

use bytes::Bytes;
use conclave_catalog::{ClusterState, Proposal, Refusal, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::LogId;

/// A packed [`Proposal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed(pub(crate) Bytes);

// openraft asks for these; entries themselves go through `wire`.
impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl serde::de::Visitor<'_> for BytesVisitor {
            type Value = Packed;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Packed, E> {
                Ok(Packed(Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

impl Packed {
    pub(crate) fn new(proposal: &Proposal) -> io::Result<Self> {
        Ok(Self(pack(proposal)?.into()))
    }

    pub(crate) fn open(&self) -> io::Result<Proposal> {
        unpack(&self.0)
    }

    /// Changes the state as the log's entry `log_id`; what the proposal is answered. An error is that of a proposal that cannot be
    /// opened.
    pub(crate) fn apply(&self, state: &mut ClusterState, log_id: LogId) -> io::Result<Response> {
        let proposal = self.open()?;
        let now = log_id.leader_id.term;
        Ok(match proposal.only_in_term {
            Some(decided) if decided != now => Response::Refused(Refusal::OtherTerm { decided, now }),
            _ => state.apply(log_id.index, proposal),
        })
    }
}

/// Contents can be large or secret: a log line shows the size alone.
impl std::fmt::Display for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a proposal of {} bytes", self.0.len())
    }
}

pub(crate) fn pack<T: Serialize + ?Sized>(value: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(io::Error::other)
}

pub(crate) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use conclave_catalog::{Command, RequestId};

    use super::*;

    #[test]
    fn what_was_decided_in_another_term_changes_nothing() {
        let setting = |n: u128, only_in_term| Proposal {
            only_in_term,
            ..Proposal::new(
                RequestId(uuid::Uuid::from_u128(n)),
                jiff::Timestamp::UNIX_EPOCH,
                Command::PutSetting {
                    key: "key".into(),
                    value: n.to_string().into(),
                },
            )
        };
        let mut state = ClusterState::default();
        let mut apply = |term, index, proposal: &Proposal| {
            let log_id = crate::wire::log_id_in(conclave_proto::consensus::LogId { term, index });
            let answer = Packed::new(proposal).unwrap().apply(&mut state, log_id).unwrap();
            (answer, state.settings().get("key").cloned())
        };
        assert_eq!(apply(3, 1, &setting(1, Some(3))), (Response::Done, Some("1".into())));
        let refusal = Response::Refused(Refusal::OtherTerm { decided: 3, now: 4 });
        assert_eq!(apply(4, 2, &setting(2, Some(3))), (refusal, Some("1".into())));
        assert_eq!(apply(4, 3, &setting(3, None)), (Response::Done, Some("3".into())));
    }
}
