//! `conclave consul`: the Consul-compatible API of the cluster.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use conclave_catalog::Command;
use serde_json::json;

use crate::cluster::{Node, identity};

#[derive(Subcommand)]
pub(crate) enum ConsulCommand {
    /// Show the token that opens the API: for `CONSUL_HTTP_TOKEN`, Patroni's `consul.token`, and the like.
    Token(Node),
    /// Ask for the token, or let everybody in who reaches the port.
    Acl {
        #[command(flatten)]
        node: Node,
        /// Which.
        mode: AclMode,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum AclMode {
    /// Writes, and whatever is not shown by the cluster's status, need the token.
    Enabled,
    /// Nothing needs a token.
    Disabled,
}

pub(crate) async fn run(command: ConsulCommand) -> Result<ExitCode> {
    match command {
        ConsulCommand::Token(node) => {
            let token = conclave_consul_api::token(&identity(&node.load()?)?);
            node.answer(&json!({"token": token}), &token);
        }
        ConsulCommand::Acl { node, mode } => set_acl(&node, mode).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn set_acl(node: &Node, mode: AclMode) -> Result<()> {
    let (_, admin) = node.connect()?;
    let value = match mode {
        AclMode::Enabled => "enabled",
        AclMode::Disabled => "disabled",
    };
    let setting = Command::PutSetting {
        key: conclave_consul_api::ACL_SETTING.into(),
        value: value.into(),
    };
    admin.propose(setting).await?;
    node.answer(&json!({"acl": value}), &format!("tokens of the Consul API: {value}"));
    Ok(())
}
