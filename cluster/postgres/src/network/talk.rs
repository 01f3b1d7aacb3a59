//! What a client and a server are at, by the messages that pass between them: pure.
//!
//! A connection that ends between two transactions ends nothing. To know when that is, three things are followed in the bytes of
//! PostgreSQL's protocol 3.0: what the client has asked for that is answered by a "ReadyForQuery", how many of these have come, and
//! whether the last one stands in a transaction.
//!
//! A commit whose wait for its standbys is cancelled, by an interrupt or a driver's time limit say, is reported as done all the same,
//! after a warning: it may be lost in the next failover. Notices are looked at for that one, which does not pass, and nothing
//! after it.
//!
//! Nothing else of what passes is looked at, and nothing is changed.

/// What a client may begin with, by the number after the length.
const ENCRYPTION_TLS: u32 = 80_877_103;
const ENCRYPTION_GSSAPI: u32 = 80_877_104;
const PROTOCOL_3: u32 = 3 << 16;
const PROTOCOL_4: u32 = 4 << 16;
/// The answer to a wish for encryption that is declined.
const DECLINED: u8 = b'N';
/// The status of a server that is in no transaction.
const IDLE: u8 = b'I';
/// The function of PostgreSQL in which a commit waits for its standbys, by which its warnings are known in every language.
const COMMIT_WAIT: &[u8] = b"SyncRepWaitForLSN";
/// The field of a notice that names the function it comes from.
const ROUTINE: u8 = b'R';
/// Longer notices are not PostgreSQL's own.
const NOTICE_BYTES_MAX: usize = 8 << 10;

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
    /// Whether the server has said something that is on its way to the client.
    passing: bool,
    /// The notice that is being said, as far as it has come.
    notice: Vec<u8>,
}

/// A piece of what the server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// "ReadyForQuery" messages in it.
    ready: u64,
    /// What the last of them says.
    in_transaction: Option<bool>,
    /// Since when it may not pass.
    doubt: Option<Doubt>,
}

/// The server has told of a commit that it did not wait for to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// So many bytes before may pass: the client has had whole messages then.
    After(usize),
    /// It began in an earlier piece, and the client has had the beginning of it.
    Begun,
}

impl Said {
    /// Whether and how far it must not pass.
    pub(crate) fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }
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

    /// Reads what comes, and tells of each message its type, then its body as it comes. `false` when these are no messages.
    fn read(&mut self, bytes: &[u8], mut on: impl FnMut(Part<'_>)) -> bool {
        let mut at = 0;
        while let Some(first) = bytes.get(at) {
            if self.filled < self.head.len() {
                self.head[self.filled] = *first;
                self.filled += 1;
                at += 1;
                if self.filled == self.head.len() {
                    let [kind, a, b, c, d] = self.head;
                    let Some(left) = u32::from_be_bytes([a, b, c, d]).checked_sub(4) else {
                        return false;
                    };
                    self.left = left;
                    if left == 0 {
                        self.filled = 0;
                    }
                    on(Part::Head(kind, at.checked_sub(self.head.len())));
                }
                continue;
            }
            let taken = (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= u32::try_from(taken).unwrap_or(self.left);
            if self.left == 0 {
                self.filled = 0;
            }
            on(Part::Body(self.head[0], &bytes[at..at + taken], self.left == 0));
            at += taken;
        }
        true
    }
}

/// A part of a message.
enum Part<'a> {
    /// Its type, and where it begins, unless in an earlier piece.
    Head(u8, Option<usize>),
    /// The same type, what has come of the body, and whether that is all.
    Body(u8, &'a [u8], bool),
}

/// Whether a notice is of a commit whose wait was cancelled: pairs of a letter and a text that ends with zero.
fn is_of_a_commit(notice: &[u8]) -> bool {
    let mut fields = notice.split(|byte| *byte == 0);
    fields.any(|field| field.split_first() == Some((&ROUTINE, COMMIT_WAIT)))
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
            passing: false,
            notice: Vec::new(),
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
        let understood = self.asked.read(bytes, |part| match part {
            // Query, function call.
            Part::Head(b'Q' | b'F', _) => *owed += 1,
            // Sync.
            Part::Head(b'S', _) => {
                *owed += 1;
                *unfinished = false;
            }
            // Parse, bind, describe, execute, close, flush.
            Part::Head(b'P' | b'B' | b'D' | b'E' | b'C' | b'H', _) => *unfinished = true,
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

    /// The server says this, and the client has not got it yet.
    pub(crate) fn hear(&mut self, bytes: &[u8]) -> Said {
        self.passing = true;
        let mut said = Said {
            ready: 0,
            in_transaction: None,
            doubt: None,
        };
        let mut skipped = 0;
        while self.wishes > 0
            && let Some(first) = bytes.get(skipped)
        {
            if *first != DECLINED {
                self.greeting = Greeting::Other;
            }
            self.wishes -= 1;
            skipped += 1;
        }
        if self.greeting == Greeting::Other {
            return said;
        }
        let (notice, mut begins) = (&mut self.notice, None);
        let understood = self.answered.read(&bytes[skipped..], |part| match part {
            Part::Head(b'N', at) => {
                notice.clear();
                begins = at;
            }
            Part::Body(b'N', body, ends) => {
                let room = NOTICE_BYTES_MAX.saturating_sub(notice.len());
                notice.extend_from_slice(&body[..body.len().min(room)]);
                if ends && is_of_a_commit(notice) {
                    let doubt = begins.map_or(Doubt::Begun, |at| Doubt::After(skipped + at));
                    said.doubt.get_or_insert(doubt);
                }
            }
            Part::Body(b'Z', body, _) => {
                said.ready += 1;
                said.in_transaction = Some(body.first() != Some(&IDLE));
            }
            _ => {}
        });
        if !understood {
            self.greeting = Greeting::Other;
        }
        said
    }

    /// The client has got it.
    pub(crate) fn told(&mut self, said: &Said) {
        self.passing = false;
        self.owed = self.owed.saturating_sub(said.ready);
        self.had = self.had.saturating_add(said.ready);
        self.in_transaction = said.in_transaction.unwrap_or(self.in_transaction);
    }

    /// Whether it has logged in and has not asked for anything yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.had == 1
    }

    /// Whether the client has had all that it asked for, is in no transaction, and has begun nothing new.
    pub(crate) fn is_idle(&self) -> bool {
        let quiet = self.owed == 0 && !self.unfinished && !self.in_transaction && !self.passing;
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
        for piece in bytes.chunks(size) {
            let said = talk.hear(piece);
            assert_eq!(said.doubt(), None);
            assert!(!talk.is_idle(), "it is on its way");
            talk.told(&said);
        }
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

    /// What PostgreSQL says, then what it says of a commit.
    fn notice(routine: &str) -> Vec<u8> {
        let text = format!("SWARNING\0C01000\0MRSyncRepWaitForLSN\0Fsyncrep.c\0L313\0R{routine}\0\0");
        message(b'N', text.as_bytes())
    }

    #[test]
    fn a_commit_that_was_not_waited_for_is_not_passed_on() {
        let mut talk = logged_in(1000);
        ask(&mut talk, &message(b'Q', b"INSERT INTO t VALUES (1)\0"), 1000);
        answer(&mut talk, &notice("exec_stmt_raise"), 1000);
        let before = notice("exec_stmt_raise");
        let rest = [message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat();
        let cancelled = notice("SyncRepWaitForLSN");
        let all = [before.clone(), cancelled.clone(), rest].concat();
        assert_eq!(talk.hear(&all).doubt(), Some(Doubt::After(before.len())));
        for cut in 1..cancelled.len() {
            let mut talk = logged_in(1000);
            let doubts = [&cancelled[..cut], &cancelled[cut..]].map(|piece| talk.hear(piece).doubt());
            // Five bytes say what a message is: while they are not whole nothing of it is kept back, and the rest of it may follow.
            assert_eq!(doubts, [None, Some(Doubt::Begun)], "{cut}");
        }
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
