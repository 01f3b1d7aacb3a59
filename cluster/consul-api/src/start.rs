//! Starting this node's part.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use conclave_consensus::Consensus;
use conclave_net::{NetError, NodeIdentity};
use conclave_runtime::Tasks;

use crate::barrier::Barrier;
use crate::cluster::{self, Feed};
use crate::consul::{self, Access, Api};
use crate::keeper::{self, Keeper, Renewing};
use crate::metrics::Metrics;
use crate::patience::Patience;
use crate::prober::Prober;
use crate::watch::Hub;

/// What the API needs.
pub struct ConsulApiOptions {
    /// Who the node is; the API's token derives from the cluster's key.
    pub identity: NodeIdentity,
    /// Shorter times to live are refused (spec/consul-api.md, section 4).
    pub session_ttl_min: Duration,
}

impl ConsulApiOptions {
    /// With Consul's own minimum, 10 s.
    pub fn new(identity: NodeIdentity) -> Self {
        Self {
            identity,
            session_ttl_min: Duration::from_secs(10),
        }
    }
}

/// This node's part of the API.
pub struct ConsulApi {
    api: Arc<Api>,
    feed: Feed,
}

impl ConsulApi {
    /// Starts the helpers. The second value is to be served to peers on port 8300.
    ///
    /// # Errors
    /// When the identity's certificates cannot be used.
    pub fn start(options: ConsulApiOptions, consensus: &Consensus, tasks: &Tasks) -> Result<(Self, Router), NetError> {
        let (hub, shutdown) = (Hub::default(), tasks.shutdown());
        tasks.spawn("watch hub", hub.clone().follow(consensus.state(), shutdown.clone()));
        let patience = Patience::start(consensus, tasks);
        let barrier = Barrier::start(consensus.clone(), patience.clone(), tasks);
        let keeper = Keeper::new(consensus.clone());
        tasks.spawn("keeper", keeper.clone().run(shutdown.clone()));
        let prober = Prober::new(consensus.clone(), &options.identity, tasks)?;
        tasks.spawn("prober", prober.run(shutdown.clone()));
        let feed = Feed::new(shutdown.clone());
        tasks.spawn("cluster events", feed.clone().run(consensus.clone()));
        let peers = keeper::router(keeper.clone());
        let api = Api {
            consensus: consensus.clone(),
            barrier,
            hub,
            renewing: Renewing {
                consensus: consensus.clone(),
                keeper,
                patience: patience.clone(),
            },
            patience,
            access: Access::new(&options.identity.cluster_id, &options.identity.cluster_key),
            metrics: Arc::new(Metrics::default()),
            session_ttl_min: options.session_ttl_min,
            shutdown,
        };
        Ok((
            Self {
                api: Arc::new(api),
                feed,
            },
            peers,
        ))
    }

    /// What happened on this node's watch.
    pub fn events(&self) -> Feed {
        self.feed.clone()
    }

    /// Port 8500: the cluster's own paths, and everything else as Consul answers it.
    pub fn router(&self) -> Router {
        let consul = Router::new().fallback(consul::handle).with_state(Arc::clone(&self.api));
        cluster::router(Arc::clone(&self.api), self.feed.clone()).fallback_service(consul)
    }
}
