//! Appends to one member: a stream of requests, and their answers in the same order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conclave_proto::consensus::AppendRequest;
use conclave_proto::consensus::raft_client::RaftClient;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{RPCError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::oneshot;
use tonic::transport::Channel;

use super::purged::Stuck;
use super::unreachable;
use crate::timings::Spent;
use crate::types::Group;
use crate::wire::{append_out, result_in};

/// A member that leaves a request unanswered for this long is not writing: longer than a slow sync, shorter than HTTP/2's
/// own verdict on a connection that nothing comes through.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Connecting, and the stream's first answer header.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<Group>, RPCError<Group>>>;

pub(super) async fn stream<'s, S>(
    mut client: RaftClient<Channel>,
    input: S,
    stuck: Stuck,
    spent: Spent,
    _: RPCOption,
) -> Result<Answers<'s>, RPCError<Group>>
where
    S: Stream<Item = AppendEntriesRequest<Group>> + OptionalSend + Unpin + 'static,
{
    let unanswered = Unanswered::default();
    let asked = unanswered.clone();
    let (open, closed) = oneshot::channel();
    // A request that cannot be encoded ends the stream; openraft begins another one and meets the same, loudly.
    // The connection would keep reading requests after the answers have been given up, and openraft's next stream waits for
    // a lock that its last one holds while it is read: the requests end with the answers.
    let requests = input
        .take_until(closed)
        .map(append_out)
        .take_while(|request| {
            if let Err(error) = request {
                tracing::error!(%error, "an append could not be encoded; this is a defect");
            }
            std::future::ready(request.is_ok())
        })
        .filter_map(|request| std::future::ready(request.ok()))
        .inspect(move |_: &AppendRequest| {
            asked.lock().push_back(Instant::now());
        });
    let opening = tokio::time::timeout(OPEN_TIMEOUT, client.append_stream(requests));
    let answers = opening
        .await
        .map_err(|_| unreachable("the append stream was not opened in time"))?
        .map_err(|status| unreachable(status.message()))?
        .into_inner();
    let state = Some(Progress {
        answers,
        unanswered,
        spent,
        stuck,
        _open: open,
    });
    Ok(Box::pin(futures::stream::unfold(state, |state| async {
        let mut progress = state?;
        match progress.next().await {
            Ok(Some(Ok(last))) => Some((Ok(Ok(last)), Some(progress))),
            // openraft stops at these: so does the stream.
            Ok(Some(Err(refused))) => Some((Ok(Err(refused)), None)),
            Ok(None) => None,
            Err(error) => Some((Err(error.into()), None)),
        }
    })))
}

/// When the requests went out that have no answer yet.
#[derive(Clone, Default)]
struct Unanswered(Arc<Mutex<VecDeque<Instant>>>);

impl Unanswered {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Progress {
    answers: tonic::Streaming<conclave_proto::consensus::AppendResponse>,
    unanswered: Unanswered,
    spent: Spent,
    stuck: Stuck,
    /// Ends the requests when it is dropped.
    _open: oneshot::Sender<()>,
}

impl Progress {
    async fn next(&mut self) -> Result<Option<StreamAppendResult<Group>>, Unreachable<Group>> {
        loop {
            let waiting = !self.unanswered.lock().is_empty();
            let Ok(answer) = tokio::time::timeout(ANSWER_TIMEOUT, self.answers.message()).await else {
                if waiting {
                    return Err(unreachable(format!(
                        "an append was not answered within {} ms",
                        ANSWER_TIMEOUT.as_millis()
                    )));
                }
                // Nothing was asked: silence is all right.
                continue;
            };
            let Some(answer) = answer.map_err(|status| unreachable(status.message()))? else {
                return self.stuck.check().map(|()| None);
            };
            if let Some(sent) = self.unanswered.lock().pop_front() {
                self.spent.add(sent.elapsed());
            }
            return result_in(answer).map(Some).map_err(unreachable);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, Bytes};
    use axum::extract::Request;
    use axum::response::Response;
    use axum::routing::post;
    use futures::stream;
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;

    use super::*;
    use crate::types::Vote;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// A member that takes appends and answers none.
    #[allow(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
    async fn silent_member() -> RaftClient<Channel> {
        let silence = |request: Request| async move {
            let taken = request.into_body().into_data_stream().map(|_| None::<Bytes>);
            let answers = taken
                .chain(stream::pending())
                .filter_map(std::future::ready)
                .map(Ok::<_, std::io::Error>);
            Response::builder()
                .header("content-type", "application/grpc")
                .body(Body::from_stream(answers))
                .unwrap()
        };
        let routes = axum::Router::new().route("/conclave.consensus.v1.Raft/AppendStream", post(silence));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_routes(routes.into());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        RaftClient::connect(format!("http://{address}")).await.unwrap()
    }

    /// openraft's requests hold a lock that its next stream needs: they must go when nobody waits for answers any more.
    #[tokio::test]
    async fn the_requests_end_when_the_answers_are_given_up() {
        let append = AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            leader_commit: None,
            entries: Vec::new(),
        };
        let (held, released) = oneshot::channel::<()>();
        let requests = stream::iter([append]).chain(stream::pending()).inspect(move |_| {
            let _as_long_as_the_stream = &held;
        });
        let option = RPCOption::new(Duration::from_millis(75));
        let answers = super::stream(
            silent_member().await,
            requests,
            Stuck::default(),
            Spent::default(),
            option,
        );
        drop(answers.await.unwrap());
        let outcome = tokio::time::timeout(DEADLINE, released).await;
        assert!(outcome.expect("the requests are dropped").is_err());
    }
}
