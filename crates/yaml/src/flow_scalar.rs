//! Scans plain and quoted scalars.

use std::borrow::Cow;

use crate::YamlError;
use crate::scanner::Scanner;
use crate::token::TokenKind;

impl<'t> Scanner<'t> {
    /// Scans a text without quotes; one line of it is the text itself, not a copy.
    pub(crate) fn scan_plain(&mut self) -> TokenKind<'t> {
        let indent = self.indent() + 1;
        let mut text = Cow::Borrowed("");
        let mut spaces = String::new();
        loop {
            if self.cursor.peek(0) == b'#' {
                break;
            }
            let start = self.cursor.index();
            self.cursor.forward(self.plain_length());
            let piece = self.cursor.since(start);
            if piece.is_empty() {
                break;
            }
            self.simple_key_allowed = false;
            if text.is_empty() {
                text = Cow::Borrowed(piece);
            } else {
                let whole = text.to_mut();
                whole.push_str(&spaces);
                whole.push_str(piece);
            }
            spaces.clear();
            let more = self.scan_plain_spaces(&mut spaces);
            let is_dedented = !self.is_in_flow() && i64::from(self.cursor.column()) < indent;
            if !more || spaces.is_empty() || is_dedented {
                break;
            }
        }
        TokenKind::Scalar { text, plain: true }
    }

    /// How far a plain scalar goes without white space between words breaking lines.
    ///
    /// Blanks within a line belong to it as long as something follows them, so that the usual scalar is one piece.
    fn plain_length(&self) -> usize {
        let rest = self.cursor.rest();
        let in_flow = self.is_in_flow();
        let mut at = 0;
        let mut end = 0;
        while let Some(byte) = rest.get(at) {
            match byte {
                b' ' => {
                    at += 1;
                    continue;
                }
                b'#' if at > end => break,
                b':' if self.cursor.is_blank(at + 1)
                    || (in_flow && matches!(self.cursor.peek(at + 1), b',' | b'[' | b']' | b'{' | b'}')) =>
                {
                    break;
                }
                b',' | b'?' | b'[' | b']' | b'{' | b'}' if in_flow => break,
                b'\t' | b'\n' | b'\r' => break,
                0x80.. if self.cursor.break_length(at) > 0 => break,
                _ => {}
            }
            at += 1;
            end = at;
        }
        end
    }

    /// Scans what stands between two pieces; false where a document ends.
    fn scan_plain_spaces(&mut self, spaces: &mut String) -> bool {
        let start = self.cursor.index();
        self.cursor.skip_spaces();
        let blanks = self.cursor.since(start);
        let first = self.cursor.take_break();
        if first.is_empty() {
            spaces.push_str(blanks);
            return true;
        }
        self.simple_key_allowed = true;
        if self.cursor.is_document_mark() {
            return false;
        }
        let mut breaks = String::new();
        loop {
            if self.cursor.skip_spaces() > 0 {
                continue;
            }
            let next = self.cursor.take_break();
            if next.is_empty() {
                break;
            }
            breaks.push_str(next);
            if self.cursor.is_document_mark() {
                return false;
            }
        }
        fold(first, &breaks, spaces);
        true
    }

    /// Scans a text in quotes; one line without escapes is the text itself, not a copy.
    pub(crate) fn scan_quoted(&mut self, quote: u8) -> Result<TokenKind<'t>, YamlError> {
        let open = self.cursor.place();
        self.cursor.forward(1);
        let mut text = Cow::Borrowed("");
        loop {
            let start = self.cursor.index();
            self.cursor.forward(self.quoted_length(quote));
            append(&mut text, self.cursor.since(start));
            match self.cursor.peek(0) {
                0 => {
                    let mut error = self.cursor.error("the text in quotes that begins here never ends");
                    error.place = open;
                    return Err(error);
                }
                byte if byte == quote => {
                    self.cursor.forward(1);
                    if quote == b'\'' && self.cursor.peek(0) == b'\'' {
                        self.cursor.forward(1);
                        text.to_mut().push('\'');
                        continue;
                    }
                    return Ok(TokenKind::Scalar { text, plain: false });
                }
                b'\\' => self.scan_escape(text.to_mut())?,
                _ => self.scan_quoted_spaces(text.to_mut())?,
            }
        }
    }

    /// How far the text in quotes goes as it is: white space belongs to it unless a line ends with it.
    fn quoted_length(&self, quote: u8) -> usize {
        let rest = self.cursor.rest();
        let mut at = 0;
        let mut end = 0;
        while let Some(byte) = rest.get(at) {
            match byte {
                b' ' | b'\t' => {
                    at += 1;
                    continue;
                }
                b'\\' if quote == b'"' => return at,
                b'\n' | b'\r' => return end,
                0x80.. if self.cursor.break_length(at) > 0 => return end,
                _ if *byte == quote => return at,
                _ => {}
            }
            at += 1;
            end = at;
        }
        end
    }

    /// Scans the end of a line within quotes, with the white space around it.
    fn scan_quoted_spaces(&mut self, text: &mut String) -> Result<(), YamlError> {
        let start = self.cursor.index();
        while matches!(self.cursor.peek(0), b' ' | b'\t') {
            self.cursor.forward(1);
        }
        let blanks = self.cursor.since(start);
        let first = self.cursor.take_break();
        if first.is_empty() {
            text.push_str(blanks);
            return Ok(());
        }
        let mut breaks = String::new();
        self.scan_quoted_breaks(&mut breaks)?;
        fold(first, &breaks, text);
        Ok(())
    }

    fn scan_quoted_breaks(&mut self, breaks: &mut String) -> Result<(), YamlError> {
        loop {
            if self.cursor.is_document_mark() {
                return Err(self
                    .cursor
                    .error("a text in quotes is still open where a document ends"));
            }
            while matches!(self.cursor.peek(0), b' ' | b'\t') {
                self.cursor.forward(1);
            }
            let next = self.cursor.take_break();
            if next.is_empty() {
                return Ok(());
            }
            breaks.push_str(next);
        }
    }

    fn scan_escape(&mut self, text: &mut String) -> Result<(), YamlError> {
        self.cursor.forward(1);
        let plain = match self.cursor.peek(0) {
            b'0' => '\0',
            b'a' => '\u{7}',
            b'b' => '\u{8}',
            b't' | b'\t' => '\t',
            b'n' => '\n',
            b'v' => '\u{b}',
            b'f' => '\u{c}',
            b'r' => '\r',
            b'e' => '\u{1b}',
            byte @ (b' ' | b'"' | b'\\' | b'/') => char::from(byte),
            b'N' => '\u{85}',
            b'_' => '\u{a0}',
            b'L' => '\u{2028}',
            b'P' => '\u{2029}',
            b'x' => return self.scan_code(2, text),
            b'u' => return self.scan_code(4, text),
            b'U' => return self.scan_code(8, text),
            _ if self.cursor.break_length(0) > 0 => {
                self.cursor.take_break();
                return self.scan_quoted_breaks(text);
            }
            _ => return Err(self.cursor.error("unknown escape in a text in double quotes")),
        };
        self.cursor.forward(1);
        text.push(plain);
        Ok(())
    }

    fn scan_code(&mut self, digits: usize, text: &mut String) -> Result<(), YamlError> {
        self.cursor.forward(1);
        let code = self
            .cursor
            .rest()
            .get(..digits)
            .filter(|code| code.iter().all(u8::is_ascii_hexdigit))
            .and_then(|code| std::str::from_utf8(code).ok())
            .and_then(|code| u32::from_str_radix(code, 16).ok());
        let Some(code) = code else {
            return Err(self
                .cursor
                .error(format!("an escape of {digits} hexadecimal digits is expected")));
        };
        // Halves of surrogate pairs are no characters of their own; the mark of what cannot be shown takes their place.
        text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        self.cursor.forward(digits);
        Ok(())
    }
}

/// A single end of line is a blank; of more than one, all but the first stay.
fn fold(first: &str, breaks: &str, text: &mut String) {
    if first != "\n" {
        text.push_str(first);
    } else if breaks.is_empty() {
        text.push(' ');
    }
    text.push_str(breaks);
}

fn append<'t>(text: &mut Cow<'t, str>, piece: &'t str) {
    if text.is_empty() {
        *text = Cow::Borrowed(piece);
    } else if !piece.is_empty() {
        text.to_mut().push_str(piece);
    }
}
