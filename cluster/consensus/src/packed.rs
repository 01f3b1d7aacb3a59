//! A proposal as the log and the network carry it: packed once, by whoever proposes, and opened once per node, when it is
//! applied. In between it is bytes that are shared, not copied.
//!
//! MessagePack with field names: a field that a version does not know is skipped, one that is missing takes its default, so
//! that a log outlives the version that wrote it.

use std::io;

use bytes::Bytes;
use conclave_catalog::Proposal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
