//! Chunks: how a file is cut into them, and how a file's list of them is written.
//!
//! The cuts follow the content (FastCDC), so bytes that are put into the middle of a file change the chunk around them and leave
//! the others as they are. The sizes are part of the format: other sizes give other lists, and with them other names for the same
//! content (docs/decisions/0023).

use std::io::Read;

use bytes::Bytes;
use conclave_catalog::files::{ContentHash, Layout};
use fastcdc::v2020::{FastCDC, Normalization};

/// Files up to this are one chunk.
pub(crate) const CHUNK_BYTES_MIN: usize = 64 << 10;
const CHUNK_BYTES_AVERAGE: usize = 256 << 10;
pub(crate) const CHUNK_BYTES_MAX: usize = 1 << 20;
/// The largest thing that the store takes, and that travels as one message: a list of chunks.
pub(crate) const STORED_BYTES_MAX: usize = 4 << 20;
/// Read at once.
const BUFFER_BYTES: usize = 4 << 20;
const LIST_MAGIC: &[u8; 4] = b"CCL1";
const LISTED_BYTES: usize = 36;
/// As many as a list may hold: of a file of average content 28 GiB, of any file 7 GiB.
const LISTED_MAX: usize = (STORED_BYTES_MAX - LIST_MAGIC.len()) / LISTED_BYTES;

/// Bytes and their name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) hash: ContentHash,
    pub(crate) bytes: Bytes,
}

impl Chunk {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self {
            hash: hash_of(&bytes),
            bytes,
        }
    }
}

pub(crate) fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash(*blake3::hash(bytes).as_bytes())
}

/// A chunk of a file, as its list names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) hash: ContentHash,
    pub(crate) bytes: u32,
}

/// What cutting a file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) content: ContentHash,
    pub(crate) layout: Layout,
    pub(crate) size: u64,
}

/// Why a file was not cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutError {
    #[error(transparent)]
    Read(#[from] std::io::Error),
    #[error("it has more than {LISTED_MAX} chunks")]
    TooLarge,
    /// Whoever takes the chunks takes no more.
    #[error("the transfer was given up")]
    GivenUp,
}

/// Cuts what `source` gives and hands each chunk to `take`, in order, the list last. Memory is bounded whatever the size.
pub(crate) fn cut(mut source: impl Read, mut take: impl FnMut(Chunk) -> bool) -> Result<Cut, CutError> {
    let mut buffer = vec![0; 2 * CHUNK_BYTES_MIN];
    let (mut filled, mut ended) = (0, false);
    let (mut size, mut list) = (0u64, Vec::<Listed>::new());
    loop {
        while !ended && filled < buffer.len() {
            match source.read(&mut buffer[filled..]) {
                Ok(0) => ended = true,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !ended && buffer.len() < BUFFER_BYTES {
            // No small file: it gets a buffer in which chunks are found without moving bytes for each.
            buffer.resize(BUFFER_BYTES, 0);
            continue;
        }
        let mut start = 0;
        let cutter = FastCDC::with_level(
            &buffer[..filled],
            CHUNK_BYTES_MIN,
            CHUNK_BYTES_AVERAGE,
            CHUNK_BYTES_MAX,
            // The sizes of chunks stay close to the average: what moves for a byte in the middle of one is bounded by its size.
            Normalization::Level3,
        );
        // A cut looks ahead as far as the largest chunk.
        while filled - start >= CHUNK_BYTES_MAX || (ended && (filled > start || list.is_empty())) {
            let (_, end) = cutter.cut(start, filled - start);
            let end = if end <= start { filled } else { end };
            let chunk = Chunk::new(Bytes::copy_from_slice(&buffer[start..end]));
            if list.len() == LISTED_MAX {
                return Err(CutError::TooLarge);
            }
            let bytes = u32::try_from(end - start).map_err(|_| CutError::TooLarge)?;
            list.push(Listed {
                hash: chunk.hash,
                bytes,
            });
            size += u64::from(bytes);
            if !take(chunk) {
                return Err(CutError::GivenUp);
            }
            start = end;
        }
        if ended {
            break;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
    if let [only] = list[..] {
        let (content, layout) = (only.hash, Layout::Whole);
        return Ok(Cut { content, layout, size });
    }
    let chunk = Chunk::new(write_list(&list));
    let content = chunk.hash;
    if !take(chunk) {
        return Err(CutError::GivenUp);
    }
    let layout = Layout::Listed;
    Ok(Cut { content, layout, size })
}

fn write_list(list: &[Listed]) -> Bytes {
    let mut bytes = Vec::with_capacity(LIST_MAGIC.len() + list.len() * LISTED_BYTES);
    bytes.extend_from_slice(LIST_MAGIC);
    for listed in list {
        bytes.extend_from_slice(&listed.hash.0);
        bytes.extend_from_slice(&listed.bytes.to_le_bytes());
    }
    bytes.into()
}

/// The chunks that a list names; `None` when these bytes are no list.
pub(crate) fn read_list(bytes: &[u8]) -> Option<Vec<Listed>> {
    let listed = bytes.strip_prefix(LIST_MAGIC)?.chunks_exact(LISTED_BYTES);
    if !listed.remainder().is_empty() {
        return None;
    }
    let read = |item: &[u8]| {
        let (hash, bytes) = item.split_first_chunk::<32>()?;
        Some(Listed {
            hash: ContentHash(*hash),
            bytes: u32::from_le_bytes(bytes.try_into().ok()?),
        })
    };
    listed.map(read).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut_all(bytes: &[u8]) -> (Cut, Vec<Chunk>) {
        let mut chunks = Vec::new();
        let found = cut(bytes, |chunk| {
            chunks.push(chunk);
            true
        });
        (found.unwrap(), chunks)
    }

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut noise = vec![0; bytes];
        reader.fill(&mut noise);
        noise
    }

    #[test]
    fn small_files_are_one_chunk() {
        for size in [0, 1, CHUNK_BYTES_MIN - 1, CHUNK_BYTES_MIN] {
            let (found, chunks) = cut_all(&noise(size, 1));
            assert_eq!(
                (found.layout, chunks.len(), found.size),
                (Layout::Whole, 1, size as u64)
            );
            assert_eq!(found.content, chunks[0].hash);
        }
    }

    /// What changes goes to two nodes, and the list with it: of a file of 200 MiB, 27 KiB. Together that is hardly ever more than
    /// a megabyte.
    #[test]
    fn a_byte_in_the_middle_changes_little() {
        let mut large = Vec::new();
        for seed in 0..100 {
            let before = noise(6 << 20, seed);
            let mut after = before.clone();
            after.insert(3 << 20, 7);
            let (first, known) = cut_all(&before);
            let (_, chunks) = cut_all(&after);
            let known: std::collections::HashSet<_> = known.iter().map(|chunk| chunk.hash).collect();
            let new: Vec<usize> = chunks
                .iter()
                .filter(|chunk| !known.contains(&chunk.hash))
                .map(|chunk| chunk.bytes.len())
                .collect();
            assert_eq!(first.layout, Layout::Listed);
            if 2 * (new.iter().sum::<usize>() + (27 << 10)) > 1 << 20 {
                large.push(new);
            }
        }
        assert!(large.len() <= 1, "{large:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_chunks_are_the_file(size in 0usize..(6 << 20), seed: u64, zeros: bool) {
            let bytes = if zeros { vec![0; size] } else { noise(size, seed) };
            let (found, chunks) = cut_all(&bytes);
            prop_assert_eq!(found.size, size as u64);
            let again = match found.layout {
                Layout::Whole => chunks[0].bytes.to_vec(),
                Layout::Listed => {
                    let list = read_list(&chunks.last().unwrap().bytes).unwrap();
                    prop_assert_eq!(list.len(), chunks.len() - 1);
                    for (listed, chunk) in list.iter().zip(&chunks) {
                        prop_assert_eq!((listed.hash, listed.bytes as usize), (chunk.hash, chunk.bytes.len()));
                    }
                    chunks[..chunks.len() - 1].iter().flat_map(|chunk| chunk.bytes.to_vec()).collect()
                }
            };
            prop_assert!(again == bytes);
            prop_assert_eq!(cut_all(&bytes).0, found);
        }
    }
}
