//! Cuts a text into tokens: indentation becomes starts and ends of blocks, and what turns out to be a key is marked as one.

use std::collections::VecDeque;

use crate::cursor::Cursor;
use crate::token::{Mark, Token, TokenKind};
use crate::{Place, YamlError};

/// A key on one line may not be longer than this, as YAML 1.1 has it.
const SIMPLE_KEY_BYTES_MAX: usize = 1024;

/// Cuts one text into tokens, a few ahead of those that are taken.
pub(crate) struct Scanner<'t> {
    pub(crate) cursor: Cursor<'t>,
    tokens: VecDeque<Token<'t>>,
    /// How many tokens have left the queue.
    taken: usize,
    done: bool,
    /// The column of the innermost open block; −1 outside of all.
    indent: i64,
    indents: Vec<i64>,
    /// How many `[` and `{` are open.
    flow_level: usize,
    pub(crate) simple_key_allowed: bool,
    /// By flow level: where a key may have begun.
    simple_keys: Vec<Option<SimpleKey>>,
}

/// What becomes a key when a `:` follows.
#[derive(Clone, Copy)]
struct SimpleKey {
    token: usize,
    required: bool,
    mark: Mark,
}

impl<'t> Scanner<'t> {
    pub(crate) fn new(text: &'t str, source: u16) -> Self {
        let mut cursor = Cursor::new(text, source);
        if text.starts_with('\u{feff}') {
            cursor.forward('\u{feff}'.len_utf8());
        }
        Self {
            cursor,
            tokens: VecDeque::new(),
            taken: 0,
            done: false,
            indent: -1,
            indents: Vec::new(),
            flow_level: 0,
            simple_key_allowed: true,
            simple_keys: vec![None],
        }
    }

    /// The next token, which stays. The end of the text comes again and again.
    pub(crate) fn peek(&mut self) -> Result<&Token<'t>, YamlError> {
        while self.needs_more()? {
            self.fetch()?;
        }
        if self.tokens.is_empty() {
            let mark = self.cursor.mark();
            self.tokens.push_back(Token {
                kind: TokenKind::StreamEnd,
                mark,
            });
        }
        Ok(&self.tokens[0])
    }

    /// The next token, taken.
    pub(crate) fn next(&mut self) -> Result<Token<'t>, YamlError> {
        self.peek()?;
        self.taken += 1;
        let mark = self.cursor.mark();
        Ok(self.tokens.pop_front().unwrap_or(Token {
            kind: TokenKind::StreamEnd,
            mark,
        }))
    }

    pub(crate) fn place_of(&self, mark: Mark) -> Place {
        self.cursor.place_of(mark)
    }

    pub(crate) fn is_in_flow(&self) -> bool {
        self.flow_level > 0
    }

    pub(crate) fn indent(&self) -> i64 {
        self.indent
    }

    fn needs_more(&mut self) -> Result<bool, YamlError> {
        if self.done {
            return Ok(false);
        }
        if self.tokens.is_empty() {
            return Ok(true);
        }
        self.drop_stale_keys()?;
        // The first token must wait as long as it may turn out to be a key.
        Ok(self.simple_keys.iter().flatten().any(|key| key.token == self.taken))
    }

    fn push(&mut self, kind: TokenKind<'t>, mark: Mark) {
        self.tokens.push_back(Token { kind, mark });
    }

    fn fetch(&mut self) -> Result<(), YamlError> {
        self.skip_to_next_token();
        self.drop_stale_keys()?;
        self.unwind(i64::from(self.cursor.column()));
        let mark = self.cursor.mark();
        let byte = self.cursor.peek(0);
        if mark.column == 0 {
            if byte == b'%' {
                return self.fetch_directive();
            }
            if self.cursor.is_document_mark() {
                return self.fetch_document_mark(byte == b'-');
            }
        }
        match byte {
            0 => self.fetch_end(),
            b'[' => self.open_flow(TokenKind::FlowSequenceStart),
            b'{' => self.open_flow(TokenKind::FlowMappingStart),
            b']' => self.close_flow(TokenKind::FlowSequenceEnd),
            b'}' => self.close_flow(TokenKind::FlowMappingEnd),
            b',' => self.fetch_flow_entry(),
            b'-' if self.cursor.is_blank(1) => self.fetch_block_entry(),
            b'?' if self.is_in_flow() || self.cursor.is_blank(1) => self.fetch_key(),
            b':' if self.is_in_flow() || self.cursor.is_blank(1) => self.fetch_value(),
            b'*' => self.fetch_anchor(true),
            b'&' => self.fetch_anchor(false),
            b'!' => {
                self.save_simple_key()?;
                self.simple_key_allowed = false;
                let kind = self.scan_tag()?;
                self.push(kind, mark);
                Ok(())
            }
            b'|' | b'>' if !self.is_in_flow() => {
                self.simple_key_allowed = true;
                self.remove_simple_key()?;
                let kind = self.scan_block_scalar(byte == b'>')?;
                self.push(kind, mark);
                Ok(())
            }
            b'\'' | b'"' => {
                self.save_simple_key()?;
                self.simple_key_allowed = false;
                let kind = self.scan_quoted(byte)?;
                self.push(kind, mark);
                Ok(())
            }
            _ if self.begins_plain(byte) => {
                self.save_simple_key()?;
                self.simple_key_allowed = false;
                let kind = self.scan_plain();
                self.push(kind, mark);
                Ok(())
            }
            b'\t' => Err(self.cursor.error("a tab cannot begin a token: indent with blanks")),
            _ => {
                let shown = char::from(byte);
                Err(self.cursor.error(format!("{shown:?} cannot begin a token")))
            }
        }
    }

    fn begins_plain(&self, byte: u8) -> bool {
        match byte {
            b'-' => !self.cursor.is_blank(1),
            b'?' | b':' => !self.is_in_flow() && !self.cursor.is_blank(1),
            b'\t' | b',' | b'[' | b']' | b'{' | b'}' | b'#' | b'&' | b'*' | b'!' | b'|' | b'>' | b'\'' | b'"'
            | b'%' | b'@' | b'`' => false,
            _ => true,
        }
    }

    fn skip_to_next_token(&mut self) {
        loop {
            self.cursor.skip_spaces();
            if self.cursor.peek(0) == b'#' {
                self.cursor.skip_line();
            }
            if self.cursor.take_break().is_empty() {
                return;
            }
            if !self.is_in_flow() {
                self.simple_key_allowed = true;
            }
        }
    }

    // Keys.

    /// Whatever begins here may be a key.
    fn save_simple_key(&mut self) -> Result<(), YamlError> {
        let required = !self.is_in_flow() && self.indent == i64::from(self.cursor.column());
        if !self.simple_key_allowed {
            return Ok(());
        }
        self.remove_simple_key()?;
        let key = SimpleKey {
            token: self.taken + self.tokens.len(),
            required,
            mark: self.cursor.mark(),
        };
        self.simple_keys[self.flow_level] = Some(key);
        Ok(())
    }

    fn remove_simple_key(&mut self) -> Result<(), YamlError> {
        match self.simple_keys[self.flow_level].take() {
            Some(key) if key.required => Err(self.missing_colon(key)),
            _ => Ok(()),
        }
    }

    /// A key must end on its line, and soon.
    fn drop_stale_keys(&mut self) -> Result<(), YamlError> {
        let (line, index) = (self.cursor.line(), self.cursor.index());
        for level in 0..self.simple_keys.len() {
            let Some(key) = self.simple_keys[level] else { continue };
            if key.mark.line != line || index - key.mark.index > SIMPLE_KEY_BYTES_MAX {
                self.simple_keys[level] = None;
                if key.required {
                    return Err(self.missing_colon(key));
                }
            }
        }
        Ok(())
    }

    fn missing_colon(&self, key: SimpleKey) -> YamlError {
        let mut error = self.cursor.error("a key is expected here, but no ':' follows");
        error.place = self.place_of(key.mark);
        error
    }

    // Indentation.

    fn unwind(&mut self, column: i64) {
        if self.is_in_flow() {
            return;
        }
        while self.indent > column {
            let mark = self.cursor.mark();
            self.indent = self.indents.pop().unwrap_or(-1);
            self.push(TokenKind::BlockEnd, mark);
        }
    }

    fn indent_to(&mut self, column: i64) -> bool {
        if self.indent >= column {
            return false;
        }
        self.indents.push(self.indent);
        self.indent = column;
        true
    }

    // Tokens.

    fn fetch_end(&mut self) -> Result<(), YamlError> {
        self.unwind(-1);
        self.remove_simple_key()?;
        self.simple_key_allowed = false;
        self.simple_keys.iter_mut().for_each(|key| *key = None);
        self.push(TokenKind::StreamEnd, self.cursor.mark());
        self.done = true;
        Ok(())
    }

    fn fetch_directive(&mut self) -> Result<(), YamlError> {
        self.unwind(-1);
        self.remove_simple_key()?;
        self.simple_key_allowed = false;
        let mark = self.cursor.mark();
        let kind = self.scan_directive()?;
        self.push(kind, mark);
        Ok(())
    }

    fn fetch_document_mark(&mut self, is_start: bool) -> Result<(), YamlError> {
        self.unwind(-1);
        self.remove_simple_key()?;
        self.simple_key_allowed = false;
        let mark = self.cursor.mark();
        self.cursor.forward(3);
        let kind = if is_start {
            TokenKind::DocumentStart
        } else {
            TokenKind::DocumentEnd
        };
        self.push(kind, mark);
        Ok(())
    }

    fn open_flow(&mut self, kind: TokenKind<'t>) -> Result<(), YamlError> {
        self.save_simple_key()?;
        self.flow_level += 1;
        self.simple_keys.push(None);
        self.simple_key_allowed = true;
        let mark = self.cursor.mark();
        self.cursor.forward(1);
        self.push(kind, mark);
        Ok(())
    }

    fn close_flow(&mut self, kind: TokenKind<'t>) -> Result<(), YamlError> {
        self.remove_simple_key()?;
        if self.flow_level > 0 {
            self.flow_level -= 1;
            self.simple_keys.pop();
        }
        self.simple_key_allowed = false;
        let mark = self.cursor.mark();
        self.cursor.forward(1);
        self.push(kind, mark);
        Ok(())
    }

    fn fetch_flow_entry(&mut self) -> Result<(), YamlError> {
        self.simple_key_allowed = true;
        self.remove_simple_key()?;
        let mark = self.cursor.mark();
        self.cursor.forward(1);
        self.push(TokenKind::FlowEntry, mark);
        Ok(())
    }

    fn fetch_block_entry(&mut self) -> Result<(), YamlError> {
        let mark = self.cursor.mark();
        if !self.is_in_flow() {
            if !self.simple_key_allowed {
                return Err(self.cursor.error("a list cannot begin here"));
            }
            if self.indent_to(i64::from(mark.column)) {
                self.push(TokenKind::BlockSequenceStart, mark);
            }
        }
        self.simple_key_allowed = true;
        self.remove_simple_key()?;
        self.cursor.forward(1);
        self.push(TokenKind::BlockEntry, mark);
        Ok(())
    }

    fn fetch_key(&mut self) -> Result<(), YamlError> {
        let mark = self.cursor.mark();
        if !self.is_in_flow() {
            if !self.simple_key_allowed {
                return Err(self.cursor.error("a key cannot begin here"));
            }
            if self.indent_to(i64::from(mark.column)) {
                self.push(TokenKind::BlockMappingStart, mark);
            }
        }
        self.simple_key_allowed = !self.is_in_flow();
        self.remove_simple_key()?;
        self.cursor.forward(1);
        self.push(TokenKind::Key, mark);
        Ok(())
    }

    fn fetch_value(&mut self) -> Result<(), YamlError> {
        let mark = self.cursor.mark();
        if let Some(key) = self.simple_keys[self.flow_level].take() {
            self.insert_key(key);
            self.simple_key_allowed = false;
        } else {
            if !self.is_in_flow() {
                if !self.simple_key_allowed {
                    return Err(self
                        .cursor
                        .error("a mapping cannot begin here: does a text with ': ' lack its quotes?"));
                }
                if self.indent_to(i64::from(mark.column)) {
                    self.push(TokenKind::BlockMappingStart, mark);
                }
            }
            self.simple_key_allowed = !self.is_in_flow();
            self.remove_simple_key()?;
        }
        self.cursor.forward(1);
        self.push(TokenKind::Value, mark);
        Ok(())
    }

    /// What was scanned before is a key after all.
    fn insert_key(&mut self, key: SimpleKey) {
        let at = key.token - self.taken;
        self.tokens.insert(
            at,
            Token {
                kind: TokenKind::Key,
                mark: key.mark,
            },
        );
        if !self.is_in_flow() && self.indent_to(i64::from(key.mark.column)) {
            self.tokens.insert(
                at,
                Token {
                    kind: TokenKind::BlockMappingStart,
                    mark: key.mark,
                },
            );
        }
    }

    fn fetch_anchor(&mut self, is_alias: bool) -> Result<(), YamlError> {
        self.save_simple_key()?;
        self.simple_key_allowed = false;
        let mark = self.cursor.mark();
        self.cursor.forward(1);
        let start = self.cursor.index();
        while matches!(self.cursor.peek(0), b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_') {
            self.cursor.forward(1);
        }
        let name = self.cursor.since(start);
        let ends = self.cursor.is_blank(0)
            || matches!(
                self.cursor.peek(0),
                b'?' | b':' | b',' | b']' | b'}' | b'%' | b'@' | b'`'
            );
        if name.is_empty() || !ends {
            return Err(self
                .cursor
                .error("the name of an anchor is of letters, digits, '-' and '_'"));
        }
        let kind = if is_alias {
            TokenKind::Alias(name)
        } else {
            TokenKind::Anchor(name)
        };
        self.push(kind, mark);
        Ok(())
    }
}
