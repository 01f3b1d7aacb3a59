//! Heartbeats to one member, over a stream that stands.
//!
//! openraft makes a stream for each heartbeat. On the wire that would be a call with its headers, routing and tasks at both ends,
//! a dozen times a second for each member: most of what an idle leader does. So what comes through those streams goes out through
//! one that stays open.

use std::time::{Duration, Instant};

use conclave_proto::consensus::raft_client::RaftClient;
use conclave_proto::consensus::{AppendRequest, AppendResponse};
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{RPCError, Unreachable};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::append::Answers;
use super::unreachable;
use crate::timings::Spent;
use crate::types::Group;
use crate::wire::{append_out, result_in};

/// A heartbeat is answered before the next is sent.
const WAITING: usize = 1;
/// For opening the stream, and for each answer. openraft waits for a heartbeat interval; this bounds what it would leave behind.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A stream of heartbeats that stands. All that was sent through it has been answered.
pub(super) struct Standing {
    requests: mpsc::Sender<AppendRequest>,
    answers: tonic::Streaming<AppendResponse>,
}

impl Standing {
    async fn open(mut client: RaftClient<Channel>) -> Result<Self, Unreachable<Group>> {
        let (requests, stream) = mpsc::channel(WAITING);
        let opening = client.append_stream(ReceiverStream::new(stream));
        let answers = tokio::time::timeout(TIMEOUT, opening)
            .await
            .map_err(|_| unreachable("the stream of heartbeats was not opened in time"))?
            .map_err(|status| unreachable(status.message()))?
            .into_inner();
        Ok(Self { requests, answers })
    }

    async fn beat(&mut self, request: AppendRequest) -> Result<StreamAppendResult<Group>, Unreachable<Group>> {
        let ended = || unreachable("the stream of heartbeats has ended");
        self.requests.send(request).await.map_err(|_| ended())?;
        let answer = tokio::time::timeout(TIMEOUT, self.answers.message())
            .await
            .map_err(|_| unreachable("a heartbeat was not answered in time"))?
            .map_err(|status| unreachable(status.message()))?
            .ok_or_else(ended)?;
        result_in(answer).map_err(unreachable)
    }
}

/// Sends what comes from `input` through the stream in `standing`, which is opened when there is none, and left there for the next.
pub(super) fn stream<'s, S>(
    standing: &'s mut Option<Standing>,
    client: RaftClient<Channel>,
    input: S,
    spent: Spent,
) -> Answers<'s>
where
    S: Stream<Item = AppendEntriesRequest<Group>> + OptionalSend + Unpin + 'static,
{
    let state = Some((standing, client, input, spent));
    Box::pin(futures::stream::unfold(state, |state| async {
        let (standing, client, mut input, spent) = state?;
        let request = input.next().await?;
        let began = Instant::now();
        match send(standing, &client, request).await {
            Ok(Ok(last)) => {
                spent.add(began.elapsed());
                Some((Ok(Ok(last)), Some((standing, client, input, spent))))
            }
            // openraft stops at these: so does the stream.
            Ok(Err(refused)) => Some((Ok(Err(refused)), None)),
            Err(error) => Some((Err(RPCError::from(error)), None)),
        }
    }))
}

async fn send(
    standing: &mut Option<Standing>,
    client: &RaftClient<Channel>,
    request: AppendEntriesRequest<Group>,
) -> Result<StreamAppendResult<Group>, Unreachable<Group>> {
    let request = append_out(request).map_err(unreachable)?;
    // Taken out of its place: whoever stops waiting leaves an answer under way that would be taken for that of the next heartbeat.
    if let Some(mut open) = standing.take()
        && let Ok(answer) = open.beat(request.clone()).await
    {
        *standing = answer.is_ok().then_some(open);
        return Ok(answer);
    }
    // A member that has been away knows nothing of the stream that stood.
    let mut open = Standing::open(client.clone()).await?;
    let answer = open.beat(request).await?;
    *standing = answer.is_ok().then_some(open);
    Ok(answer)
}
