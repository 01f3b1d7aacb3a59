//! Founding, joining, leaving, removing.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use conclave_auth::{hash_password, new_secret};
use conclave_catalog::Command;
use conclave_consensus::{FoundOptions, JoinOptions, found, join};
use serde_json::{Value, json};

use super::Node;

const ADMIN_PASSWORD_LENGTH: usize = 20;

/// PostgreSQL's account has to pass through to its own folder.
pub(super) fn open_data_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, open).with_context(|| format!("open {}", path.display()))
}

pub(super) fn init(node: &Node) -> Result<()> {
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
    Ok(())
}

pub(super) async fn join_cluster(node: &Node, token: String, peer: String) -> Result<()> {
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
    Ok(())
}

pub(super) async fn leave(node: &Node) -> Result<()> {
    let (config, admin) = node.connect()?;
    let seen = admin.inspect().await?;
    let own = seen.node(&config.node.name)?.clone();
    let leads = seen.leader == Some(own.id);
    if leads || seen.is_primary(own.id) {
        let Some(successor) = seen.successor(own.id) else {
            bail!(
                "{} is the active node and no other can take over: of two nodes only one votes. Join a third node first",
                own.name
            );
        };
        admin.make_active(&successor).await?;
    }
    admin.propose(Command::RemoveNode(own.id)).await?;
    let text = format!(
        "{} has left the cluster and stops; wipe {} before it joins one again",
        own.name,
        config.data_dir.display()
    );
    node.answer(&json!({"left": own.name, "id": own.id}), &text);
    Ok(())
}

pub(super) async fn remove(node: &Node, name: &str) -> Result<()> {
    let (config, admin) = node.connect()?;
    if name == config.node.name {
        bail!("{name} is this very node: use `conclave cluster leave`");
    }
    let seen = admin.inspect().await?;
    let other = seen.node(name)?;
    admin.propose(Command::RemoveNode(other.id)).await?;
    node.answer(
        &json!({"removed": name, "id": other.id}),
        &format!("{name} is no longer in the cluster; its certificate is refused"),
    );
    Ok(())
}

pub(super) async fn rotate(node: &Node) -> Result<()> {
    let (_, admin) = node.connect()?;
    admin.propose(Command::RotateCertificates).await?;
    let seen = admin.inspect().await?;
    node.answer(
        &json!({"generation": seen.certificate_generation}),
        "every node makes itself a new key and certificate; `conclave cluster status` shows until when they hold",
    );
    Ok(())
}
