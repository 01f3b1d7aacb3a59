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
/// A server that was started so often and never answered will not by another start.
const STARTS_MAX: u32 = 3;

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
    /// Closes to clients what no marker has proven since the server started: what a server that crashed shows after its start
    /// may be what nobody acknowledged.
    pub(crate) fn close_unproven(&mut self, memory: &Memory) {
        if memory.serving.is_none() {
            self.serving = None;
        }
    }

    /// Opens the way to the node that is to feed this one. Only between two steps of the task: a server that is being promoted, and
    /// that received from another primary meanwhile, would begin a timeline after that one's.
    pub(crate) fn open_upstream(&mut self, goal: &Goal) {
        if let Goal::Standby { upstream, .. } = goal {
            self.upstream = *upstream;
        }
    }

    /// Closes whatever the goal does not allow. Opening is the task's, once the server is what it should be.
    pub(crate) fn close(&mut self, goal: &Goal) {
        match goal {
            Goal::Standby { upstream, .. } => {
                *self = Self {
                    upstream: self.upstream.filter(|open| Some(*open) == *upstream),
                    ..Self::default()
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

/// How a data directory that does not stream is brought back, from the cheapest means to the surest. Both of the latter need a
/// primary to copy from; without one the directory is started as it is, because what it holds may be needed to make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    Start,
    Rewind,
    Clone,
}

/// How a server that does not run has ended, by its control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Not in recovery.
    pub(crate) as_primary: bool,
    /// The timeline that its recovery would end on.
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
    /// The timeline of the upstream if that is a primary that can be copied from, where that is asked for: see
    /// [`Memory::asks_for_source`].
    pub(crate) source: Option<u32>,
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
    /// Start the server as the primary that it is.
    Start,
    /// Start it in recovery.
    StartStandby,
    /// End a primary that is none any more, so that it comes back as a standby.
    Demote,
    /// End a standby whose log has diverged, to undo what is beyond.
    Undo,
    /// Undo what the primary's history does not hold, then start it in recovery.
    Rewind,
    /// Copy the primary. What is there stays in use until the copy is complete.
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
    /// The quorum that all processes of the running server are known to obey.
    obeyed: Option<Acknowledgers>,
    /// Where the log ends since clients have finished, in a planned change.
    pub(crate) drained: Option<(u64, Lsn)>,
    /// The timeline of the last promotion, and where it left its parent.
    pub(crate) switched: Option<(u32, Lsn)>,
    cure: Cure,
    trouble_since: Option<Duration>,
    /// The log that was last found to have diverged. Finding it again means that rewinding did not help.
    diverged: Option<(u32, Lsn)>,
    /// How often the server was started since it last answered.
    starts: u32,
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
            obeyed: None,
            drained: None,
            switched: None,
            cure: Cure::Start,
            trouble_since: None,
            diverged: None,
            starts: 0,
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
        if look.server.is_some_and(|facts| facts.in_recovery) {
            self.obeyed = None;
        }
        if !matches!(look.goal, Goal::Drain { .. }) {
            self.drained = None;
        }
        if look.server.is_some() {
            self.starts = 0;
        }
        let before = std::mem::replace(&mut self.last, look.server.map(|facts| facts.lsn));
        let isolated = matches!(look.goal, Goal::Standby { upstream: None, .. });
        let settled = look.server.is_some_and(|facts| {
            // After a start a standby replays what lies there, and asks for more only when that is done: its question is the
            // sign that the position which it shows is the end of all that it holds.
            let has_read_all = facts.has_received || asked > self.asked_before;
            isolated && before == Some(facts.lsn) && !facts.receiver && has_read_all
        });
        let timeline = look.server.map_or(0, |facts| facts.timeline);
        Observation {
            role,
            pledge: pledged,
            settled,
            timeline,
            lsn: look.server.map_or(Lsn(0), |facts| facts.lsn),
            streaming: look.server.is_some_and(|facts| facts.receiving),
            serving: self.serving,
            drained: self.drained,
            quiet: None,
            switch_lsn: self.switched.filter(|(new, _)| *new == timeline).map(|(_, at)| at),
            system_id: look
                .server
                .filter(|_| self.initialized || role != Role::Primary || look.database.rule.is_some())
                .map(|facts| facts.system_id.clone()),
        }
    }

    /// Whether the next step depends on how the server ended.
    pub(crate) fn asks_how_it_ended(&self, look: &Look<'_>) -> bool {
        let stopped = look.server.is_none() && !look.running && look.has_data;
        is_fed(look) && self.cure != Cure::Clone && stopped && !look.half_rewound
    }

    /// Whether the next step depends on the upstream.
    pub(crate) fn asks_for_source(&self, look: &Look<'_>) -> bool {
        let wanting = match look.server {
            Some(facts) => {
                facts.in_recovery && (has_diverged(look, facts) || (!facts.receiving && self.is_overdue(look.now)))
            }
            None if look.running => self.is_overdue(look.now),
            None => {
                let doubtful = self.cure != Cure::Start || self.starts >= STARTS_MAX || was_primary(look);
                !look.has_data || look.half_rewound || doubtful
            }
        };
        is_fed(look) && wanting
    }

    /// The next step. `acknowledgers` are those of the goal, if it is one of a primary.
    pub(crate) fn step(&mut self, look: &Look<'_>, acknowledgers: &Acknowledgers) -> Step {
        match look.goal {
            Goal::Wait => Step::Rest,
            Goal::Initialize => Step::Initialize,
            Goal::Drain { .. } => match look.server {
                Some(facts) if facts.in_recovery => Step::Rest,
                Some(_) => Step::Drain,
                None if look.has_data && !look.half_rewound => Step::StartStandby,
                // The planned change has become an unplanned one, in which this node counts as a standby.
                None => Step::Rest,
            },
            Goal::Standby { upstream, .. } => self.towards_standby(look, upstream.is_some()),
            Goal::Promote { epoch, timeline, .. } => match look.server {
                // As a standby, whatever became of an earlier attempt: one that died after it had removed the signal and before
                // it had begun the new timeline would come up as a primary of the old one, next to the old primary.
                None if !look.has_data || look.half_rewound => Step::Rest,
                None => Step::StartStandby,
                // A promotion that died on the way has left this timeline behind. The server would take the next number, which is
                // not allocated.
                Some(facts) if facts.in_recovery && facts.timeline >= *timeline => Step::Fail(format!(
                    "an earlier promotion to timeline {timeline} died; another is to be allocated"
                )),
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
            // An upstream on this very timeline is right, whatever is known here of the rule: a timeline is begun once.
            Some(facts) if fed && look.source.is_some_and(|of| of != facts.timeline) && has_diverged(look, facts) => {
                let found = Some((facts.timeline, facts.replayed));
                let again = std::mem::replace(&mut self.diverged, found) == found;
                self.cure = if again { Cure::Clone } else { Cure::Rewind };
                self.trouble_since = None;
                Step::Undo
            }
            Some(facts) if facts.receiving || !fed => {
                self.cured();
                if facts.receiving {
                    self.diverged = None;
                }
                Step::Rest
            }
            Some(_) => self.heal(look),
            None if !look.has_data || look.half_rewound => self.copy_or(look, fed, Step::Rest),
            None if look.running => self.heal(look),
            None => self.start_standby(look, fed),
        }
    }

    fn start_standby(&mut self, look: &Look<'_>, fed: bool) -> Step {
        if fed && self.cure == Cure::Start && was_primary(look) {
            self.cure = Cure::Rewind;
        }
        if self.starts >= STARTS_MAX {
            self.cure = Cure::Clone;
        }
        match self.cure {
            Cure::Rewind if fed && is_rewindable(look) => Step::Rewind,
            Cure::Clone => self.copy_or(look, fed, Step::StartStandby),
            Cure::Start | Cure::Rewind => self.copy_or(look, false, Step::StartStandby),
        }
    }

    fn copy_or(&mut self, look: &Look<'_>, fed: bool, otherwise: Step) -> Step {
        if fed && look.source.is_some() {
            return Step::Clone;
        }
        if otherwise == Step::StartStandby {
            self.starts = self.starts.saturating_add(1);
        }
        otherwise
    }

    fn is_overdue(&self, now: Duration) -> bool {
        self.trouble_since
            .is_some_and(|since| now.saturating_sub(since) >= HEAL_AFTER)
    }

    /// A standby that could stream and does not, for long. Its log is not diverged, so that there is nothing to undo: the
    /// primary has no more what it needs, or it is damaged. While there is nothing to copy from, what it holds is kept and
    /// served as it is.
    fn heal(&mut self, look: &Look<'_>) -> Step {
        if !self.is_overdue(look.now) {
            self.trouble_since.get_or_insert(look.now);
            return Step::Rest;
        }
        self.trouble_since = None;
        self.copy_or(look, true, Step::Rest)
    }

    /// The data directory is what it should be.
    pub(crate) fn cured(&mut self) {
        self.cure = Cure::Start;
        self.starts = 0;
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

    /// Whether the server must be seen to obey a quorum before a marker proves it: its processes read settings one by one, and
    /// until the last has, commits may pass by the setting `before`. Where nobody could acknowledge, nothing passes.
    pub(crate) fn has_to_settle(&self, before: &str, acknowledgers: &Acknowledgers) -> bool {
        before != Acknowledgers::nobody().setting() && self.obeyed.as_ref() != Some(acknowledgers)
    }

    /// All processes of the server obey that quorum: they have read it, or were started with it.
    pub(crate) fn obeys(&mut self, acknowledgers: &Acknowledgers) {
        self.obeyed = Some(acknowledgers.clone());
    }

    /// Nothing is served any more.
    pub(crate) fn closed(&mut self) {
        self.serving = None;
    }
}

fn is_fed(look: &Look<'_>) -> bool {
    matches!(look.goal, Goal::Standby { upstream: Some(_), .. })
}

/// Its log holds what the primary's does not: what a deposed primary wrote and nobody acknowledged. The server itself only
/// finds that it cannot follow.
fn has_diverged(look: &Look<'_>, facts: &Facts) -> bool {
    let Goal::Standby { epoch, .. } = look.goal else {
        return false;
    };
    // What has come of a record that is not whole will be overwritten, and says nothing.
    look.database.lineage(*epoch, facts.timeline, facts.replayed) == Lineage::Diverged
}

/// Whether the server ended as a primary on a timeline that has been left since: then its log may hold what nobody else has.
fn was_primary(look: &Look<'_>) -> bool {
    let ruled = look.database.rule.as_ref().map_or(0, |rule| rule.timeline);
    look.ended
        .is_some_and(|ended| ended.as_primary && ended.timeline < ruled)
}

/// Whether a rewind would look at the logs at all. Where both sides are on one timeline it takes them for equal and does nothing
/// but the recovery that comes first, which writes a record of its own: what would be received would not go on from that.
/// On one timeline there is nothing to undo either. (What was to be undone when the cure was chosen may be gone: started as
/// it was, the server may have followed since.)
fn is_rewindable(look: &Look<'_>) -> bool {
    let ended = look.ended.map(|ended| ended.timeline);
    look.source.is_some() && ended.is_some() && look.source != ended
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use conclave_catalog::database::{ChangeKind, DatabaseCommand};

    use super::*;

    const FED: Goal = Goal::Standby {
        epoch: 3,
        upstream: Some(NodeId(3)),
    };

    /// Node 3 is primary on timeline 2 in epoch 3.
    fn database() -> DatabaseState {
        let mut database = DatabaseState::default();
        let cohort = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
        let steps = [
            DatabaseCommand::Bootstrap {
                primary: NodeId(1),
                system_id: "7".into(),
            },
            DatabaseCommand::Claim {
                epoch: 2,
                kind: ChangeKind::Cohort(cohort),
            },
            DatabaseCommand::Commit {
                epoch: 2,
                switch_lsn: None,
            },
            DatabaseCommand::Claim {
                epoch: 3,
                kind: ChangeKind::Failover,
            },
            DatabaseCommand::Choose {
                epoch: 3,
                node: NodeId(3),
                parent: 1,
                at: Lsn(100),
            },
            DatabaseCommand::Commit {
                epoch: 3,
                switch_lsn: Some(Lsn(100)),
            },
        ];
        for step in steps {
            database.apply(step).unwrap();
        }
        database
    }

    fn look(database: &DatabaseState) -> Look<'_> {
        Look {
            goal: &FED,
            server: None,
            running: false,
            has_data: true,
            half_rewound: false,
            ended: None,
            source: None,
            database,
            now: Duration::ZERO,
        }
    }

    fn next(memory: &mut Memory, look: &Look<'_>) -> Step {
        memory.step(look, &Acknowledgers::nobody())
    }

    #[test]
    fn a_rewind_is_forgotten_once_the_log_is_on_the_timeline_of_its_source() {
        let (database, mut memory) = (database(), Memory::default());
        let ended = |as_primary, timeline| Some(Ended { as_primary, timeline });
        let alone = Look {
            ended: ended(true, 1),
            ..look(&database)
        };
        assert!(memory.asks_how_it_ended(&alone));
        assert_eq!(next(&mut memory, &alone), Step::StartStandby, "there is no source yet");
        // It has followed, and was killed before anybody saw it.
        let killed = Look {
            ended: ended(false, 2),
            source: Some(2),
            ..look(&database)
        };
        assert!(memory.asks_how_it_ended(&killed));
        assert_eq!(next(&mut memory, &killed), Step::StartStandby);
        let behind = Look {
            ended: ended(true, 1),
            source: Some(2),
            ..look(&database)
        };
        assert_eq!(next(&mut memory, &behind), Step::Rewind);
    }

    #[test]
    fn a_copy_is_started_before_it_is_held_for_broken() {
        let (database, mut memory) = (database(), Memory::default());
        let down = Look {
            ended: Some(Ended {
                as_primary: false,
                timeline: 2,
            }),
            source: Some(2),
            ..look(&database)
        };
        for _ in 0..STARTS_MAX {
            assert_eq!(next(&mut memory, &down), Step::StartStandby);
        }
        assert_eq!(next(&mut memory, &down), Step::Clone);
        memory.cured();
        assert_eq!(next(&mut memory, &down), Step::StartStandby);
    }

    #[test]
    fn log_on_the_timeline_of_the_upstream_is_never_undone() {
        let (database, mut memory) = (database(), Memory::default());
        let facts = Facts {
            in_recovery: true,
            lsn: Lsn(150),
            timeline: 3,
            replayed: Lsn(150),
            receiving: true,
            receiver: true,
            has_received: true,
            system_id: "7".into(),
            standbys: BTreeSet::new(),
        };
        // The rule does not show the promotion to timeline 3 yet.
        let seen = |source| Look {
            server: Some(&facts),
            running: true,
            source,
            ..look(&database)
        };
        assert_eq!(next(&mut memory, &seen(Some(3))), Step::Rest);
        assert_eq!(next(&mut memory, &seen(Some(2))), Step::Undo);
    }
}
