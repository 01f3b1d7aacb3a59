//! Moving leadership and primary together, as planned.

use std::time::{Duration, Instant};

use conclave_catalog::database::DatabaseCommand;
use conclave_catalog::{Command, NodeId, NodeRecord};

use crate::{AdminClient, ConsensusError, Inspection};

/// Each of the two moves takes well under a second; a busy machine gets time.
const MOVE_DEADLINE: Duration = Duration::from_secs(20);
/// A transfer takes two round trips; one that has not happened by then will not.
const ORDER_AGAIN: Duration = Duration::from_millis(700);
const POLL: Duration = Duration::from_millis(10);

impl Inspection {
    /// The best node to take over from `from`: alive, voting, and in the cohort.
    pub fn successor(&self, from: NodeId) -> Option<NodeRecord> {
        let voters = self.voters.as_deref().unwrap_or_default();
        let cohort = self.database.rule.as_ref().map(|rule| &rule.cohort);
        let able = |node: &&NodeRecord| {
            node.id != from
                && node.alive
                && voters.contains(&node.id)
                && cohort.is_none_or(|cohort| cohort.contains(&node.id))
        };
        self.nodes.iter().find(able).cloned()
    }

    /// Whether the rule in force makes the node PostgreSQL's primary.
    pub fn is_primary(&self, node: NodeId) -> bool {
        self.database.rule.as_ref().is_some_and(|rule| rule.primary == node)
    }
}

impl AdminClient {
    /// Makes a node the active one, and returns when it is. The primary moves first: the coordinator that does it runs on the
    /// leader, and stays where it is meanwhile.
    ///
    /// # Errors
    /// [`ConsensusError::NotMoved`] when one of the two stayed where it was; as [`Self::propose`] and
    /// [`Self::transfer_leadership`] otherwise.
    pub async fn make_active(&self, wanted: &NodeRecord) -> Result<(), ConsensusError> {
        let seen = self.inspect().await?;
        // Without a rule the database is somebody else's, and its primary is not ours to move.
        if seen.database.rule.is_some() && !seen.is_primary(wanted.id) {
            let order = Command::Database(DatabaseCommand::Switchover { to: wanted.id });
            self.propose(order).await?;
            let seen = self.wait(|seen| seen.database.change.is_none()).await?;
            if !seen.is_primary(wanted.id) {
                return Err(ConsensusError::NotMoved(format!(
                    "PostgreSQL's primary did not move to {}: its standby could not take over in time, and the old primary \
                     serves on; `conclave cluster status` shows what is wrong with it",
                    wanted.name
                )));
            }
        }
        self.lead(wanted).await
    }

    /// Orders the transfer until it has happened: one that a slow follower or a vote of its own kind has thwarted is forgotten.
    async fn lead(&self, wanted: &NodeRecord) -> Result<(), ConsensusError> {
        let end = Instant::now() + MOVE_DEADLINE;
        loop {
            let ordered = self.transfer_leadership(wanted.id).await;
            let moved = |seen: &Inspection| seen.leader == Some(wanted.id);
            let waited = tokio::time::timeout(ORDER_AGAIN, self.wait(moved)).await;
            match (waited, ordered) {
                (Ok(done), _) => return done.map(drop),
                (Err(_), Err(error)) if Instant::now() >= end => return Err(error),
                (Err(_), Ok(())) if Instant::now() >= end => {
                    return Err(ConsensusError::NotMoved(format!(
                        "{} did not become leader within {} s",
                        wanted.name,
                        MOVE_DEADLINE.as_secs()
                    )));
                }
                (Err(_), _) => {}
            }
        }
    }

    /// Asks until `done`. Between two leaders nobody answers for a moment.
    async fn wait(&self, done: impl Fn(&Inspection) -> bool) -> Result<Inspection, ConsensusError> {
        let end = Instant::now() + MOVE_DEADLINE;
        loop {
            let last = match self.inspect().await {
                Ok(seen) if done(&seen) => return Ok(seen),
                Ok(_) => "it is not done yet".to_owned(),
                Err(ConsensusError::Unavailable(why)) => why,
                Err(error) => return Err(error),
            };
            if Instant::now() >= end {
                let limit = MOVE_DEADLINE.as_secs();
                return Err(ConsensusError::NotMoved(format!("not done within {limit} s: {last}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
