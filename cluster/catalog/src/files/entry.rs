//! What a path is.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::path::{FilePath, deserialize_bytes, escape, serialize_bytes};

/// BLAKE3 hash, of a chunk or of a list of chunks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ContentHash {
    /// A hash from what [`fmt::Display`] shows.
    pub fn from_text(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |place: usize| char::from(pair[place]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        Some(Self(hash))
    }
}

impl Serialize for ContentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return Self::from_text(&text).ok_or_else(|| D::Error::custom("a hash has 64 hexadecimal digits"));
        }
        let bytes = deserialize_bytes(deserializer)?;
        let hash = bytes.try_into().map_err(|_| D::Error::custom("a hash has 32 bytes"))?;
        Ok(Self(hash))
    }
}

/// What the hash of a file's content names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// The file's bytes are one chunk.
    Whole,
    /// The file's bytes are several chunks, which are listed in a chunk of its own: the hash is that of the list. A file has one
    /// list only, so this, too, names a content.
    Listed,
}

/// When a file was last modified, as its disk said. Nothing is decided by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Modified {
    /// Seconds since 1970, UTC.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: u32,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Names its content.
    pub content: ContentHash,
    /// What the hash names.
    pub layout: Layout,
    /// In bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Its time of modification.
    #[serde(default)]
    pub modified: Modified,
}

/// Where a symbolic link points: bytes as written, relative, and never out of the tree.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkTarget(Arc<[u8]>);

impl LinkTarget {
    /// A target as it was written. Whether it stays in the tree depends on where the link is: [`Self::stays_inside`].
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Self(bytes.as_ref().into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it, read from the link at `link`, names a place in the tree. Decided by its words alone: that a folder on the way
    /// is itself a link changes nothing, for each of these stays inside, too.
    pub fn stays_inside(&self, link: &FilePath) -> bool {
        if self.0.is_empty() || self.0[0] == b'/' || self.0.contains(&0) || self.0.len() > super::PATH_BYTES_MAX {
            return false;
        }
        let mut depth = link.ancestors().count();
        for part in self.0.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." if depth == 0 => return false,
                b".." => depth -= 1,
                _ => depth += 1,
            }
        }
        true
    }
}

impl fmt::Display for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", escape(&self.0))
    }
}

impl Serialize for LinkTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_bytes(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for LinkTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_bytes(deserializer).map(Self::new)
    }
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A regular file.
    File(FileEntry),
    /// A directory, also an empty one.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link; its target stays inside the tree.
    Symlink {
        /// As written.
        target: LinkTarget,
    },
}

impl Entry {
    /// The file, if it is one.
    pub fn file(&self) -> Option<&FileEntry> {
        match self {
            Self::File(file) => Some(file),
            _ => None,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}
