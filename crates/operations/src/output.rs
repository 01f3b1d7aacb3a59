//! A process's output: split into lines for the log, its end kept for the error message.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

/// Longer lines are logged in pieces.
const LONGEST_LINE: usize = 64 * 1024;
/// How much of the output an error message holds: its end says what went wrong.
const KEPT: usize = 64 * 1024;
/// After the process has ended, what it wrote is in the pipe; a pause this long means that it has been read.
const QUIET: Duration = Duration::from_millis(30);
/// Background processes that keep writing are not listened to for longer than this.
const DRAIN: Duration = Duration::from_secs(2);

/// Splits bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes `bytes`; answers the lines that are complete now.
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                lines.push(self.end_line());
                continue;
            }
            if self.partial.len() == LONGEST_LINE {
                lines.push(self.end_line());
            }
            self.partial.push(*byte);
        }
        lines
    }

    fn end_line(&mut self) -> String {
        let line = String::from_utf8_lossy(&self.partial).trim_end_matches('\r').to_owned();
        self.partial.clear();
        line
    }

    /// What is left without an end of line.
    fn take(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.end_line())
    }
}

/// The end of an output.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: std::collections::VecDeque<u8>,
    cut: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        if self.bytes.len() > KEPT {
            self.bytes.drain(..self.bytes.len() - KEPT);
            self.cut = true;
        }
    }

    /// The text, with a mark where its beginning was cut off.
    pub(crate) fn into_text(self) -> String {
        let text = String::from_utf8_lossy(&Vec::from(self.bytes)).into_owned();
        if self.cut { format!("[...]{text}") } else { text }
    }
}

/// Reads `source` until its end, or, once `ended` is cancelled, until nothing more is there: a background process that
/// inherited the pipe must not hold the operation. Each line is given to `log`, in order.
pub(crate) async fn consume<'l, S, L>(source: Option<S>, ended: &CancellationToken, mut log: L) -> Tail
where
    S: AsyncRead + Unpin,
    // Not an async closure: the compiler cannot show that the future of one may move between threads.
    L: FnMut(String) -> BoxFuture<'l, ()>,
{
    let mut tail = Tail::default();
    let Some(mut source) = source else { return tail };
    let mut lines = Lines::default();
    let mut chunk = vec![0; 16 * 1024];
    let mut drain_until = None;
    loop {
        let read = match drain_until {
            None => tokio::select! {
                biased;
                read = source.read(&mut chunk) => read,
                () = ended.cancelled() => {
                    drain_until = Some(tokio::time::Instant::now() + DRAIN);
                    continue;
                }
            },
            Some(until) if tokio::time::Instant::now() >= until => break,
            Some(_) => match tokio::time::timeout(QUIET, source.read(&mut chunk)).await {
                Ok(read) => read,
                Err(_) => break,
            },
        };
        let count = match read {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => {
                tracing::warn!(%error, "reading a script's output failed; the rest of it is lost");
                break;
            }
        };
        tail.push(&chunk[..count]);
        for line in lines.push(&chunk[..count]) {
            log(line).await;
        }
    }
    if let Some(line) = lines.take() {
        log(line).await;
    }
    tail
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"a\r\nb"), ["a"]);
        assert_eq!(lines.push(b"c\n\nd"), ["bc", ""]);
        assert_eq!(lines.take().as_deref(), Some("d"));
        assert_eq!(lines.take(), None);
    }

    proptest! {
        #[test]
        fn no_text_is_lost(pieces in proptest::collection::vec("[ab\n]{0,5}", 0..10)) {
            let mut lines = Lines::default();
            let mut got: Vec<String> = pieces.iter().flat_map(|piece| lines.push(piece.as_bytes())).collect();
            got.extend(lines.take());
            let text = pieces.concat();
            prop_assert_eq!(got, text.lines().map(str::to_owned).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_end_is_kept() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; KEPT]);
        tail.push(b"end");
        let text = tail.into_text();
        assert!(text.starts_with("[...]x") && text.ends_with("end") && text.len() == KEPT + 5);
    }
}
