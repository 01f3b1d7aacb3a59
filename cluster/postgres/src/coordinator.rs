//! Decides who is primary: the pure core, run by whoever leads the Raft group.
//!
//! [`decide`] looks at the replicated facts and at what each node's driver says, and answers with the next actions. It
//! keeps nothing between calls: whatever a coordinator that died had begun stands in the replicated change and in the
//! drivers' pledges, and the next leader goes on from there. Actions are idempotent and carry the epoch.
//!
//! Safety rests on arithmetic alone. A commit is acknowledged when the primary and `acks` standbys have flushed it, which
//! is a majority of the cohort. A driver that has pledged to an epoch takes no more WAL from, and serves no client of, an
//! earlier one. So once a majority has pledged, the old primary gets no commit acknowledged any more, and the most
//! advanced of the pledged holds every commit that ever was.

use std::collections::{BTreeMap, BTreeSet};

use conclave_catalog::NodeId;
use conclave_catalog::database::{Candidate, ChangeKind, DatabaseCommand, DatabaseState, Lsn, Rule, RuleChange};
use serde::{Deserialize, Serialize};

/// Silence of a driver that is taken for the loss of its node, from the question on that it did not answer. Without news it
/// may take its time for a part of this.
const SILENCE_MS: u64 = 800;
/// How long a reachable primary may be without a running database before another takes over. Zero would turn the gap
/// between the start of a process and its first connection into a failover.
const DOWN_MS: u64 = 300;
/// How long a chosen candidate may take before the next attempt with another epoch.
const PROMOTION_MS: u64 = 10_000;
/// How long a majority is waited for before the one node that holds every commit by itself is taken.
const HOLDER_MS: u64 = 1_000;
/// How long the managers' own users may take to finish before a planned change cuts them off.
const HOLD_MS: u64 = 400;
/// How long a primary's clients may take to finish, and its successor to receive, before a planned change is given up.
const DRAIN_MS: u64 = 5_000;
/// A standby this close to the primary may enter the cohort.
const COHORT_LAG_BYTES: u64 = 16 << 20;

/// What a node's PostgreSQL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// No data directory.
    Empty,
    /// A data directory, and no running postmaster, or one that does not answer yet.
    Down,
    /// In recovery.
    Standby,
    /// Takes writes.
    Primary,
}

/// What a driver says of its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// What its PostgreSQL is.
    pub role: Role,
    /// The highest epoch that it has pledged to.
    pub pledge: u64,
    /// Whether its WAL position stands still because nothing feeds it: a pledge counts from then on.
    pub settled: bool,
    /// Its timeline.
    pub timeline: u32,
    /// The end of its WAL.
    pub lsn: Lsn,
    /// Standby: whether it receives WAL.
    pub streaming: bool,
    /// Primary: the epoch that it serves in, proven by a marker that the quorum of that epoch has acknowledged.
    pub serving: Option<u64>,
    /// Primary: the epoch in which it was told to let its clients finish, and where its log ends since they have.
    pub drained: Option<(u64, Lsn)>,
    /// The epoch of the planned change for which this node's own users hold back, once none of them is in the middle of
    /// something.
    pub quiet: Option<u64>,
    /// Where its current timeline left its parent, once promoted.
    pub switch_lsn: Option<Lsn>,
    /// PostgreSQL's system identifier.
    pub system_id: Option<String>,
}

/// What the coordinator knows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The last that its driver said.
    pub last: Option<Observation>,
    /// For how long it has not answered, in milliseconds; zero when it answers.
    pub silent_ms: u64,
    /// Whether the silence is certain to be an end: the connection was reset or refused.
    pub gone: bool,
    /// For how long its database has been down although it answers, in milliseconds.
    pub down_ms: u64,
}

impl Seen {
    fn answers(&self) -> Option<&Observation> {
        if self.silent_ms == 0 { self.last.as_ref() } else { None }
    }
}

/// All that a decision depends on.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The node that decides.
    pub me: NodeId,
    /// The replicated facts.
    pub facts: &'a DatabaseState,
    /// The Raft group's voters; `None` while they change.
    pub voters: Option<&'a BTreeSet<NodeId>>,
    /// What is known of the nodes.
    pub nodes: &'a BTreeMap<NodeId, Seen>,
    /// For how long the change under way has been as it is, in milliseconds.
    pub change_age_ms: u64,
}

/// What a driver is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Make a new database cluster, unless there is one.
    Initialize,
    /// Take nothing from, and serve nobody in, any epoch before this one.
    Pledge {
        /// The claimed epoch.
        epoch: u64,
    },
    /// Let this node's own users finish what they are at, and begin nothing new, until a rule of this epoch or a later one is in
    /// force. Known from the replicated change as well, a heartbeat later; it binds to nothing.
    Hold {
        /// The claimed epoch.
        epoch: u64,
    },
    /// As primary: let clients finish, take no more, and go on feeding the standbys.
    Drain {
        /// The claimed epoch.
        epoch: u64,
    },
    /// Receive WAL from that node.
    Follow {
        /// The claimed epoch.
        epoch: u64,
        /// The candidate.
        upstream: NodeId,
    },
    /// Become primary on a new timeline, and prove the quorum with a marker.
    Promote {
        /// The claimed epoch.
        epoch: u64,
        /// The timeline to start.
        timeline: u32,
        /// The cohort, this node among them.
        cohort: BTreeSet<NodeId>,
    },
    /// As primary: let another cohort acknowledge, and prove it with a marker.
    Regroup {
        /// The claimed epoch.
        epoch: u64,
        /// The new cohort.
        cohort: BTreeSet<NodeId>,
        /// The one that it takes the place of: that of the rule in which the epoch was claimed, which the primary may not know
        /// yet.
        leaving: BTreeSet<NodeId>,
    },
}

/// Something to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Commit a step in Raft.
    Propose(DatabaseCommand),
    /// Send an order to a node's driver.
    Order(NodeId, Order),
}

/// The next actions, none when everything is as it should be.
pub fn decide(view: &View<'_>) -> Vec<Action> {
    let Some(rule) = &view.facts.rule else {
        return bootstrap(view);
    };
    match &view.facts.change {
        None => watch(view, rule),
        Some(change) => match &change.kind {
            ChangeKind::Failover => failover(view, rule, change),
            ChangeKind::Switchover(to) => switchover(view, rule, change, *to),
            ChangeKind::Cohort(cohort) => regroup(view, rule, change, cohort),
        },
    }
}

fn observation<'a>(view: &View<'a>, node: NodeId) -> Option<&'a Observation> {
    view.nodes.get(&node).and_then(Seen::answers)
}

/// The founding node initializes; its system identifier makes the first rule.
fn bootstrap(view: &View<'_>) -> Vec<Action> {
    let Some(own) = observation(view, view.me) else {
        return Vec::new();
    };
    match &own.system_id {
        None => vec![Action::Order(view.me, Order::Initialize)],
        Some(system_id) => vec![Action::Propose(DatabaseCommand::Bootstrap {
            primary: view.me,
            system_id: system_id.clone(),
        })],
    }
}

/// No change is under way: is one needed?
fn watch(view: &View<'_>, rule: &Rule) -> Vec<Action> {
    if is_lost(view, rule.primary) {
        return claim_failover(view, rule);
    }
    let cohort = wanted_cohort(view, rule);
    if cohort == rule.cohort {
        return Vec::new();
    }
    claim(view, ChangeKind::Cohort(cohort))
}

fn claim(view: &View<'_>, kind: ChangeKind) -> Vec<Action> {
    vec![Action::Propose(DatabaseCommand::Claim {
        epoch: view.facts.last_epoch + 1,
        kind,
    })]
}

/// A primary alone has nobody to fail over to: its driver restarts it in place. Otherwise a majority has to be able to pledge, or
/// the claim would only stop a primary that may still serve. (A cohort of one without the primary is what recovering from a
/// lost majority leaves: the standby that goes on alone.)
fn claim_failover(view: &View<'_>, rule: &Rule) -> Vec<Action> {
    let able = rule.cohort.iter().filter(|id| can_be_recruited(view, **id)).count();
    let is_alone = rule.cohort.iter().all(|id| *id == rule.primary);
    if is_alone || able < rule.majority() {
        return Vec::new();
    }
    claim(view, ChangeKind::Failover)
}

fn can_be_recruited(view: &View<'_>, node: NodeId) -> bool {
    observation(view, node).is_some_and(|seen| seen.role == Role::Standby)
}

fn is_lost(view: &View<'_>, node: NodeId) -> bool {
    let down = view.nodes.get(&node).is_some_and(|seen| seen.down_ms >= DOWN_MS);
    is_out_of_reach(view, node) || down
}

/// Whether a node is gone or silent, or was removed: of every member something is known, if only its silence.
fn is_out_of_reach(view: &View<'_>, node: NodeId) -> bool {
    view.nodes
        .get(&node)
        .is_none_or(|seen| seen.gone || seen.silent_ms >= SILENCE_MS)
}

/// The Raft group's voters, as far as their standbys stream and are close. Nobody leaves the cohort for being away: a
/// majority of it stays enough, and shrinking it would only make the next loss fatal.
fn wanted_cohort(view: &View<'_>, rule: &Rule) -> BTreeSet<NodeId> {
    let (Some(voters), Some(primary)) = (view.voters, observation(view, rule.primary)) else {
        return rule.cohort.clone();
    };
    let ready = |id: &NodeId| {
        rule.cohort.contains(id)
            || observation(view, *id).is_some_and(|seen| {
                seen.role == Role::Standby
                    && seen.streaming
                    && primary.lsn.0.saturating_sub(seen.lsn.0) <= COHORT_LAG_BYTES
            })
    };
    let wanted_by_raft = voters.contains(&rule.primary) && voters.iter().all(ready);
    let settled = primary.serving == Some(rule.epoch);
    if wanted_by_raft && settled {
        voters.clone()
    } else {
        rule.cohort.clone()
    }
}

fn failover(view: &View<'_>, rule: &Rule, change: &RuleChange) -> Vec<Action> {
    match &change.candidate {
        None => recruit(view, rule, change.epoch, view.me),
        Some(candidate) => promote(view, rule, change.epoch, candidate),
    }
}

/// A planned failover: the primary lets its clients finish first, and the successor receives all that it wrote. From then on
/// it goes like any failover, with that node as the first among equals. Whoever is lost on the way makes it an unplanned one;
/// what cannot go on is given up, and the primary serves again.
fn switchover(view: &View<'_>, rule: &Rule, change: &RuleChange, to: NodeId) -> Vec<Action> {
    let epoch = change.epoch;
    if let Some(candidate) = &change.candidate {
        return promote(view, rule, epoch, candidate);
    }
    if is_lost(view, rule.primary) {
        return claim_failover(view, rule);
    }
    let Some(successor) = observation(view, to).filter(|seen| seen.role == Role::Standby) else {
        return claim(view, ChangeKind::Cohort(rule.cohort.clone()));
    };
    let drained = observation(view, rule.primary).and_then(|seen| seen.drained);
    let received = drained.is_some_and(|(drained, end)| drained == epoch && successor.lsn >= end);
    // The successor's pledge says that an earlier look saw it received: the primary may have been told to step down since.
    if received || successor.pledge >= epoch {
        return recruit(view, rule, epoch, to);
    }
    if view.change_age_ms > DRAIN_MS {
        return claim(view, ChangeKind::Cohort(rule.cohort.clone()));
    }
    let noisy = |(_, seen): &(&NodeId, &Seen)| seen.answers().is_some_and(|seen| seen.quiet != Some(epoch));
    let noisy: Vec<NodeId> = view.nodes.iter().filter(noisy).map(|(id, _)| *id).collect();
    if !noisy.is_empty() && view.change_age_ms < HOLD_MS {
        return noisy
            .into_iter()
            .map(|id| Action::Order(id, Order::Hold { epoch }))
            .collect();
    }
    vec![Action::Order(rule.primary, Order::Drain { epoch })]
}

/// Has the chosen one promoted and the others follow it, until it serves.
fn promote(view: &View<'_>, rule: &Rule, epoch: u64, candidate: &Candidate) -> Vec<Action> {
    let chosen = observation(view, candidate.node);
    if let Some(seen) = chosen
        && seen.serving == Some(epoch)
    {
        return vec![Action::Propose(DatabaseCommand::Commit {
            epoch,
            switch_lsn: seen.switch_lsn,
        })];
    }
    // Its promotion died after it had begun the timeline, or began another one: a number is never used twice.
    let spent = |seen: &Observation| match seen.role {
        Role::Standby => seen.timeline >= candidate.timeline,
        Role::Primary => seen.pledge == epoch && seen.timeline != candidate.timeline,
        Role::Empty => true,
        Role::Down => false,
    };
    let unable = chosen.is_some_and(|seen| seen.pledge > epoch || spent(seen));
    // A candidate that is promoted waits for its quorum. Another attempt helps only if it could do without this one; else it would
    // cut off, time after time, those who are being brought back in order to acknowledge.
    let promoted = chosen.is_some_and(|seen| seen.role == Role::Primary && seen.timeline == candidate.timeline);
    let others = rule.cohort.iter().filter(|id| **id != candidate.node);
    let replaceable = others.filter(|id| can_be_recruited(view, **id)).count() >= rule.majority();
    let late = view.change_age_ms > PROMOTION_MS && (!promoted || replaceable);
    // The candidate may be the primary of the rule in force, which is in recovery now because it was told to.
    if is_out_of_reach(view, candidate.node) || unable || late {
        return claim(view, ChangeKind::Failover);
    }
    let promote = Order::Promote {
        epoch,
        timeline: candidate.timeline,
        cohort: rule.cohort.clone(),
    };
    let follow = Order::Follow {
        epoch,
        upstream: candidate.node,
    };
    let followers = rule
        .cohort
        .iter()
        .filter(|id| **id != candidate.node && observation(view, **id).is_some());
    std::iter::once(Action::Order(candidate.node, promote))
        .chain(followers.map(|id| Action::Order(*id, follow.clone())))
        .collect()
}

/// Asks for pledges until a majority of the cohort has given them, then chooses the most advanced: by timeline first,
/// because a later timeline holds what an earlier one acknowledged, then by position. Ties go to the preferred node (unplanned:
/// the one that leads the Raft group, so that an operator finds leader and primary in one place), then to the lower id.
fn recruit(view: &View<'_>, rule: &Rule, epoch: u64, preferred: NodeId) -> Vec<Action> {
    let pledged: Vec<(NodeId, &Observation)> = rule
        .cohort
        .iter()
        .filter_map(|id| observation(view, *id).map(|seen| (*id, seen)))
        .filter(|(_, seen)| seen.pledge == epoch && seen.settled && seen.role == Role::Standby)
        .collect();
    let best = pledged
        .iter()
        .max_by_key(|(id, seen)| (seen.timeline, seen.lsn, *id == preferred, std::cmp::Reverse(*id)));
    // Too few may be left that hold anything: two are being rewound when the one that they are to follow stumbles. Then the one whose
    // log holds every commit by itself will do, once it has pledged: nobody else could get a commit acknowledged.
    let holder = pledged.iter().find(|(id, _)| view.facts.holder() == Some(*id));
    let best = if pledged.len() >= rule.majority() {
        best
    } else {
        holder.filter(|_| view.change_age_ms > HOLDER_MS)
    };
    if let Some((node, seen)) = best {
        let choose = DatabaseCommand::Choose {
            epoch,
            node: *node,
            parent: seen.timeline,
            at: seen.lsn,
        };
        return vec![Action::Propose(choose)];
    }
    if rule
        .cohort
        .iter()
        .any(|id| observation(view, *id).is_some_and(|seen| seen.pledge > epoch))
    {
        // A pledge to a later epoch than the replicated one: a claim was applied that this view does not show yet.
        return Vec::new();
    }
    rule.cohort
        .iter()
        .filter(|id| observation(view, **id).is_some_and(|seen| seen.pledge < epoch || seen.drained.is_some()))
        .map(|id| Action::Order(*id, Order::Pledge { epoch }))
        .collect()
}

fn regroup(view: &View<'_>, rule: &Rule, change: &RuleChange, cohort: &BTreeSet<NodeId>) -> Vec<Action> {
    if is_lost(view, rule.primary) {
        return claim_failover(view, rule);
    }
    match observation(view, rule.primary) {
        Some(primary) if primary.serving == Some(change.epoch) => {
            vec![Action::Propose(DatabaseCommand::Commit {
                epoch: change.epoch,
                switch_lsn: None,
            })]
        }
        _ if view.change_age_ms > PROMOTION_MS && wanted_cohort(view, rule) != *cohort => {
            claim(view, ChangeKind::Cohort(wanted_cohort(view, rule)))
        }
        _ => {
            let regroup = Order::Regroup {
                epoch: change.epoch,
                cohort: cohort.clone(),
                leaving: rule.cohort.clone(),
            };
            // Who has pledged to a change that was given up is fed by nobody since, and may be needed to acknowledge this one.
            let follow = Order::Follow {
                epoch: change.epoch,
                upstream: rule.primary,
            };
            let waits = |seen: &Observation| rule.epoch < seen.pledge && seen.pledge < change.epoch;
            let waiting = rule
                .cohort
                .union(cohort)
                .filter(|id| **id != rule.primary && observation(view, **id).is_some_and(waits));
            std::iter::once(Action::Order(rule.primary, regroup))
                .chain(waiting.map(|id| Action::Order(*id, follow.clone())))
                .collect()
        }
    }
}
