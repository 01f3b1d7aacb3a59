//! What a handler leaves unread of a request's body is read before the answer goes out.
//!
//! HTTP/1 has no way to say "enough": a server that answers early and closes discards what is still on its way, its kernel
//! resets the connection, and the client may lose the answer with it (RFC 9112, section 9.6). A request that is refused for
//! its token would then look like a crash. A body that is larger than what is worth reading ends the connection, and the
//! answer says so.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, Request, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tower::ServiceExt;

/// More than this is not worth reading only to throw it away.
const BYTES_MAX: usize = 16 << 20;
/// A client that takes longer to send it is not waited for.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers a request, and leaves nothing of its body unread.
pub(crate) async fn answer(router: Router, request: Request<Incoming>) -> Result<Response, Infallible> {
    // Whoever waits for a 100 has not sent its body yet, and need not.
    let asks_first = request.headers().contains_key(header::EXPECT);
    if request.version() >= Version::HTTP_2 || request.body().is_end_stream() {
        return router.oneshot(request).await;
    }
    let (back, mut left) = oneshot::channel();
    let request = request.map(|body| {
        Body::new(Lent {
            body: Some(body),
            back: Some(back),
        })
    });
    let mut response = router.oneshot(request).await?;
    // A handler that still holds the body goes on reading while it answers.
    if let Ok(body) = left.try_recv()
        && (asks_first || !is_drained(body).await)
    {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response)
}

async fn is_drained(mut body: Incoming) -> bool {
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > BYTES_MAX {
                return false;
            }
        }
        body.is_end_stream()
    };
    tokio::time::timeout(READ_TIMEOUT, reading).await.unwrap_or(false)
}

/// A body that comes back when it is dropped before its end.
struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Nobody waits any more when the connection is gone.
            let _gone = back.send(body);
        }
    }
}
