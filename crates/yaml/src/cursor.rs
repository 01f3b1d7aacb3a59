//! Moves through the bytes of a text and counts lines and columns.

use crate::token::Mark;
use crate::{Place, Stage, YamlError};

/// A position in a text, and ways to move on.
pub(crate) struct Cursor<'t> {
    text: &'t str,
    bytes: &'t [u8],
    index: usize,
    line: u32,
    line_start: usize,
    source: u16,
}

impl<'t> Cursor<'t> {
    pub(crate) fn new(text: &'t str, source: u16) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            index: 0,
            line: 0,
            line_start: 0,
            source,
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            index: self.index,
            line: self.line,
            column: self.column(),
        }
    }

    /// The place that a mark stands for.
    pub(crate) fn place_of(&self, mark: Mark) -> Place {
        Place {
            source: self.source,
            line: mark.line.saturating_add(1),
            column: u16::try_from(mark.column.saturating_add(1)).unwrap_or(u16::MAX),
        }
    }

    pub(crate) fn place(&self) -> Place {
        self.place_of(self.mark())
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> YamlError {
        YamlError::new(Stage::Scanner, message, self.place())
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    /// Bytes since the start of the line; indentation is of one-byte characters only.
    pub(crate) fn column(&self) -> u32 {
        u32::try_from(self.index - self.line_start).unwrap_or(u32::MAX)
    }

    /// The byte `ahead` of here; 0 beyond the end (the reader lets no 0 into a text).
    pub(crate) fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.index + ahead).copied().unwrap_or(0)
    }

    /// The text from `start` to here. Both are ends of characters.
    pub(crate) fn since(&self, start: usize) -> &'t str {
        self.text.get(start..self.index).unwrap_or_default()
    }

    pub(crate) fn rest(&self) -> &'t [u8] {
        self.bytes.get(self.index..).unwrap_or_default()
    }

    /// Moves on within a line.
    pub(crate) fn forward(&mut self, count: usize) {
        self.index = (self.index + count).min(self.bytes.len());
    }

    /// Moves over spaces; answers how many.
    pub(crate) fn skip_spaces(&mut self) -> usize {
        let count = self.rest().iter().take_while(|byte| **byte == b' ').count();
        self.forward(count);
        count
    }

    /// How many bytes the line break `ahead` of here has; 0 for what is none.
    pub(crate) fn break_length(&self, ahead: usize) -> usize {
        match self.peek(ahead) {
            b'\n' => 1,
            b'\r' if self.peek(ahead + 1) == b'\n' => 2,
            b'\r' => 1,
            0xC2 if self.peek(ahead + 1) == 0x85 => 2,
            0xE2 if self.peek(ahead + 1) == 0x80 && matches!(self.peek(ahead + 2), 0xA8 | 0xA9) => 3,
            _ => 0,
        }
    }

    /// Whether a line break or the end is `ahead`.
    pub(crate) fn is_end_of_line(&self, ahead: usize) -> bool {
        self.peek(ahead) == 0 || self.break_length(ahead) > 0
    }

    /// Whether white space, a line break or the end is `ahead`.
    pub(crate) fn is_blank(&self, ahead: usize) -> bool {
        matches!(self.peek(ahead), b' ' | b'\t') || self.is_end_of_line(ahead)
    }

    /// Moves over a line break; answers what it stands for, nothing where there is none.
    pub(crate) fn take_break(&mut self) -> &'static str {
        let length = self.break_length(0);
        let meaning = match (length, self.peek(0)) {
            (0, _) => return "",
            (3, _) if self.peek(2) == 0xA8 => "\u{2028}",
            (3, _) => "\u{2029}",
            _ => "\n",
        };
        self.index += length;
        self.line += 1;
        self.line_start = self.index;
        meaning
    }

    /// Moves to the end of the line.
    pub(crate) fn skip_line(&mut self) {
        let mut count = 0;
        while !self.is_end_of_line(count) {
            count += 1;
        }
        self.forward(count);
    }

    /// Whether `---` or `...` stands here, as a word of its own.
    pub(crate) fn is_document_mark(&self) -> bool {
        matches!(self.rest().get(..3), Some(b"---" | b"...")) && self.is_blank(3)
    }
}
