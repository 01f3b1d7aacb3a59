//! For bad days: backups of the replicated state, bringing one back, and going on without a majority.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use conclave_config::NodeConfig;
use conclave_consensus::{Backup, read_backup, recover_alone, restore as restore_state};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Node, life};

/// Writes a backup, reads it back, and only then gives it its name.
pub(super) async fn backup(node: &Node, file: &Path) -> Result<()> {
    let (_, admin) = node.connect()?;
    let part = file.with_added_extension("part");
    let options = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .clone();
    let open = options
        .open(&part)
        .with_context(|| format!("create {}", part.display()))?;
    let mut out = tokio::fs::File::from_std(open);
    let written = async {
        let bytes = admin.backup(&mut out).await?;
        out.sync_all()
            .await
            .with_context(|| format!("write {}", part.display()))?;
        let backup = read_backup(&part)?;
        std::fs::rename(&part, file).with_context(|| format!("name {}", file.display()))?;
        anyhow::Ok((bytes, backup))
    };
    let (bytes, backup) = match written.await {
        Ok(written) => written,
        Err(error) => {
            // What is there is no backup; that it cannot be removed changes nothing about that.
            let _left = std::fs::remove_file(&part);
            return Err(error);
        }
    };
    let text = format!(
        "{} holds {}\nwhoever has it has the cluster's keys: keep it as you keep a password",
        file.display(),
        summary(&backup)
    );
    node.answer(&facts(&backup, Some(bytes)), &text);
    Ok(())
}

/// Brings a lost cluster back on this node.
pub(super) async fn restore(node: &Node, file: &Path) -> Result<()> {
    let config = node.load()?;
    refuse_running(&config).await?;
    refuse_used(&config.data_dir)?;
    let backup = read_backup(file).with_context(|| format!("{} cannot be restored", file.display()))?;
    let mut value = facts(&backup, None);
    let summary = summary(&backup);
    life::open_data_dir(&config.data_dir)?;
    let ports = conclave_manager::told_ports(&config);
    let address = config.node.address.to_string();
    let restored = restore_state(&config.data_dir, &config.node.name, &address, ports, backup).await?;
    value["node_id"] = json!(restored.node);
    value["given_up"] = json!(restored.given_up);
    value["ca_certificate"] = json!(restored.ca_certificate);
    let text = format!(
        "restored {summary}\nthis node is its only one, as node {}; {} must never start again with their old data\n\
         PostgreSQL begins empty: bring its data back by `conclave backup restore`, before the first start\n\
         start it with `conclave manager --config {}`, then let others join by `conclave cluster join-token create`",
        restored.node,
        list(&restored.given_up),
        node.config.display()
    );
    node.answer(&value, &text);
    Ok(())
}

/// Lets this node go on alone.
pub(super) async fn recover(node: &Node, is_meant: bool) -> Result<()> {
    if !is_meant {
        bail!(
            "this makes a cluster of its own of this node and gives up what the others alone had. Only when a majority of the nodes is \
             lost for ever, and will never start again, say so: --i-have-lost-the-majority"
        );
    }
    let config = node.load()?;
    refuse_running(&config).await?;
    let peer_address = format!("{}:{}", config.node.address, config.ports.peer);
    let recovered = recover_alone(&config.data_dir, &peer_address).await?;
    let text = format!(
        "{} is a cluster of its own now, as of entry {} of its log\n\
         given up: {}. They must never start again with their old data: wipe them, and let them join anew\n\
         writes that only they had acknowledged are lost\n\
         start this node with `conclave manager --config {}`",
        config.node.name,
        recovered.index,
        list(&recovered.given_up),
        node.config.display()
    );
    let value = json!({"node_id": recovered.node, "given_up": recovered.given_up, "index": recovered.index});
    node.answer(&value, &text);
    Ok(())
}

/// A running manager would go on with what it has in memory.
pub(crate) async fn refuse_running(config: &NodeConfig) -> Result<()> {
    let address = (config.node.address, config.ports.peer);
    if let Err(error) = TcpListener::bind(address).await {
        bail!(
            "{}:{} cannot be listened on ({error}): stop this node's manager first",
            address.0,
            address.1
        );
    }
    Ok(())
}

/// A database or files of another life would be taken for the restored cluster's own. What an interrupted restore has left is no
/// reason, and an identity is refused with its own words.
fn refuse_used(data_dir: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(data_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("look into {}", data_dir.display()))?,
    };
    for entry in entries {
        let name = entry
            .with_context(|| format!("look into {}", data_dir.display()))?
            .file_name();
        if name != "raft" && name != "identity" {
            bail!(
                "{} holds {} already: a cluster is restored on a new node; wipe the folder first if that is meant",
                data_dir.display(),
                name.display()
            );
        }
    }
    Ok(())
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nobody".to_owned()
    } else {
        names.join(", ")
    }
}

fn summary(backup: &Backup) -> String {
    format!(
        "cluster {} as of {} (entry {}, {} nodes, {} files, {} keys)",
        backup.about.cluster_id,
        backup.about.made_at,
        backup.about.index,
        backup.state.nodes().len(),
        backup.state.files().len(),
        backup.state.directory().kv().entries().len()
    )
}

fn facts(backup: &Backup, bytes: Option<u64>) -> Value {
    json!({
        "cluster_id": backup.about.cluster_id, "made_at": backup.about.made_at, "made_by": backup.about.made_by,
        "index": backup.about.index, "nodes": backup.state.nodes().len(), "files": backup.state.files().len(),
        "keys": backup.state.directory().kv().entries().len(), "bytes": bytes,
    })
}
