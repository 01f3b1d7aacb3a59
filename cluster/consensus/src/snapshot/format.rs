//! The layout of a snapshot file. All integers are little-endian.
//!
//! ```text
//! file:  magic "CLVSNP01" | block | block | … | end block
//! block: length u32 | crc u32 | kind u8 | payload
//! ```
//!
//! The checksum (CRC-32) covers the block's number, its kind and its payload, so that a block that is damaged, missing or in
//! another's place is noticed. The first block is the description (log id and membership), the end block repeats how many
//! blocks there were: a file without it was not finished. The blocks between are one MessagePack stream of the state, cut
//! where a block was full: neither side ever holds more than a block of it besides the state itself. The last two bytes of the
//! magic are the version of the layout; the state's fields carry names, so that it outlives changes of the state.

use std::io::{self, Read, Write};

use conclave_wal::DiskFile;
use crc32fast::Hasher;

const MAGIC: &[u8; 8] = b"CLVSNP01";
const HEADER_BYTES: usize = 9;
/// A full block. Also the pace of writing: between two blocks the writer lets others have the disk.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// Descriptions are the only blocks that may be longer; a longer one is damage.
const BLOCK_BYTES_MAX: usize = 16 << 20;
/// Synced in pieces: one sync of a large file would make the log's syncs wait behind it.
const SYNC_EVERY_BYTES: u64 = 2 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Description = 1,
    State = 2,
    End = 3,
}

fn checksum(number: u64, kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

fn damaged(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot is damaged: {reason}"))
}

/// Writes a file block by block. What is written through [`Write`] is the state.
pub(super) struct BlockWriter<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    synced: u64,
    blocks: u64,
    buffer: Vec<u8>,
    /// Called after each block.
    pause: &'a mut dyn FnMut(),
}

impl<'a> BlockWriter<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, description: &[u8], pause: &'a mut dyn FnMut()) -> io::Result<Self> {
        file.write_at(0, MAGIC)?;
        let mut writer = Self {
            file,
            offset: MAGIC.len() as u64,
            synced: 0,
            blocks: 0,
            buffer: Vec::with_capacity(BLOCK_BYTES),
            pause,
        };
        writer.block(Kind::Description, description)?;
        Ok(writer)
    }

    fn block(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&checksum(self.blocks, kind as u8, payload).to_le_bytes());
        bytes.push(kind as u8);
        bytes.extend_from_slice(payload);
        self.file.write_at(self.offset, &bytes)?;
        self.offset += bytes.len() as u64;
        self.blocks += 1;
        if self.offset - self.synced >= SYNC_EVERY_BYTES {
            self.file.sync()?;
            self.synced = self.offset;
        }
        (self.pause)();
        Ok(())
    }

    fn flush_block(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::take(&mut self.buffer);
        self.block(Kind::State, &full)?;
        self.buffer = full;
        self.buffer.clear();
        Ok(())
    }

    /// The last block; then everything is durable. Returns the file's length.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.flush_block()?;
        let blocks = self.blocks;
        self.block(Kind::End, &blocks.to_le_bytes())?;
        self.file.sync()?;
        Ok(self.offset)
    }
}

impl Write for BlockWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == BLOCK_BYTES {
            self.flush_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file block by block. What is read through [`Read`] is the state.
pub(super) struct BlockReader<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    blocks: u64,
    block: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl<'a> BlockReader<'a> {
    /// The reader, and the description.
    pub(super) fn open(file: &'a dyn DiskFile) -> io::Result<(Self, Vec<u8>)> {
        let mut magic = [0; MAGIC.len()];
        if file.read_at(0, &mut magic)? < magic.len() || &magic != MAGIC {
            return Err(damaged("it does not begin as one of this version does"));
        }
        let mut reader = Self {
            file,
            offset: MAGIC.len() as u64,
            blocks: 0,
            block: Vec::new(),
            taken: 0,
            ended: false,
        };
        if reader.next_block()? != Kind::Description {
            return Err(damaged("the description is not its first block"));
        }
        let description = std::mem::take(&mut reader.block);
        Ok((reader, description))
    }

    fn next_block(&mut self) -> io::Result<Kind> {
        let mut header = [0; HEADER_BYTES];
        if self.file.read_at(self.offset, &mut header)? < HEADER_BYTES {
            return Err(damaged(format!("it ends within block {}", self.blocks)));
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(0) as usize;
        if length > BLOCK_BYTES_MAX {
            return Err(damaged(format!("block {} claims {length} bytes", self.blocks)));
        }
        self.block.resize(length, 0);
        self.taken = 0;
        if self.file.read_at(self.offset + HEADER_BYTES as u64, &mut self.block)? < length {
            return Err(damaged(format!("it ends within block {}", self.blocks)));
        }
        if word(4) != checksum(self.blocks, header[8], &self.block) {
            return Err(damaged(format!("block {} has a wrong checksum", self.blocks)));
        }
        self.offset += (HEADER_BYTES + length) as u64;
        self.blocks += 1;
        match header[8] {
            1 => Ok(Kind::Description),
            2 => Ok(Kind::State),
            3 => Ok(Kind::End),
            other => Err(damaged(format!("block {} is of unknown kind {other}", self.blocks - 1))),
        }
    }

    /// Reads whatever the state has left, and the end.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let mut rest = [0; 1];
        if self.read(&mut rest)? > 0 {
            return Err(damaged("something follows the state"));
        }
        Ok(())
    }
}

impl Read for BlockReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.block.len() && !self.ended {
            let before = self.blocks;
            match self.next_block()? {
                Kind::State => {}
                Kind::Description => return Err(damaged("a second description")),
                Kind::End => {
                    if self.block != before.to_le_bytes() {
                        return Err(damaged(format!(
                            "{before} blocks were read, and the end tells of others"
                        )));
                    }
                    self.ended = true;
                    self.block.clear();
                }
            }
        }
        let taken = buffer.len().min(self.block.len() - self.taken);
        buffer[..taken].copy_from_slice(&self.block[self.taken..self.taken + taken]);
        self.taken += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_wal::{Disk, MemoryDisk};
    use std::path::Path;

    fn written(disk: &MemoryDisk, state: &[u8]) -> u64 {
        let file = disk.create(Path::new("/s")).unwrap();
        let mut pause = || {};
        let mut writer = BlockWriter::new(&*file, b"about", &mut pause).unwrap();
        writer.write_all(state).unwrap();
        writer.finish().unwrap()
    }

    fn read(disk: &MemoryDisk) -> io::Result<Vec<u8>> {
        let file = disk.open(Path::new("/s"))?;
        let (mut reader, description) = BlockReader::open(&*file)?;
        assert_eq!(description, b"about");
        let mut state = Vec::new();
        reader.read_to_end(&mut state)?;
        reader.finish()?;
        Ok(state)
    }

    #[test]
    fn what_is_written_comes_back_whatever_its_size() {
        let disk = MemoryDisk::default();
        for size in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7] {
            let state: Vec<u8> = (0..size).map(|byte| (byte % 253) as u8).collect();
            written(&disk, &state);
            assert!(read(&disk).unwrap() == state, "{size} bytes");
        }
    }

    #[test]
    fn each_flipped_bit_and_each_missing_byte_is_noticed() {
        let disk = MemoryDisk::default();
        let length = written(&disk, b"a small state") as usize;
        let mut whole = Vec::new();
        disk.edit(Path::new("/s"), |bytes| whole = bytes.clone());
        for bit in 0..length * 8 {
            disk.edit(Path::new("/s"), |bytes| {
                bytes.clone_from(&whole);
                bytes[bit / 8] ^= 1 << (bit % 8);
            });
            assert!(read(&disk).is_err(), "bit {bit}");
        }
        for cut in 0..length {
            disk.edit(Path::new("/s"), |bytes| *bytes = whole[..cut].to_vec());
            assert!(read(&disk).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn blocks_cannot_change_places() {
        let disk = MemoryDisk::default();
        let state: Vec<u8> = (0..2 * BLOCK_BYTES).map(|byte| (byte / BLOCK_BYTES) as u8).collect();
        written(&disk, &state);
        disk.edit(Path::new("/s"), |bytes| {
            let first = MAGIC.len() + HEADER_BYTES + b"about".len();
            let second = first + HEADER_BYTES + BLOCK_BYTES;
            let moved = bytes[first..second].to_vec();
            bytes.copy_within(second..second + moved.len(), first);
            bytes[second..second + moved.len()].copy_from_slice(&moved);
        });
        assert!(read(&disk).is_err());
    }
}
