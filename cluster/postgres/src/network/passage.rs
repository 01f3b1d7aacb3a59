//! The way of a client's bytes to the server and back, which can end between two transactions.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use conclave_runtime::Shutdown;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::sync::{Notify, watch};

use super::talk::Doubt;
pub(crate) use super::talk::Talk;

/// As much as tokio takes to copy.
const PIECE_BYTES: usize = 8 << 10;
/// How long a client that was told of the end may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);
/// A client that was let in may ask for one thing: it has logged in for that.
const FIRST_WORD: Duration = Duration::from_millis(250);
/// What clients of a node are told whose manager is about to stop.
pub(crate) const STOPPING: &str = "the manager of this node is being stopped: use another node";
/// SQLSTATE `cannot_connect_now`: nothing was begun.
const CANNOT_CONNECT_NOW: &str = "57P03";
/// SQLSTATE `admin_shutdown`: what had been asked for is done, and what comes after this was not begun.
const ADMIN_SHUTDOWN: &str = "57P01";
/// What a client is told whose commit was cancelled while it waited, with SQLSTATE `transaction_resolution_unknown`.
const UNKNOWN_OUTCOME: Farewell = Farewell {
    code: "08007",
    why: "the commit was cancelled before a standby had it: whether it lasts is not known; look whether it is there before you repeat it",
};

/// What a client is told at the end of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Farewell {
    code: &'static str,
    why: &'static str,
}

/// The clients of this node, all of which can be asked to leave. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    stopping: watch::Sender<bool>,
    open: watch::Sender<usize>,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self {
            stopping: watch::Sender::new(false),
            open: watch::Sender::new(0),
        }
    }

    /// Counts one in, until the answer is dropped.
    pub(crate) fn enter(&self) -> impl Drop + use<> {
        self.open.send_modify(|open| *open += 1);
        Entered(self.open.clone())
    }

    /// Whether this node's manager is about to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Lets nobody in from now on, and everybody finish the transaction that he is in, for so long at most.
    pub(crate) async fn drain(&self, limit: Duration) {
        self.stopping.send_replace(true);
        let mut open = self.open.subscribe();
        let left = tokio::time::timeout(limit, open.wait_for(|open| *open == 0)).await;
        if left.is_err() {
            let open = *self.open.borrow();
            tracing::warn!(
                open,
                "clients of the database are still in a transaction and are cut off"
            );
        }
    }

    /// Resolves when this node's manager is about to stop, or the server at the other end is about to be closed; what a client is
    /// told of it.
    async fn asked_to_leave(&self, closing: Option<watch::Receiver<bool>>) -> &'static str {
        let mut stopping = self.stopping.subscribe();
        let stops = async {
            let asked = stopping.wait_for(|stopping| *stopping).await.is_ok();
            asked.then_some(STOPPING)
        };
        let closes = async {
            let asked = closing?.wait_for(|closing| *closing).await.is_ok();
            asked.then_some("the database is moved or restarted, as planned: connect again")
        };
        tokio::select! {
            Some(why) = stops => why,
            Some(why) = closes => why,
            // Whoever could ask has ended.
            else => std::future::pending().await,
        }
    }
}

struct Entered(watch::Sender<usize>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// Copies both ways until one side ends, `closed` resolves, or the process stops.
pub(crate) async fn join<A, B>(left: &mut A, right: &mut B, closed: impl Future<Output = ()>, shutdown: &Shutdown)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        // What has been closed by now passes nothing any more.
        biased;
        () = closed => {}
        () = shutdown.requested() => {}
        // A reset by either side is an end like any other.
        _ended = copy_bidirectional(left, right) => {}
    }
}

/// The same for a client that has come as far as `talk`. When it is asked to leave, by [`Clients::drain`] or by `closing`, it is let
/// finish first. Where its commit was not waited for, it is not told that it is done. The answer is what it is to be told
/// instead: see [`farewell`].
pub(crate) async fn serve<C, S>(
    (client, talk): (&mut C, Talk),
    server: &mut S,
    clients: &Clients,
    closing: Option<watch::Receiver<bool>>,
    closed: impl Future<Output = ()>,
    shutdown: &Shutdown,
) -> Option<Farewell>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let talk = Mutex::new(talk);
    let talk = || talk.lock().unwrap_or_else(PoisonError::into_inner);
    let answered = Notify::new();
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    // What is asked counts before it is on its way, what is answered once it has gone.
    let ask = |piece: &[u8]| {
        talk().ask(piece);
        ((), None)
    };
    let hear = |piece: &[u8]| {
        let said = talk().hear(piece);
        let doubt = said.doubt();
        (said, doubt)
    };
    let asking = pump(from_client, to_server, ask, |()| {});
    let answering = pump(from_server, to_client, hear, |said| {
        talk().told(&said);
        answered.notify_one();
    });
    let leaving = async {
        let why = clients.asked_to_leave(closing).await;
        loop {
            let (idle, fresh) = {
                let talk = talk();
                (talk.is_idle(), talk.is_fresh())
            };
            match (idle, fresh) {
                (true, false) => return why,
                (true, true) => {
                    let said = tokio::time::timeout(FIRST_WORD, answered.notified()).await;
                    if said.is_err() && talk().is_idle() {
                        return why;
                    }
                }
                (false, _) => answered.notified().await,
            }
        }
    };
    tokio::select! {
        // As above.
        biased;
        () = closed => None,
        () = shutdown.requested() => None,
        why = leaving => Some(Farewell { code: ADMIN_SHUTDOWN, why }),
        ended = futures::future::try_join(asking, answering) => match ended {
            Err(Stopped::Doubt(Doubt::After(_))) => Some(UNKNOWN_OUTCOME),
            // In the middle of a message there is nothing to be said: the end is an unknown outcome as well. A reset by either
            // side is an end like any other.
            Err(Stopped::Doubt(Doubt::Begun) | Stopped::Broken) | Ok(_) => None,
        },
    }
}

/// Tells a client that its connection ends, and why. The server must have been left before.
pub(crate) async fn farewell<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, told: Farewell) {
    tell(client, told.code, told.why).await;
    // What is left unread when the connection closes would reset it, and the client would not see the reason.
    let mut rest = tokio::io::sink();
    let _heard = tokio::time::timeout(FAREWELL, tokio::io::copy(client, &mut rest)).await;
}

/// Why a direction ended before its source did.
enum Stopped {
    /// A side has gone.
    Broken,
    /// What comes must not pass.
    Doubt(Doubt),
}

impl From<std::io::Error> for Stopped {
    fn from(_: std::io::Error) -> Self {
        Self::Broken
    }
}

/// One direction, until its source ends.
async fn pump<T>(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    before: impl Fn(&[u8]) -> (T, Option<Doubt>),
    after: impl Fn(T),
) -> Result<(), Stopped> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return Ok(to.shutdown().await?);
        }
        let (seen, doubt) = before(&piece[..read]);
        let passes = match doubt {
            None => read,
            Some(Doubt::After(bytes)) => bytes,
            Some(Doubt::Begun) => 0,
        };
        to.write_all(&piece[..passes]).await?;
        to.flush().await?;
        if let Some(doubt) = doubt {
            return Err(Stopped::Doubt(doubt));
        }
        after(seen);
    }
}

/// Tells a client in its own protocol that it can't be served.
pub(crate) async fn tell_refused<S: AsyncRead + AsyncWrite + Unpin>(client: &mut S, why: &str) {
    tell(client, CANNOT_CONNECT_NOW, why).await;
}

/// PostgreSQL protocol 3.0, "ErrorResponse", and the end.
async fn tell<S: AsyncRead + AsyncWrite + Unpin>(client: &mut S, code: &str, why: &str) {
    let mut fields = Vec::new();
    for (field, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', why)] {
        fields.push(field);
        fields.extend_from_slice(value.as_bytes());
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX).to_be_bytes();
    let message = [b"E", length.as_slice(), &fields].concat();
    // The client may have left; it is told all that can be told.
    let _client_left = client.write_all(&message).await;
    let _client_left = client.shutdown().await;
}
