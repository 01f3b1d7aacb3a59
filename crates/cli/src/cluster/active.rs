//! Moving leadership and primary, as planned.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::Node;

pub(super) async fn set_active(node: &Node, name: &str) -> Result<()> {
    let (_, admin) = node.connect()?;
    let wanted = admin.inspect().await?.node(name)?.clone();
    let started = Instant::now();
    admin.make_active(&wanted).await?;
    let took = started.elapsed();
    node.answer(
        &json!({"active": name, "id": wanted.id, "milliseconds": took.as_millis() as u64}),
        &format!("{name} is the active node ({} ms)", took.as_millis()),
    );
    Ok(())
}
