//! Scans texts in blocks: `|` keeps lines, `>` folds them.

use std::borrow::Cow;

use crate::YamlError;
use crate::scanner::Scanner;
use crate::token::TokenKind;

/// What becomes of the ends of lines at the end of a block.
#[derive(Clone, Copy, PartialEq)]
enum Chomping {
    /// One stays.
    Clip,
    /// None stays.
    Strip,
    /// All stay.
    Keep,
}

impl<'t> Scanner<'t> {
    /// Scans a block from its indicator on.
    pub(crate) fn scan_block_scalar(&mut self, folds: bool) -> Result<TokenKind<'t>, YamlError> {
        self.cursor.forward(1);
        let (chomping, increment) = self.scan_block_indicators()?;
        self.scan_ignored_line()?;
        let indent_min = (self.indent() + 1).max(1);
        let mut breaks = String::new();
        let indent = match increment {
            Some(increment) => {
                let indent = indent_min + increment - 1;
                self.scan_block_breaks(indent, &mut breaks);
                indent
            }
            None => indent_min.max(self.scan_block_indentation(&mut breaks)),
        };
        let mut text = String::new();
        let mut line_break = "";
        while i64::from(self.cursor.column()) == indent && self.cursor.peek(0) != 0 {
            text.push_str(&breaks);
            let begins_with_word = !matches!(self.cursor.peek(0), b' ' | b'\t');
            let start = self.cursor.index();
            self.cursor.skip_line();
            text.push_str(self.cursor.since(start));
            line_break = self.cursor.take_break();
            breaks.clear();
            self.scan_block_breaks(indent, &mut breaks);
            if i64::from(self.cursor.column()) != indent || self.cursor.peek(0) == 0 {
                break;
            }
            let next_is_word = !matches!(self.cursor.peek(0), b' ' | b'\t');
            if !(folds && line_break == "\n" && begins_with_word && next_is_word) {
                text.push_str(line_break);
            } else if breaks.is_empty() {
                text.push(' ');
            }
        }
        if chomping != Chomping::Strip {
            text.push_str(line_break);
        }
        if chomping == Chomping::Keep {
            text.push_str(&breaks);
        }
        Ok(TokenKind::Scalar {
            text: Cow::Owned(text),
            plain: false,
        })
    }

    fn scan_block_indicators(&mut self) -> Result<(Chomping, Option<i64>), YamlError> {
        let mut chomping = None;
        let mut increment = None;
        loop {
            match self.cursor.peek(0) {
                b'+' if chomping.is_none() => chomping = Some(Chomping::Keep),
                b'-' if chomping.is_none() => chomping = Some(Chomping::Strip),
                b'0' => return Err(self.cursor.error("the indentation of a block is a digit from 1 to 9")),
                digit @ b'1'..=b'9' if increment.is_none() => increment = Some(i64::from(digit - b'0')),
                _ => break,
            }
            self.cursor.forward(1);
        }
        if self.cursor.peek(0) != b' ' && !self.cursor.is_end_of_line(0) {
            return Err(self.cursor.error("the line that opens a block holds nothing else"));
        }
        Ok((chomping.unwrap_or(Chomping::Clip), increment))
    }

    fn scan_ignored_line(&mut self) -> Result<(), YamlError> {
        self.cursor.skip_spaces();
        if self.cursor.peek(0) == b'#' {
            self.cursor.skip_line();
        }
        if !self.cursor.is_end_of_line(0) {
            return Err(self.cursor.error("a comment or the end of the line is expected"));
        }
        self.cursor.take_break();
        Ok(())
    }

    /// Finds out how far a block is indented, from its first line and the empty ones before.
    fn scan_block_indentation(&mut self, breaks: &mut String) -> i64 {
        let mut indent = 0;
        loop {
            if self.cursor.skip_spaces() > 0 {
                indent = indent.max(i64::from(self.cursor.column()));
                continue;
            }
            let next = self.cursor.take_break();
            if next.is_empty() {
                return indent;
            }
            breaks.push_str(next);
        }
    }

    fn scan_block_breaks(&mut self, indent: i64, breaks: &mut String) {
        loop {
            while i64::from(self.cursor.column()) < indent && self.cursor.peek(0) == b' ' {
                self.cursor.forward(1);
            }
            let next = self.cursor.take_break();
            if next.is_empty() {
                return;
            }
            breaks.push_str(next);
        }
    }
}
