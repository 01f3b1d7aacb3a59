//! The driver's side of the coordinator's calls, on port 8300.

use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_consensus::Consensus;
use conclave_net::NetError;
use conclave_proto::database::driver_client::DriverClient;
use conclave_proto::database::driver_server::{Driver as DriverService, DriverServer};
use conclave_proto::database::{ObserveRequest, OrderRequest, Reply};
use tonic::{Request, Response, Status};

use crate::coordinator::{Observation, Order};
use crate::driver::Driver;
use crate::tracking::Silence;

/// Answered from memory, once the time that the question may wait for news is over.
const OBSERVE_TIMEOUT: Duration = Duration::from_millis(400);
/// No question waits longer than this for news.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// An order is on disk when it is answered. One that takes longer is repeated: nobody else waits for a lost node's answer.
const ORDER_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) struct Service {
    driver: Driver,
}

/// The service as a router, to be merged into the one of port 8300.
pub(crate) fn router(driver: Driver) -> axum::Router {
    tonic::service::Routes::new(DriverServer::new(Service { driver })).into_axum_router()
}

#[tonic::async_trait]
impl DriverService for Service {
    async fn observe(&self, request: Request<ObserveRequest>) -> Result<Response<Reply>, Status> {
        let ObserveRequest { known, wait_ms } = request.into_inner();
        let observation = if known.is_empty() {
            self.driver.observation()
        } else {
            let known = serde_json::from_slice(&known).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let wait = Duration::from_millis(wait_ms.into()).min(WAIT_MAX);
            self.driver.observation_after(&known, wait).await
        };
        let body = serde_json::to_vec(&observation);
        body.map(|body| Response::new(Reply { body: body.into() }))
            .map_err(|error| Status::internal(error.to_string()))
    }

    async fn order(&self, request: Request<OrderRequest>) -> Result<Response<Reply>, Status> {
        let order: Order = serde_json::from_slice(&request.into_inner().body)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let driver = self.driver.clone();
        let taken = tokio::task::spawn_blocking(move || driver.order(&order)).await;
        match taken {
            Ok(Ok(())) => Ok(Response::new(Reply::default())),
            Ok(Err(error)) => Err(Status::internal(error.to_string())),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }
}

/// Calls the driver of a node; this node's own without a detour.
#[derive(Clone)]
pub(crate) struct Drivers {
    pub(crate) consensus: Consensus,
    pub(crate) own: Driver,
}

impl Drivers {
    /// What a node says of itself: once it is other than `known`, or `wait` has passed; at once when nothing is known.
    pub(crate) async fn observe(
        &self,
        node: NodeId,
        known: Option<&Observation>,
        wait: Duration,
    ) -> Result<Observation, Silence> {
        if node == self.consensus.me() {
            return Ok(match known {
                Some(known) => self.own.observation_after(known, wait).await,
                None => self.own.observation(),
            });
        }
        let channel = self.consensus.channel(node).map_err(|_| Silence::Unanswered)?;
        let mut client = DriverClient::new(channel);
        let known = known.map(serde_json::to_vec).transpose();
        let request = ObserveRequest {
            known: known.map_err(|_| Silence::Unanswered)?.unwrap_or_default().into(),
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        match tokio::time::timeout(wait + OBSERVE_TIMEOUT, client.observe(request)).await {
            Err(_) => Err(Silence::Unanswered),
            Ok(Ok(reply)) => serde_json::from_slice(&reply.into_inner().body).map_err(|_| Silence::Unanswered),
            Ok(Err(status)) => Err(if is_refused(&status) {
                Silence::Gone
            } else {
                Silence::Unanswered
            }),
        }
    }

    pub(crate) async fn order(&self, node: NodeId, order: &Order) -> Result<(), String> {
        if node == self.consensus.me() {
            let (own, order) = (self.own.clone(), order.clone());
            let taken = tokio::task::spawn_blocking(move || own.order(&order)).await;
            return taken
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string());
        }
        let body = serde_json::to_vec(order).map_err(|error| error.to_string())?;
        let channel = self.consensus.channel(node).map_err(|error| error.to_string())?;
        let mut client = DriverClient::new(channel);
        let call = client.order(OrderRequest { body: body.into() });
        let answer = tokio::time::timeout(ORDER_TIMEOUT, call)
            .await
            .map_err(|_| "no answer in time".to_owned())?;
        answer.map(drop).map_err(|status| status.message().to_owned())
    }
}

/// Whether the peer's system refused the connection: nobody listens there, so the manager is not running.
fn is_refused(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if matches!(error.downcast_ref(), Some(NetError::Refused { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use conclave_catalog::NodePorts;
    use conclave_consensus::{FoundOptions, found, identity_dir};
    use conclave_net::{NodeIdentity, PeerConnector, install_crypto_provider};

    use super::*;

    #[tokio::test]
    async fn a_manager_that_does_not_run_is_told_from_one_that_is_silent() {
        install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let options = FoundOptions {
            data_dir: dir.path().to_owned(),
            node_name: "node1".into(),
            address: "127.0.0.1".into(),
            ports: NodePorts::default(),
            settings: BTreeMap::new(),
        };
        found(&options).unwrap();
        let identity = NodeIdentity::load(&identity_dir(dir.path())).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let channel = PeerConnector::new(&identity).unwrap().channel(1, "127.0.0.1", port);
        let answer = DriverClient::new(channel.unwrap())
            .observe(ObserveRequest::default())
            .await;
        assert!(is_refused(&answer.unwrap_err()));
        assert!(!is_refused(&Status::unavailable("no answer in time")));
    }
}
