//! Looking at a cluster.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use conclave_config::NodeConfig;
use conclave_net::HttpsClient;
use http_body_util::Full;
use serde_json::{Value, json};

use super::{Node, identity};

const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn nodes(node: &Node) -> Result<()> {
    let (_, admin) = node.connect()?;
    let seen = admin.inspect().await?;
    let voters = seen.voters.as_deref().unwrap_or_default();
    let mut lines = vec![format!(
        "{:<4} {:<16} {:<16} {:<6} {:<10} {:<9} {}",
        "ID", "NAME", "ADDRESS", "ALIVE", "RAFT", "DATABASE", "JOINED"
    )];
    let mut items = Vec::new();
    for record in &seen.nodes {
        let raft = match record.id {
            id if seen.leader == Some(id) => "leader",
            id if voters.contains(&id) => "follower",
            _ => "learner",
        };
        let database = match &seen.database.rule {
            Some(rule) if rule.primary == record.id => "primary",
            Some(rule) if rule.cohort.contains(&record.id) => "standby",
            _ => "-",
        };
        lines.push(format!(
            "{:<4} {:<16} {:<16} {:<6} {raft:<10} {database:<9} {}",
            record.id.0,
            record.name,
            record.address,
            if record.alive { "yes" } else { "no" },
            record.joined_at
        ));
        items.push(json!({
            "id": record.id, "name": record.name, "address": record.address, "ports": record.ports, "alive": record.alive,
            "down_since": record.down_since, "joined_at": record.joined_at, "raft": raft, "database": database,
        }));
    }
    node.answer(&json!({"nodes": items}), &lines.join("\n"));
    Ok(())
}

/// The cluster's health as this node sees it.
pub(super) async fn fetch_status(config: &NodeConfig) -> Result<Value> {
    let client = HttpsClient::trusting(&identity(config)?.ca_certificate_pem)?;
    let url = format!(
        "https://{}:{}/v1/cluster/status",
        config.node.address, config.ports.status
    );
    let request = http::Request::get(&url).body(Full::new(Bytes::new()))?;
    let answer = client
        .send(request, STATUS_TIMEOUT)
        .await
        .context("this node does not answer; is it running?")?;
    if answer.status != 200 {
        bail!("{url} answers {}", answer.status);
    }
    Ok(serde_json::from_slice(&answer.body)?)
}

pub(super) async fn status(node: &Node) -> Result<ExitCode> {
    let status = fetch_status(&node.load()?).await?;
    node.answer(&status, &table(&status));
    Ok(if status["status"] == "unavailable" {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What a node's tree lacks, in paths and chunks.
fn backlog(files: &Value) -> String {
    match (files["missing"].as_u64(), files["missing_chunks"].as_u64()) {
        (Some(0), Some(0)) => "whole".to_owned(),
        (Some(paths), Some(chunks)) => format!("-{paths} (-{chunks})"),
        _ => "?".to_owned(),
    }
}

/// One line a node, then what is wrong.
fn table(status: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut lines = vec![format!(
        "cluster {}: {} (leader {}, as seen by {})",
        text(&status["cluster_id"]),
        text(&status["status"]),
        text(&status["leader"]["name"]),
        text(&status["answered_by"])
    )];
    lines.push(format!(
        "{:<10} {:<16} {:<12} {:<10} {:<10} {:<14} {}",
        "NODE", "ADDRESS", "STATUS", "RAFT", "POSTGRES", "FILES", "LSN"
    ));
    for node in status["nodes"].as_array().into_iter().flatten() {
        let parts = &node["report"]["parts"];
        lines.push(format!(
            "{:<10} {:<16} {:<12} {:<10} {:<10} {:<14} {}",
            text(&node["name"]),
            text(&node["address"]),
            text(&node["status"]),
            parts["raft"]["details"]["role"].as_str().unwrap_or("?"),
            parts["postgres"]["details"]["role"].as_str().unwrap_or("?"),
            backlog(&parts["files"]["details"]),
            parts["postgres"]["details"]["lsn"],
        ));
    }
    for cause in status["causes"].as_array().into_iter().flatten() {
        lines.push(format!("! {}: {}", text(&cause["what"]), text(&cause["why"])));
    }
    lines.join("\n")
}
