//! The layout of a segment and its frames. All integers are little-endian.
//!
//! ```text
//! segment header, 32 bytes: magic "CLVWAL01" | segment number u64 | epoch before it u64 | crc u32 of the first 24 | zero u32
//! frame, aligned to 8:      magic u32 | crc u32 | length u32 | kind u8 | flags u8 | zero u16 | epoch u64 | payload | pad
//! ```
//!
//! The checksum (CRC-32) covers the segment's number, everything after the checksum, and the payload: bytes of another
//! segment are never taken for this one's. The **epoch** counts completed syncs: all frames written between two syncs share
//! one, and the first of them carries [`FIRST_OF_EPOCH`]. Recovery tells a torn tail from damage by it. The last byte of the
//! magic is the version of the layout.

use crc32fast::Hasher;

/// Larger payloads are refused: a length beyond it can only be damage.
pub const FRAME_BYTES_MAX: usize = 256 << 20;
/// In front of each payload.
pub(crate) const HEADER_BYTES: usize = 24;
pub(crate) const SEGMENT_HEADER_BYTES: usize = 32;
/// Set on the first frame that follows a sync.
pub(crate) const FIRST_OF_EPOCH: u8 = 1;
/// Frames start at multiples of this, so that a search for the next one is short.
pub(crate) const ALIGNMENT: usize = 8;

const SEGMENT_MAGIC: &[u8; 8] = b"CLVWAL01";
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"CLF\x01");

/// A frame as it came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The segment that it lies in.
    pub segment: u64,
    /// Its kind, as the writer called it.
    pub kind: u8,
    /// What was written.
    pub payload: Vec<u8>,
}

/// What a valid header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) epoch: u64,
    pub(crate) length: usize,
}

impl Header {
    /// Header, payload and padding.
    pub(crate) fn frame_bytes(&self) -> usize {
        padded(HEADER_BYTES + self.length)
    }
}

pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

fn checksum(segment: u64, rest: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(rest);
    hasher.update(payload);
    hasher.finalize()
}

/// Appends a frame to `buffer`. The caller has checked the payload's size.
pub(crate) fn encode(buffer: &mut Vec<u8>, segment: u64, kind: u8, flags: u8, epoch: u64, payload: &[u8]) {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[12] = kind;
    header[13] = flags;
    header[16..24].copy_from_slice(&epoch.to_le_bytes());
    let crc = checksum(segment, &header[8..], payload);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    buffer.extend_from_slice(&header);
    buffer.extend_from_slice(payload);
    buffer.resize(padded(buffer.len()), 0);
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The valid frame at the start of `bytes`, if there is one.
pub(crate) fn decode(bytes: &[u8], segment: u64) -> Option<(Header, &[u8])> {
    if u32_at(bytes, 0)? != FRAME_MAGIC {
        return None;
    }
    let length = u32_at(bytes, 8)? as usize;
    if length > FRAME_BYTES_MAX {
        return None;
    }
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + length)?;
    if u32_at(bytes, 4)? != checksum(segment, &bytes[8..HEADER_BYTES], payload) {
        return None;
    }
    // Padding is part of the frame: a frame whose padding is missing was torn.
    let padding = bytes.get(HEADER_BYTES + length..padded(HEADER_BYTES + length))?;
    if padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    let header = Header {
        kind: bytes[12],
        flags: bytes[13],
        epoch: u64_at(bytes, 16)?,
        length,
    };
    Some((header, payload))
}

/// `epoch` is that of the last frame of the segment before.
pub(crate) fn encode_segment_header(segment: u64, epoch: u64) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[0..8].copy_from_slice(SEGMENT_MAGIC);
    header[8..16].copy_from_slice(&segment.to_le_bytes());
    header[16..24].copy_from_slice(&epoch.to_le_bytes());
    let crc = crc32fast::hash(&header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The epoch before the segment, if `bytes` start with a valid header of it.
pub(crate) fn decode_segment_header(bytes: &[u8], segment: u64) -> Option<u64> {
    let epoch = u64_at(bytes, 16)?;
    (bytes.get(..SEGMENT_HEADER_BYTES) == Some(&encode_segment_header(segment, epoch))).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_belongs_to_its_segment() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 7, 3, FIRST_OF_EPOCH, 42, b"hello");
        encode(&mut bytes, 7, 4, 0, 42, b"");
        let (header, payload) = decode(&bytes, 7).unwrap();
        assert_eq!((header.kind, header.flags, header.epoch), (3, FIRST_OF_EPOCH, 42));
        assert_eq!(payload, b"hello");
        let (second, payload) = decode(&bytes[header.frame_bytes()..], 7).unwrap();
        assert_eq!((second.kind, payload), (4, &b""[..]));
        assert_eq!(decode(&bytes, 8), None, "another segment's bytes are not taken");
    }

    #[test]
    fn every_flipped_bit_and_every_missing_byte_is_noticed() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, 1, 0, 9, b"some payload");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged, 1), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length], 1), None, "{length} bytes");
        }
    }
}
