//! What the driver does next and what it says of its node: the pure core of the driver's task.
//!
//! [`Memory::observe`] makes the observation that the coordinator gets, [`Memory::step`] the one next step towards the goal.
//! The task carries the step out and tells the memory how it went. The simulator (`crate::simulation`) runs this code
//! against a model of PostgreSQL.

use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_catalog::database::{DatabaseState, Lineage, Lsn};

use super::pledge::Goal;
use super::session::Facts;
use super::settings::Acknowledgers;
use crate::coordinator::{Observation, Role};

/// A standby whose upstream is there and that does not stream for this long needs more than patience.
const HEAL_AFTER: Duration = Duration::from_secs(6);

/// Which node feeds this one, and whether its own server may be reached: what the network layer carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Gates {
    /// Where the upstream socket leads.
    pub(crate) upstream: Option<NodeId>,
    /// Whether standbys may receive from this node's server.
    pub(crate) replication: bool,
    /// The epoch in which clients may use this node's server.
    pub(crate) serving: Option<u64>,
}

impl Gates {
    /// Closes whatever the goal does not allow. Opening is the task's, once the server is what it should be.
    pub(crate) fn close(&mut self, goal: &Goal) {
        match goal {
            Goal::Standby { upstream, .. } => {
                *self = Self {
                    upstream: *upstream,
                    replication: false,
                    serving: None,
                };
            }
            Goal::Promote { epoch, .. } => {
                self.upstream = None;
                self.serving = self.serving.filter(|serving| serving == epoch);
            }
            // Clients are cut by the task, once they have finished or had time to.
            Goal::Primary { .. } | Goal::Drain { .. } => self.upstream = None,
            Goal::Wait | Goal::Initialize => *self = Self::default(),
        }
    }
}

/// How a data directory that does not stream is brought back, from the cheapest means to the surest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cure {
    Start,
    Rewind,
    Clone,
}

/// How a server that does not run has ended, by its control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Not in recovery.
    pub(crate) as_primary: bool,
    /// The timeline of its last checkpoint.
    pub(crate) timeline: u32,
}

/// One look at the server, its disk and the replicated facts.
#[derive(Debug, Clone)]
pub(crate) struct Look<'a> {
    /// What is to be.
    pub(crate) goal: &'a Goal,
    /// What the server says; `None` when it does not run or does not answer.
    pub(crate) server: Option<&'a Facts>,
    /// Whether its process is there.
    pub(crate) running: bool,
    /// Whether there is a complete data directory.
    pub(crate) has_data: bool,
    /// Whether a rewind of it was begun and not ended.
    pub(crate) half_rewound: bool,
    /// How it ended, where that is asked for: see [`Memory::asks_how_it_ended`].
    pub(crate) ended: Option<Ended>,
    /// The replicated facts, as far as they have come here.
    pub(crate) database: &'a DatabaseState,
    /// Time that passes, from an arbitrary zero.
    pub(crate) now: Duration,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// All is as it should be, or nothing can be done now.
    Rest,
    /// Make a new database cluster.
    Initialize,
    /// Start the server as what it is: a primary, or a standby that is about to be one.
    Start,
    /// Start it in recovery.
    StartStandby,
    /// End a primary that is none any more, so that it comes back as a standby.
    Demote,
    /// End a standby whose log has diverged, to undo what is beyond.
    Undo,
    /// End a standby that does not receive, to bring it back by a stronger cure.
    Heal(Cure),
    /// Undo what the primary's history does not hold, then start it in recovery.
    Rewind,
    /// Copy the primary.
    Clone,
    /// Promote it to that timeline.
    Promote {
        /// The one that it is to start.
        timeline: u32,
        /// The one that it is on.
        from: u32,
    },
    /// Put the quorum in force and prove it with a marker; only then let clients in.
    Prove,
    /// The quorum is proven: let clients in.
    Open,
    /// Let clients finish.
    Drain,
    /// It is not what it should be, and another node must take over.
    Fail(String),
}

/// What the driver remembers from one look to the next, as long as its process lives.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    /// The epoch whose marker the quorum has acknowledged.
    pub(crate) serving: Option<u64>,
    /// The quorum that was proven last.
    in_force: Acknowledgers,
    /// Where the log ends since clients have finished, in a planned change.
    pub(crate) drained: Option<(u64, Lsn)>,
    /// Where the timeline of the last promotion left its parent.
    pub(crate) switch_lsn: Option<Lsn>,
    cure: Cure,
    trouble_since: Option<Duration>,
    /// The end of the log at the last look.
    last: Option<Lsn>,
    /// Whether a new database cluster was made complete.
    pub(crate) initialized: bool,
    /// How often the server had asked for log when it was started. A server that was found running has asked long ago, or asks
    /// again soon.
    pub(crate) asked_before: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            serving: None,
            in_force: Acknowledgers::default(),
            drained: None,
            switch_lsn: None,
            cure: Cure::Start,
            trouble_since: None,
            last: None,
            initialized: false,
            asked_before: 0,
        }
    }
}

impl Memory {
    /// What the coordinator is told. `asked` is how often the local server has asked for log at the upstream socket.
    pub(crate) fn observe(&mut self, look: &Look<'_>, pledged: u64, asked: u64) -> Observation {
        let role = match look.server {
            Some(facts) if facts.in_recovery => Role::Standby,
            Some(_) => Role::Primary,
            None if look.has_data => Role::Down,
            None => Role::Empty,
        };
        if role != Role::Primary {
            self.serving = None;
        }
        if !matches!(look.goal, Goal::Drain { .. }) {
            self.drained = None;
        }
        let before = std::mem::replace(&mut self.last, look.server.map(|facts| facts.lsn));
        let isolated = matches!(look.goal, Goal::Standby { upstream: None, .. });
        let settled = look.server.is_some_and(|facts| {
            // After a start a standby replays what lies there, and asks for more only when that is done: its question is the
            // sign that the position which it shows is the end of all that it holds.
            let has_read_all = facts.has_received || asked > self.asked_before;
            isolated && before == Some(facts.lsn) && !facts.receiver && has_read_all
        });
        Observation {
            role,
            pledge: pledged,
            settled,
            timeline: look.server.map_or(0, |facts| facts.timeline),
            lsn: look.server.map_or(Lsn(0), |facts| facts.lsn),
            streaming: look.server.is_some_and(|facts| facts.receiving),
            serving: self.serving,
            drained: self.drained,
            quiet: None,
            switch_lsn: self.switch_lsn,
            system_id: look
                .server
                .filter(|_| self.initialized || role != Role::Primary || look.database.rule.is_some())
                .map(|facts| facts.system_id.clone()),
        }
    }

    /// Whether the next step depends on how the server ended.
    pub(crate) fn asks_how_it_ended(&self, look: &Look<'_>) -> bool {
        let fed = matches!(look.goal, Goal::Standby { upstream: Some(_), .. });
        fed && self.cure == Cure::Start && look.server.is_none() && !look.running && look.has_data && !look.half_rewound
    }

    /// The next step. `acknowledgers` are those of the goal, if it is one of a primary.
    pub(crate) fn step(&mut self, look: &Look<'_>, acknowledgers: &Acknowledgers) -> Step {
        match look.goal {
            Goal::Wait => Step::Rest,
            Goal::Initialize => Step::Initialize,
            Goal::Drain { .. } => Step::Drain,
            Goal::Standby { upstream, .. } => self.towards_standby(look, upstream.is_some()),
            Goal::Promote { epoch, timeline, .. } => match look.server {
                None => Step::Start,
                Some(facts) if facts.in_recovery => Step::Promote {
                    timeline: *timeline,
                    from: facts.timeline,
                },
                Some(facts) if facts.timeline != *timeline => Step::Fail(format!(
                    "promoted to timeline {} where {timeline} was allocated; it does not serve",
                    facts.timeline
                )),
                Some(_) => self.towards_serving(*epoch, acknowledgers),
            },
            Goal::Primary { epoch, .. } => match look.server {
                None if !look.has_data => Step::Fail(
                    "the rule names this node primary, and its data directory is gone: another node must take over"
                        .into(),
                ),
                None => Step::Start,
                Some(facts) if facts.in_recovery => Step::Fail(
                    "the rule names this node primary, and its server is in recovery: another node must take over"
                        .into(),
                ),
                Some(_) => self.towards_serving(*epoch, acknowledgers),
            },
        }
    }

    fn towards_serving(&self, epoch: u64, acknowledgers: &Acknowledgers) -> Step {
        if self.serving == Some(epoch) && self.in_force == *acknowledgers {
            Step::Open
        } else {
            Step::Prove
        }
    }

    fn towards_standby(&mut self, look: &Look<'_>, fed: bool) -> Step {
        match look.server {
            Some(facts) if !facts.in_recovery => Step::Demote,
            Some(facts) if fed && has_diverged(look.database, facts) => {
                self.cure = Cure::Rewind;
                self.trouble_since = None;
                Step::Undo
            }
            Some(facts) if facts.receiving || !fed => {
                self.cured();
                Step::Rest
            }
            Some(_) => self.heal(look.now),
            None if !look.has_data && fed => Step::Clone,
            None if !look.has_data => Step::Rest,
            None if look.running => self.heal(look.now),
            None => self.start_standby(look, fed),
        }
    }

    fn start_standby(&mut self, look: &Look<'_>, fed: bool) -> Step {
        if look.half_rewound {
            self.cure = Cure::Clone;
            if !fed {
                return Step::Rest;
            }
        } else if fed && self.cure == Cure::Start && was_primary(look) {
            self.cure = Cure::Rewind;
        }
        match self.cure {
            Cure::Rewind if fed => Step::Rewind,
            Cure::Clone if fed => Step::Clone,
            Cure::Start | Cure::Rewind | Cure::Clone => Step::StartStandby,
        }
    }

    /// A standby that could stream and does not, for long: the next stronger cure.
    fn heal(&mut self, now: Duration) -> Step {
        let since = *self.trouble_since.get_or_insert(now);
        if now.saturating_sub(since) < HEAL_AFTER {
            return Step::Rest;
        }
        self.cure = match self.cure {
            Cure::Start => Cure::Rewind,
            Cure::Rewind | Cure::Clone => Cure::Clone,
        };
        self.trouble_since = None;
        Step::Heal(self.cure)
    }

    /// The data directory is what it should be.
    pub(crate) fn cured(&mut self) {
        self.cure = Cure::Start;
        self.trouble_since = None;
    }

    /// A rewind has failed.
    pub(crate) fn not_rewound(&mut self) {
        self.cure = Cure::Clone;
    }

    /// The quorum has acknowledged the marker of that epoch.
    pub(crate) fn proven(&mut self, epoch: u64, acknowledgers: &Acknowledgers) {
        self.serving = Some(epoch);
        self.in_force = acknowledgers.clone();
    }

    /// The server was ended: nothing is served.
    pub(crate) fn ended(&mut self) {
        self.serving = None;
    }
}

/// Its log holds what the primary's does not: what a deposed primary wrote and nobody acknowledged. The server itself only
/// finds that it cannot follow.
fn has_diverged(database: &DatabaseState, facts: &Facts) -> bool {
    database.lineage(facts.timeline, facts.lsn) == Lineage::Diverged
}

/// Whether the server ended as a primary on a timeline that has been left since: then its log may hold what nobody else has.
fn was_primary(look: &Look<'_>) -> bool {
    let ruled = look.database.rule.as_ref().map_or(0, |rule| rule.timeline);
    look.ended
        .is_some_and(|ended| ended.as_primary && ended.timeline < ruled)
}
