//! Paths in the resource tree: bytes, as the disk has them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest part of a path between two slashes, in bytes: what Linux's file systems take.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Longest path, in bytes. Linux takes 4,096 for a whole path; the rest is for where the tree lies.
pub const PATH_BYTES_MAX: usize = 3584;
/// Names that begin like this are the manager's own, in every folder of the tree.
pub const RESERVED_PREFIX: &[u8] = b".conclave-";

/// A path of the resource tree, relative to its root: parts of legal bytes between single slashes.
///
/// Cheap to clone. It sorts by bytes, so everything below a folder is one range ([`FilePath::below`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Arc<[u8]>);

/// Why bytes are no path of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// Nothing, `//`, or a slash at an end.
    #[error("a part of it is empty: give a path relative to the tree, without a slash at its ends")]
    Empty,
    /// `.` or `..`.
    #[error("it contains `.` or `..`: name the place itself")]
    Dots,
    /// A zero byte.
    #[error("it contains a zero byte")]
    Zero,
    /// A part that no file system takes.
    #[error("a part of it is longer than {COMPONENT_BYTES_MAX} bytes")]
    LongPart,
    /// The whole is too long.
    #[error("it is longer than {PATH_BYTES_MAX} bytes")]
    Long,
    /// One of the manager's own names.
    #[error("names that begin with `.conclave-` are the manager's own")]
    Reserved,
    /// An escape that is none.
    #[error("a backslash is written `\\\\`, another byte `\\xNN`")]
    Escape,
}

impl FilePath {
    /// A path of these bytes.
    ///
    /// # Errors
    /// [`PathFault`] when no node could have it in its tree.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, PathFault> {
        let bytes = bytes.as_ref();
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathFault::Long);
        }
        for part in bytes.split(|byte| *byte == b'/') {
            match part {
                b"" => return Err(PathFault::Empty),
                b"." | b".." => return Err(PathFault::Dots),
                part if part.contains(&0) => return Err(PathFault::Zero),
                part if part.len() > COMPONENT_BYTES_MAX => return Err(PathFault::LongPart),
                part if part.starts_with(RESERVED_PREFIX) => return Err(PathFault::Reserved),
                _ => {}
            }
        }
        Ok(Self(bytes.into()))
    }

    /// A path from what [`fmt::Display`] shows: UTF-8, with `\\` for a backslash and `\xNN` for other bytes.
    ///
    /// # Errors
    /// [`PathFault`], also for an escape that is none.
    pub fn from_text(text: &str) -> Result<Self, PathFault> {
        Self::new(unescape(text)?)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The folder that it is in; `None` for what is directly in the root.
    pub fn parent(&self) -> Option<Self> {
        let slash = self.0.iter().rposition(|byte| *byte == b'/')?;
        Some(Self(self.0[..slash].into()))
    }

    /// The folders that it is in, outermost first.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        let slashes = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.map(|(slash, _)| Self(self.0[..slash].into()))
    }

    /// Its last part.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Its first part.
    pub fn area(&self) -> &[u8] {
        self.0.split(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The path of `name` in this folder.
    ///
    /// # Errors
    /// [`PathFault`] when the name, or the whole, is none.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<Self, PathFault> {
        let mut whole = self.0.to_vec();
        whole.push(b'/');
        whole.extend_from_slice(name.as_ref());
        Self::new(whole)
    }

    /// Whether it is `root`, or in it.
    pub fn is_within(&self, root: &Self) -> bool {
        self.0
            .strip_prefix(&*root.0)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// The same place below `to` as this has below `from`; `None` when it is not within `from`, or would be too long.
    pub fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        if !self.is_within(from) {
            return None;
        }
        let mut whole = to.0.to_vec();
        whole.extend_from_slice(&self.0[from.0.len()..]);
        Self::new(whole).ok()
    }

    /// The bounds of everything below it, without itself: all that begins with it and a slash, and nothing else.
    pub fn below(&self) -> (Self, Self) {
        let with = |last: u8| {
            let mut bytes = self.0.to_vec();
            bytes.push(last);
            Self(bytes.into())
        };
        // The byte after the slash.
        (with(b'/'), with(b'/' + 1))
    }
}

impl AsRef<[u8]> for FilePath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", escape(&self.0))
    }
}

/// Bytes as text that [`unescape`] turns back: what is printable UTF-8 stays as it is.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                control if control.is_control() => {
                    let mut buffer = [0; 4];
                    hex(&mut text, control.encode_utf8(&mut buffer).as_bytes());
                }
                other => text.push(other),
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}

fn hex(text: &mut String, bytes: &[u8]) {
    use fmt::Write;
    for byte in bytes {
        // Writing to a string does not fail.
        let _written = write!(text, "\\x{byte:02x}");
    }
}

pub(super) fn unescape(text: &str) -> Result<Vec<u8>, PathFault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        match rest {
            [b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [b'x', high, low, after @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(PathFault::Escape);
                let value = digit(*high)? * 16 + digit(*low)?;
                bytes.push(u8::try_from(value).map_err(|_| PathFault::Escape)?);
                rest = after;
            }
            _ => return Err(PathFault::Escape),
        }
    }
    Ok(bytes)
}

/// Bytes in MessagePack; escaped text where people read it.
pub(super) fn serialize_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.serialize_str(&escape(bytes))
    } else {
        serializer.serialize_bytes(bytes)
    }
}

pub(super) fn deserialize_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    struct BytesVisitor;
    impl<'de> serde::de::Visitor<'de> for BytesVisitor {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes, or escaped text")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
            unescape(text).map_err(E::custom)
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<u8>, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = items.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes)
        }
    }
    if deserializer.is_human_readable() {
        deserializer.deserialize_str(BytesVisitor)
    } else {
        deserializer.deserialize_byte_buf(BytesVisitor)
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_bytes(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(deserialize_bytes(deserializer)?).map_err(serde::de::Error::custom)
    }
}
