//! The broker, and what goes through it.

use std::sync::Arc;

use conclave_catalog::ClusterState;
use conclave_config::NodeConfig;
use conclave_consensus::Consensus;
use conclave_events::{EventOutlet, EventPipeline, PipelineOptions};
use conclave_messaging::{Access, Broker, BrokerAddress, BrokerOptions, BrokerState, Publisher};
use conclave_net::NodeIdentity;
use conclave_runtime::Tasks;
use conclave_store::Store;
use serde_json::{Value, json};
use tokio::sync::watch;

/// What the reporter and the executor need of it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Messages {
    pub(crate) broker: Broker,
    pub(crate) outlet: EventOutlet,
    pipeline: EventPipeline,
}

impl Messages {
    /// Starts the broker, which nothing waits for, and the way of logs and events through it. The broker belongs to the
    /// substrate: it is stopped after those who use it.
    pub(crate) fn start(
        config: &NodeConfig,
        identity: &NodeIdentity,
        consensus: &Consensus,
        store: &Store,
        ready: &watch::Receiver<bool>,
        substrate: &Tasks,
        services: &Tasks,
    ) -> Self {
        let options = BrokerOptions {
            data_dir: config.data_dir.clone(),
            rabbitmq_dir: config.rabbitmq_dir.clone(),
            account: config.accounts.rabbitmq.clone(),
            identity: identity.clone(),
            address: config.node.address,
            port: config.ports.broker,
            distribution_port: config.ports.broker_distribution,
            after: Some(ready.clone()),
        };
        let broker = Broker::start(options, substrate);
        let access = Access::of_managers(identity);
        let publisher = Publisher::start(
            access.clone(),
            brokers(broker.address().clone(), consensus, services),
            services,
        );
        let outlet = EventOutlet::start(identity.name.clone(), store.clone(), publisher, services);
        let options = PipelineOptions {
            broker: broker.address().clone(),
            access,
            store: store.clone(),
            ready: ready.clone(),
        };
        let pipeline = EventPipeline::start(options, &outlet, services);
        Self {
            broker,
            outlet,
            pipeline,
        }
    }

    /// What is wrong with it, and its details.
    pub(crate) fn health(&self) -> (Option<String>, Value) {
        let broker = self.broker.status().borrow().clone();
        let (outlet, pipeline) = (self.outlet.status(), self.pipeline.status());
        let meanwhile = if outlet.connected {
            "another node's broker takes this node's log lines meanwhile"
        } else {
            "log lines go straight to the record meanwhile"
        };
        let cause = match (broker.state, &broker.cause) {
            (BrokerState::Starting, None) => Some(format!("it is starting; {meanwhile}")),
            (BrokerState::Starting, Some(why)) => Some(format!("it is starting ({why}); {meanwhile}")),
            (BrokerState::Failed, why) => {
                let why = why.as_deref().unwrap_or("it does not run");
                Some(format!("{why}; {meanwhile}"))
            }
            (BrokerState::Running, Some(why)) => Some(format!("{why}; {meanwhile}")),
            (BrokerState::Running, None) if !pipeline.consuming => {
                Some("nobody takes logs and events from it yet".to_owned())
            }
            (BrokerState::Running, None) if !outlet.connected => Some(format!("the publisher connects; {meanwhile}")),
            (BrokerState::Running, None) => None,
        };
        (cause, json!({"broker": broker, "outlet": outlet, "pipeline": pipeline}))
    }
}

/// The brokers in the order in which this node tries them: its own, then along the ring of nodes.
fn brokers(own: BrokerAddress, consensus: &Consensus, tasks: &Tasks) -> watch::Receiver<Vec<BrokerAddress>> {
    let mut state = consensus.state();
    let (publish, order) = watch::channel(vec![own.clone()]);
    let shutdown = tasks.shutdown();
    tasks.spawn("broker ring", async move {
        loop {
            let wanted = along_the_ring(&own, &state.borrow_and_update().clone());
            publish.send_if_modified(|old| {
                let changed = *old != wanted;
                *old = wanted;
                changed
            });
            if !matches!(shutdown.run_until(state.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    });
    order
}

fn along_the_ring(own: &BrokerAddress, state: &Arc<ClusterState>) -> Vec<BrokerAddress> {
    let all: Vec<BrokerAddress> = state
        .nodes()
        .values()
        .map(|node| BrokerAddress {
            name: node.name.clone(),
            host: node.address.clone(),
            port: node.ports.broker,
        })
        .collect();
    from_own(own, all)
}

/// Own first, then those after it, then those before it: so each node's lines go elsewhere when its broker is down.
fn from_own(own: &BrokerAddress, mut all: Vec<BrokerAddress>) -> Vec<BrokerAddress> {
    let place = all.iter().position(|broker| broker.name == own.name);
    match place {
        Some(place) => all.rotate_left(place),
        None => all.insert(0, own.clone()),
    }
    all[0] = own.clone();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_begins_with_its_own_broker() {
        let broker = |name: &str| BrokerAddress {
            name: name.into(),
            host: "h".into(),
            port: 1,
        };
        let all = ["a", "b", "c"].map(broker).to_vec();
        let names = |own: &str| -> Vec<String> {
            let order = from_own(&broker(own), all.clone());
            order.into_iter().map(|broker| broker.name).collect()
        };
        assert_eq!(names("a"), ["a", "b", "c"]);
        assert_eq!(names("b"), ["b", "c", "a"]);
        assert_eq!(names("new"), ["new", "a", "b", "c"]);
    }
}
