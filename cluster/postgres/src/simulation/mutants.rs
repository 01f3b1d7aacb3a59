//! Faults in the code under test that the simulation has to find.

use std::cmp::Reverse;

use conclave_catalog::database::DatabaseCommand;

use super::world::Mutant;
use crate::coordinator::{Action, Observation, Role, View};
use conclave_catalog::NodeId;

/// Makes of a right decision the one that a faulty coordinator would take.
pub(super) fn corrupt(mutant: Option<Mutant>, view: &View<'_>, actions: &mut [Action]) {
    let Some(mutant) = mutant else { return };
    let Some((rule, change)) = view.facts.rule.as_ref().zip(view.facts.change.as_ref()) else {
        return;
    };
    let pledged: Vec<(NodeId, &Observation)> = view
        .nodes
        .iter()
        .filter(|(id, seen)| rule.cohort.contains(*id) && seen.silent_ms == 0)
        .filter_map(|(id, seen)| seen.last.as_ref().map(|last| (*id, last)))
        .filter(|(_, seen)| seen.pledge == change.epoch && seen.settled && seen.role == Role::Standby)
        .collect();
    let choose = |chosen: Option<&(NodeId, &Observation)>| {
        chosen.map(|(node, seen)| {
            Action::Propose(DatabaseCommand::Choose {
                epoch: change.epoch,
                node: *node,
                parent: seen.timeline,
                at: seen.lsn,
            })
        })
    };
    let chooses = |action: &Action| matches!(action, Action::Propose(DatabaseCommand::Choose { .. }));
    let wrong = match mutant {
        Mutant::LeastAdvanced => choose(pledged.iter().min_by_key(|(_, seen)| (seen.timeline, seen.lsn))),
        Mutant::IgnoreTimeline => choose(pledged.iter().max_by_key(|(id, seen)| (seen.lsn, Reverse(*id)))),
        Mutant::PledgesOfMinority if change.candidate.is_none() => {
            let orders = |action: &Action| matches!(action, Action::Order(..));
            if let (Some(first), Some(wrong)) = (
                actions.iter_mut().find(|action| orders(action)),
                choose(pledged.first()),
            ) {
                *first = wrong;
            }
            return;
        }
        _ => return,
    };
    if let (Some(action), Some(wrong)) = (actions.iter_mut().find(|action| chooses(action)), wrong) {
        *action = wrong;
    }
}
