//! Join tokens.

use std::time::Duration;

use anyhow::Result;
use conclave_catalog::{Command, TokenId};
use serde_json::json;

use super::Node;

const TOKEN_HOURS: u64 = 24;

pub(super) async fn create(node: &Node) -> Result<()> {
    let (_, admin) = node.connect()?;
    let token = admin.create_join_token(Duration::from_secs(TOKEN_HOURS * 3600)).await?;
    node.answer(&json!({"token": token}), &token);
    Ok(())
}

pub(super) async fn list(node: &Node) -> Result<()> {
    let (_, admin) = node.connect()?;
    let tokens = admin.inspect().await?.tokens;
    let lines: Vec<String> = tokens
        .iter()
        .map(|(id, until)| format!("{id:<36} until {until}"))
        .collect();
    let text = if lines.is_empty() {
        "no join token is open; make one with `conclave cluster join-token create`".to_owned()
    } else {
        lines.join("\n")
    };
    let items: Vec<_> = tokens
        .iter()
        .map(|(id, until)| json!({"id": id, "expires_at": until}))
        .collect();
    node.answer(&json!({"tokens": items}), &text);
    Ok(())
}

pub(super) async fn revoke(node: &Node, id: String) -> Result<()> {
    let (_, admin) = node.connect()?;
    admin.propose(Command::RevokeToken(TokenId(id.clone()))).await?;
    node.answer(&json!({"revoked": id}), &format!("token {id} admits nobody any more"));
    Ok(())
}
