//! What the leader measures: times to live, lock-delays, grace periods. Pure: the time comes in with each call.
//!
//! Only the leader's monotonic clock counts, and only from the moment that it leads: a new leader starts everything in
//! full. Something may therefore live longer than it should, and never shorter.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use conclave_catalog::directory::{
    CatalogNode, Check, CheckKind, CheckStatus, Directory, LockDelay, SERF_HEALTH, Session, SessionId,
};
use imbl::ordmap::DiffItem;

/// A session ends when it has not been renewed for twice its TTL, as Consul's do and Patroni counts on
/// (spec/consul-api.md, section 4: between once and twice).
const SESSION_TTLS: u64 = 2;
/// A member that is silent for longer than its manager takes to restart: sessions that depend on its life end.
const DEAD_GRACE: Duration = Duration::from_secs(10);
/// A command that could not be committed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// A reading of the monotonic clock.
pub(crate) type Moment = Duration;

/// Something that is measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Timer {
    /// A session's time to live.
    Session(SessionId),
    /// A check's time to live: node and id.
    Check(Arc<str>, Arc<str>),
    /// A lock-delay's end, by its number.
    Delay(u64),
    /// How long a member has been dead.
    DeadMember(Arc<str>),
    /// How long a check has been critical: node, id, and since when. One that turns critical again is measured anew, even when
    /// nobody saw it in between.
    Deregister(Arc<str>, Arc<str>, u64),
}

/// What is measured of a node's check, if anything, and for how long.
type TimerOf = fn(&Arc<str>, &Arc<Check>) -> Option<(Timer, Duration)>;

/// What a renewal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// It starts anew.
    Renewed,
    /// It is not measured, or its end has been proposed.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    length: Duration,
    end: Moment,
    /// Its end has been reached; the command is under way.
    ended: bool,
}

/// Everything that is measured now.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    running: HashMap<Timer, Running>,
    ends: BTreeSet<(Moment, Timer)>,
}

impl Timers {
    /// Forgets everything: this node does not lead any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Starts everything in `state` in full: this node leads from now on.
    pub(crate) fn begin(&mut self, now: Moment, state: &Directory) {
        self.clear();
        self.follow(now, &Directory::default(), state);
    }

    /// How many sessions have a time to live.
    pub(crate) fn sessions(&self) -> usize {
        self.running
            .keys()
            .filter(|timer| matches!(timer, Timer::Session(_)))
            .count()
    }

    /// Starts what is new in `new`, and stops what is gone.
    pub(crate) fn follow(&mut self, now: Moment, old: &Directory, new: &Directory) {
        for change in old.sessions().entries().diff(new.sessions().entries()) {
            match change {
                DiffItem::Add(id, session) | DiffItem::Update { new: (id, session), .. } => {
                    self.set(now, Timer::Session(*id), session_length(session));
                }
                DiffItem::Remove(id, _) => self.stop(&Timer::Session(*id)),
            }
        }
        for change in old.delays().entries().diff(new.delays().entries()) {
            match change {
                DiffItem::Add(number, delay)
                | DiffItem::Update {
                    new: (number, delay), ..
                } => {
                    self.set(now, Timer::Delay(*number), delay_length(delay));
                }
                DiffItem::Remove(number, _) => self.stop(&Timer::Delay(*number)),
            }
        }
        for change in old.services().nodes().diff(new.services().nodes()) {
            match change {
                DiffItem::Add(_, node) => self.follow_checks(now, None, Some(node)),
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => self.follow_checks(now, Some(old), Some(new)),
                DiffItem::Remove(_, node) => self.follow_checks(now, Some(node), None),
            }
        }
    }

    fn follow_checks(&mut self, now: Moment, old: Option<&Arc<CatalogNode>>, new: Option<&Arc<CatalogNode>>) {
        let Some(node) = new.or(old) else { return };
        let checks = |node: Option<&Arc<CatalogNode>>| node.map(|node| node.checks.clone()).unwrap_or_default();
        let (before, after) = (checks(old), checks(new));
        for change in before.diff(&after) {
            let (before, after) = match change {
                DiffItem::Add(_, check) => (None, Some(check)),
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => (Some(old), Some(new)),
                DiffItem::Remove(_, check) => (Some(check), None),
            };
            let kinds: [TimerOf; 3] = [ttl_timer, deregister_timer, dead_timer];
            for kind in kinds {
                let before = before.and_then(|check| kind(&node.name, check));
                let after = after.and_then(|check| kind(&node.name, check));
                match (before, after) {
                    // What goes on is not started anew by a change of something else.
                    (Some(before), Some(after)) if before == after => {}
                    (before, after) => {
                        if let Some((timer, _)) = before {
                            self.stop(&timer);
                        }
                        if let Some((timer, length)) = after {
                            self.set(now, timer, Some(length));
                        }
                    }
                }
            }
        }
    }

    /// Starts a timer anew.
    pub(crate) fn renew(&mut self, now: Moment, timer: &Timer) -> Renewal {
        match self.running.get(timer) {
            Some(running) if !running.ended => {
                let length = running.length;
                self.set(now, timer.clone(), Some(length));
                Renewal::Renewed
            }
            _ => Renewal::Unknown,
        }
    }

    /// What has ended and was not told before.
    pub(crate) fn ended(&mut self, now: Moment) -> Vec<Timer> {
        let mut ended = Vec::new();
        while let Some((end, _)) = self.ends.first()
            && *end <= now
            && let Some((_, timer)) = self.ends.pop_first()
        {
            if let Some(running) = self.running.get_mut(&timer) {
                running.ended = true;
            }
            ended.push(timer);
        }
        ended
    }

    /// The command that follows an end could not be committed: it is told again soon.
    pub(crate) fn retry(&mut self, now: Moment, timer: &Timer) {
        if let Some(running) = self.running.get_mut(timer).filter(|running| running.ended) {
            running.end = now + RETRY;
            let end = running.end;
            self.ends.insert((end, timer.clone()));
        }
    }

    /// When something ends next.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.ends.first().map(|(end, _)| *end)
    }

    fn set(&mut self, now: Moment, timer: Timer, length: Option<Duration>) {
        self.stop(&timer);
        let Some(length) = length else { return };
        let end = now + length;
        self.ends.insert((end, timer.clone()));
        let running = Running {
            length,
            end,
            ended: false,
        };
        self.running.insert(timer, running);
    }

    fn stop(&mut self, timer: &Timer) {
        if let Some(running) = self.running.remove(timer) {
            self.ends.remove(&(running.end, timer.clone()));
        }
    }
}

fn session_length(session: &Session) -> Option<Duration> {
    let ttl = session.ttl.as_ref()?;
    Some(Duration::from_millis(ttl.millis.saturating_mul(SESSION_TTLS)))
}

fn delay_length(delay: &LockDelay) -> Option<Duration> {
    Some(Duration::from_nanos(delay.nanos))
}

fn ttl_timer(node: &Arc<str>, check: &Arc<Check>) -> Option<(Timer, Duration)> {
    let CheckKind::Ttl { millis } = check.definition.kind else {
        return None;
    };
    let alive = check.status != CheckStatus::Critical;
    alive.then(|| {
        (
            Timer::Check(Arc::clone(node), Arc::clone(&check.id)),
            Duration::from_millis(millis),
        )
    })
}

fn deregister_timer(node: &Arc<str>, check: &Arc<Check>) -> Option<(Timer, Duration)> {
    let after = Duration::from_millis(check.definition.deregister_after_ms?);
    let due = check.status == CheckStatus::Critical && check.service_id.is_some();
    due.then(|| {
        let timer = Timer::Deregister(Arc::clone(node), Arc::clone(&check.id), check.status_index);
        (timer, after)
    })
}

fn dead_timer(node: &Arc<str>, check: &Arc<Check>) -> Option<(Timer, Duration)> {
    let dead = &*check.id == SERF_HEALTH && check.status == CheckStatus::Critical;
    dead.then(|| (Timer::DeadMember(Arc::clone(node)), DEAD_GRACE))
}

#[cfg(test)]
mod tests {
    use conclave_catalog::directory::{
        Behavior, CheckDefinition, CheckSpec, DirectoryCommand, KvOp, KvWrite, NewSession, NodeSpec, Registration,
        ServiceSpec, Ttl,
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn apply(state: &Directory, index: u64, command: DirectoryCommand) -> Directory {
        let mut changed = state.clone();
        changed.apply(index, command).expect("the test's commands fit");
        changed
    }

    fn with_node() -> Directory {
        let registration = Registration {
            node: "n".into(),
            facts: Some(NodeSpec::default()),
            service: None,
            checks: Vec::new(),
            replace_checks: false,
        };
        apply(
            &Directory::default(),
            1,
            DirectoryCommand::Register(Box::new(registration)),
        )
    }

    fn session(lock_delay_ns: u64) -> (SessionId, DirectoryCommand) {
        let id = SessionId(uuid::Uuid::from_u128(7));
        let new = NewSession {
            id,
            name: String::new(),
            node: "n".into(),
            lock_delay_ns,
            behavior: Behavior::Release,
            ttl: Some(Ttl {
                text: "10s".into(),
                millis: 10_000,
            }),
            node_checks: Vec::new(),
            service_checks: Vec::new(),
        };
        (id, DirectoryCommand::CreateSession(new))
    }

    #[test]
    fn a_session_ends_twice_its_ttl_after_its_last_renewal() {
        let empty = with_node();
        let (id, create) = session(0);
        let state = apply(&empty, 2, create);
        let mut timers = Timers::default();
        timers.begin(SECOND, &empty);
        timers.follow(2 * SECOND, &empty, &state);
        assert_eq!(timers.next(), Some(22 * SECOND));
        assert_eq!(timers.renew(20 * SECOND, &Timer::Session(id)), Renewal::Renewed);
        assert_eq!(timers.ended(39 * SECOND), []);
        assert_eq!(timers.ended(40 * SECOND), [Timer::Session(id)]);
        assert_eq!(timers.renew(40 * SECOND, &Timer::Session(id)), Renewal::Unknown);
        assert_eq!(timers.ended(50 * SECOND), [], "told once");
        timers.retry(50 * SECOND, &Timer::Session(id));
        assert_eq!(
            timers.ended(51 * SECOND),
            [Timer::Session(id)],
            "and again when it failed"
        );
        let gone = apply(&state, 3, DirectoryCommand::EndSessions(vec![id]));
        timers.follow(52 * SECOND, &state, &gone);
        assert_eq!((timers.next(), timers.sessions()), (None, 0));
    }

    #[test]
    fn a_new_leader_starts_everything_in_full() {
        let (id, create) = session(5_000_000_000);
        let mut state = apply(&with_node(), 2, create);
        let write = KvWrite {
            key: "k".into(),
            value: Vec::new().into(),
            flags: 0,
        };
        state = apply(&state, 3, DirectoryCommand::Kv(KvOp::Lock { write, session: id }));
        let mut timers = Timers::default();
        timers.begin(100 * SECOND, &state);
        assert_eq!(timers.next(), Some(120 * SECOND));
        let ended = apply(&state, 4, DirectoryCommand::EndSessions(vec![id]));
        timers.begin(200 * SECOND, &ended);
        assert_eq!(timers.next(), Some(205 * SECOND), "the lock-delay");
        assert_eq!(timers.ended(205 * SECOND), [Timer::Delay(1)]);
    }

    fn ttl_check(status: CheckStatus, output: &str) -> DirectoryCommand {
        let service = ServiceSpec {
            id: "web".into(),
            name: "web".into(),
            ..ServiceSpec::default()
        };
        let check = CheckSpec {
            id: "c".into(),
            name: "c".into(),
            notes: String::new(),
            status: Some(status),
            output: output.into(),
            service_id: Some("web".into()),
            definition: CheckDefinition {
                kind: CheckKind::Ttl { millis: 3000 },
                deregister_after_ms: Some(60_000),
                ..CheckDefinition::default()
            },
        };
        DirectoryCommand::Register(Box::new(Registration {
            node: "n".into(),
            facts: None,
            service: Some(service),
            checks: vec![check],
            replace_checks: false,
        }))
    }

    #[test]
    fn a_service_goes_when_its_check_has_been_critical_all_the_time() {
        let empty = with_node();
        let timer = |since| Timer::Deregister("n".into(), "c".into(), since);
        let passing = apply(&empty, 2, ttl_check(CheckStatus::Passing, ""));
        let critical = apply(&passing, 3, ttl_check(CheckStatus::Critical, ""));
        let louder = apply(&critical, 4, ttl_check(CheckStatus::Critical, "still"));
        let mut timers = Timers::default();
        timers.begin(Duration::ZERO, &passing);
        assert_eq!(timers.next(), Some(3 * SECOND), "the time to live alone");
        timers.follow(3 * SECOND, &passing, &critical);
        assert_eq!(timers.next(), Some(63 * SECOND));
        timers.follow(10 * SECOND, &critical, &louder);
        assert_eq!(timers.next(), Some(63 * SECOND), "what it says is not what it is");
        // It recovers and fails again between two looks.
        let recovered = apply(&louder, 5, ttl_check(CheckStatus::Passing, ""));
        let again = apply(&recovered, 6, ttl_check(CheckStatus::Critical, "again"));
        timers.follow(20 * SECOND, &louder, &again);
        assert_eq!(timers.ended(79 * SECOND), []);
        assert_eq!(timers.ended(80 * SECOND), [timer(6)]);
        // Another leader knows how long it has been critical, and not who saw it so.
        let mut next = Timers::default();
        next.begin(100 * SECOND, &again);
        assert_eq!(next.next(), Some(160 * SECOND));
        let after = apply(&again, 7, ttl_check(CheckStatus::Passing, ""));
        next.follow(101 * SECOND, &again, &after);
        assert_eq!(next.ended(1000 * SECOND), [Timer::Check("n".into(), "c".into())]);
    }

    #[test]
    fn checks_live_while_they_are_not_critical() {
        let check = |status| CheckSpec {
            id: "c".into(),
            name: "c".into(),
            notes: String::new(),
            status: Some(status),
            output: String::new(),
            service_id: None,
            definition: CheckDefinition {
                kind: CheckKind::Ttl { millis: 3000 },
                ..CheckDefinition::default()
            },
        };
        let register = |status| {
            DirectoryCommand::Register(Box::new(Registration {
                node: "n".into(),
                facts: None,
                service: None,
                checks: vec![check(status)],
                replace_checks: false,
            }))
        };
        let timer = Timer::Check("n".into(), "c".into());
        let empty = with_node();
        let critical = apply(&empty, 2, register(CheckStatus::Critical));
        let passing = apply(&critical, 3, register(CheckStatus::Passing));
        let warning = apply(&passing, 4, register(CheckStatus::Warning));
        let mut timers = Timers::default();
        timers.begin(Duration::ZERO, &critical);
        assert_eq!(timers.next(), None);
        timers.follow(SECOND, &critical, &passing);
        assert_eq!(timers.next(), Some(4 * SECOND));
        timers.follow(2 * SECOND, &passing, &warning);
        assert_eq!(
            timers.next(),
            Some(4 * SECOND),
            "a report renews; a mere change does not"
        );
        assert_eq!(timers.renew(2 * SECOND, &timer), Renewal::Renewed);
        assert_eq!(timers.next(), Some(5 * SECOND));
        timers.follow(3 * SECOND, &warning, &empty);
        assert_eq!(timers.next(), None);
    }
}
