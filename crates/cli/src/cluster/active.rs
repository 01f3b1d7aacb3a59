//! Moving leadership and primary, as planned.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use conclave_catalog::database::DatabaseCommand;
use conclave_catalog::{Command, NodeId, NodeRecord};
use conclave_consensus::{AdminClient, ConsensusError, Inspection};
use serde_json::json;

use super::Node;

/// Each of the two moves takes well under a second; a busy machine gets time.
const MOVE_DEADLINE: Duration = Duration::from_secs(20);
/// A transfer takes two round trips; one that has not happened by then will not.
const ORDER_AGAIN: Duration = Duration::from_millis(700);
const POLL: Duration = Duration::from_millis(10);

pub(super) async fn set_active(node: &Node, name: &str) -> Result<()> {
    let (_, admin) = node.connect()?;
    let wanted = admin.inspect().await?.node(name)?.clone();
    let started = Instant::now();
    make_active(&admin, &wanted).await?;
    let took = started.elapsed();
    node.answer(
        &json!({"active": name, "id": wanted.id, "milliseconds": took.as_millis() as u64}),
        &format!("{name} is the active node ({} ms)", took.as_millis()),
    );
    Ok(())
}

/// The best node to take over from `from`: alive, voting, and in the cohort.
pub(super) fn successor(seen: &Inspection, from: NodeId) -> Option<NodeRecord> {
    let voters = seen.voters.as_deref().unwrap_or_default();
    let cohort = seen.database.rule.as_ref().map(|rule| &rule.cohort);
    let able = |node: &&NodeRecord| {
        node.id != from
            && node.alive
            && voters.contains(&node.id)
            && cohort.is_none_or(|cohort| cohort.contains(&node.id))
    };
    seen.nodes.iter().find(able).cloned()
}

/// Moves the primary first: the coordinator that does it runs on the leader, and stays where it is meanwhile.
pub(super) async fn make_active(admin: &AdminClient, wanted: &NodeRecord) -> Result<()> {
    let is_primary = |seen: &Inspection| {
        seen.database
            .rule
            .as_ref()
            .is_some_and(|rule| rule.primary == wanted.id)
    };
    let seen = admin.inspect().await?;
    // Without a rule the database is somebody else's, and its primary is not ours to move.
    if seen.database.rule.is_some() && !is_primary(&seen) {
        let order = Command::Database(DatabaseCommand::Switchover { to: wanted.id });
        admin.propose(order).await?;
        let seen = wait(admin, |seen| seen.database.change.is_none()).await?;
        if !is_primary(&seen) {
            bail!(
                "PostgreSQL's primary did not move to {}: its standby could not take over in time, and the old primary \
                 serves on; `conclave cluster status` shows what is wrong with it",
                wanted.name
            );
        }
    }
    lead(admin, wanted).await
}

/// Orders the transfer until it has happened: one that a slow follower or a vote of its own kind has thwarted is forgotten.
async fn lead(admin: &AdminClient, wanted: &NodeRecord) -> Result<()> {
    let end = Instant::now() + MOVE_DEADLINE;
    loop {
        let ordered = admin.transfer_leadership(wanted.id).await;
        let moved = |seen: &Inspection| seen.leader == Some(wanted.id);
        let waited = tokio::time::timeout(ORDER_AGAIN, wait(admin, moved)).await;
        match (waited, ordered) {
            (Ok(done), _) => return done.map(drop),
            (Err(_), Err(error)) if Instant::now() >= end => return Err(error.into()),
            (Err(_), Ok(())) if Instant::now() >= end => {
                bail!(
                    "{} did not become leader within {} s",
                    wanted.name,
                    MOVE_DEADLINE.as_secs()
                )
            }
            (Err(_), _) => {}
        }
    }
}

/// Asks until `done`. Between two leaders nobody answers for a moment.
async fn wait(admin: &AdminClient, done: impl Fn(&Inspection) -> bool) -> Result<Inspection> {
    let end = Instant::now() + MOVE_DEADLINE;
    loop {
        let last = match admin.inspect().await {
            Ok(seen) if done(&seen) => return Ok(seen),
            Ok(_) => "it is not done yet".to_owned(),
            Err(ConsensusError::Unavailable(why)) => why,
            Err(error) => return Err(error.into()),
        };
        if Instant::now() >= end {
            bail!("not done within {} s: {last}", MOVE_DEADLINE.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}
