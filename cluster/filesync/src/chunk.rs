//! Chunks: how a file is cut into them, and how a file's list of them is written.
//!
//! The cuts follow the content (FastCDC), so bytes that are put into the middle of a file change the chunk around them and leave
//! the others as they are. The sizes are part of the format: other sizes give other lists, and with them other names for the same
//! content (docs/decisions/0024).
//!
//! A list that would be larger than what the store takes is cut into several, and a list of those names the content.

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
const LISTS_MAGIC: &[u8; 4] = b"CCL2";
const LISTED_BYTES: usize = 36;
/// As many as a list may hold: of a file of average content 28 GiB, of any file 7 GiB.
const LISTED_MAX: usize = (STORED_BYTES_MAX - LIST_MAGIC.len()) / LISTED_BYTES;
/// Lists of one file: of average content 1.8 TiB, of any file 455 GiB.
const LISTS_MAX: usize = 64;

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

/// What a list names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Index {
    /// The chunks of the file.
    Chunks(Vec<Listed>),
    /// Lists, which name them in this order.
    Lists(Vec<Listed>),
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
    #[error("it has more than {LISTS_MAX} times {LISTED_MAX} chunks")]
    TooLarge,
    /// Whoever takes the chunks takes no more.
    #[error("the transfer was given up")]
    GivenUp,
}

/// Cuts what `source` gives and hands each chunk to `take`, in order, the list last. Memory is bounded whatever the size.
pub(crate) fn cut(source: impl Read, take: impl FnMut(Chunk) -> bool) -> Result<Cut, CutError> {
    cut_with(source, LISTED_MAX, take)
}

/// As if a list held so many.
fn cut_with(mut source: impl Read, listed_max: usize, mut take: impl FnMut(Chunk) -> bool) -> Result<Cut, CutError> {
    let mut buffer = vec![0; 2 * CHUNK_BYTES_MIN];
    let (mut filled, mut ended) = (0, false);
    let (mut size, mut list, mut lists) = (0u64, Vec::<Listed>::new(), Vec::new());
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
            if list.len() == listed_max {
                if lists.len() + 1 == LISTS_MAX {
                    return Err(CutError::TooLarge);
                }
                lists.push(give_list(LIST_MAGIC, &std::mem::take(&mut list), &mut take)?);
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
    if let ([only], []) = (&list[..], &lists[..]) {
        let (content, layout) = (only.hash, Layout::Whole);
        return Ok(Cut { content, layout, size });
    }
    let mut last = give_list(LIST_MAGIC, &list, &mut take)?;
    if !lists.is_empty() {
        lists.push(last);
        last = give_list(LISTS_MAGIC, &lists, &mut take)?;
    }
    Ok(Cut {
        content: last.hash,
        layout: Layout::Listed,
        size,
    })
}

/// Hands a list on, as a chunk.
fn give_list(magic: &[u8; 4], list: &[Listed], take: &mut impl FnMut(Chunk) -> bool) -> Result<Listed, CutError> {
    let mut bytes = Vec::with_capacity(magic.len() + list.len() * LISTED_BYTES);
    bytes.extend_from_slice(magic);
    for listed in list {
        bytes.extend_from_slice(&listed.hash.0);
        bytes.extend_from_slice(&listed.bytes.to_le_bytes());
    }
    let chunk = Chunk::new(bytes.into());
    let listed = Listed {
        hash: chunk.hash,
        bytes: u32::try_from(chunk.bytes.len()).map_err(|_| CutError::TooLarge)?,
    };
    if take(chunk) {
        Ok(listed)
    } else {
        Err(CutError::GivenUp)
    }
}

/// What a list names; `None` when these bytes are no list.
pub(crate) fn read_index(bytes: &[u8]) -> Option<Index> {
    match bytes.strip_prefix(LISTS_MAGIC) {
        Some(lists) => read_items(lists).map(Index::Lists),
        None => read_list(bytes).map(Index::Chunks),
    }
}

/// The chunks that a list names; `None` when these bytes are no list of chunks.
pub(crate) fn read_list(bytes: &[u8]) -> Option<Vec<Listed>> {
    read_items(bytes.strip_prefix(LIST_MAGIC)?)
}

fn read_items(bytes: &[u8]) -> Option<Vec<Listed>> {
    let listed = bytes.chunks_exact(LISTED_BYTES);
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

    /// Content of which every chunk is hardly larger than the smallest one.
    fn finely_cut(chunks: usize) -> Vec<u8> {
        let (_, all) = cut_all(&noise(64 << 20, 3));
        let pairs = all[..all.len() - 1].windows(2);
        let smallest = pairs.min_by_key(|pair| pair[0].bytes.len()).unwrap();
        let mut block = smallest[0].bytes.to_vec();
        // The byte behind a cut has its part in it.
        block[0] = smallest[1].bytes[0];
        block.repeat(chunks)
    }

    #[test]
    fn what_no_list_can_hold_is_named_by_several() {
        let bytes = finely_cut(11);
        let mut given = Vec::new();
        let found = cut_with(bytes.as_slice(), 3, |chunk| {
            given.push(chunk);
            true
        });
        let found = found.unwrap();
        assert_eq!((found.layout, found.size), (Layout::Listed, bytes.len() as u64));
        let named = |hash| &given.iter().find(|chunk| chunk.hash == hash).unwrap().bytes;
        let Some(Index::Lists(lists)) = read_index(named(found.content)) else {
            panic!("a list of lists")
        };
        let all: Vec<Listed> = lists
            .iter()
            .flat_map(|list| read_list(named(list.hash)).unwrap())
            .collect();
        assert_eq!((lists.len(), all.len()), (4, 11));
        let again: Vec<u8> = all.iter().flat_map(|listed| named(listed.hash).to_vec()).collect();
        assert!(again == bytes);
        // As many as one list holds are named as ever.
        let found = cut_with(&bytes[..bytes.len() / 11 * 3], 3, |_| true).unwrap();
        assert_eq!(found, cut_all(&bytes[..bytes.len() / 11 * 3]).0);
        let refused = cut_with(finely_cut(LISTS_MAX + 1).as_slice(), 1, |_| true);
        assert!(matches!(refused, Err(CutError::TooLarge)));
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
