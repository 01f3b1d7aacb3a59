//! The PostgreSQL rule: who is primary, in which epoch, on which timeline, and who acknowledges.
//!
//! A rule is changed in steps, each a command: an epoch is claimed, then (for a failover) a candidate is chosen and a
//! timeline allocated for it, then the rule is committed. Epochs and timelines only grow and are never used twice; a
//! command that carries an epoch other than the claimed one changes nothing. What happens between the steps is the
//! coordinator's business (`cluster/postgres`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// A position in the write-ahead log, in bytes. Shown as PostgreSQL shows it: `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// The text is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no LSN; one looks like 16/B374D848")]
pub struct MalformedLsn(pub String);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl std::str::FromStr for Lsn {
    type Err = MalformedLsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || MalformedLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(malformed)?;
        let part = |part: &str| u32::from_str_radix(part, 16).map(u64::from).map_err(|_| malformed());
        Ok(Self(part(high)? << 32 | part(low)?))
    }
}

/// Who is primary and what a commit needs. In force from the moment that it is committed in Raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Grows with each rule; an order that carries a lower one is refused everywhere.
    pub epoch: u64,
    /// The node whose PostgreSQL takes writes.
    pub primary: NodeId,
    /// The nodes that hold acknowledged commits, the primary among them.
    pub cohort: BTreeSet<NodeId>,
    /// How many standbys acknowledge a commit: `floor(cohort / 2)`.
    pub acks: u32,
    /// The primary's timeline. Allocated in Raft and never used twice.
    pub timeline: u32,
    /// Where this timeline left its parent; zero for the first.
    pub switch_lsn: Lsn,
}

impl Rule {
    /// How many standbys of a cohort of `size` acknowledge a commit, so that it is on a majority with the primary.
    pub fn acks_of(size: usize) -> u32 {
        u32::try_from(size / 2).unwrap_or(u32::MAX)
    }

    /// How many members of the cohort are a majority: as many hold every acknowledged commit in at least one place.
    pub fn majority(&self) -> usize {
        self.cohort.len() / 2 + 1
    }
}

/// What a change of the rule is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// Another primary, with the same cohort.
    Failover,
    /// This node as primary, with the same cohort, after the present one has let its clients finish.
    Switchover(NodeId),
    /// Another cohort, with the same primary.
    Cohort(BTreeSet<NodeId>),
}

/// Who is to become primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// The timeline that it is to start.
    pub timeline: u32,
    /// The timeline that it leaves.
    pub parent: u32,
    /// Where it leaves it, as far as was known when it was chosen.
    pub switch_lsn: Lsn,
}

/// A change of the rule that has been claimed and not committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleChange {
    /// The epoch that it will have.
    pub epoch: u64,
    /// What it is for.
    pub kind: ChangeKind,
    /// Failover: who was chosen, once the majority has pledged.
    pub candidate: Option<Candidate>,
}

/// A switch from one timeline to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// The new timeline.
    pub timeline: u32,
    /// The old one.
    pub parent: u32,
    /// Where it branched off.
    pub switch_lsn: Lsn,
    /// The epoch that it happened in.
    pub epoch: u64,
    /// Who started it.
    pub primary: NodeId,
}

/// The replicated facts about the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseState {
    /// PostgreSQL's system identifier: a data directory with another one never joins.
    pub system_id: Option<String>,
    /// The rule in force.
    pub rule: Option<Rule>,
    /// The change that has been claimed, if one is under way.
    pub change: Option<RuleChange>,
    /// The highest epoch ever claimed.
    pub last_epoch: u64,
    /// The highest timeline ever allocated.
    pub last_timeline: u32,
    /// Who was chosen last, as long as the primary of the rule in force has not been let go on since.
    #[serde(default)]
    pub chosen: Option<NodeId>,
    /// The switches of committed rules, oldest first; the last [`HISTORY_KEPT`].
    pub history: Vec<TimelineSwitch>,
}

/// How many timeline switches are remembered. A node that missed more is cloned anew.
pub const HISTORY_KEPT: usize = 1000;

/// A step of a change of the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DatabaseCommand {
    /// The first rule: a cohort of one.
    Bootstrap {
        /// The founding primary.
        primary: NodeId,
        /// Its system identifier.
        system_id: String,
    },
    /// Claims the next epoch for a change. It takes the place of a change that was under way; once that has a candidate, who may
    /// be primary already, only a failover does.
    Claim {
        /// Must be the highest claimed epoch plus one.
        epoch: u64,
        /// What for.
        kind: ChangeKind,
    },
    /// Claims the next epoch for a planned change of the primary, whatever that epoch is: an operator's wish.
    Switchover {
        /// The node that is to be primary.
        to: NodeId,
    },
    /// Settles who is promoted and allocates the timeline.
    Choose {
        /// The claimed epoch.
        epoch: u64,
        /// The most advanced of the pledged.
        node: NodeId,
        /// Its timeline.
        parent: u32,
        /// Its position.
        at: Lsn,
    },
    /// Puts the changed rule in force.
    Commit {
        /// The claimed epoch.
        epoch: u64,
        /// Failover: where the new timeline really left its parent.
        switch_lsn: Option<Lsn>,
    },
}

/// Why a change of the rule was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DatabaseRefusal {
    /// A second bootstrap.
    #[error("the database has been bootstrapped already")]
    AlreadyBootstrapped,
    /// A change before the bootstrap.
    #[error("the database has not been bootstrapped yet")]
    NotBootstrapped,
    /// Somebody else claimed an epoch meanwhile.
    #[error("epoch {given} does not fit: the highest claimed one is {known}")]
    Superseded {
        /// What the command carried.
        given: u64,
        /// The highest claimed.
        known: u64,
    },
    /// A planned change waits until an unplanned one is over.
    #[error("a change of the rule is under way in epoch {0}: wait until it is over, then try again")]
    ChangeUnderWay(u64),
    /// Only a standby that acknowledges commits can be made primary.
    #[error("node {0} is no standby of the cohort: see `conclave cluster status`")]
    NoStandby(NodeId),
    /// The step does not belong to the kind of change, or comes too early.
    #[error("step {step} does not fit the change that is under way in epoch {epoch}")]
    OutOfOrder {
        /// Which step.
        step: String,
        /// The claimed epoch.
        epoch: u64,
    },
}

/// How the end of a node's log stands to the timeline that it is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// It holds nothing that the timeline does not hold.
    Prefix,
    /// It goes on where the timeline does not: what is beyond was never acknowledged and has to be undone.
    Diverged,
    /// The switches that would tell are no longer remembered.
    Unknown,
}

impl DatabaseState {
    /// The node whose log holds every commit that a client was told of, by itself: the primary of the rule in force, which alone is
    /// led to, or whoever was chosen in its place from a majority since then.
    pub fn holder(&self) -> Option<NodeId> {
        self.chosen.or(self.rule.as_ref().map(|rule| rule.primary))
    }

    /// The epoch since which the node is primary without a break; where it is not primary, that of the next rule at the earliest. Whoever
    /// is led to it by an older rule means what it was in an earlier time, and may hold an answer of another primary to be the
    /// latest.
    pub fn primary_since(&self, node: NodeId) -> u64 {
        match (&self.rule, self.history.last()) {
            (Some(rule), Some(switch)) if rule.primary == node && switch.primary == node => switch.epoch,
            (Some(rule), _) if rule.primary != node => rule.epoch + 1,
            _ => 1,
        }
    }

    /// How a log that ends at `end` on `timeline` stands to the timeline of the primary of that epoch: the one in force, or the one
    /// that is about to be. Of any other epoch nothing is known: an order that names its primary may be older or newer than
    /// what has come here, and a log is not to be undone for that.
    pub fn lineage(&self, epoch: u64, timeline: u32, end: Lsn) -> Lineage {
        let Some(rule) = &self.rule else {
            return Lineage::Unknown;
        };
        let change = self.change.as_ref().filter(|change| change.epoch == epoch);
        let coming = change.and_then(|change| change.candidate.as_ref());
        let same_primary = change.is_some_and(|change| matches!(change.kind, ChangeKind::Cohort(_)));
        if coming.is_none() && epoch != rule.epoch && !same_primary {
            return Lineage::Unknown;
        }
        let mut current = coming.map_or(rule.timeline, |candidate| candidate.timeline);
        // Each step leads to a lower timeline.
        while current > timeline {
            let coming = coming.filter(|candidate| candidate.timeline == current);
            let known = self.history.iter().rev().find(|switch| switch.timeline == current);
            let switch = coming.map(|candidate| (candidate.parent, candidate.switch_lsn));
            let Some((parent, at)) = switch.or(known.map(|switch| (switch.parent, switch.switch_lsn))) else {
                return Lineage::Unknown;
            };
            if parent == timeline {
                return if end > at { Lineage::Diverged } else { Lineage::Prefix };
            }
            current = parent;
        }
        if current == timeline {
            Lineage::Prefix
        } else {
            // A timeline of a promotion that was abandoned.
            Lineage::Diverged
        }
    }

    /// The rest of the cohort is lost for ever: this node alone holds what is left of what was acknowledged. If it is not the
    /// primary, it is promoted by the next failover, which needs no other node.
    pub(crate) fn carry_on_alone(&mut self, me: NodeId) {
        let Some(rule) = &mut self.rule else { return };
        self.last_epoch += 1;
        rule.epoch = self.last_epoch;
        rule.cohort = BTreeSet::from([me]);
        rule.acks = 0;
        self.change = None;
        self.chosen = (rule.primary != me).then_some(me);
    }

    /// A database was brought back from a backup on this node, which alone holds it: whatever was agreed about another one, or about
    /// what this one had become, is over. Its timeline is above all that were ever used.
    pub(crate) fn restored(&mut self, me: NodeId, system_id: String, timeline: u32) {
        self.last_epoch += 1;
        let rule = Rule {
            epoch: self.last_epoch,
            primary: me,
            cohort: BTreeSet::from([me]),
            acks: 0,
            timeline,
            switch_lsn: Lsn(0),
        };
        *self = Self {
            system_id: Some(system_id),
            rule: Some(rule),
            last_epoch: self.last_epoch,
            last_timeline: timeline.max(self.last_timeline),
            ..Self::default()
        };
    }

    /// Applies one step.
    ///
    /// # Errors
    /// When the step does not fit the state; nothing is changed then.
    pub fn apply(&mut self, command: DatabaseCommand) -> Result<(), DatabaseRefusal> {
        match command {
            DatabaseCommand::Bootstrap { primary, system_id } => self.bootstrap(primary, system_id),
            DatabaseCommand::Claim { epoch, kind } => self.claim(epoch, kind),
            DatabaseCommand::Switchover { to } => self.claim(self.last_epoch + 1, ChangeKind::Switchover(to)),
            DatabaseCommand::Choose {
                epoch,
                node,
                parent,
                at,
            } => self.choose(epoch, node, parent, at),
            DatabaseCommand::Commit { epoch, switch_lsn } => self.commit(epoch, switch_lsn),
        }
    }

    fn bootstrap(&mut self, primary: NodeId, system_id: String) -> Result<(), DatabaseRefusal> {
        if self.rule.is_some() {
            return Err(DatabaseRefusal::AlreadyBootstrapped);
        }
        let cohort = BTreeSet::from([primary]);
        self.rule = Some(Rule {
            epoch: 1,
            primary,
            cohort,
            acks: 0,
            timeline: 1,
            switch_lsn: Lsn(0),
        });
        self.system_id = Some(system_id);
        self.last_epoch = 1;
        self.last_timeline = 1;
        Ok(())
    }

    fn claim(&mut self, epoch: u64, kind: ChangeKind) -> Result<(), DatabaseRefusal> {
        if self.rule.is_none() {
            return Err(DatabaseRefusal::NotBootstrapped);
        }
        if epoch != self.last_epoch + 1 {
            return Err(DatabaseRefusal::Superseded {
                given: epoch,
                known: self.last_epoch,
            });
        }
        // A choice leaves the epoch as it is: a claim that was decided on before it may come after it.
        let chosen = self.change.as_ref().filter(|change| change.candidate.is_some());
        if let (ChangeKind::Cohort(_), Some(change)) = (&kind, chosen) {
            return Err(DatabaseRefusal::OutOfOrder {
                step: "claim".into(),
                epoch: change.epoch,
            });
        }
        if let (ChangeKind::Switchover(node), Some(rule)) = (&kind, &self.rule) {
            if self.change.is_some() {
                return Err(DatabaseRefusal::ChangeUnderWay(epoch - 1));
            }
            if rule.primary == *node || !rule.cohort.contains(node) {
                return Err(DatabaseRefusal::NoStandby(*node));
            }
        }
        self.last_epoch = epoch;
        if matches!(kind, ChangeKind::Cohort(_)) {
            // The primary goes on, and takes commits that nobody else holds all of.
            self.chosen = None;
        }
        self.change = Some(RuleChange {
            epoch,
            kind,
            candidate: None,
        });
        Ok(())
    }

    fn claimed(&mut self, epoch: u64) -> Result<&mut RuleChange, DatabaseRefusal> {
        let known = self.last_epoch;
        let superseded = DatabaseRefusal::Superseded { given: epoch, known };
        self.change
            .as_mut()
            .filter(|change| change.epoch == epoch)
            .ok_or(superseded)
    }

    fn choose(&mut self, epoch: u64, node: NodeId, parent: u32, at: Lsn) -> Result<(), DatabaseRefusal> {
        let timeline = self.last_timeline + 1;
        let change = self.claimed(epoch)?;
        if matches!(change.kind, ChangeKind::Cohort(_)) || change.candidate.is_some() {
            return Err(DatabaseRefusal::OutOfOrder {
                step: "choose".into(),
                epoch,
            });
        }
        change.candidate = Some(Candidate {
            node,
            timeline,
            parent,
            switch_lsn: at,
        });
        self.last_timeline = timeline;
        self.chosen = Some(node);
        Ok(())
    }

    fn commit(&mut self, epoch: u64, switch_lsn: Option<Lsn>) -> Result<(), DatabaseRefusal> {
        let change = self.claimed(epoch)?.clone();
        let out_of_order = || DatabaseRefusal::OutOfOrder {
            step: "commit".into(),
            epoch,
        };
        let rule = self.rule.as_mut().ok_or(DatabaseRefusal::NotBootstrapped)?;
        match change.kind {
            ChangeKind::Cohort(cohort) => {
                rule.acks = Rule::acks_of(cohort.len());
                rule.cohort = cohort;
            }
            ChangeKind::Failover | ChangeKind::Switchover(_) => {
                let candidate = change.candidate.ok_or_else(out_of_order)?;
                let switch_lsn = switch_lsn.unwrap_or(candidate.switch_lsn);
                rule.primary = candidate.node;
                rule.timeline = candidate.timeline;
                rule.switch_lsn = switch_lsn;
                self.history.push(TimelineSwitch {
                    timeline: candidate.timeline,
                    parent: candidate.parent,
                    switch_lsn,
                    epoch,
                    primary: candidate.node,
                });
                let surplus = self.history.len().saturating_sub(HISTORY_KEPT);
                self.history.drain(..surplus);
            }
        }
        rule.epoch = epoch;
        self.chosen = None;
        self.change = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bootstrapped() -> DatabaseState {
        let mut state = DatabaseState::default();
        state
            .apply(DatabaseCommand::Bootstrap {
                primary: NodeId(1),
                system_id: "7".into(),
            })
            .unwrap();
        state
    }

    #[test]
    fn lsns_read_as_postgres_shows_them() {
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert!("16B374D848".parse::<Lsn>().is_err());
        assert!("1/123456789".parse::<Lsn>().is_err());
    }

    #[test]
    fn a_failover_goes_claim_choose_commit() {
        let mut state = bootstrapped();
        let cohort = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
        state
            .apply(DatabaseCommand::Claim {
                epoch: 2,
                kind: ChangeKind::Cohort(cohort.clone()),
            })
            .unwrap();
        state
            .apply(DatabaseCommand::Commit {
                epoch: 2,
                switch_lsn: None,
            })
            .unwrap();
        assert_eq!(state.rule.as_ref().map(|rule| (rule.acks, rule.epoch)), Some((1, 2)));
        assert_eq!(state.primary_since(NodeId(1)), 1, "another cohort is no break");
        state
            .apply(DatabaseCommand::Claim {
                epoch: 3,
                kind: ChangeKind::Failover,
            })
            .unwrap();
        assert!(
            state
                .apply(DatabaseCommand::Commit {
                    epoch: 3,
                    switch_lsn: None
                })
                .is_err()
        );
        state
            .apply(DatabaseCommand::Choose {
                epoch: 3,
                node: NodeId(2),
                parent: 1,
                at: Lsn(5),
            })
            .unwrap();
        state
            .apply(DatabaseCommand::Commit {
                epoch: 3,
                switch_lsn: Some(Lsn(6)),
            })
            .unwrap();
        let rule = state.rule.clone().unwrap();
        assert_eq!(
            (rule.primary, rule.timeline, rule.switch_lsn, rule.cohort),
            (NodeId(2), 2, Lsn(6), cohort)
        );
        assert_eq!(state.history.len(), 1);
        assert_eq!([1, 2].map(|node| state.primary_since(NodeId(node))), [4, 3]);
    }

    #[test]
    fn a_candidate_gives_way_to_a_failover_alone() {
        let mut state = bootstrapped();
        let claim = |epoch, kind| DatabaseCommand::Claim { epoch, kind };
        state.apply(claim(2, ChangeKind::Failover)).unwrap();
        let choose = DatabaseCommand::Choose {
            epoch: 2,
            node: NodeId(2),
            parent: 1,
            at: Lsn(5),
        };
        state.apply(choose).unwrap();
        let before = state.clone();
        let cohort = ChangeKind::Cohort(BTreeSet::from([NodeId(1)]));
        let refused = state.apply(claim(3, cohort)).unwrap_err();
        assert!(
            matches!(refused, DatabaseRefusal::OutOfOrder { epoch: 2, .. }),
            "{refused}"
        );
        assert_eq!(state, before);
        state.apply(claim(3, ChangeKind::Failover)).unwrap();
        assert_eq!(
            state.holder(),
            Some(NodeId(2)),
            "what was chosen holds every commit still"
        );
    }

    #[test]
    fn an_abandoned_promotion_leaves_its_timeline_unused() {
        let mut state = bootstrapped();
        state
            .apply(DatabaseCommand::Claim {
                epoch: 2,
                kind: ChangeKind::Failover,
            })
            .unwrap();
        state
            .apply(DatabaseCommand::Choose {
                epoch: 2,
                node: NodeId(2),
                parent: 1,
                at: Lsn(5),
            })
            .unwrap();
        state
            .apply(DatabaseCommand::Claim {
                epoch: 3,
                kind: ChangeKind::Failover,
            })
            .unwrap();
        assert!(
            state
                .apply(DatabaseCommand::Commit {
                    epoch: 2,
                    switch_lsn: None
                })
                .is_err()
        );
        state
            .apply(DatabaseCommand::Choose {
                epoch: 3,
                node: NodeId(3),
                parent: 1,
                at: Lsn(5),
            })
            .unwrap();
        let timeline = state
            .change
            .and_then(|change| change.candidate)
            .map(|candidate| candidate.timeline);
        assert_eq!(timeline, Some(3));
    }

    #[test]
    fn a_log_is_judged_by_the_switches_that_led_to_the_primary() {
        let switch = |timeline, parent, at| TimelineSwitch {
            timeline,
            parent,
            switch_lsn: Lsn(at),
            epoch: u64::from(timeline),
            primary: NodeId(1),
        };
        let mut state = bootstrapped();
        // Timeline 3 was abandoned; 4 left 2 where 2 had come to.
        state.history = vec![switch(2, 1, 100), switch(4, 2, 200)];
        state.rule.as_mut().unwrap().timeline = 4;
        assert_eq!(state.lineage(1, 4, Lsn(900)), Lineage::Prefix);
        assert_eq!(state.lineage(1, 2, Lsn(200)), Lineage::Prefix);
        assert_eq!(state.lineage(1, 2, Lsn(201)), Lineage::Diverged);
        assert_eq!(state.lineage(1, 1, Lsn(99)), Lineage::Prefix);
        assert_eq!(state.lineage(1, 1, Lsn(101)), Lineage::Diverged);
        assert_eq!(state.lineage(1, 3, Lsn(150)), Lineage::Diverged);
        state.history.remove(0);
        assert_eq!(state.lineage(1, 1, Lsn(99)), Lineage::Unknown);
        state.change = Some(RuleChange {
            epoch: 9,
            kind: ChangeKind::Failover,
            candidate: Some(Candidate {
                node: NodeId(2),
                timeline: 5,
                parent: 4,
                switch_lsn: Lsn(300),
            }),
        });
        assert_eq!(
            state.lineage(9, 4, Lsn(301)),
            Lineage::Diverged,
            "the promotion under way counts for those who follow it"
        );
        assert_eq!(state.lineage(1, 4, Lsn(301)), Lineage::Prefix, "and for nobody else");
        assert_eq!(
            state.lineage(8, 5, Lsn(301)),
            Lineage::Unknown,
            "of a change that was given up nothing is known"
        );
    }

    fn commands() -> impl Strategy<Value = DatabaseCommand> {
        let node = (1..4u64).prop_map(NodeId);
        prop_oneof![
            (node.clone()).prop_map(|primary| DatabaseCommand::Bootstrap {
                primary,
                system_id: "7".into()
            }),
            (
                1..12u64,
                prop::collection::btree_set(node.clone(), 1..4),
                0..3u8,
                node.clone()
            )
                .prop_map(|(epoch, cohort, kind, node)| {
                    let kind = match kind {
                        0 => ChangeKind::Failover,
                        1 => ChangeKind::Switchover(node),
                        _ => ChangeKind::Cohort(cohort),
                    };
                    DatabaseCommand::Claim { epoch, kind }
                }),
            (1..12u64, node, 1..5u32).prop_map(|(epoch, node, parent)| DatabaseCommand::Choose {
                epoch,
                node,
                parent,
                at: Lsn(9)
            }),
            (1..12u64).prop_map(|epoch| DatabaseCommand::Commit {
                epoch,
                switch_lsn: None
            }),
        ]
    }

    proptest! {
        #[test]
        fn epochs_and_timelines_only_grow(commands in prop::collection::vec(commands(), 0..60)) {
            let mut state = DatabaseState::default();
            let mut timelines = BTreeSet::new();
            for command in commands {
                let before = state.clone();
                if state.apply(command).is_err() {
                    prop_assert_eq!(&state, &before, "a refused step changes nothing");
                    continue;
                }
                prop_assert!(state.last_epoch >= before.last_epoch);
                let epoch = |state: &DatabaseState| state.rule.as_ref().map(|rule| rule.epoch);
                prop_assert!(epoch(&state) >= epoch(&before));
                if state.history.len() > before.history.len() {
                    let switch = state.history.last().cloned().unwrap();
                    prop_assert!(timelines.insert(switch.timeline), "a timeline was used twice");
                }
            }
        }
    }
}
