//! Wakes Raft when something is due, and lets it sleep in between.
//!
//! openraft looks at its timers at a fifth of the heartbeat interval, for as long as it runs: some seventy times a second, which
//! is most of what an idle member does. What those looks can find is known beforehand. On a leader it is the next
//! heartbeat; on a follower nothing, until its leader has been silent for the shortest election timeout. So the ticks are
//! switched off for these times, and on whenever no leader is known.
//!
//! Nothing rests on this but liveness: elections and leases are judged by openraft's own timers at each tick.

use std::time::Duration;

use conclave_runtime::Shutdown;
use openraft::async_runtime::WatchReceiver;
use openraft::{Config, ServerState};

use crate::member::LastHeard;
use crate::types::Raft;

/// Ticks begin so much before a silent leader's time has run out: two of openraft's own.
const EARLY_TICKS: u64 = 2;

/// The times that decide, from openraft's configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    heartbeat: Duration,
    patience: Duration,
}

/// What Raft needs until the next look.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    /// Its own ticks, for the time given.
    Ticks(Duration),
    /// A heartbeat now, and the next after the time given.
    Heartbeat(Duration),
    /// Nothing for the time given.
    Rest(Duration),
}

impl Pace {
    pub(crate) fn of(config: &Config) -> Self {
        let tick = config.heartbeat_interval / 5;
        Self {
            heartbeat: Duration::from_millis(config.heartbeat_interval),
            patience: Duration::from_millis(config.election_timeout_min.saturating_sub(EARLY_TICKS * tick)),
        }
    }

    fn need(&self, leads: bool, follows: bool, silence: Option<Duration>) -> Need {
        if leads {
            return Need::Heartbeat(self.heartbeat);
        }
        match silence {
            Some(silence) if follows && silence < self.patience => Need::Rest(self.patience - silence),
            _ => Need::Ticks(self.heartbeat),
        }
    }
}

pub(crate) async fn run(pace: Pace, raft: Raft, heard: LastHeard, shutdown: Shutdown) {
    let mut roles = raft.server_metrics();
    while !shutdown.is_requested() {
        let (leads, follows) = {
            let now = roles.borrow_and_update();
            let leads = now.state == ServerState::Leader;
            (
                leads,
                now.state == ServerState::Follower && now.current_leader.is_some(),
            )
        };
        let need = pace.need(leads, follows, heard.elapsed());
        raft.runtime_config().tick(matches!(need, Need::Ticks(_)));
        if matches!(need, Need::Heartbeat(_))
            && let Err(error) = raft.trigger().heartbeat().await
        {
            tracing::info!(%error, "raft has stopped");
            return;
        }
        let (Need::Ticks(pause) | Need::Heartbeat(pause) | Need::Rest(pause)) = need;
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            changed = roles.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
    // What is left of Raft's life, a handover perhaps, runs on its own timers.
    raft.runtime_config().tick(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        heartbeat: Duration::from_millis(75),
        patience: Duration::from_millis(120),
    };

    #[test]
    fn a_follower_rests_while_its_leader_can_be_trusted_and_no_longer() {
        let silence = |millis| Some(Duration::from_millis(millis));
        assert_eq!(
            PACE.need(false, true, silence(50)),
            Need::Rest(Duration::from_millis(70))
        );
        assert_eq!(PACE.need(false, true, silence(120)), Need::Ticks(PACE.heartbeat));
        assert_eq!(PACE.need(false, true, None), Need::Ticks(PACE.heartbeat));
        // A candidate, or a follower of nobody.
        assert_eq!(PACE.need(false, false, silence(1)), Need::Ticks(PACE.heartbeat));
    }

    #[test]
    fn a_leader_beats() {
        assert_eq!(PACE.need(true, false, None), Need::Heartbeat(PACE.heartbeat));
    }
}
