//! Renewals on their way to the leader, over port 8300.

use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_catalog::directory::SessionId;
use conclave_consensus::Consensus;
use conclave_proto::directory::directory_client::DirectoryClient;
use conclave_proto::directory::directory_server::{Directory as DirectoryService, DirectoryServer};
use conclave_proto::directory::renew_request::What;
use conclave_proto::directory::{Check, Outcome, RenewReply, RenewRequest};
use tonic::{Request, Response, Status};

use super::{Keeper, Renewal, Timer};
use crate::barrier::NotConfirmed;
use crate::patience::Patience;

/// The leader answers from memory, after a round to a majority.
const CALL_TIMEOUT: Duration = Duration::from_millis(1500);

/// What a renewal came to.
pub(crate) type Renewed = Result<Renewal, NotConfirmed>;

/// Finds the leader and has it renew. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Renewing {
    pub(crate) consensus: Consensus,
    pub(crate) keeper: Keeper,
    pub(crate) patience: Patience,
}

impl Renewing {
    /// Starts a session's or a check's time anew, through elections.
    pub(crate) async fn renew(&self, timer: &Timer) -> Renewed {
        let end = self.patience.deadline();
        loop {
            let mut leadership = self.consensus.leadership();
            let leader = leadership.borrow_and_update().leader;
            let asked = async {
                let outcome = match leader {
                    None => None,
                    Some(leader) if leader == self.consensus.me() => self.keeper.renew_here(timer).await,
                    Some(leader) => self.ask(leader, timer).await,
                };
                if outcome.is_none() {
                    tokio::time::sleep(self.patience.retry()).await;
                }
                outcome
            };
            let replaced = async {
                if leadership.wait_for(|now| now.leader != leader).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                outcome = asked => if let Some(renewal) = outcome {
                    return Ok(renewal);
                },
                () = replaced => {}
                () = tokio::time::sleep_until(end) => return Err(NotConfirmed),
            }
        }
    }

    async fn ask(&self, leader: NodeId, timer: &Timer) -> Option<Renewal> {
        let what = match timer {
            Timer::Session(id) => What::Session(id.to_string()),
            Timer::Check(node, id) => What::Check(Check {
                node: node.to_string(),
                id: id.to_string(),
            }),
            Timer::Delay(_) | Timer::DeadMember(_) | Timer::Deregister(..) => return Some(Renewal::Unknown),
        };
        let mut client = DirectoryClient::new(self.consensus.channel(leader).ok()?);
        let call = client.renew(RenewRequest { what: Some(what) });
        let reply = tokio::time::timeout(CALL_TIMEOUT, call).await.ok()?.ok()?;
        match reply.into_inner().outcome() {
            Outcome::NotLeader => None,
            Outcome::Renewed => Some(Renewal::Renewed),
            Outcome::Unknown => Some(Renewal::Unknown),
        }
    }
}

/// The leader's side, to be served on port 8300.
pub(crate) fn router(keeper: Keeper) -> axum::Router {
    tonic::service::Routes::new(DirectoryServer::new(Service { keeper })).into_axum_router()
}

struct Service {
    keeper: Keeper,
}

#[tonic::async_trait]
impl DirectoryService for Service {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let timer = match request.into_inner().what {
            Some(What::Session(id)) => {
                let id: SessionId = id.parse().map_err(|_| Status::invalid_argument("no session id"))?;
                Timer::Session(id)
            }
            Some(What::Check(check)) => Timer::Check(check.node.into(), check.id.into()),
            None => return Err(Status::invalid_argument("neither a session nor a check")),
        };
        let outcome = match self.keeper.renew_here(&timer).await {
            None => Outcome::NotLeader,
            Some(Renewal::Renewed) => Outcome::Renewed,
            Some(Renewal::Unknown) => Outcome::Unknown,
        };
        Ok(Response::new(RenewReply {
            outcome: outcome.into(),
        }))
    }
}
