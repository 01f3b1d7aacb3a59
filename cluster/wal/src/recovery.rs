//! Reading a log back after a crash.
//!
//! A crash can tear what was written since the last completed sync, and nothing else: any of its sectors may be there
//! or not, in any order. So an invalid frame in the last segment is a **torn tail** if it can belong to the last epoch,
//! and then everything from it on was never acknowledged and is cut off. It is **damage** if anything valid after it
//! proves that a sync has been completed since: a frame of an epoch that began later. In any earlier segment an invalid
//! frame is damage, since a segment is synced before the next one begins.
//!
//! What cannot be told: damage to frames of the last epoch of all, with no later frame that stands on it, looks as a torn
//! write does. The consensus crate narrows the gap by writing the committed index after each group, which begins a new
//! epoch.

use std::path::Path;

use crate::WalError;
use crate::frame::{self, ALIGNMENT, FIRST_OF_EPOCH, Frame, SEGMENT_HEADER_BYTES};

/// What was found in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Frames that came back.
    pub frames: u64,
    /// Bytes of the torn tail that were cut off.
    pub torn_bytes: u64,
}

/// Where reading one segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) frames: u64,
    pub(crate) valid_end: u64,
    /// Of the last valid frame; what was passed in if there is none.
    pub(crate) epoch: u64,
}

/// One segment's content and place.
pub(crate) struct Segment<'a> {
    pub(crate) number: u64,
    pub(crate) path: &'a Path,
    pub(crate) bytes: &'a [u8],
    pub(crate) is_last: bool,
}

impl Segment<'_> {
    pub(crate) fn corrupt(&self, offset: usize, reason: impl Into<String>) -> WalError {
        WalError::Corrupt {
            path: self.path.to_owned(),
            offset: offset as u64,
            reason: reason.into(),
        }
    }

    /// The epoch that the segment follows, from its header. A last segment without a header was being made when the crash
    /// came (`None`); unless it holds frames, which come after the header has been synced.
    pub(crate) fn begins(&self) -> Result<Option<u64>, WalError> {
        if let Some(epoch) = frame::decode_segment_header(self.bytes, self.number) {
            return Ok(Some(epoch));
        }
        if !self.is_last {
            return Err(self.corrupt(0, "the segment's header is invalid"));
        }
        match self.next_valid(ALIGNMENT) {
            Some((offset, _)) => Err(self.corrupt(0, format!("no header, but a frame at byte {offset}"))),
            None => Ok(None),
        }
    }

    /// Gives each frame to `visit`, in order. `epoch` is that of the last frame of the segment before.
    pub(crate) fn scan(
        &self,
        mut epoch: u64,
        visit: &mut dyn FnMut(Frame) -> std::io::Result<()>,
    ) -> Result<Scanned, WalError> {
        let mut offset = SEGMENT_HEADER_BYTES;
        let mut frames = 0;
        while offset < self.bytes.len() {
            let Some((header, payload)) = frame::decode(&self.bytes[offset..], self.number) else {
                self.judge_tail(offset, epoch)?;
                break;
            };
            let begins = header.flags & FIRST_OF_EPOCH != 0;
            if header.epoch != epoch + u64::from(begins) {
                let reason = format!("a frame of epoch {} follows epoch {epoch}", header.epoch);
                return Err(self.corrupt(offset, reason));
            }
            epoch = header.epoch;
            visit(Frame {
                segment: self.number,
                kind: header.kind,
                payload: payload.to_vec(),
            })
            .map_err(WalError::Rejected)?;
            frames += 1;
            offset += header.frame_bytes();
        }
        Ok(Scanned {
            frames,
            valid_end: offset.min(self.bytes.len()) as u64,
            epoch,
        })
    }

    /// Whether the invalid frame at `offset` may be a torn write: see the module's comment.
    fn judge_tail(&self, offset: usize, epoch: u64) -> Result<(), WalError> {
        if !self.is_last {
            return Err(self.corrupt(offset, "an invalid frame in a completed segment"));
        }
        let mut from = offset + ALIGNMENT;
        while let Some((found, header)) = self.next_valid(from) {
            let begins = header.flags & FIRST_OF_EPOCH != 0;
            if header.epoch > epoch + 1 || (header.epoch == epoch + 1 && begins) {
                let reason = format!(
                    "an invalid frame after epoch {epoch}, with epoch {} at byte {found} behind it",
                    header.epoch
                );
                return Err(self.corrupt(offset, reason));
            }
            from = found + header.frame_bytes();
        }
        Ok(())
    }

    fn next_valid(&self, from: usize) -> Option<(usize, frame::Header)> {
        (from..self.bytes.len())
            .step_by(ALIGNMENT)
            .find_map(|offset| frame::decode(&self.bytes[offset..], self.number).map(|(header, _)| (offset, header)))
    }
}
