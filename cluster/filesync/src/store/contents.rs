//! The chunks of a file, from the lists that are in the store.

use conclave_catalog::files::ContentHash;

use super::ChunkStore;
use crate::chunk::{Index, Listed, read_index, read_list};

/// What the list of a file names, as far as it is here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Lists that the list names, here or not.
    pub(crate) lists: Vec<Listed>,
    /// Those of them that are not.
    pub(crate) lacking: Vec<Listed>,
    /// Chunks, in the order of the file.
    pub(crate) chunks: Vec<Listed>,
}

impl Contents {
    /// `None` when the list itself is not here, or is none.
    pub(crate) fn of(store: &ChunkStore, list: ContentHash) -> Option<Self> {
        let lists = match read_index(&store.get(list)?)? {
            Index::Chunks(chunks) => {
                return Some(Self {
                    chunks,
                    ..Self::default()
                });
            }
            Index::Lists(lists) => lists,
        };
        let mut contents = Self::default();
        for list in &lists {
            match store.get(list.hash).and_then(|bytes| read_list(&bytes)) {
                Some(chunks) => contents.chunks.extend(chunks),
                None => contents.lacking.push(*list),
            }
        }
        contents.lists = lists;
        Some(contents)
    }
}
