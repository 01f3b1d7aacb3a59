//! What clients saw of one key, and whether it could have happened one after the other.
//!
//! The search of Wing and Gong, with the memory of Lowe: an operation may come next if it began before every other that is
//! left had ended. Values are written once each, so that a write of unknown outcome that nobody read may be left out.

use std::collections::HashSet;

/// What was done; values are above zero, zero is "nothing there yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Write(u64),
    Read(u64),
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) action: Action,
    pub(super) began: u64,
    /// `None`: unknown whether, or when, it took effect.
    pub(super) ended: Option<u64>,
}

/// Operations of one key that a search can hold.
pub(super) const OPERATIONS_MAX: usize = 128;

pub(super) fn is_linearizable(history: &[Operation]) -> bool {
    let read: HashSet<u64> = history
        .iter()
        .filter_map(|operation| match (operation.action, operation.ended) {
            (Action::Read(value), Some(_)) => Some(value),
            _ => None,
        })
        .collect();
    let operations: Vec<Operation> = history
        .iter()
        .filter(|operation| match operation.action {
            Action::Write(value) => operation.ended.is_some() || read.contains(&value),
            Action::Read(_) => operation.ended.is_some(),
        })
        .copied()
        .collect();
    assert!(
        operations.len() <= OPERATIONS_MAX,
        "{} operations of one key",
        operations.len()
    );
    let certain = mask(&operations, |operation| operation.ended.is_some());
    let mut tried = HashSet::new();
    let mut open = vec![(0_u128, 0_u64)];
    while let Some((done, value)) = open.pop() {
        if done & certain == certain {
            return true;
        }
        if !tried.insert((done, value)) {
            continue;
        }
        let left = |place: usize| done & (1 << place) == 0;
        let first_end = operations
            .iter()
            .enumerate()
            .filter(|(place, _)| left(*place))
            .filter_map(|(_, operation)| operation.ended)
            .min()
            .unwrap_or(u64::MAX);
        for (place, operation) in operations.iter().enumerate() {
            if !left(place) || operation.began > first_end {
                continue;
            }
            match operation.action {
                Action::Write(written) => open.push((done | 1 << place, written)),
                Action::Read(seen) if seen == value => open.push((done | 1 << place, value)),
                Action::Read(_) => {}
            }
        }
    }
    false
}

fn mask(operations: &[Operation], which: impl Fn(&Operation) -> bool) -> u128 {
    operations
        .iter()
        .enumerate()
        .filter(|(_, operation)| which(operation))
        .fold(0, |mask, (place, _)| mask | 1 << place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(action: Action, began: u64, ended: u64) -> Operation {
        Operation {
            action,
            began,
            ended: (ended > 0).then_some(ended),
        }
    }

    #[test]
    fn the_checker_tells_good_from_bad() {
        use Action::{Read, Write};
        let write = operation(Write(1), 1, 2);
        assert!(is_linearizable(&[write, operation(Read(1), 3, 4)]));
        assert!(!is_linearizable(&[write, operation(Read(0), 3, 4)]), "a stale read");
        let open = operation(Write(2), 3, 0);
        assert!(is_linearizable(&[
            write,
            open,
            operation(Read(1), 5, 6),
            operation(Read(2), 7, 8)
        ]));
        assert!(
            !is_linearizable(&[write, open, operation(Read(2), 5, 6), operation(Read(1), 7, 8)]),
            "back in time"
        );
        assert!(!is_linearizable(&[operation(Read(9), 1, 2)]), "a value from nowhere");
        let concurrent = [
            operation(Write(1), 1, 10),
            operation(Write(2), 2, 9),
            operation(Read(1), 11, 12),
        ];
        assert!(is_linearizable(&concurrent));
    }
}
