//! What a client and a server are at, by the messages that pass between them: pure.
//!
//! A connection that ends between two transactions ends nothing. To know when that is, three things are followed in the bytes of
//! PostgreSQL's protocol 3.0: what the client has asked for that is answered by a "ReadyForQuery", how many of these have come, and
//! whether the last one stands in a transaction. Nothing else of what passes is looked at, and nothing is changed.

/// What a client may begin with, by the number after the length.
const ENCRYPTION_TLS: u32 = 80_877_103;
const ENCRYPTION_GSSAPI: u32 = 80_877_104;
const PROTOCOL_3: u32 = 3 << 16;
const PROTOCOL_4: u32 = 4 << 16;
/// The answer to a wish for encryption that is declined.
const DECLINED: u8 = b'N';
/// The status of a server that is in no transaction.
const IDLE: u8 = b'I';

/// A conversation, from its first byte on.
#[derive(Debug)]
pub(crate) struct Talk {
    asked: Frames,
    answered: Frames,
    greeting: Greeting,
    /// Single bytes that the server is to answer wishes for encryption with.
    wishes: u32,
    /// "ReadyForQuery" messages that the server owes.
    owed: u64,
    /// How many have come.
    had: u64,
    /// Whether the client has sent parts of something that it has not ended yet.
    unfinished: bool,
    in_transaction: bool,
}

/// How far the client has come with its greeting, which has no type.
#[derive(Debug, PartialEq, Eq)]
enum Greeting {
    /// Length and code, as far as they have come.
    Head([u8; 8], usize),
    /// So many bytes of parameters are to come.
    Parameters(u32),
    /// It is complete.
    Done,
    /// It is something else than a client that wants to work (it wants to cancel, say), or cannot be understood: such a
    /// conversation is never between two transactions.
    Other,
}

/// Where messages begin and end in one direction.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 5],
    filled: usize,
    /// Bytes of the message that are to come.
    left: u32,
}

impl Frames {
    /// Whether the last message is complete.
    fn is_whole(&self) -> bool {
        self.filled == 0
    }

    /// Reads what comes, and tells of each message its type and, once that has come, the first byte of its body. `false` when
    /// these are no messages.
    fn read(&mut self, mut bytes: &[u8], mut on: impl FnMut(u8, Option<u8>)) -> bool {
        while let Some(first) = bytes.first() {
            if self.filled < self.head.len() {
                self.head[self.filled] = *first;
                self.filled += 1;
                bytes = &bytes[1..];
                if self.filled == self.head.len() {
                    let [kind, a, b, c, d] = self.head;
                    let Some(left) = u32::from_be_bytes([a, b, c, d]).checked_sub(4) else {
                        return false;
                    };
                    self.left = left;
                    if left == 0 {
                        self.filled = 0;
                    }
                    on(kind, None);
                }
                continue;
            }
            let body = u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]) - 4;
            if self.left == body {
                on(self.head[0], Some(*first));
            }
            let taken = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            bytes = &bytes[taken..];
            self.left -= u32::try_from(taken).unwrap_or(self.left);
            if self.left == 0 {
                self.filled = 0;
            }
        }
        true
    }
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            asked: Frames::default(),
            answered: Frames::default(),
            greeting: Greeting::Head([0; 8], 0),
            wishes: 0,
            // To the greeting.
            owed: 1,
            had: 0,
            unfinished: false,
            in_transaction: false,
        }
    }
}

impl Talk {
    /// The client has said this, and the server has not heard it yet.
    pub(crate) fn ask(&mut self, bytes: &[u8]) {
        let bytes = self.greet(bytes);
        if self.greeting != Greeting::Done {
            return;
        }
        let (owed, unfinished) = (&mut self.owed, &mut self.unfinished);
        let understood = self.asked.read(bytes, |kind, body| match (kind, body) {
            // Query, function call.
            (b'Q' | b'F', None) => *owed += 1,
            // Sync.
            (b'S', None) => {
                *owed += 1;
                *unfinished = false;
            }
            // Parse, bind, describe, execute, close, flush.
            (b'P' | b'B' | b'D' | b'E' | b'C' | b'H', None) => *unfinished = true,
            _ => {}
        });
        if !understood {
            self.greeting = Greeting::Other;
        }
    }

    /// Takes the greeting off what the client says; the rest.
    fn greet<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while let Some(first) = bytes.first() {
            match &mut self.greeting {
                Greeting::Head(head, filled) => {
                    head[*filled] = *first;
                    *filled += 1;
                    bytes = &bytes[1..];
                    if *filled == head.len() {
                        let [a, b, c, d, e, f, g, h] = *head;
                        let (length, code) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                        self.greeting = match code {
                            ENCRYPTION_TLS | ENCRYPTION_GSSAPI if length == 8 => {
                                self.wishes += 1;
                                Greeting::Head([0; 8], 0)
                            }
                            PROTOCOL_3..PROTOCOL_4 if length == 8 => Greeting::Done,
                            PROTOCOL_3..PROTOCOL_4 if length > 8 => Greeting::Parameters(length - 8),
                            _ => Greeting::Other,
                        };
                    }
                }
                Greeting::Parameters(left) => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    bytes = &bytes[taken..];
                    *left -= u32::try_from(taken).unwrap_or(*left);
                    if *left == 0 {
                        self.greeting = Greeting::Done;
                    }
                }
                Greeting::Done | Greeting::Other => return bytes,
            }
        }
        bytes
    }

    /// The server has said this, and the client has got it.
    pub(crate) fn answer(&mut self, mut bytes: &[u8]) {
        while self.wishes > 0
            && let Some(first) = bytes.first()
        {
            if *first != DECLINED {
                self.greeting = Greeting::Other;
            }
            self.wishes -= 1;
            bytes = &bytes[1..];
        }
        if self.greeting == Greeting::Other {
            return;
        }
        let (owed, had, in_transaction) = (&mut self.owed, &mut self.had, &mut self.in_transaction);
        let understood = self.answered.read(bytes, |kind, body| {
            if let (b'Z', Some(status)) = (kind, body) {
                *owed = owed.saturating_sub(1);
                *had = had.saturating_add(1);
                *in_transaction = status != IDLE;
            }
        });
        if !understood {
            self.greeting = Greeting::Other;
        }
    }

    /// Whether it has logged in and has not asked for anything yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.had == 1
    }

    /// Whether the client has had all that it asked for, is in no transaction, and has begun nothing new.
    pub(crate) fn is_idle(&self) -> bool {
        let quiet = self.owed == 0 && !self.unfinished && !self.in_transaction;
        quiet && self.greeting == Greeting::Done && self.asked.is_whole() && self.answered.is_whole()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind], length.to_be_bytes().as_slice(), body].concat()
    }

    fn greeting(code: u32, parameters: &[u8]) -> Vec<u8> {
        let length = u32::try_from(parameters.len() + 8).unwrap();
        [
            length.to_be_bytes().as_slice(),
            code.to_be_bytes().as_slice(),
            parameters,
        ]
        .concat()
    }

    /// In pieces of that size.
    fn ask(talk: &mut Talk, bytes: &[u8], size: usize) {
        bytes.chunks(size).for_each(|piece| talk.ask(piece));
    }

    fn answer(talk: &mut Talk, bytes: &[u8], size: usize) {
        bytes.chunks(size).for_each(|piece| talk.answer(piece));
    }

    fn logged_in(size: usize) -> Talk {
        let mut talk = Talk::default();
        ask(&mut talk, &greeting(ENCRYPTION_TLS, b""), size);
        answer(&mut talk, b"N", size);
        ask(&mut talk, &greeting(PROTOCOL_3, b"user\0a\0\0"), size);
        answer(&mut talk, &message(b'R', &[0, 0, 0, 10]), size);
        ask(&mut talk, &message(b'p', b"secret"), size);
        assert!(!talk.is_idle());
        let rest = [
            message(b'R', &[0; 4]),
            message(b'N', b"a notice\0"),
            message(b'Z', b"I"),
        ];
        answer(&mut talk, &rest.concat(), size);
        assert!(talk.is_idle() && talk.is_fresh());
        talk
    }

    #[test]
    fn a_client_is_idle_once_it_has_had_everything() {
        for size in [1, 2, 3, 7, 1000] {
            let mut talk = logged_in(size);
            ask(&mut talk, &message(b'Q', b"BEGIN\0"), size);
            assert!(!talk.is_idle());
            answer(
                &mut talk,
                &[message(b'C', b"BEGIN\0"), message(b'Z', b"T")].concat(),
                size,
            );
            assert!(!talk.is_idle(), "it is in a transaction");
            ask(&mut talk, &message(b'Q', b"COMMIT\0"), size);
            answer(&mut talk, &message(b'C', b"COMMIT\0"), size);
            assert!(!talk.is_idle(), "the server is not ready");
            answer(&mut talk, &message(b'Z', b"I"), size);
            assert!(talk.is_idle() && !talk.is_fresh());
        }
    }

    #[test]
    fn what_is_asked_ahead_is_owed() {
        let mut talk = logged_in(1000);
        let two = [
            message(b'P', b"\0SELECT 1\0\0\0"),
            message(b'S', b""),
            message(b'Q', b"SELECT 2\0"),
        ];
        ask(&mut talk, &two.concat(), 1000);
        answer(&mut talk, &message(b'Z', b"I"), 1000);
        assert!(!talk.is_idle(), "the second is not answered");
        answer(&mut talk, &message(b'Z', b"I"), 1000);
        assert!(talk.is_idle());
        ask(&mut talk, &message(b'B', b"\0\0\0\0\0\0\0\0"), 1000);
        assert!(!talk.is_idle(), "it has begun something");
        ask(&mut talk, &message(b'S', b""), 1000);
        answer(&mut talk, &message(b'Z', b"I"), 1000);
        assert!(talk.is_idle());
        ask(&mut talk, &message(b'Q', b"SELECT 3\0")[..3], 1000);
        assert!(!talk.is_idle(), "half a message has come");
    }

    #[test]
    fn a_copy_that_the_client_sends_leaves_it_idle_when_it_is_answered() {
        let mut talk = logged_in(5);
        ask(&mut talk, &message(b'Q', b"COPY t FROM STDIN\0"), 5);
        answer(&mut talk, &message(b'G', &[0, 0, 0]), 5);
        ask(&mut talk, &[message(b'd', b"1\n"), message(b'c', b"")].concat(), 5);
        assert!(!talk.is_idle());
        answer(
            &mut talk,
            &[message(b'C', b"COPY 1\0"), message(b'Z', b"I")].concat(),
            5,
        );
        assert!(talk.is_idle());
    }

    #[test]
    fn what_is_no_conversation_is_never_idle() {
        let mut cancel = Talk::default();
        ask(&mut cancel, &greeting(80_877_102, &[0; 8]), 1000);
        assert!(!cancel.is_idle());
        let mut nonsense = logged_in(1000);
        ask(&mut nonsense, &[b'Q', 0, 0, 0, 1, 9, 9], 1000);
        answer(&mut nonsense, &message(b'Z', b"I"), 1000);
        assert!(!nonsense.is_idle());
        let mut encrypted = Talk::default();
        ask(&mut encrypted, &greeting(ENCRYPTION_TLS, b""), 1000);
        answer(&mut encrypted, b"S", 1000);
        assert!(!encrypted.is_idle());
    }
}
