//! Restarting a cluster node by node, so that it serves all the while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use conclave_catalog::{Command, NodeRecord};
use conclave_config::NodeConfig;
use conclave_consensus::{AdminClient, Inspection};
use conclave_manager::restart::{RestartOrder, setting_of};
use serde_json::{Value, json};

use super::Node;
use super::show::fetch_status;

/// For one node to be back and all to be well: it may have to replay much.
const NODE_DEADLINE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(100);

/// Restarts node after node: the standbys first, each only when all are well; then another node becomes the active one, and the last is
/// restarted. `postgres_only` leaves the managers as they are.
pub(super) async fn rolling(node: &Node, postgres_only: bool) -> Result<()> {
    let (config, admin) = node.connect()?;
    let started = Instant::now();
    let status = fetch_status(&config).await?;
    if status["status"] != "healthy" {
        bail!(
            "the cluster is {}, and a restart would take one more node away: {}",
            status["status"].as_str().unwrap_or("not well"),
            causes(&status)
        );
    }
    let rolling = Rolling {
        node,
        config,
        admin,
        postgres_only,
    };
    let seen = rolling.admin.inspect().await?;
    let primary_id = seen.database.rule.as_ref().map(|rule| rule.primary);
    if primary_id.is_none() && postgres_only {
        bail!("this cluster has no PostgreSQL of its own: restart it where it is looked after");
    }
    let mut done = Vec::new();
    let mut primary = seen.nodes.iter().find(|record| Some(record.id) == primary_id).cloned();
    let lowered = primary.as_ref().is_some_and(|primary| lowers(&status, &primary.name));
    if let Some(record) = primary.as_ref().filter(|_| lowered) {
        // A standby must not have less than its primary: the primary goes first, in place. Its clients see a pause.
        let begun = Instant::now();
        rolling.restart(record, true).await?;
        done.push(step(record, true, begun));
    }
    // The primary of today is the last of all, the leader the last but one.
    let mut order: Vec<NodeRecord> = seen.nodes.clone();
    order.sort_by_key(|record| (Some(record.id) == primary_id, Some(record.id) == seen.leader, record.id));
    for record in order {
        if seen.nodes.len() > 1 {
            rolling.hand_over(&record).await?;
        }
        let is_done = lowered && postgres_only && primary.take_if(|primary| primary.id == record.id).is_some();
        if !is_done {
            let begun = Instant::now();
            rolling.restart(&record, postgres_only).await?;
            done.push(step(&record, false, begun));
        }
    }
    let took = started.elapsed();
    let names: Vec<&str> = done.iter().filter_map(|step| step["node"].as_str()).collect();
    let text = format!(
        "restarted {}, one after the other, in {:.1} s",
        names.join(", "),
        took.as_secs_f64()
    );
    let value = json!({"restarted": done, "postgres_only": postgres_only, "milliseconds": took.as_millis() as u64});
    node.answer(&value, &text);
    Ok(())
}

/// What the answer says of one node.
fn step(record: &NodeRecord, in_place: bool, begun: Instant) -> Value {
    json!({"node": record.name, "in_place": in_place, "milliseconds": begun.elapsed().as_millis() as u64})
}

struct Rolling<'a> {
    node: &'a Node,
    config: NodeConfig,
    admin: AdminClient,
    postgres_only: bool,
}

impl Rolling<'_> {
    /// Takes the primary, and for a restart of the manager the leadership, away from a node.
    async fn hand_over(&self, record: &NodeRecord) -> Result<()> {
        let seen = self.inspect().await?;
        let is_primary = seen
            .database
            .rule
            .as_ref()
            .is_some_and(|rule| rule.primary == record.id);
        let leads = seen.leader == Some(record.id) && !self.postgres_only;
        if !is_primary && !leads {
            return Ok(());
        }
        let Some(successor) = seen.successor(record.id) else {
            bail!(
                "{} is the active node and no other can take over: of two nodes only one votes. Join a third node first",
                record.name
            );
        };
        self.say(&format!("{} becomes the active node", successor.name));
        self.admin.make_active(&successor).await?;
        self.wait_well(&format!("{} to be the active node", successor.name), |_| true)
            .await
    }

    /// Restarts one node, and waits until all are well again.
    async fn restart(&self, record: &NodeRecord, postgres_only: bool) -> Result<()> {
        self.say(&format!("restarting {}", record.name));
        let status = fetch_status(&self.config).await?;
        let before = incarnation(&status, &record.name, postgres_only);
        let order = RestartOrder::new(postgres_only);
        let key = setting_of(record.id);
        let value = serde_json::to_value(&order)?;
        self.admin.propose(Command::PutSetting { key, value }).await?;
        let is_new = |status: &Value| {
            let now = incarnation(status, &record.name, postgres_only);
            now.is_some() && now != before
        };
        self.wait_well(&format!("{} to be back", record.name), is_new).await
    }

    /// Waits until all are well and `also` is true. The node that is asked may be the one that restarts.
    async fn wait_well(&self, what: &str, also: impl Fn(&Value) -> bool) -> Result<()> {
        let end = Instant::now() + NODE_DEADLINE;
        loop {
            let last = match fetch_status(&self.config).await {
                Ok(status) if status["status"] == "healthy" && also(&status) => return Ok(()),
                Ok(status) => causes(&status),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() >= end {
                bail!(
                    "waited {} s for {what}: {last}. No further node is restarted; when the cluster is well again, start over",
                    NODE_DEADLINE.as_secs()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A node that has just come back may not know the leader for a moment.
    async fn inspect(&self) -> Result<Inspection> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match self.admin.inspect().await {
                Ok(seen) => return Ok(seen),
                Err(error) if Instant::now() >= end => return Err(error.into()),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn say(&self, text: &str) {
        if !self.node.is_json() {
            eprintln!("{text} …");
        }
    }
}

fn report<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = nodes.iter().find(|node| node["name"] == name);
    found.map_or(&Value::Null, |node| &node["report"])
}

/// What is another after a restart: the process of PostgreSQL, or the start of the manager.
fn incarnation(status: &Value, name: &str, postgres_only: bool) -> Option<String> {
    let report = report(status, name);
    let value = if postgres_only {
        &report["parts"]["postgres"]["details"]["process"]
    } else {
        &report["started_at"]
    };
    (!value.is_null()).then(|| value.to_string())
}

/// Whether a parameter that binds standbys is to have less than the primary runs with.
fn lowers(status: &Value, primary: &str) -> bool {
    let pending = &report(status, primary)["parts"]["postgres"]["details"]["parameters"]["pending"];
    let lower = |item: &Value| item["wanted"].as_u64() < item["running"].as_u64();
    pending.as_array().is_some_and(|items| items.iter().any(lower))
}

fn causes(status: &Value) -> String {
    let list = status["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: BTreeMap<&str, &str> = list
        .iter()
        .filter_map(|cause| Some((cause["what"].as_str()?, cause["why"].as_str()?)))
        .collect();
    if texts.is_empty() {
        return "it gives no cause".to_owned();
    }
    let text = |(what, why): (&str, &str)| format!("{what}: {why}");
    texts.into_iter().map(text).collect::<Vec<_>>().join("; ")
}
