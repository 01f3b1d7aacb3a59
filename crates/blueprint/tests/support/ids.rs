//! Ids that are the same in every run.

use conclave_blueprint::topology::IdSource;

/// Ids that count.
#[derive(Default)]
pub struct Counting(u32);

impl IdSource for Counting {
    fn suffix(&mut self) -> String {
        self.0 += 1;
        format!("{:06}", self.0)
    }
}
