//! What must hold after every step.

use std::collections::{BTreeMap, BTreeSet};

use conclave_catalog::NodeId;
use conclave_catalog::database::DatabaseState;

use super::wal::{Record, Wal};

/// What has been seen so far.
pub(super) struct Checks {
    /// The log that must survive: all that was acknowledged to a client or shown to one lies in it.
    pub(super) must: Record,
    /// Who acknowledged in an epoch.
    owners: BTreeMap<u64, NodeId>,
    /// The highest epoch of a committed rule whose primary has served, who that is, and the log that it had when it was first seen
    /// to.
    served: Option<(u64, NodeId, Record)>,
    /// The record that began each timeline.
    timelines: BTreeMap<u32, Record>,
    epochs: BTreeSet<u64>,
    /// Commits of the drivers themselves, by which they prove a quorum: nobody is told of them.
    markers: BTreeSet<Record>,
    /// How many commits were acknowledged.
    pub(super) acknowledged: u64,
    pub(super) broken: Option<String>,
}

impl Checks {
    pub(super) fn new() -> Self {
        Self {
            must: Wal::ROOT,
            owners: BTreeMap::new(),
            served: None,
            timelines: BTreeMap::new(),
            epochs: BTreeSet::new(),
            markers: BTreeSet::new(),
            acknowledged: 0,
            broken: None,
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    pub(super) fn marker(&mut self, record: Record) {
        self.markers.insert(record);
    }

    /// A primary has released a commit; a client may have been told.
    pub(super) fn released(&mut self, wal: &Wal, node: NodeId, epoch: Option<u64>, record: Record) {
        // Whoever waits behind a closed gate has been cut off and learns nothing.
        let Some(epoch) = epoch.filter(|_| !self.markers.contains(&record)) else {
            return;
        };
        self.acknowledged += 1;
        if wal.holds(self.must, record) {
            // What a manager had not yet relayed when it was stopped comes late, and is true: the commit survived.
            return;
        }
        if !wal.holds(record, self.must) {
            return self.fail(format!(
                "{node} acknowledges {record:?} in epoch {epoch}, and does not hold {:?}, which was acknowledged before",
                self.must
            ));
        }
        self.must = record;
        let owner = *self.owners.entry(epoch).or_insert(node);
        if owner != node {
            self.fail(format!("both {owner} and {node} acknowledge in epoch {epoch}"));
        }
        // A commit that was on its way when its primary was deposed may be told of late, too, if its successor began with it.
        if let Some((served, by, log)) = self.served
            && epoch < served
            && by != node
            && !wal.holds(log, record)
        {
            self.fail(format!(
                "{node} acknowledges in epoch {epoch}, and {by} has served in {served}"
            ));
        }
    }

    /// A client has read from an open primary.
    pub(super) fn shown(&mut self, wal: &Wal, node: NodeId, visible: Record) {
        if wal.holds(visible, self.must) {
            self.must = visible;
        } else if !wal.holds(self.must, visible) {
            self.fail(format!(
                "{node} shows {visible:?}, which was lost: {:?} is what must be",
                self.must
            ));
        }
    }

    /// A client was led to the primary of a committed rule, and that was open.
    pub(super) fn serves(&mut self, wal: &Wal, node: NodeId, epoch: u64, log: Record) {
        let served = self.served.map_or(0, |(served, ..)| served);
        if epoch < served {
            return;
        }
        if epoch > served {
            self.served = Some((epoch, node, log));
        }
        if !wal.holds(log, self.must) {
            self.fail(format!(
                "{node} serves in epoch {epoch} without {:?}, which was acknowledged",
                self.must
            ));
        }
    }

    pub(super) fn began_timeline(&mut self, timeline: u32, record: Record) {
        if self.timelines.insert(timeline, record).is_some() {
            self.fail(format!("timeline {timeline} was begun twice"));
        }
    }

    pub(super) fn committed(&mut self, before: &DatabaseState, after: &DatabaseState) {
        let epoch = |state: &DatabaseState| state.rule.as_ref().map_or(0, |rule| rule.epoch);
        if epoch(after) != epoch(before) && (epoch(after) < epoch(before) || !self.epochs.insert(epoch(after))) {
            self.fail(format!("epoch {} was used twice", epoch(after)));
        }
        if after.last_epoch < before.last_epoch || after.last_timeline < before.last_timeline {
            self.fail("a counter of the rule went back".into());
        }
    }

    pub(super) fn pledged(&mut self, node: NodeId, before: u64, after: u64) {
        if after < before {
            self.fail(format!("the pledge of {node} went back from {before} to {after}"));
        }
    }
}
