//! `conclave cluster`: found, join, look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Subcommand;
use conclave_auth::{hash_password, new_secret};
use conclave_config::NodeConfig;
use conclave_consensus::{AdminClient, FoundOptions, JoinOptions, found, identity_dir, join};
use conclave_net::{HttpsClient, NodeIdentity};
use http_body_util::Full;
use serde_json::{Value, json};

const ADMIN_PASSWORD_LENGTH: usize = 20;
const TOKEN_HOURS: u64 = 24;
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Subcommand)]
pub(crate) enum ClusterCommand {
    /// Found a cluster with this node as its first member.
    Init(Node),
    /// Join a cluster with a one-time token.
    Join {
        #[command(flatten)]
        node: Node,
        /// The token, from `conclave cluster join-token create` on a member.
        #[arg(long)]
        token: String,
        /// Any member: address and port of its gRPC listener (8300).
        #[arg(long)]
        peer: String,
    },
    /// One-time tokens that let nodes join.
    #[command(subcommand)]
    JoinToken(TokenCommand),
    /// Show the cluster's health as this node sees it.
    Status(Node),
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token that holds for 24 hours.
    Create(Node),
}

/// Which node, and how to answer.
#[derive(clap::Args)]
pub(crate) struct Node {
    /// The node's configuration.
    #[arg(long)]
    config: PathBuf,
    /// Answer with one JSON object.
    #[arg(long)]
    json: bool,
}

impl Node {
    fn load(&self) -> Result<NodeConfig> {
        Ok(conclave_config::load(&self.config)?)
    }

    fn answer(&self, value: &Value, text: &str) {
        if self.json {
            println!("{value}");
        } else {
            println!("{text}");
        }
    }
}

pub(crate) async fn run(command: ClusterCommand) -> Result<ExitCode> {
    match command {
        ClusterCommand::Init(node) => init(&node),
        ClusterCommand::Join { node, token, peer } => join_cluster(&node, token, peer).await,
        ClusterCommand::JoinToken(TokenCommand::Create(node)) => create_token(&node).await,
        ClusterCommand::Status(node) => status(&node).await,
    }
}

/// PostgreSQL's account has to pass through to its own folder.
fn open_data_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, open).with_context(|| format!("open {}", path.display()))
}

fn init(node: &Node) -> Result<ExitCode> {
    let config = node.load()?;
    open_data_dir(&config.data_dir)?;
    let password = new_secret(ADMIN_PASSWORD_LENGTH);
    let settings = BTreeMap::from([(
        "admin_password_hash".to_owned(),
        Value::String(hash_password(&password)),
    )]);
    let founded = found(&FoundOptions {
        data_dir: config.data_dir.clone(),
        node_name: config.node.name.clone(),
        address: config.node.address.to_string(),
        ports: conclave_manager::told_ports(&config),
        settings,
    })?;
    let value = json!({
        "cluster_id": founded.cluster_id, "ca_certificate": founded.ca_certificate,
        "admin": {"username": "admin", "password": password},
    });
    let text = format!(
        "cluster {} is founded; start its first node with `conclave manager --config {}`\nuser admin, password {password} (shown only now)",
        founded.cluster_id,
        node.config.display()
    );
    node.answer(&value, &text);
    Ok(ExitCode::SUCCESS)
}

async fn join_cluster(node: &Node, token: String, peer: String) -> Result<ExitCode> {
    let config = node.load()?;
    open_data_dir(&config.data_dir)?;
    let identity = join(&JoinOptions {
        data_dir: config.data_dir.clone(),
        node_name: config.node.name.clone(),
        address: config.node.address.to_string(),
        ports: conclave_manager::told_ports(&config),
        token,
        peer,
    })
    .await?;
    let value = json!({"cluster_id": identity.cluster_id, "node_id": identity.node_id});
    let text = format!("joined cluster {} as node {}", identity.cluster_id, identity.node_id);
    node.answer(&value, &text);
    Ok(ExitCode::SUCCESS)
}

fn identity(config: &NodeConfig) -> Result<NodeIdentity> {
    Ok(NodeIdentity::load(&identity_dir(&config.data_dir))?)
}

async fn create_token(node: &Node) -> Result<ExitCode> {
    let config = node.load()?;
    let admin = AdminClient::new(identity(&config)?, &config.node.address.to_string(), config.ports.peer)?;
    let token = admin.create_join_token(Duration::from_secs(TOKEN_HOURS * 3600)).await?;
    node.answer(&json!({"token": token}), &token);
    Ok(ExitCode::SUCCESS)
}

async fn status(node: &Node) -> Result<ExitCode> {
    let config = node.load()?;
    let client = HttpsClient::trusting(&identity(&config)?.ca_certificate_pem)?;
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
    let status: Value = serde_json::from_slice(&answer.body)?;
    node.answer(&status, &table(&status));
    Ok(if status["status"] == "unavailable" {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
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
        "{:<10} {:<16} {:<12} {:<10} {:<10} {}",
        "NODE", "ADDRESS", "STATUS", "RAFT", "POSTGRES", "LSN"
    ));
    for node in status["nodes"].as_array().into_iter().flatten() {
        let parts = &node["report"]["parts"];
        lines.push(format!(
            "{:<10} {:<16} {:<12} {:<10} {:<10} {}",
            text(&node["name"]),
            text(&node["address"]),
            text(&node["status"]),
            parts["raft"]["details"]["role"].as_str().unwrap_or("?"),
            parts["postgres"]["details"]["role"].as_str().unwrap_or("?"),
            parts["postgres"]["details"]["lsn"],
        ));
    }
    for cause in status["causes"].as_array().into_iter().flatten() {
        lines.push(format!("! {}: {}", text(&cause["what"]), text(&cause["why"])));
    }
    lines.join("\n")
}
