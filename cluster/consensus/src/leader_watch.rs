//! Losing the leader's process is news, not a suspicion.
//!
//! Raft's timers wait until a silent leader's lease has run out. A process that ends is not silent: its kernel resets its
//! connections and refuses new ones. Each follower holds a stream to its leader that says nothing; when it ends and a new
//! connection is *refused*, the process is gone. The follower then asks the other voters whether they find the same (each
//! looks for itself) and whether its log would do; with a majority it stands for election at once, and openraft lets it, as
//! if the leader had handed over, since the lease protects a leader that is there.
//!
//! Nothing rests on this being right: an election that is called for nothing costs a term, never data. It is a majority that
//! must be mistaken for even that. A frozen or cut-off leader refuses nothing; for it the timers run as ever.

use std::sync::Arc;
use std::time::Duration;

use conclave_runtime::Shutdown;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;

use crate::log_store::LogStore;
use crate::peers::{Peer, Peers};
use crate::types::{LogId, Raft, Vote};

/// The voters stand one after the other: who comes first has been elected by then.
const STAGGER: Duration = Duration::from_millis(25);
/// Between two looks at a leader whose stream ended and that is not gone.
const PAUSE: Duration = Duration::from_millis(50);

/// What this node knows of its leader and of those who could take its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Situation {
    /// The leader's vote.
    vote: Vote,
    leader: Peer,
    /// The voters but the leader, this node among them.
    others: Vec<Peer>,
    voters: usize,
}

#[derive(Clone)]
pub(crate) struct LeaderWatch {
    raft: Raft,
    log: LogStore,
    peers: Arc<dyn Peers>,
}

impl LeaderWatch {
    pub(crate) fn new(raft: Raft, log: LogStore, peers: Arc<dyn Peers>) -> Self {
        Self { raft, log, peers }
    }

    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut roles = self.raft.server_metrics();
        while !shutdown.is_requested() {
            roles.borrow_and_update();
            let attending = async {
                let Some(situation) = self.situation() else {
                    return std::future::pending().await;
                };
                self.peers.attend(&situation.leader).await;
                self.leader_lost(&situation).await;
                tokio::time::sleep(PAUSE).await;
            };
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                changed = roles.changed() => if changed.is_err() { return },
                () = attending => {}
            }
        }
    }

    /// `None` unless this node votes, follows a leader, and the voters are settled: during a change of them the loss of a
    /// leader is left to the timers.
    fn situation(&self) -> Option<Situation> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let leader = metrics.current_leader.filter(|leader| *leader != metrics.id)?;
        let membership = metrics.membership_config.membership();
        if membership.get_joint_config().len() != 1 || !metrics.vote.committed {
            return None;
        }
        let peer = |id: u64| {
            let node = membership.get_node(&id)?;
            Some(Peer {
                id,
                address: node.addr.clone(),
            })
        };
        let voters: Vec<u64> = membership.voter_ids().collect();
        voters.contains(&metrics.id).then_some(())?;
        Some(Situation {
            vote: metrics.vote,
            leader: peer(leader)?,
            others: voters
                .iter()
                .filter(|id| **id != leader)
                .filter_map(|id| peer(*id))
                .collect(),
            voters: voters.len(),
        })
    }

    async fn leader_lost(&self, situation: &Situation) {
        let me = self.raft.node_id();
        if !self.peers.is_gone(&situation.leader).await {
            return;
        }
        let rank = situation.others.iter().position(|peer| peer.id == *me).unwrap_or(0);
        tokio::time::sleep(STAGGER * u32::try_from(rank).unwrap_or(u32::MAX)).await;
        if self.situation().as_ref() != Some(situation) {
            return;
        }
        let last = self.log.last_log_id();
        let others = situation.others.iter().filter(|peer| peer.id != *me);
        let asked = others.map(|peer| async {
            let answer = self.peers.confirm_loss(peer, situation.vote, last).await;
            if let Err(why) = &answer {
                tracing::debug!(peer = peer.id, why, "the loss of the leader is not confirmed");
            }
            answer.is_ok()
        });
        let confirmed = futures::future::join_all(asked)
            .await
            .into_iter()
            .filter(|yes| *yes)
            .count()
            + 1;
        if confirmed <= situation.voters / 2 {
            return;
        }
        tracing::info!(
            leader = situation.leader.id,
            confirmed,
            "the leader's process is gone; standing for election"
        );
        let request = TransferLeaderRequest::new(situation.vote, *me, None);
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => {
                #[cfg(test)]
                crate::simulation::count("stood since the leader's process was gone");
            }
            Ok(Err(refused)) => tracing::info!(%refused, "no election is called"),
            Err(error) => tracing::warn!(%error, "raft has stopped"),
        }
    }

    /// Answers another voter's question. The reason is for its log.
    pub(crate) async fn confirm(&self, leader: Vote, last: Option<LogId>) -> Result<(), &'static str> {
        let situation = self.situation().ok_or("it follows no leader, or leads")?;
        if situation.vote != leader {
            return Err("it follows another leader");
        }
        if self.log.last_log_id() > last {
            return Err("its log is longer");
        }
        if !self.peers.is_gone(&situation.leader).await {
            return Err("the leader's process is there");
        }
        Ok(())
    }
}
