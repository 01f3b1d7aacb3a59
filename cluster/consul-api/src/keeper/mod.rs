//! The leader's watch over time: it proposes the end of what was not renewed.
//!
//! Every node runs it, and it does nothing where it does not lead. A renewal reaches the leader as a call
//! ([`renew`](self::renew)), costs no entry in the log, and is acknowledged only after a majority has confirmed that this
//! node still leads: a deposed leader renews nothing, and the one after it starts all times in full.

mod renew;
mod timers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_catalog::directory::{CheckStatus, Directory, DirectoryCommand};
use conclave_catalog::{ClusterState, Command};
use conclave_consensus::{Consensus, ConsensusError};
use conclave_runtime::Shutdown;
use futures::future::join_all;
use tokio::time::Instant;

pub(crate) use renew::{Renewing, router};
use timers::{Moment, Timers};
pub(crate) use timers::{Renewal, Timer};

/// How long an end may take to be committed before it is tried again.
const PROPOSE_LIMIT: Duration = Duration::from_secs(3);
/// So many sessions end with one entry of the log.
const BATCH: usize = 256;

/// The watch of one node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper {
    consensus: Consensus,
    kept: Arc<Mutex<Option<Kept>>>,
    start: Instant,
}

/// What a leader keeps.
struct Kept {
    /// Of another term nothing is known: times were renewed elsewhere meanwhile.
    term: u64,
    /// What the timers follow.
    known: Arc<ClusterState>,
    timers: Timers,
}

impl Keeper {
    pub(crate) fn new(consensus: Consensus) -> Self {
        Self {
            consensus,
            kept: Arc::default(),
            start: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        self.start.elapsed()
    }

    /// How many sessions this node measures: none while it does not lead.
    pub(crate) fn sessions(&self) -> usize {
        self.lock().as_ref().map_or(0, |kept| kept.timers.sessions())
    }

    /// Starts a timer anew, as the leader; `None` when this node does not lead.
    pub(crate) async fn renew_here(&self, timer: &Timer) -> Option<Renewal> {
        // A majority must confirm it first: a deposed leader's renewals would deceive the client.
        let state = self.consensus.linearizable().await.ok()?;
        let now = self.now();
        let renewal = self.measured(|_, timers| timers.renew(now, timer))?;
        let lives_for_ever = matches!(timer, Timer::Session(id)
            if state.directory().sessions().get(id).is_some_and(|session| session.ttl.is_none()));
        Some(if lives_for_ever { Renewal::Renewed } else { renewal })
    }

    /// The term and the timers as of the state now; `None` when this node does not lead.
    fn measured<T>(&self, work: impl FnOnce(u64, &mut Timers) -> T) -> Option<T> {
        let leadership = self.consensus.leadership().borrow().clone();
        let mut held = self.lock();
        if !leadership.is_leader {
            *held = None;
            return None;
        }
        // Read under the lock, so that the timers never follow the state backwards.
        let (state, now) = (Arc::clone(&self.consensus.state().borrow()), self.now());
        if held.as_ref().is_none_or(|kept| kept.term != leadership.term) {
            let mut timers = Timers::default();
            timers.begin(now, state.directory());
            *held = Some(Kept {
                term: leadership.term,
                known: Arc::clone(&state),
                timers,
            });
        }
        let kept = held.as_mut()?;
        kept.timers.follow(now, kept.known.directory(), state.directory());
        kept.known = state;
        Some(work(kept.term, &mut kept.timers))
    }

    pub(crate) async fn run(self, shutdown: Shutdown) {
        let (mut state, mut leadership) = (self.consensus.state(), self.consensus.leadership());
        while !shutdown.is_requested() {
            state.mark_unchanged();
            leadership.mark_unchanged();
            let now = self.now();
            let measured = self.measured(|term, timers| (term, timers.ended(now), timers.next()));
            let (term, ended, next) = measured.unwrap_or_default();
            if !ended.is_empty() {
                let state = Arc::clone(&state.borrow());
                self.end(term, state.directory(), ended).await;
                continue;
            }
            let sleep = async {
                match next {
                    Some(next) => tokio::time::sleep_until(self.start + next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.requested() => return,
                changed = state.changed() => if changed.is_err() { return },
                changed = leadership.changed() => if changed.is_err() { return },
                () = sleep => {}
            }
        }
    }

    /// Proposes what follows. In the term in which it was measured: whoever leads after it has renewed things since.
    async fn end(&self, term: u64, state: &Directory, ended: Vec<Timer>) {
        let proposals = commands(state, &ended).into_iter().map(|(timers, command)| async move {
            tracing::info!(what = ?timers.first(), count = timers.len(), "time is over");
            let outcome = self
                .consensus
                .propose_in_term(term, Command::Directory(command), PROPOSE_LIMIT)
                .await;
            // A refusal means that it is gone already, or another's business.
            if let Err(error @ ConsensusError::Unavailable(_)) = outcome {
                tracing::warn!(%error, "an end could not be committed; it is tried again");
                return timers;
            }
            Vec::new()
        });
        let failed: Vec<Timer> = join_all(proposals).await.into_iter().flatten().collect();
        let now = self.now();
        self.measured(|_, timers| failed.iter().for_each(|timer| timers.retry(now, timer)));
    }
}

/// The commands that follow from what has ended, each with what it is for.
fn commands(state: &Directory, ended: &[Timer]) -> Vec<(Vec<Timer>, DirectoryCommand)> {
    let (mut sessions, mut delays, mut commands) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for timer in ended {
        match timer {
            Timer::Session(id) => {
                sessions.insert(*id, timer.clone());
            }
            Timer::Delay(number) => {
                delays.insert(*number, timer.clone());
            }
            Timer::Check(node, id) => {
                let output = state.services().node(node).and_then(|node| node.checks.get(id));
                let output = output.map(|check| check.output.clone()).unwrap_or_default();
                let command = DirectoryCommand::UpdateCheck {
                    node: node.to_string(),
                    check: id.to_string(),
                    status: CheckStatus::Critical,
                    output: format!("TTL expired (last output before timeout follows): {output}"),
                };
                commands.push((vec![timer.clone()], command));
            }
            Timer::DeadMember(node) => {
                let command = DirectoryCommand::EndSessionsOfDead { node: node.to_string() };
                commands.push((vec![timer.clone()], command));
            }
            Timer::Deregister(node, id, since) => {
                let command = DirectoryCommand::DeregisterCritical {
                    node: node.to_string(),
                    check: id.to_string(),
                    since: *since,
                };
                commands.push((vec![timer.clone()], command));
            }
        }
    }
    let sessions: Vec<_> = sessions.into_iter().collect();
    for batch in sessions.chunks(BATCH) {
        let (ids, timers): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
        commands.push((timers, DirectoryCommand::EndSessions(ids)));
    }
    if !delays.is_empty() {
        let (numbers, timers) = delays.into_iter().unzip();
        commands.push((timers, DirectoryCommand::EndLockDelays(numbers)));
    }
    commands
}
