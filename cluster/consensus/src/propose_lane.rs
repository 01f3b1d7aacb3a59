//! Proposals on their way to another node: many at once over one stream.
//!
//! A call of its own for each proposal costs more than the proposal itself (headers, routing, a task). In a stream it is a
//! message, and messages that wait for the connection go out together.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use conclave_proto::consensus::membership_client::MembershipClient;
use conclave_proto::consensus::propose_response::Outcome;
use conclave_proto::consensus::{ProposeRequest, ProposeResponse};
use conclave_runtime::Tasks;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::network::MESSAGE_BYTES_MAX;
use crate::packed::{Packed, unpack};
use crate::peers::NoAnswer;
use crate::server::Forwarded;

/// Proposals that may wait for the stream.
const WAITING: usize = 256;
/// Connecting, and the stream's first answer header.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

type Answer = Result<Forwarded, NoAnswer>;

struct Outgoing {
    proposal: Bytes,
    to_leader_only: bool,
    answer: oneshot::Sender<Answer>,
}

/// A stream of proposals to one node. Opened when first used, and again after a loss. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ProposeLane {
    queue: mpsc::Sender<Outgoing>,
}

impl ProposeLane {
    /// A lane over `channel`; its task ends with the last clone, or when the tasks are to end: clones may lie anywhere.
    pub(crate) fn new(channel: Channel, tasks: &Tasks) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let shutdown = tasks.shutdown();
        tasks.spawn("proposals", async move {
            shutdown.run_until(run(channel, waiting)).await;
        });
        Self { queue }
    }

    /// Sends one proposal and waits for its answer, for `limit` at most.
    pub(crate) async fn propose(&self, proposal: &Packed, to_leader_only: bool, limit: Duration) -> Answer {
        let exchange = async {
            let (answer, outcome) = oneshot::channel();
            let outgoing = Outgoing {
                proposal: proposal.0.clone(),
                to_leader_only,
                answer,
            };
            let ended = || "the connection to the node has been given up".to_owned();
            self.queue.send(outgoing).await.map_err(|_| ended())?;
            outcome.await.map_err(|_| ended())?
        };
        tokio::time::timeout(limit, exchange)
            .await
            .map_err(|_| format!("no answer within {} ms", limit.as_millis()))?
    }
}

async fn run(channel: Channel, mut waiting: mpsc::Receiver<Outgoing>) {
    while let Some(first) = waiting.recv().await {
        let mut pending = HashMap::new();
        let why = match session(channel.clone(), first, &mut waiting, &mut pending).await {
            Ok(()) => return,
            Err(why) => why,
        };
        for (_, answer) in pending {
            // Whoever asked may have given up.
            let _given_up = answer.send(Err(why.clone()));
        }
    }
}

/// One stream, until it breaks (an error) or nobody can ask any more.
async fn session(
    channel: Channel,
    first: Outgoing,
    waiting: &mut mpsc::Receiver<Outgoing>,
    pending: &mut HashMap<u64, oneshot::Sender<Answer>>,
) -> Result<(), NoAnswer> {
    let mut client = MembershipClient::new(channel)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (requests, stream) = mpsc::channel(WAITING);
    let mut next_id = 0;
    let mut send = |outgoing: Outgoing, pending: &mut HashMap<u64, oneshot::Sender<Answer>>| {
        next_id += 1;
        pending.insert(next_id, outgoing.answer);
        ProposeRequest {
            id: next_id,
            proposal: outgoing.proposal,
            to_leader_only: outgoing.to_leader_only,
        }
    };
    let broken = || "the stream of proposals broke off".to_owned();
    requests.send(send(first, pending)).await.map_err(|_| broken())?;
    let mut answers = tokio::time::timeout(OPEN_TIMEOUT, client.propose(ReceiverStream::new(stream)))
        .await
        .map_err(|_| "no connection in time".to_owned())?
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    loop {
        tokio::select! {
            biased;
            answer = answers.message() => {
                let answer = answer.map_err(|status| status.message().to_owned())?.ok_or_else(broken)?;
                if let Some(waiter) = pending.remove(&answer.id) {
                    let _given_up = waiter.send(outcome(answer));
                }
            }
            outgoing = waiting.recv() => match outgoing {
                Some(outgoing) => requests.send(send(outgoing, pending)).await.map_err(|_| broken())?,
                None => return Ok(()),
            },
        }
    }
}

fn outcome(answer: ProposeResponse) -> Answer {
    match answer.outcome {
        Some(Outcome::Applied(bytes)) => unpack(&bytes)
            .map(Forwarded::Applied)
            .map_err(|error| error.to_string()),
        Some(Outcome::NotLeader(_)) => Ok(Forwarded::NotLeader),
        Some(Outcome::Failed(why)) => Ok(Forwarded::Failed(why)),
        None => Err("an answer without an outcome".into()),
    }
}
