//! PostgreSQL's parameters for the whole cluster.

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use conclave_catalog::Command as Proposal;
use conclave_config::NodeConfig;
use conclave_postgres::parameters::{PARAMETER_SETTING, check};
use serde_json::{Value, json};

use super::Node;
use super::show::fetch_status;

#[derive(Subcommand)]
pub(crate) enum SettingsCommand {
    /// List what is set, and what waits for a restart.
    List(Node),
    /// Set a parameter on all nodes. What needs a restart comes into force by `conclave cluster restart --rolling --postgres-only`.
    Set {
        #[command(flatten)]
        node: Node,
        /// PostgreSQL's name for it, such as `max_connections`.
        name: String,
        /// Its value, such as `300` or `64MB`.
        value: String,
    },
    /// Let a parameter have its standard value again.
    Unset {
        #[command(flatten)]
        node: Node,
        /// PostgreSQL's name for it.
        name: String,
    },
}

pub(super) async fn run(command: SettingsCommand) -> Result<()> {
    match command {
        SettingsCommand::List(node) => list(&node).await,
        SettingsCommand::Set { node, name, value } => {
            check(&name, &value)?;
            ask_postgres(&node.load()?, &name, &value)?;
            put(&node, &name, Value::String(value)).await
        }
        SettingsCommand::Unset { node, name } => put(&node, &name, Value::Null).await,
    }
}

async fn put(node: &Node, name: &str, value: Value) -> Result<()> {
    if value.is_null() {
        // Whatever it could be set to: only the name counts.
        check(name, "1000")?;
    }
    let (_, admin) = node.connect()?;
    let key = format!("{PARAMETER_SETTING}{name}");
    let order = Proposal::PutSetting {
        key,
        value: value.clone(),
    };
    admin.propose(order).await?;
    let text = match value.as_str() {
        Some(value) => format!("{name} is {value}"),
        None => format!("{name} has its standard value"),
    };
    let text = format!(
        "{text}; if it needs a restart, `conclave cluster settings list` says so, and `conclave cluster restart --rolling \
         --postgres-only` does it"
    );
    node.answer(&json!({"name": name, "value": value}), &text);
    Ok(())
}

/// A value that PostgreSQL does not take would keep every server from starting: it is asked before anybody is told.
fn ask_postgres(config: &NodeConfig, name: &str, value: &str) -> Result<()> {
    let bin = conclave_postgres::programs_dir(config.postgres_bin_dir.as_deref())?;
    let folder = config.data_dir.join("settings-check");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let file = folder.join("postgresql.conf");
    std::fs::write(&file, "").with_context(|| format!("write {}", file.display()))?;
    let output = Command::new(bin.join("postgres"))
        .args(["-C", name, "-c", &format!("{name}={value}"), "-D"])
        .arg(&folder)
        .output()
        .with_context(|| format!("run {}", bin.join("postgres").display()))?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why: Vec<&str> = said
            .lines()
            .filter_map(|line| line.split_once("FATAL:").or_else(|| line.split_once("HINT:")))
            .map(|(_, why)| why.trim())
            .collect();
        bail!("PostgreSQL does not take {name} = {value}: {}", why.join(" "));
    }
    Ok(())
}

async fn list(node: &Node) -> Result<()> {
    let status = fetch_status(&node.load()?).await?;
    let mut lines = Vec::new();
    let mut nodes = Vec::new();
    let mut wanted = Value::Null;
    for seen in status["nodes"].as_array().into_iter().flatten() {
        let parameters = &seen["report"]["parts"]["postgres"]["details"]["parameters"];
        if !parameters["wanted"].is_null() {
            wanted = parameters["wanted"].clone();
        }
        let name = seen["name"].as_str().unwrap_or("?");
        for pending in parameters["pending"].as_array().into_iter().flatten() {
            lines.push(format!(
                "! {name}: {} is {}, {} after a restart",
                pending["name"].as_str().unwrap_or("?"),
                pending["running"],
                pending["wanted"]
            ));
        }
        for pending in parameters["pending_restart"].as_array().into_iter().flatten() {
            lines.push(format!(
                "! {name}: {} waits for a restart",
                pending.as_str().unwrap_or("?")
            ));
        }
        nodes.push(json!({
            "name": seen["name"], "pending": parameters["pending"], "pending_restart": parameters["pending_restart"],
        }));
    }
    let set = wanted.as_object().into_iter().flatten();
    let mut text: Vec<String> = set
        .map(|(name, value)| format!("{name:<28} {}", value.as_str().unwrap_or("?")))
        .collect();
    if text.is_empty() {
        text.push("nothing is set: all parameters have their standard values".to_owned());
    }
    text.extend(lines);
    node.answer(&json!({"parameters": wanted, "nodes": nodes}), &text.join("\n"));
    Ok(())
}
