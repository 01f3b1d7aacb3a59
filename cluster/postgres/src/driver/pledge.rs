//! What this node has promised, on disk before it is answered.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use conclave_catalog::NodeId;
use conclave_catalog::database::Rule;
use serde::{Deserialize, Serialize};

use crate::DatabaseError;
use crate::coordinator::Order;

/// The highest epoch that this node has pledged to, and what it was told to do in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pledge {
    pub(crate) epoch: u64,
    pub(crate) order: Option<Order>,
}

/// What this node's PostgreSQL is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Nothing is known yet.
    Wait,
    /// A new database cluster.
    Initialize,
    /// Primary whose clients finish, and that takes no more of them.
    Drain { epoch: u64 },
    /// In recovery, fed by that node or by nobody.
    Standby { epoch: u64, upstream: Option<NodeId> },
    /// Primary on a new timeline.
    Promote {
        epoch: u64,
        timeline: u32,
        cohort: BTreeSet<NodeId>,
    },
    /// Primary as it is. While the cohort changes, the one that is left acknowledges as well.
    Primary {
        epoch: u64,
        cohort: BTreeSet<NodeId>,
        leaving: Option<BTreeSet<NodeId>>,
    },
}

impl Pledge {
    /// Takes an order: `true` when it changes what this node has to do, `false` when it is an old or repeated one.
    pub(crate) fn accept(&mut self, order: &Order) -> bool {
        let epoch = match order {
            // It binds to nothing.
            Order::Hold { .. } => return false,
            Order::Initialize => 0,
            Order::Pledge { epoch }
            | Order::Drain { epoch }
            | Order::Follow { epoch, .. }
            | Order::Promote { epoch, .. }
            | Order::Regroup { epoch, .. } => *epoch,
        };
        // In an epoch the orders go: drain, pledge, follow or promote. An earlier one that comes late must not undo a later one.
        let stage = |order: &Order| match order {
            Order::Drain { .. } => 0,
            Order::Pledge { .. } => 1,
            _ => 2,
        };
        let late = epoch == self.epoch && self.order.as_ref().is_some_and(|known| stage(order) < stage(known));
        if epoch < self.epoch || late || self.order.as_ref() == Some(order) {
            return false;
        }
        *self = Self {
            epoch,
            order: Some(order.clone()),
        };
        true
    }

    /// What follows from the pledge and the rule in force, whichever is newer.
    pub(crate) fn goal(&self, rule: Option<&Rule>, me: NodeId) -> Goal {
        let in_force = rule.map_or(0, |rule| rule.epoch);
        let order = self.order.as_ref().filter(|_| self.epoch > in_force || rule.is_none());
        match (order, rule) {
            (Some(Order::Initialize), _) => Goal::Initialize,
            (Some(Order::Pledge { epoch }), _) => Goal::Standby {
                epoch: *epoch,
                upstream: None,
            },
            (Some(Order::Drain { epoch }), Some(rule)) if rule.primary == me => Goal::Drain { epoch: *epoch },
            (Some(Order::Follow { epoch, upstream }), _) => Goal::Standby {
                epoch: *epoch,
                upstream: Some(*upstream),
            },
            (
                Some(Order::Promote {
                    epoch,
                    timeline,
                    cohort,
                }),
                _,
            ) => Goal::Promote {
                epoch: *epoch,
                timeline: *timeline,
                cohort: cohort.clone(),
            },
            (Some(Order::Regroup { epoch, cohort, leaving }), _) => Goal::Primary {
                epoch: *epoch,
                cohort: cohort.clone(),
                leaving: Some(leaving.clone()),
            },
            (None, Some(rule)) if rule.primary == me => Goal::Primary {
                epoch: rule.epoch,
                cohort: rule.cohort.clone(),
                leaving: None,
            },
            (None | Some(Order::Drain { .. } | Order::Hold { .. }), Some(rule)) => Goal::Standby {
                epoch: rule.epoch,
                upstream: Some(rule.primary),
            },
            (None | Some(Order::Drain { .. } | Order::Hold { .. }), None) => Goal::Wait,
        }
    }
}

/// The pledge's file.
#[derive(Debug, Clone)]
pub(crate) struct PledgeFile(pub(crate) PathBuf);

impl PledgeFile {
    pub(crate) fn read(&self) -> Result<Pledge, DatabaseError> {
        match std::fs::read(&self.0) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| DatabaseError::file("read", &self.0)(std::io::Error::other(error))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Pledge::default()),
            Err(error) => Err(DatabaseError::file("read", &self.0)(error)),
        }
    }

    /// Returns once it would survive a power cut.
    pub(crate) fn write(&self, pledge: &Pledge) -> Result<(), DatabaseError> {
        let write = || {
            let temporary = self.0.with_extension("new");
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(pledge)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.0)?;
            std::fs::File::open(self.0.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        write().map_err(DatabaseError::file("write", &self.0))
    }
}

#[cfg(test)]
mod tests {
    use conclave_catalog::database::Lsn;

    use super::*;

    fn rule(epoch: u64, primary: u64) -> Rule {
        let cohort = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
        Rule {
            epoch,
            primary: NodeId(primary),
            cohort,
            acks: 1,
            timeline: 1,
            switch_lsn: Lsn(0),
        }
    }

    #[test]
    fn an_older_order_changes_nothing() {
        let mut pledge = Pledge::default();
        assert!(pledge.accept(&Order::Pledge { epoch: 5 }));
        assert!(!pledge.accept(&Order::Pledge { epoch: 5 }));
        assert!(!pledge.accept(&Order::Follow {
            epoch: 4,
            upstream: NodeId(2)
        }));
        assert!(pledge.accept(&Order::Follow {
            epoch: 5,
            upstream: NodeId(2)
        }));
        assert!(
            !pledge.accept(&Order::Pledge { epoch: 5 }),
            "a late repetition must not undo what came after it"
        );
        assert_eq!(pledge.epoch, 5);
        assert!(pledge.accept(&Order::Drain { epoch: 6 }));
        assert!(pledge.accept(&Order::Pledge { epoch: 6 }));
        assert!(!pledge.accept(&Order::Drain { epoch: 6 }));
    }

    #[test]
    fn the_newer_of_pledge_and_rule_decides() {
        let mut pledge = Pledge::default();
        let me = NodeId(1);
        assert_eq!(pledge.goal(None, me), Goal::Wait);
        assert!(matches!(
            pledge.goal(Some(&rule(1, 1)), me),
            Goal::Primary { epoch: 1, .. }
        ));
        pledge.accept(&Order::Pledge { epoch: 2 });
        assert_eq!(
            pledge.goal(Some(&rule(1, 1)), me),
            Goal::Standby {
                epoch: 2,
                upstream: None
            }
        );
        assert_eq!(
            pledge.goal(Some(&rule(2, 3)), me),
            Goal::Standby {
                epoch: 2,
                upstream: Some(NodeId(3))
            }
        );
    }

    #[test]
    fn a_pledge_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let file = PledgeFile(dir.path().join("pledge.json"));
        assert_eq!(file.read().unwrap(), Pledge::default());
        let mut pledge = Pledge::default();
        pledge.accept(&Order::Follow {
            epoch: 9,
            upstream: NodeId(2),
        });
        file.write(&pledge).unwrap();
        assert_eq!(file.read().unwrap(), pledge);
    }
}
