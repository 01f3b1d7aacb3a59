//! `conclave cluster`: the life of a cluster and of its nodes.
//!
//! Every command takes the configuration of a node on this machine, proves to be that node, and answers for people or, with
//! `--json`, with one JSON object. Exit codes: 0 done, 1 not done (standard error says why and what to do), 2 wrong usage;
//! `status` also exits with 1 when the cluster does not serve.

mod active;
mod life;
mod rescue;
mod restart;
mod settings;
mod show;
mod tokens;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use conclave_config::NodeConfig;
use conclave_consensus::{AdminClient, identity_dir};
use conclave_net::NodeIdentity;
use serde_json::Value;

pub(crate) use rescue::refuse_running;

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
    /// Take this node out of its cluster; what it leads moves to another node first.
    Leave(Node),
    /// Take another node out of the cluster; its certificate is refused from then on.
    Remove {
        #[command(flatten)]
        node: Node,
        /// Its name.
        name: String,
    },
    /// Make a node the active one: Raft leader, and primary of PostgreSQL.
    SetActive {
        #[command(flatten)]
        node: Node,
        /// Its name.
        name: String,
    },
    /// Restart the cluster node by node, so that it serves all the while: standbys first, the active node last.
    Restart {
        #[command(flatten)]
        node: Node,
        /// Says that this is meant: there is no other way yet.
        #[arg(long, required = true)]
        rolling: bool,
        /// Restart PostgreSQL alone, and leave the managers as they are.
        #[arg(long)]
        postgres_only: bool,
    },
    /// PostgreSQL's parameters, the same on all nodes.
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// One-time tokens that let nodes join.
    #[command(subcommand)]
    JoinToken(TokenCommand),
    /// The nodes' certificates.
    #[command(subcommand)]
    Certificates(CertificateCommand),
    /// List the nodes.
    Nodes(Node),
    /// Show the cluster's health as this node sees it.
    Status(Node),
    /// Write the replicated state to a file: membership, settings, keys, manifest. Not the database, not the files' contents.
    Backup {
        #[command(flatten)]
        node: Node,
        /// The file.
        file: PathBuf,
    },
    /// Bring a cluster whose nodes are all lost back on this node, from a backup.
    Restore {
        #[command(flatten)]
        node: Node,
        /// The backup.
        file: PathBuf,
    },
    /// Make this node, which must be stopped, a cluster of its own. For the case that a majority is lost for ever.
    Recover {
        #[command(flatten)]
        node: Node,
        /// Says that this is so, and that the lost nodes will never start again.
        #[arg(long)]
        i_have_lost_the_majority: bool,
    },
    /// Show what happens in the cluster as it happens, until interrupted.
    Watch(Node),
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token that holds for 24 hours.
    Create(Node),
    /// List the tokens that have not been used.
    List(Node),
    /// Make a token useless.
    Revoke {
        #[command(flatten)]
        node: Node,
        /// Its id: the part before the first dot, as `list` shows it.
        id: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum CertificateCommand {
    /// Have every node make itself a new key and certificate. Nothing is interrupted.
    Rotate(Node),
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
    pub(crate) fn load(&self) -> Result<NodeConfig> {
        Ok(conclave_config::load(&self.config)?)
    }

    /// The configuration, and a client of the running node.
    pub(crate) fn connect(&self) -> Result<(NodeConfig, AdminClient)> {
        let config = self.load()?;
        let admin = AdminClient::new(identity(&config)?, &config.node.address.to_string(), config.ports.peer)?;
        Ok((config, admin))
    }

    /// Whether the answer is for a program.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The configuration's path, as it was given.
    pub(crate) fn config_file(&self) -> &std::path::Path {
        &self.config
    }

    pub(crate) fn answer(&self, value: &Value, text: &str) {
        if self.json {
            println!("{value}");
        } else {
            println!("{text}");
        }
    }
}

pub(crate) async fn run(command: ClusterCommand) -> Result<ExitCode> {
    match command {
        ClusterCommand::Init(node) => life::init(&node)?,
        ClusterCommand::Join { node, token, peer } => life::join_cluster(&node, token, peer).await?,
        ClusterCommand::Leave(node) => life::leave(&node).await?,
        ClusterCommand::Remove { node, name } => life::remove(&node, &name).await?,
        ClusterCommand::SetActive { node, name } => active::set_active(&node, &name).await?,
        ClusterCommand::Restart {
            node, postgres_only, ..
        } => restart::rolling(&node, postgres_only).await?,
        ClusterCommand::Settings(command) => settings::run(command).await?,
        ClusterCommand::JoinToken(TokenCommand::Create(node)) => tokens::create(&node).await?,
        ClusterCommand::JoinToken(TokenCommand::List(node)) => tokens::list(&node).await?,
        ClusterCommand::JoinToken(TokenCommand::Revoke { node, id }) => tokens::revoke(&node, id).await?,
        ClusterCommand::Certificates(CertificateCommand::Rotate(node)) => life::rotate(&node).await?,
        ClusterCommand::Nodes(node) => show::nodes(&node).await?,
        ClusterCommand::Backup { node, file } => rescue::backup(&node, &file).await?,
        ClusterCommand::Restore { node, file } => rescue::restore(&node, &file).await?,
        ClusterCommand::Recover {
            node,
            i_have_lost_the_majority,
        } => rescue::recover(&node, i_have_lost_the_majority).await?,
        ClusterCommand::Watch(node) => watch::watch(&node).await?,
        ClusterCommand::Status(node) => return show::status(&node).await,
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn identity(config: &NodeConfig) -> Result<NodeIdentity> {
    Ok(NodeIdentity::load(&identity_dir(&config.data_dir))?)
}
