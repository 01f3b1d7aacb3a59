//! When so much vanishes from disk that a person has to say whether it was meant.

use std::collections::VecDeque;
use std::time::Duration;

/// What vanishes within this counts together.
const WINDOW: Duration = Duration::from_secs(30);
/// Fewer files than this may go at once, however few there are.
const FEW: usize = 20;

/// Counts what vanishes.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    recent: VecDeque<(Duration, usize)>,
}

impl Brake {
    /// Whether `vanished` files, of `left` that were there before, may be taken for deleted. Files that were let go count for a while.
    pub(crate) fn lets_go(&mut self, now: Duration, vanished: usize, left: usize) -> bool {
        while self.recent.front().is_some_and(|(at, _)| *at + WINDOW < now) {
            self.recent.pop_front();
        }
        let before: usize = self.recent.iter().map(|(_, count)| count).sum();
        let (gone, all) = (before + vanished, before + left);
        if gone > FEW && gone * 2 > all {
            return false;
        }
        if vanished > 0 {
            self.recent.push_back((now, vanished));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_many_is_too_much_however_it_is_cut() {
        let second = Duration::from_secs(1);
        let mut brake = Brake::default();
        assert!(brake.lets_go(second, 20, 20), "a few may go");
        let mut brake = Brake::default();
        assert!(brake.lets_go(second, 300, 1000));
        assert!(brake.lets_go(second * 2, 200, 700));
        assert!(!brake.lets_go(second * 3, 1, 500));
        assert!(brake.lets_go(second * 60, 200, 500), "later it is another matter");
    }
}
