//! Scans tags and directives.

use std::borrow::Cow;

use crate::YamlError;
use crate::scanner::Scanner;
use crate::token::TokenKind;

impl<'t> Scanner<'t> {
    pub(crate) fn scan_tag(&mut self) -> Result<TokenKind<'t>, YamlError> {
        let (handle, suffix) = if self.cursor.peek(1) == b'<' {
            self.cursor.forward(2);
            let suffix = self.scan_uri()?;
            if self.cursor.peek(0) != b'>' {
                return Err(self.cursor.error("a tag in '!<' ends in '>'"));
            }
            self.cursor.forward(1);
            (None, suffix)
        } else if self.cursor.is_blank(1) {
            self.cursor.forward(1);
            (None, Cow::Borrowed("!"))
        } else {
            let handle = self.scan_shorthand_handle()?;
            (Some(handle), self.scan_uri()?)
        };
        if self.cursor.peek(0) != b' ' && !self.cursor.is_end_of_line(0) {
            return Err(self.cursor.error("a blank is expected after a tag"));
        }
        Ok(TokenKind::Tag { handle, suffix })
    }

    /// `!name!` if a second mark follows within the word, else `!`.
    fn scan_shorthand_handle(&mut self) -> Result<Cow<'t, str>, YamlError> {
        let mut length = 1;
        while self.cursor.peek(length) != b' ' && !self.cursor.is_end_of_line(length) {
            if self.cursor.peek(length) == b'!' {
                return self.scan_handle();
            }
            length += 1;
        }
        self.cursor.forward(1);
        Ok(Cow::Borrowed("!"))
    }

    fn scan_handle(&mut self) -> Result<Cow<'t, str>, YamlError> {
        let start = self.cursor.index();
        if self.cursor.peek(0) != b'!' {
            return Err(self.cursor.error("the handle of a tag begins with '!'"));
        }
        self.cursor.forward(1);
        if self.cursor.peek(0) != b' ' {
            while matches!(self.cursor.peek(0), b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_') {
                self.cursor.forward(1);
            }
            if self.cursor.peek(0) != b'!' {
                return Err(self.cursor.error("the handle of a tag ends with '!'"));
            }
            self.cursor.forward(1);
        }
        Ok(Cow::Borrowed(self.cursor.since(start)))
    }

    fn scan_uri(&mut self) -> Result<Cow<'t, str>, YamlError> {
        let mut bytes = Vec::new();
        loop {
            match self.cursor.peek(0) {
                b'%' => {
                    let code = self
                        .cursor
                        .rest()
                        .get(1..3)
                        .and_then(|code| std::str::from_utf8(code).ok());
                    let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) else {
                        return Err(self.cursor.error("two hexadecimal digits are expected after '%'"));
                    };
                    bytes.push(byte);
                    self.cursor.forward(3);
                }
                byte if byte.is_ascii_alphanumeric() || b"-;/?:@&=+$,_.!~*'()[]".contains(&byte) => {
                    bytes.push(byte);
                    self.cursor.forward(1);
                }
                _ => break,
            }
        }
        match String::from_utf8(bytes) {
            Ok(uri) if !uri.is_empty() => Ok(Cow::Owned(uri)),
            _ => Err(self.cursor.error("the name of a tag is expected")),
        }
    }

    pub(crate) fn scan_directive(&mut self) -> Result<TokenKind<'t>, YamlError> {
        self.cursor.forward(1);
        let start = self.cursor.index();
        while matches!(self.cursor.peek(0), b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_') {
            self.cursor.forward(1);
        }
        let kind = match self.cursor.since(start) {
            "" => return Err(self.cursor.error("the name of a directive is expected")),
            "YAML" => self.scan_yaml_directive()?,
            "TAG" => self.scan_tag_directive()?,
            _ => {
                self.cursor.skip_line();
                TokenKind::OtherDirective
            }
        };
        self.cursor.skip_spaces();
        if self.cursor.peek(0) == b'#' {
            self.cursor.skip_line();
        }
        if !self.cursor.is_end_of_line(0) {
            return Err(self.cursor.error("a comment or the end of the line is expected"));
        }
        // The end of the line belongs to the directive: no key may begin right behind.
        self.cursor.take_break();
        Ok(kind)
    }

    fn scan_yaml_directive(&mut self) -> Result<TokenKind<'t>, YamlError> {
        self.cursor.skip_spaces();
        let major = self.scan_number()?;
        if self.cursor.peek(0) != b'.' {
            return Err(self.cursor.error("a version of two numbers is expected"));
        }
        self.cursor.forward(1);
        self.scan_number()?;
        Ok(TokenKind::YamlDirective { major })
    }

    fn scan_number(&mut self) -> Result<u64, YamlError> {
        let start = self.cursor.index();
        while self.cursor.peek(0).is_ascii_digit() {
            self.cursor.forward(1);
        }
        let digits = self.cursor.since(start);
        digits.parse().map_err(|_| self.cursor.error("a number is expected"))
    }

    fn scan_tag_directive(&mut self) -> Result<TokenKind<'t>, YamlError> {
        self.cursor.skip_spaces();
        let handle = self.scan_handle()?;
        if self.cursor.skip_spaces() == 0 {
            return Err(self.cursor.error("a blank is expected after the handle"));
        }
        let prefix = self.scan_uri()?;
        Ok(TokenKind::TagDirective { handle, prefix })
    }
}
