//! Chunks on their way between nodes, on port 22000.

mod fetching;
mod peers;
mod service;
mod spread;

pub(crate) use fetching::Fetching;
pub(crate) use peers::Peers;
pub(crate) use service::{Members, Service};
pub(crate) use spread::Spread;

use bytes::Bytes;
use conclave_catalog::files::ContentHash;
use conclave_proto::files as proto;
use tonic::Status;

use crate::chunk::{Chunk, STORED_BYTES_MAX};

/// A message holds one chunk, or small ones up to this.
const MESSAGE_BYTES: usize = 1 << 20;
/// The largest message: the largest chunk and its frame.
pub(crate) const MESSAGE_BYTES_MAX: usize = STORED_BYTES_MAX + (1 << 20);

fn hash_from(bytes: &[u8]) -> Result<ContentHash, Status> {
    bytes
        .try_into()
        .map(ContentHash)
        .map_err(|_| Status::invalid_argument("a hash has 32 bytes"))
}

fn hash_out(hash: &ContentHash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}

/// Chunks as messages: small ones together.
fn messages<'a>(chunks: impl IntoIterator<Item = &'a Chunk>) -> Vec<proto::Chunks> {
    let (mut messages, mut bytes) = (vec![proto::Chunks::default()], 0);
    for chunk in chunks {
        if bytes > 0 && bytes + chunk.bytes.len() > MESSAGE_BYTES {
            messages.push(proto::Chunks::default());
            bytes = 0;
        }
        bytes += chunk.bytes.len().max(1);
        if let Some(message) = messages.last_mut() {
            message.chunks.push(proto::Chunk {
                hash: hash_out(&chunk.hash),
                data: chunk.bytes.clone(),
            });
        }
    }
    messages
}
